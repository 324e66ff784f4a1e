"""Drops and limits as BGP routes of a site's routers, each under the lease of its measure.

Beside the rule at the gateway, which is exact and counts what still arrives, a router drops before
the line is full. Routes are FlowSpec routes, or blackholes of addresses where the operator says so.
ExaBGP announces them; ``announcer.py`` is the process that it runs for us, and withdraws whatever
this one asks for no more.

Source: RFC 8955, 4 and 7.3; RFC 8956; RFC 9117 (the destination is always a guarded address);
RFC 7999.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
    summarize_address_range,
)
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.clock import Clock, Timer
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Recorder
from phalanx.domain.flowspec import LARGEST_RATE, PORTS, PROTOCOLS, FlowMatch, limit_text
from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficRule, TrafficVerdict
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.loading import Name

RENEW_S = 1.0
"""Between two requests to a router's announcer, in seconds."""
ANSWER_S = 7.0
"""An announcer answers within 5 s."""
CLOSE_S = 2.0
LARGEST = 1 << 20
_PROTOCOLS = {"tcp": 6, "udp": 17}


class RouterSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """An ExaBGP that tells routers of rules; [routers.md](../routers.md) says how to set it up."""

    name: Name
    """Name of it, in the log."""
    socket: Annotated[str, Meta(min_length=1, max_length=100)]
    """Unix socket of the process that this ExaBGP runs for Phalanx."""
    speaks: Literal["flowspec", "blackhole"] = "flowspec"
    """``flowspec``: drops and limits as they are. ``blackhole``: a /32 route of each attacker with
    the community of RFC 7999. Routers drop all that comes from there, whatever it goes to."""
    next_hop: Annotated[str, Meta(max_length=15)] | None = None
    """Of blackholes; required for them: an address that your routers discard."""
    most: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Routes at a time; a rule that would need more is refused."""
    victim: bool = False
    """Whether ALL traffic to a guarded address may be dropped where a rule asks for that. Your line
    is free then, and the host is unreachable for everyone: the attacker has what it wanted."""

    def __post_init__(self) -> None:
        """Refuse a blackhole that leads nowhere; raises ValueError."""
        if (self.speaks == "blackhole") != (self.next_hop is not None):
            raise ValueError("next_hop is for blackholes, which need one")
        if self.next_hop is not None:
            IPv4Address(self.next_hop)


class BgpRoute(Struct, frozen=True):
    """One route: what it is about, and the octets/s that pass; 0 drops all."""

    match: str
    rate: int = 0

    def text(self) -> str:
        """Return it as ExaBGP reads it after ``announce`` and ``withdraw``."""
        if not self.match.startswith(" "):
            return f"route {self.match} community [ 65535:666 65535:65281 ]"
        return f"flow route {{ match {{{self.match} }} then {{ {limit_text(self.rate)} }} }}"


class NoRouteError(PhalanxError):
    """A rule cannot be told to routers; one line says why."""


Routes = dict[str, tuple[BgpRoute, ...]]
"""By router."""


class AnnouncerState(Struct, frozen=True):
    """What an announcer answers."""

    announced: list[str] = []
    """Matches that ExaBGP has taken."""
    refuses: bool = False
    """Whether it has refused a command lately."""
    waiting: int = 0
    """Changes that ExaBGP has not confirmed."""
    sessions: dict[str, str] = {}
    """States of the BGP sessions that changed since it was started, by peer: ``up`` or another."""
    error: str = ""
    """Why the request was refused."""


def routes_of(rule: TrafficRule, target: str, router: RouterSpec) -> tuple[BgpRoute, ...]:
    """Return routes that match exactly what a rule does.

    Args:
        rule: a drop or a limit.
        target: guarded address that the traffic goes to.
        router: says which routes it takes.

    Raises:
        NoRouteError: if there are none; nothing is approximated, but that a limit is rounded down.

    """
    match = rule.match
    if rule.verdict not in (TrafficVerdict.DROP, TrafficVerdict.LIMIT):
        raise NoRouteError(f"routers cannot {rule.verdict.value} traffic")
    if match.parts > 1 or match.entry is not None:
        raise NoRouteError("routes know no shares of sources and no other places of entry")
    if match.protocol == "icmp" or match.port == 0:
        raise NoRouteError("routes tell no errors from echoes, nor later fragments from the first")
    rate = _rate(rule)
    sources, six = _sources(rule, target, router.most), ":" in target
    if rate and len(sources) > 1:
        raise NoRouteError(f"it needs {len(sources)} routes, and each would have the whole rate")
    whole = match.source is None and not match.sources
    blunt = match.protocol is None and match.port is None
    if not rate and whole and blunt and not router.victim:
        raise NoRouteError(f"it would cut off {target} from everyone; victim: true allows that")
    if router.speaks == "flowspec":
        number, port = _PROTOCOLS.get(match.protocol or ""), match.port
        protocols = ((number, number + 1),) if number else PROTOCOLS
        fields = protocols, ((port, port + 1),) if port else PORTS
        named = [str(source) if source.prefixlen else None for source in sources]
        to, version = str(ip_network(target)), ip_network(target).version
        flows = (FlowMatch(version, to, each, *fields) for each in named)
        return tuple(BgpRoute(flow.text(), rate) for flow in flows)
    if six:
        raise NoRouteError("only addresses of IPv4 are blackholed; flowspec says IPv6 as well")
    if rate or not blunt:
        raise NoRouteError("a blackhole drops all that comes from an address, and nothing less")
    if whole and match.outside:
        raise NoRouteError("a blackhole drops all that comes to an address, allowed sources too")
    ends = [ip_network(target)] if whole else sources
    if sum(end.num_addresses for end in ends) > router.most:
        raise NoRouteError(f"it needs more than {router.most} routes, the cap of this router")
    hop = f"/32 next-hop {router.next_hop}"
    return tuple(BgpRoute(f"{address}{hop}") for end in ends for address in end)


def _rate(rule: TrafficRule) -> int:
    """Return the octets/s of a rule, rounded down to what a float of 32 bit has (RFC 8955, 7.3)."""
    wanted = int(rule.rate_mb_s * 1e6)
    if wanted > LARGEST_RATE:
        raise NoRouteError(f"{rule.rate_mb_s:g} MB/s is more than a route can say")
    bits = max(0, wanted.bit_length() - 24)
    return wanted >> bits << bits


def _sources(rule: TrafficRule, target: str, most: int) -> list[IPv4Network | IPv6Network]:
    """Return the fewest prefixes with exactly the sources of a rule."""
    match, six = rule.match, ":" in target
    named = match.sources or (match.source or ("::/0" if six else "0.0.0.0/0"),)
    cuts = _spans((each for each in match.outside if (":" in each) == six), six=six)
    found: list[IPv4Network | IPv6Network] = []
    for first, after in _spans(named, six=six):
        for begin, end in [*(c for c in cuts if c[1] > first and c[0] < after), (after, after)]:
            if first < begin and six:
                found += summarize_address_range(IPv6Address(first), IPv6Address(begin - 1))
            elif first < begin:
                found += summarize_address_range(IPv4Address(first), IPv4Address(begin - 1))
            first = max(first, end)  # noqa: PLW2901
        if len(found) > most:
            raise NoRouteError(f"it needs more than {most} routes, the cap of this router")
    if not found:
        raise NoRouteError("it matches no source")
    return found


def _spans(prefixes: Iterable[str], *, six: bool) -> list[tuple[int, int]]:
    """Return the first address of each prefix and the one after its last, merged and in order."""
    kept: Iterable[IPv4Network] | Iterable[IPv6Network]
    if six:
        kept = collapse_addresses(map(IPv6Network, prefixes))
    else:
        kept = collapse_addresses(map(IPv4Network, prefixes))
    return [(int(n.network_address), int(n.broadcast_address) + 1) for n in kept]


class _Wanted(Struct, eq=False):
    routes: tuple[BgpRoute, ...]
    cause: str
    until: float | None = None
    """When the lease is over; None: not in force yet."""

    def texts(self) -> list[str]:
        """Return the routes as ExaBGP reads them."""
        return [route.text() for route in self.routes]


class _Speaker(Struct, eq=False):
    """What one ExaBGP is to announce, and what it is known to."""

    spec: RouterSpec
    wanted: dict[str, _Wanted] = {}
    """By measure."""
    told: dict[str, _Wanted] = {}
    """Those that were announced when it answered last."""
    up: bool = True
    asking: bool = False
    again: bool = False
    timer: Timer | None = None
    turn: int = 0


class Routers:
    """Tells routers of measures: asks each announcer for all routes, again and again.

    Args:
        pop: of the agent.
        specs: the routers.
        guarded: addresses of the hosts that the site guards.
        life: higher than that of any agent that asked before.

    """

    def __init__(
        self,
        pop: PopId,
        specs: Iterable[RouterSpec],
        guarded: Collection[str],
        life: int = 1,
    ) -> None:
        self._pop, self._life, self._guarded = pop, life, frozenset(guarded)
        self._speakers = {spec.name: _Speaker(spec) for spec in specs}
        self._runs = False

    def open(self, clock: Clock, recorder: Recorder, cause: str, tasks: Tasks) -> None:
        """Take what this works with; ``cause`` is the root of the run."""
        self._clock, self._recorder, self._cause, self._tasks = clock, recorder, cause, tasks

    def start(self) -> None:
        """Begin to ask, once what an earlier agent left is wanted again."""
        self._runs = True
        for speaker in self._speakers.values():
            self._sync(speaker)

    def plan(self, measure: str, rule: TrafficRule, target: str | None, cause: str) -> Routes:
        """Return routes for a measure and keep room for them; refusals are recorded."""
        found: Routes = {}
        if rule.match.entry == self._pop:  # all that these routers pass on to here does
            rule = replace(rule, match=replace(rule.match, entry=None))
        for name, speaker in self._speakers.items():
            try:
                found[name] = routes = self._room(speaker, rule, target)
                speaker.wanted[measure] = _Wanted(routes, cause)
            except NoRouteError as error:
                self._tell(speaker, "route.refused", measure, cause, reason=str(error))
        return found

    def announce(self, measure: str, routes: Routes, ttl_s: float, cause: str) -> None:
        """Ask for routes that were planned now or by an earlier agent, for ``ttl_s`` seconds."""
        for name in routes.keys() & self._speakers.keys():
            until = self._clock.now() + ttl_s
            self._speakers[name].wanted[measure] = _Wanted(routes[name], cause, until)
            self._sync(self._speakers[name])

    def renew(self, measures: Iterable[str], ttl_s: float) -> None:
        """Extend the leases of what these measures announce."""
        for speaker in self._speakers.values():
            for wanted in filter(None, map(speaker.wanted.get, measures)):
                if wanted.until is not None:
                    wanted.until = self._clock.now() + ttl_s

    def withdraw(self, measure: str) -> None:
        """Ask for what a measure announced no more; one that announced nothing is no error."""
        for speaker in self._speakers.values():
            if speaker.wanted.pop(measure, None) is not None:
                self._sync(speaker)

    def close(self) -> None:
        """Withdraw all, now; what an announcer does not take ends with its lease."""
        self._runs = False
        for speaker in self._speakers.values():
            speaker.wanted.clear()
            with contextlib.suppress(OSError, PhalanxError):
                ask(speaker.spec.socket, self._request(speaker), CLOSE_S)

    def _room(self, to: _Speaker, rule: TrafficRule, target: str | None) -> tuple[BgpRoute, ...]:
        """Return the routes of a rule; raises NoRouteError."""
        if target not in self._guarded:
            raise NoRouteError("a route is only for traffic to an address guarded here")
        routes, spec = routes_of(rule, str(target), to.spec), to.spec
        if not spec.victim and any(r.match.partition("/")[0] in self._guarded for r in routes):
            raise NoRouteError("it would blackhole an address that is guarded here")
        held = {r.match for each in to.wanted.values() for r in each.routes}
        if len(held | {route.match for route in routes}) > spec.most:
            raise NoRouteError(f"the cap of {spec.most} rules is reached")
        return routes

    def _request(self, speaker: _Speaker) -> dict[str, Any]:
        """Return all that is wanted; of two rates for one match the lower one."""
        now, rows = self._clock.now(), dict[str, tuple[BgpRoute, float]]()
        for name, wanted in list(speaker.wanted.items()):
            if wanted.until is not None and wanted.until <= now:
                del speaker.wanted[name]
            elif wanted.until is not None:
                for route in wanted.routes:
                    other, ttl_s = rows.get(route.match, (route, 0.0))
                    least = min(route, other, key=lambda each: each.rate)
                    rows[route.match] = least, max(ttl_s, wanted.until - now)
        speaker.turn += 1
        routes = [[route.text(), ttl_s] for route, ttl_s in rows.values()]
        begin = {"agent": self._pop, "life": self._life, "turn": speaker.turn}
        return {**begin, "routes": routes}

    def _sync(self, speaker: _Speaker) -> None:
        """Ask for what is wanted now, and then every ``RENEW_S``; one request at a time."""
        if speaker.asking or not self._runs:
            speaker.again = True
            return
        if speaker.timer is not None:
            speaker.timer.cancel()
        request = self._request(speaker)
        asked = {name: w for name, w in speaker.wanted.items() if w.until is not None}
        speaker.asking, speaker.again = True, False
        done, failed = partial(self._answered, speaker, asked), partial(self._changed, speaker)
        self._tasks.start(self._tasks.thread(ask, speaker.spec.socket, request), done, failed)

    def _answered(
        self, speaker: _Speaker, asked: Mapping[str, _Wanted], answer: AnnouncerState
    ) -> None:
        if answer.error:
            self._changed(speaker, answer.error[:200])
            return
        announced = set(answer.announced)
        for name, wanted in asked.items():
            matches = {route.match for route in wanted.routes}
            if matches <= announced and name not in speaker.told:
                speaker.told[name] = wanted
                self._tell(speaker, "route.announced", name, wanted.cause, routes=wanted.texts())
        for name in sorted(speaker.told.keys() - asked.keys()) if answer.waiting == 0 else ():
            over = speaker.told.pop(name)
            self._tell(speaker, "route.withdrawn", name, over.cause, routes=over.texts())
        down = sorted(peer for peer, state in answer.sessions.items() if state != "up")
        problem = f"no BGP session with {', '.join(down)}" if down else ""
        refuses = "ExaBGP refuses commands: has it a neighbor with this process?"
        self._changed(speaker, refuses if answer.refuses else problem)

    def _tell(self, to: _Speaker, kind: str, measure: str, cause: str, **data: Any) -> None:
        about = {"pop": self._pop, "router": to.spec.name, "measure": measure}
        self._recorder.record(kind, cause, **about, **data)

    def _changed(self, speaker: _Speaker, problem: str) -> None:
        """Record whether it can announce, if that changed, and go on."""
        if bool(problem) == speaker.up:
            speaker.up, about = not problem, {"pop": self._pop, "router": speaker.spec.name}
            why = {"reason": problem} if problem else {}
            self._recorder.record("router.changed", self._cause, up=speaker.up, **about, **why)
        speaker.asking = False
        if speaker.again:
            self._sync(speaker)
        elif self._runs:
            again = self._clock.now() + RENEW_S
            speaker.timer = self._clock.call_at(again, partial(self._sync, speaker))


def ask(path: str, request: dict[str, Any], timeout_s: float = ANSWER_S) -> AnnouncerState:
    """Return an announcer's answer to a request; blocks.

    Raises:
        OSError: if it cannot be reached or does not answer.
        PhalanxError: if the answer is none.

    """
    text = b""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout_s)
        try:
            link.connect(path)
            link.sendall(json.dumps(request).encode() + b"\n")
            while len(text) <= LARGEST and (more := link.recv(65_536)):
                text += more
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}") from None
    try:
        return msgspec.json.decode(text, type=AnnouncerState)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise PhalanxError(f"{path}: this is no answer of an announcer") from None
