"""A guard, its announcer, an ExaBGP and a router that peers with it, on a virtual clock.

The ExaBGP keeps routes as version 4.2 does (``rib/outgoing.py``): changes that no session takes
wait grouped by attributes, so that those of one route may leave in another order than they came.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from phalanx.clock.virtual import VirtualClock
from phalanx.domain.events import Event, Recorder
from phalanx.domain.rules import TrafficRule
from phalanx.infrastructure.linux.announcer import Announcer
from phalanx.infrastructure.linux.routers import AnnouncerState, Routers, RouterSpec, Routes, ask

VICTIM = "192.0.2.10"
TTL_S, HOLD_S, TICK_S = 15.0, 9.0, 0.1
ROUTER = RouterSpec("edge", "/run/exabgp/phalanx.sock")


def match_of(route: str) -> str:
    """The part of a route that says what it is about."""
    found = re.search(r"match \{(.*?) \}", route)
    return found[1] if found else route.split(" ", 1)[1].split(" community", maxsplit=1)[0]


class Peer:
    """A router: what it has of its only session, until that ends."""

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}


class ExaBGP:
    """What it holds, and what it has not sent."""

    def __init__(self, clock: VirtualClock, peer: Peer) -> None:
        self.clock, self.peer = clock, peer
        self.cache: dict[str, str] = {}
        self.pending: dict[str, dict[str, tuple[str, str]]] = {}
        self.latest: dict[str, str] = {}
        self.up = self.hangs = False
        self.mute = 0
        self.commands: deque[str] = deque()
        self.answers: Callable[[str], None] = lambda _: None

    def command(self, line: str) -> None:
        self.commands.append(line)
        self.clock.call_at(self.clock.now() + 0.005, self.work)

    def work(self) -> None:
        while self.commands and not self.hangs:
            line = self.commands.popleft()
            verb, _, route = line.partition(" ")
            if verb == "flush":
                for match, kept in self.cache.items():
                    self._queue("announce", match, kept)
            elif verb == "announce" and self.cache.get(match_of(route)) == route:
                pass
            else:
                self._queue(verb, match_of(route), route)
            self.flush()
            if self.mute:
                self.mute -= 1
            else:
                self.answers("done")

    def _queue(self, verb: str, match: str, route: str) -> None:
        attributes = route.rsplit("then", maxsplit=1)[-1]
        if verb == "withdraw":
            self.cache.pop(match, None)
            self.pending.get(self.latest.get(match, ""), {}).pop(match, None)
        else:
            self.cache[match] = route
        self.pending.setdefault(attributes, {})[match] = verb, route
        self.latest[match] = attributes

    def flush(self) -> None:
        if self.up and not self.hangs:
            for each in self.pending.values():
                for match, (verb, route) in each.items():
                    if verb == "announce":
                        self.peer.routes[match] = route
                    else:
                        self.peer.routes.pop(match, None)
            self.pending, self.latest = {}, {}

    def session(self, *, up: bool) -> None:
        if up and not self.up:
            self.up = True
            for match, route in self.cache.items():
                self._queue("announce", match, route)
            self.flush()
        elif not up:
            if self.up:
                self.pending, self.latest = {}, {}
            self.up = False
        state = "up" if up else "down"
        self.answers(f'{{"neighbor": {{"address": {{"peer": "10.0.0.2"}}, "state": "{state}"}}}}')


class World:
    """All of it; each part may die, hang, or be cut off."""

    def __init__(self, spec: RouterSpec = ROUTER) -> None:
        self.clock, self.peer, self.spec = VirtualClock(), Peer(), spec
        self.events: list[Event] = []
        self.recorder = Recorder("network", self.events.append, self.clock.now)
        self.note: dict[str, str] = {}
        self.disk_full = False
        self.lose_requests = self.lose_answers = 0
        self.journal: dict[str, tuple[Routes, float]] = {}
        self.wanted_until: dict[str, float] = {}
        self.apart: float | None = None
        self.life = 0
        self.routers: Routers | None = None
        self.start_exabgp()
        self.start_guard()
        self._tick()

    # -- the parts, and how they die ---------------------------------------------------

    def start_exabgp(self) -> None:
        """Begin anew, without any route; the session of the one before has ended."""
        self.exabgp = ExaBGP(self.clock, self.peer)
        self.peer.routes = {}
        self.start_announcer()
        if self.apart is None:
            self.exabgp.session(up=True)

    def start_announcer(self) -> None:
        exabgp = self.exabgp

        def keep(routes: Any) -> None:
            if self.disk_full:
                raise OSError("no space left on device")
            self.note = dict(routes)

        self.announcer = announcer = Announcer(exabgp.command, keep, self.note)
        exabgp.commands.clear()
        exabgp.answers = lambda line: announcer.heard(line, self.clock.now())

    def start_guard(self) -> None:
        """Start a guard, which takes over what the journal says is in force."""
        self.life += 1
        self.routers = Routers("gate", [self.spec], {VICTIM}, life=self.life)
        self.routers.open(self.clock, self.recorder, "root", self)
        now = self.clock.now()
        for name, (routes, until) in self.journal.items():
            if until > now:
                self.routers.announce(name, routes, until - now, "root")
        self.journal = {n: each for n, each in self.journal.items() if each[1] > now}
        self.routers.start()

    def kill_guard(self) -> None:
        if self.routers is not None:
            self.routers._tasks = None
            self.routers._runs = False
            for speaker in self.routers._speakers.values():
                if speaker.timer is not None:
                    speaker.timer.cancel()
        self.routers = None

    def cut(self) -> None:
        """Cut the line to the router, which keeps its routes for the hold time."""
        if self.apart is None:
            self.apart = self.clock.now()

    def join(self) -> None:
        self.apart = None
        if not self.exabgp.up and not self.exabgp.hangs:
            self.peer.routes = {}
            self.exabgp.session(up=True)

    # -- what a guard does -------------------------------------------------------------

    def enforce(self, measure: str, rule: TrafficRule) -> None:
        if self.routers is None or measure in self.journal:
            return
        routes = self.routers.plan(measure, rule, VICTIM, "cause")
        self.journal[measure] = routes, self.clock.now() + TTL_S
        self.routers.announce(measure, routes, TTL_S, "cause")

    def lift(self, measure: str) -> None:
        if self.routers is not None:
            self.routers.withdraw(measure)
            self.journal.pop(measure, None)

    def wanted(self) -> dict[str, str]:
        """What is to be in force now: of two rates for one match the lower one."""
        found: dict[str, Any] = {}
        for routes, until in self.journal.values():
            for route in routes.get("edge", ()) if until > self.clock.now() else ():
                if route.match not in found or route.rate < found[route.match].rate:
                    found[route.match] = route
        return {match: route.text() for match, route in found.items()}

    def run(self, seconds: float) -> None:
        """Let time pass; the agent renews what it holds every third of a lease."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            if self.routers is not None:
                now = self.clock.now()
                self.routers.renew(list(self.journal), TTL_S)
                self.journal = {n: (r, now + TTL_S) for n, (r, _) in self.journal.items()}
            self.clock.run(until=min(end, self.clock.now() + TTL_S / 3))
            self.check()

    def check(self) -> None:
        """Nothing is at the router for longer than its lease and what faults may add to that."""
        now = self.clock.now()
        self.wanted_until |= dict.fromkeys(self.wanted(), now)
        for match in self.peer.routes:
            late = now - self.wanted_until[match]
            assert late <= TTL_S + HOLD_S + TTL_S / 3 + 8, f"{match} is {late:g} s late"

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    # -- between them ------------------------------------------------------------------

    def thread(self, call: Callable[..., AnnouncerState], path: str, request: Any) -> Any:
        """Stand in for ``Tasks.thread``: what is asked."""
        assert (call, path) == (ask, self.spec.socket)
        return request

    def start(
        self,
        request: dict[str, Any],
        done: Callable[[AnnouncerState], None],
        failed: Callable[[str], None],
    ) -> None:
        """Stand in for ``Tasks.start``: ask the announcer, and answer later."""
        now = self.clock.now()
        if self.lose_requests:
            self.lose_requests -= 1
            self.clock.call_at(now + 7, lambda: failed("timed out"))
            return
        announcer, life = self.announcer, self.life
        why = announcer.request(msgspec.json.decode(msgspec.json.encode(request)), now)

        def answer() -> None:
            waits = announcer.waiting and self.clock.now() < now + 5 and not why
            if life != self.life:
                return
            if announcer is not self.announcer:
                failed("connection reset")
            elif waits:
                self.clock.call_at(self.clock.now() + TICK_S, answer)
            elif self.lose_answers:
                self.lose_answers -= 1
                self.clock.call_at(now + 7, lambda: failed("timed out"))
            else:
                state = msgspec.json.encode({"error": why} if why else announcer.state())
                done(msgspec.json.decode(state, type=AnnouncerState))

        self.clock.call_at(now + 0.02, answer)

    def _tick(self) -> None:
        now, exabgp = self.clock.now(), self.exabgp
        lost = self.apart is not None and now - self.apart >= HOLD_S
        if (lost or exabgp.hangs) and exabgp.up and (lost or now - self._hung >= HOLD_S):
            exabgp.session(up=False) if not exabgp.hangs else setattr(exabgp, "up", False)
            self.peer.routes = {}
        if not exabgp.hangs:
            self._hung = now
            if self.apart is None and not exabgp.up:
                self.join()
            exabgp.work()
        try:
            self.announcer.tick(now)
        except TimeoutError:
            self.start_announcer()
        self.clock.call_at(now + TICK_S, self._tick)


__all__ = ["ROUTER", "TTL_S", "VICTIM", "ExaBGP", "Peer", "World", "match_of"]
