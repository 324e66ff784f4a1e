"""How fast and how well the agents answered an attack, from the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import product
from math import inf

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.domain.network import link_id
from phalanx.domain.traffic import PROFILES, source_address
from phalanx.reporting.event_text import describe, is_alarm, written
from phalanx.reporting.figures import clock, counted, figure
from phalanx.reporting.log import (
    Data,
    Lifetimes,
    names,
    number,
    predicate_of,
    rows,
    table,
    text,
    whole_word,
)
from phalanx.reporting.traffic import AttackOutcome, Traffic

_NO_LIMITS = "split", "replicated", "scaledUp", "placedNear", "rerouted", "encrypted"
"""Measures that hold nothing back."""
_BLOCKS = {"flowRateLimited", "handshakesProxied", "attackFiltered"}
"""Effects that keep attackers out, and no users."""
FULL_SHARE = 0.98
"""A link counts as full from this share of its bandwidth."""
MOST_NAMED = 8
"""Addresses or links that one sentence names."""


class Response(Struct, frozen=True):
    """Times in seconds after the first attack began (None: it never came), and counts."""

    alarm_after_s: float | None
    throttle_after_s: float | None
    """When the first limit was in force, or handshakes were proxied."""
    named_after_s: float | None
    """When the last attacker was named, or else it was found that they forge their sources."""
    blocked_after_s: float | None
    """When the last flow was blocked, or handshakes were proxied."""
    attackers: int
    attackers_limited: int
    """Attackers whose flow was blocked or, if they forge their sources, kept out by a proxy."""
    users: int
    """Legitimate sources at the end of the attack, or of the run if there was none."""
    users_limited: int
    """Those of them that a limit held back then: by their flow, by the address that they write
    to, or by the access link of its host."""


Effect = tuple[str, tuple[str, ...]]
"""Name of a predicate, such as ``flowRateLimited``, and its fields."""


class PlannedSource(Struct, frozen=True):
    """A source of traffic, as the scenario plans it."""

    group: str
    address: str
    at: str
    """PoP where it enters the network."""
    target: str
    """Address of the host that it writes to."""
    access: str
    """That host's access link."""
    malicious: bool
    spoofed: bool
    handshakes: bool
    start_s: float
    end_s: float

    def kept_out(self, effects: Set[Effect]) -> bool:
        """Whether a measure is about this attacker alone, or about all that forge sources."""
        if self.spoofed:
            kind = "handshakesProxied" if self.handshakes else "protocolDropped"
            places = (self.target,), (self.target, self.at), (self.target, "")
            return any((kind, place) in effects for place in places)
        return ("flowRateLimited", (self.address, self.target)) in effects

    def held_back(self, effects: Set[Effect]) -> bool:
        """Whether one of the limits ``effects`` is about this user's traffic."""
        return (
            ("flowRateLimited", (self.address, self.target)) in effects
            or ("ipRateLimited", (self.target,)) in effects
            or ("linkRateLimited", (self.access,)) in effects
        )


CLOCKS_S = 2.0
"""Most by which the clock of the network may be ahead of that of an agent, in seconds: an alarm so
long before the attack counts as raised when it began."""


class ResponseView:
    """Follows an attack and the answers to it, event by event."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.measures = Lifetimes("measure.applied", "measure.lifted", "measure")
        self._setting: Data = {}
        self._now = 0.0
        self._alarms: list[Event] = []
        self._beliefs: list[Event] = []
        self._analyses: list[Event] = []
        self._failures: list[Event] = []
        self._troubles: list[Event] = []
        self._links: Data = {}

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self.traffic.add(event)
        self.measures.add(event)
        self._now = event.time
        if event.kind == "run.started":
            self._setting = self._setting or event.data
        elif event.kind == "analysis.done":
            self._analyses.append(event)
        elif event.kind == "auction.failed":
            self._failures.append(event)
        elif event.kind in {"agent.crashed", "function.failed", "link.changed"}:
            self._troubles.append(event)
        elif event.kind == "network.sample":
            if self.traffic.began is not None and self.traffic.ended_s is None:
                self._links = table(event.data, "links")
        elif is_alarm(event):
            self._alarms.append(event)
        elif event.kind == "belief.changed" and event.data.get("value") is True:
            self._beliefs.append(event)

    def result(self) -> Response:
        """Return the response so far."""
        start = inf if self.traffic.began is None else self.traffic.began.time
        end = self._now if self.traffic.ended_s is None else self.traffic.ended_s

        def after(event: Event | None) -> float | None:
            return None if event is None else round(max(0.0, event.time - start), 6)

        limits, blocks = self._answers(start, end)
        answers = {effect for event in limits for effect in _effects(event)}
        held = {
            effect
            for lifetime in self.measures.all
            if lifetime.begun.time < end <= (lifetime.ended.time if lifetime.ended else inf)
            for effect in _effects(lifetime.begun)
        }
        sources = list(sources_of(self._setting))
        attackers = [source for source in sources if source.malicious]
        users = [s for s in sources if not s.malicious and s.start_s < end <= s.end_s]
        return Response(
            alarm_after_s=after(_first(self._alarms, start - CLOCKS_S, end)),
            throttle_after_s=after(_first(limits, start, end)),
            named_after_s=after(self._named(start, end)),
            blocked_after_s=after(_last(blocks)),
            attackers=len(attackers),
            attackers_limited=sum(source.kept_out(answers) for source in attackers),
            users=len(users),
            users_limited=sum(user.held_back(held) for user in users),
        )

    def causes(self, outcome: AttackOutcome) -> tuple[str, ...]:
        """Return why an attack was not mitigated, in the order of what should have come.

        Empty if it was, or if there was none.
        """
        if outcome.verdict not in {"contained", "not mitigated"} or outcome.began_s is None:
            return ()
        hosts = {text(row, "name"): row for row in rows(self._setting, "hosts")}
        address = text(hosts.get(outcome.host, {}), "address", outcome.host)
        end = self._now if self.traffic.ended_s is None else self.traffic.ended_s
        return tuple(self._causes(address, outcome.host, outcome.began_s, end))

    def _causes(self, address: str, host: str, start: float, end: float) -> Iterator[str]:
        words = whole_word(address), whole_word(host)

        def about(events: Iterable[Event]) -> list[Event]:
            """Return those about the host while it was attacked."""
            return [
                event
                for event in events
                if start <= event.time <= end
                and any(word.search(written(event.data)) for word in words)
            ]

        alarms, looks = about(self._alarms), about(self._analyses)
        if alarms:
            after = clock(alarms[0].time - start, exact=True)
            yield f"The alarm came {after} after the attack began, from {alarms[0].agent}."
        else:
            yield f"No agent raised an alarm about {host}."
        attackers = [s for s in sources_of(self._setting) if s.malicious and s.target == address]
        found = {pair.partition(">")[0] for look in looks for pair in names(look.data, "found")}
        unnamed = [s.address for s in attackers if not s.spoofed and s.address not in found]
        if not looks:
            yield "No analysis of its traffic was finished."
        elif unnamed:
            yield (
                f"{len(attackers) - len(unnamed)} of {counted(len(attackers), 'attacker')} were "
                f"named, in {counted(len(looks), 'analysis', 'analyses')}; not {_some(unnamed)}."
            )
        yield from _refused(about(self._failures))
        lives = [
            life
            for life in self.measures.all
            if start <= life.begun.time <= end and not _effect(life.begun)[0].startswith(_NO_LIMITS)
        ]
        held = {
            effect
            for life in lives
            if life.ended is None or life.ended.time >= end
            for effect in _effects(life.begun)
        }
        if not lives:
            yield "No measure was ever in force."
        free = [source.address for source in attackers if not source.kept_out(held)]
        if lives and free:
            yield (
                f"{len(attackers) - len(free)} of {counted(len(attackers), 'attacker')} were kept "
                f"out when the attack ended or the log did; not {_some(free)}."
            )
        for life in lives:
            if life.ended is not None and life.ended.time < end:
                what, lifted = text(life.begun.data, "effect"), clock(life.ended.time, exact=True)
                yield f"{what} was lifted at {lifted}, during the attack."
        if lives and not free:
            last = max(life.begun.time for life in lives)
            yield (
                f"The last measure came {clock(last - start, exact=True)} after the attack began "
                f"and {clock(end - last, exact=True)} before it ended."
            )
        full = [
            f"{link} ({figure(number(row, 'bandwidth_mb_s'))} MB/s)"
            for link, row in self._links.items()
            if isinstance(row, dict)
            and number(row, "mb_s") >= FULL_SHARE * number(row, "bandwidth_mb_s") > 0
        ]
        if full:
            yield f"Links that were full in the end: {_some(full)}."
        for event in self._troubles:
            if event.time <= end and event.data.get("up") is not True:
                yield f"At {clock(event.time, exact=True)} {event.agent} {describe(event)}."

    def _answers(self, start: float, end: float) -> tuple[list[Event], list[Event]]:
        """Return the first limit of each effect in the span, and those of them that block."""
        first: dict[Effect, Event] = {}
        for lifetime in self.measures.all:
            effect = _effect(lifetime.begun)
            if start <= lifetime.begun.time <= end and not effect[0].startswith(_NO_LIMITS):
                first.setdefault(effect, lifetime.begun)
        return list(first.values()), [e for (kind, _), e in first.items() if kind in _BLOCKS]

    def _believed(self, predicate: str) -> list[Event]:
        return [e for e in self._beliefs if predicate_of(text(e.data, "belief")) == predicate]

    def _named(self, start: float, end: float) -> Event | None:
        """Return when the last attacker was named first, or else that sources are forged."""
        first: dict[str, Event] = {}
        for event in self._analyses:
            if start <= event.time <= end and "remembered" in event.data:
                for name in (*names(event.data, "found"), *names(event.data, "forged")):
                    first.setdefault(name, event)
        if first:
            return _last(first.values())
        for predicate in ("threat", "spoofed"):
            formed: dict[str, Event] = {}
            for event in self._believed(predicate):
                if start <= event.time <= end:
                    formed.setdefault(text(event.data, "belief"), event)
            if formed:
                return _last(formed.values())
        return None


def _effect(applied: Event) -> Effect:
    kind, _, fields = text(applied.data, "effect").removesuffix(")").partition("(")
    return kind, tuple(fields.split(", "))


def _effects(applied: Event) -> list[Effect]:
    """Return what a measure does, source by source where it names some."""
    kind, fields = _effect(applied)
    if kind != "attackFiltered":
        return [(kind, fields)]
    data = applied.data
    target = text(data, "target")
    if data.get("sources"):
        return [("flowRateLimited", (source, target)) for source in names(data, "sources")]
    kind = "handshakesProxied" if data.get("verdict") == "proxy" else "protocolDropped"
    return [(kind, (target, text(data, "entry")))]


def _refused(failures: list[Event]) -> Iterator[str]:
    """Yield what nobody could take, with every refusal; the same one once."""
    alike: dict[str, list[Event]] = {}
    for event in failures:
        why = [f"{agent}: {reason}" for agent, reason in table(event.data, "refusals").items()]
        said = "; ".join([text(event.data, "reason"), *why])
        alike.setdefault(f"{predicate_of(text(event.data, 'goal'))}: {said}", []).append(event)
    for said, events in alike.items():
        since = clock(events[0].time, exact=True)
        yield f"No agent for {said} ({counted(len(events), 'auction')}, the first at {since})."


def _some(items: list[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _first(events: Iterable[Event], start: float, end: float) -> Event | None:
    return next((event for event in events if start <= event.time <= end), None)


def _last(events: Iterable[Event]) -> Event | None:
    return max(events, key=lambda event: event.time, default=None)


def sources_of(started: Data) -> Iterator[PlannedSource]:
    """Yield the sources of a run, from the data of its ``run.started``."""
    hosts = {text(host, "name"): host for host in rows(started, "hosts")}
    for at, group in enumerate(rows(started, "sources"), 1):
        profile = PROFILES.get(text(group, "profile"))
        places = names(group, "at") or [""]
        targets = [hosts.get(name, {}) for name in names(group, "target")]
        for i, host in product(range(1, int(number(group, "count")) + 1), targets):
            yield PlannedSource(
                group=text(group, "group"),
                address=source_address(at, i),
                at=places[(i - 1) % len(places)],
                target=text(host, "address"),
                access=link_id(text(host, "at"), text(host, "name")),
                malicious=group.get("malicious") is True,
                spoofed=profile is not None and profile.spoofed,
                handshakes=profile is not None and profile.protocol == "tcp",
                start_s=number(group, "start_s"),
                end_s=number(group, "end_s", inf),
            )
