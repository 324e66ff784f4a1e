"""What ExaBGP runs for an agent: it announces routes, each under a lease, and withdraws them.

ExaBGP starts it by its path as an API process (``run python3 -I -S announcer.py SOCKET;``), so it
uses nothing but the standard library. Commands go to standard output, one a line; ExaBGP's answers
(``done``, ``error``) and the states of its sessions come in by standard input. The agent connects
to the Unix socket, and asks with one line of JSON, answered with another::

    {"agent": NAME, "life": N, "turn": N, "routes": [[ROUTE, TTL_S], ...]}
    {"announced": [MATCH, ...], "refuses": BOOLEAN, "waiting": N, "sessions": {PEER: STATE}}

Each request has all routes that the agent wants, so none is missed for long if one is lost. What
ends a route:

- the agent stops asking for it, or dies: its lease is over, at the latest;
- this process dies: ExaBGP starts it again, and the file beside the socket, written before any
  announcement, says what has to be withdrawn first;
- ExaBGP dies: its sessions end, and with them what its peers have of it; standard input ends, too;
- a session ends and comes back: ExaBGP sends what it holds again. It may have kept changes of one
  route out of order meanwhile, so both routes and withdrawals are sent again then.

Source: ExaBGP 4.2, ``reactor/api`` and ``rib/outgoing.py``; RFC 8955 and RFC 7999.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_network
from math import inf
from pathlib import Path

MOST_ROUTES = 1_000
LONGEST_TTL_S = 3_600.0
LARGEST = 1 << 20
"""Octets of a request."""
WINDOW = 64
"""Commands that ExaBGP has not answered: they fit into the pipe, so that writing never blocks."""
READ_S = 1.0
"""A request comes at once; nothing else is done meanwhile."""
ANSWER_S = 5.0
"""After so long a request is answered with what is known."""
HANGS_S = 60.0
"""ExaBGP without an answer for so long: start again, and withdraw what may be announced."""
AGAIN_S = 2.0
"""After a session is up, everything is sent again; what could not be withdrawn is tried again."""
_IPV4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/[0-9]{1,2}"
_PREFIX = rf"{_IPV4}|[0-9a-f]+:[0-9a-f:]+/[0-9]{{1,3}}"
_FLOW = (
    rf"flow route {{ match {{( destination (?:{_PREFIX})(?:/0)?;[a-z0-9 .:/\[\]=&<>;!-]*) }} "
    r"then { (?:discard|rate-limit [0-9]{1,13}); } }"
)
_BLACKHOLE = rf"route ({_IPV4} next-hop [0-9.]{{7,15}}) community \[ 65535:666 65535:65281 \]"
_ROUTE = re.compile(f"(?:{_FLOW}|{_BLACKHOLE})", re.ASCII)
"""All that is ever announced, whoever asks: drops, limits and blackholes (RFC 7999)."""


class Announcer:
    """Keeps what ExaBGP announces equal to what is wanted and has a lease; does no I/O itself.

    Args:
        send: writes a command.
        keep: notes on disk all routes that may be announced; raises OSError if it cannot.
        left: what such a note of an earlier process says; withdrawn first.

    """

    def __init__(
        self,
        send: Callable[[str], None],
        keep: Callable[[Mapping[str, str]], None],
        left: Mapping[str, str] | None = None,
    ) -> None:
        self._send = send
        self._keep = keep
        self._wanted: dict[str, tuple[str, float]] = {}
        """By match: the route, and when its lease is over."""
        self._sent = dict(left or {})
        """What ExaBGP may hold."""
        self._answered: dict[str, str] = {}
        """Announcements that ExaBGP has confirmed, by match."""
        self._ended: dict[str, str] = {}
        """The latest withdrawals, to be sent again when a session is back."""
        self._asked: deque[tuple[float, str, str, str]] = deque()
        """Commands without an answer: when, verb, match, route."""
        self._not_before: dict[str, float] = {}
        self._window = 1
        """One command at a time, until ExaBGP is known to answer."""
        self._resend_at = inf
        self._owner = ""
        self._latest = (0, 0)
        self.sessions: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        """How many changes ExaBGP has not confirmed."""
        return len(self._busy() | self._changes(inf).keys())

    def request(self, message: object, now: float) -> str:
        """Take over what an agent wants; return why not, or nothing."""
        try:
            agent, turn = str(message["agent"]), (message["life"] + 0, message["turn"] + 0)  # type: ignore[index]
            wanted = {_match(route): (route, now + ttl_s) for route, ttl_s in message["routes"]}  # type: ignore[index]
            if not all(0 < until - now <= LONGEST_TTL_S for _, until in wanted.values()):
                return f"a lease is longer than 0 s and at most {LONGEST_TTL_S:g} s"
        except (KeyError, TypeError, ValueError) as error:
            return f"this is no request to drop or limit: {error}"[:200]
        if len(wanted) > MOST_ROUTES:
            return f"the cap of {MOST_ROUTES} rules is reached"
        self._expire(now)
        if self._wanted and self._owner != agent:
            return f"{self._owner} has routes here; each agent needs a process of its own"
        if self._owner == agent and self._latest >= turn and (self._wanted or turn[1] > 1):
            return "a later request has been answered already"
        self._owner, self._latest = agent, turn
        self._wanted = wanted
        self._reconcile(now)
        return ""

    def state(self) -> dict[str, object]:
        """Return what is known of the routes that are wanted."""
        wanted = self._wanted.items()
        return {
            "announced": sorted(k for k, (route, _) in wanted if self._answered.get(k) == route),
            "refuses": bool(self._not_before),
            "waiting": self.waiting,
            "sessions": self.sessions,
        }

    def heard(self, line: str, now: float) -> None:
        """Take in a line of ExaBGP."""
        if line in ("done", "error"):
            if self._asked:
                self._window = WINDOW
                self._confirmed(now, *self._asked.popleft()[1:], done=line == "done")
        elif line.startswith("{"):
            try:
                neighbor = json.loads(line)["neighbor"]
                peer, state = str(neighbor["address"]["peer"])[:64], str(neighbor["state"])[:16]
            except (ValueError, KeyError, TypeError):
                return
            self.sessions[peer] = state
            if state == "up":
                self._resend_at = min(self._resend_at, now + AGAIN_S)
        self._reconcile(now)

    def tick(self, now: float) -> None:
        """End leases that are over; to be called several times a second.

        Raises:
            TimeoutError: if ExaBGP does not answer.

        """
        if self._asked and now - self._asked[0][0] > HANGS_S:
            raise TimeoutError(f"ExaBGP has not answered for {HANGS_S:g} s")
        if now >= self._resend_at:
            self._resend_at = inf
            self._ask(now, "flush", "", "adj-rib out")
            for key, route in self._ended.items():
                self._sent.setdefault(key, route)
        self._reconcile(now)

    def _expire(self, now: float) -> None:
        self._wanted = {key: (r, until) for key, (r, until) in self._wanted.items() if until > now}

    def _changes(self, now: float) -> dict[str, tuple[str, str]]:
        """Return the next command for each match, by verb and route; withdrawals first."""
        ends = {k: ("withdraw", r) for k, r in self._sent.items() if k not in self._wanted}
        wanted = ((k, r) for k, (r, _) in self._wanted.items() if self._answered.get(k) != r)
        found = ends | {k: ("announce", r) for k, r in wanted}
        return {k: c for k, c in found.items() if self._not_before.get(k, 0.0) <= now}

    def _reconcile(self, now: float) -> None:
        self._expire(now)
        busy = self._busy()
        due = {key: each for key, each in self._changes(now).items() if key not in busy}
        due = dict(list(due.items())[: max(0, self._window - len(self._asked))])
        begins = {key: route for key, (verb, route) in due.items() if verb == "announce"}
        if begins:
            try:
                self._keep(self._sent | begins)
            except OSError:  # what is not noted would stay if this process died
                self._not_before |= dict.fromkeys(begins, now + AGAIN_S)
                due = {key: each for key, each in due.items() if key not in begins}
        for key, (verb, route) in due.items():
            self._answered.pop(key, None)
            self._ask(now, verb, key, route)
            if verb == "announce":
                self._sent[key] = route

    def _busy(self) -> set[str]:
        return {key for _, _, key, _ in self._asked}

    def _ask(self, now: float, verb: str, key: str, route: str) -> None:
        self._asked.append((now, verb, key, route))
        self._send(f"{verb} {route}")

    def _confirmed(self, now: float, verb: str, key: str, route: str, *, done: bool) -> None:
        self._not_before = {k: t for k, t in self._not_before.items() if t > now}
        if not done:
            self._not_before[key] = now + AGAIN_S
        elif verb == "announce":
            self._answered[key] = route
            self._ended.pop(key, None)
        elif verb == "withdraw":
            self._sent.pop(key, None)
            self._ended[key] = route
            if len(self._ended) > MOST_ROUTES:
                del self._ended[next(iter(self._ended))]
            with contextlib.suppress(OSError):  # then it is withdrawn once more, which is harmless
                self._keep(self._sent)


class _Server:
    """Serves agents at a Unix socket, which the owner of this process and root may use."""

    def __init__(self, path: Path) -> None:
        self._note = path.with_suffix(".routes")
        self._announcer = Announcer(self._send, self._keep, _noted(self._note))
        if path.is_socket():
            path.unlink()
        self._listener = socket.socket(socket.AF_UNIX)
        os.umask(0o177)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._held: dict[socket.socket, float] = {}
        """Agents that wait for ExaBGP, and until when."""
        self._heard = b""

    def run(self) -> None:
        """Serve until standard input ends: ExaBGP is gone then, and its sessions with it."""
        clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        while True:
            ready, _, _ = select.select([0, self._listener.fileno()], [], [], 0.1)
            if 0 in ready and not self._hear(os.read(0, 65_536), clock()):
                return
            if self._listener.fileno() in ready:
                self._accept(clock())
            self._announcer.tick(clock())
            for link, until in list(self._held.items()):
                if clock() >= until or not self._announcer.waiting:
                    del self._held[link]
                    _answer(link, self._announcer.state())

    def _send(self, command: str) -> None:
        os.write(1, command.encode() + b"\n")

    def _keep(self, routes: Mapping[str, str]) -> None:
        part = self._note.with_suffix(".part")
        part.write_text(json.dumps(routes))
        part.rename(self._note)

    def _hear(self, more: bytes, now: float) -> bool:
        *lines, rest = (self._heard + more).split(b"\n")
        self._heard = rest[-LARGEST:]
        for line in lines:
            self._announcer.heard(line.decode(errors="replace").strip(), now)
        return bool(more)

    def _accept(self, now: float) -> None:
        link, _ = self._listener.accept()
        link.settimeout(READ_S)
        why = "a request is one line of JSON, sent at once"
        with contextlib.suppress(OSError, ValueError, RecursionError), link.makefile("rb") as said:
            why = self._announcer.request(json.loads(said.readline(LARGEST)), now)
        if why:
            _answer(link, {"error": why})
        else:
            self._held[link] = now + ANSWER_S


def _answer(link: socket.socket, answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError), link:  # the agent asks again
        link.sendall(json.dumps(answer).encode() + b"\n")


def _match(route: str) -> str:
    """Return what a route is about; raises ValueError if it is none that is ever announced."""
    if (found := _ROUTE.fullmatch(route)) and all(map(ip_network, re.findall(_PREFIX, route))):
        return str(found[1] or found[2])
    raise ValueError(repr(route))


def _noted(note: Path) -> dict[str, str]:
    """Return what an earlier process may have announced, as far as it could have been."""
    try:
        return {_match(route): route for route in json.loads(note.read_text()).values()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


if __name__ == "__main__":
    try:
        place = Path(sys.argv[1])
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one before us ends as its ExaBGP does
            _Server(place).run()
    except (OSError, IndexError) as error:
        sys.exit(f"announcer: {error}")
