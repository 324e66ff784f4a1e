"""How fast and how well the agents answered an attack, from the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from math import inf
from typing import Any

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.domain.network import link_id
from phalanx.domain.traffic import PROFILES, source_address
from phalanx.reporting.event_text import is_alarm

_BLOCKS = {"flowRateLimited", "handshakesProxied"}
"""What keeps attackers out, and nobody else."""


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
Effects = Set[Effect]


class _Measure(Struct, frozen=True):
    effect: Effect
    since: float
    until: float

    @classmethod
    def of(cls, effect: str, since: float, until: float) -> _Measure:
        kind, _, fields = effect.removesuffix(")").partition("(")
        return cls((kind, tuple(fields.split(", "))), since, until)


class _Source(Struct, frozen=True):
    address: str
    target: str
    """Address of the host that it writes to."""
    access: str
    """That host's access link."""
    malicious: bool
    spoofed: bool
    handshakes: bool
    start_s: float
    end_s: float

    def kept_out(self, effects: Effects) -> bool:
        """Whether a measure is about this attacker alone, or about all who forge sources."""
        if self.spoofed:
            return self.handshakes and ("handshakesProxied", (self.target,)) in effects
        return ("flowRateLimited", (self.address, self.target)) in effects

    def held_back(self, effects: Effects) -> bool:
        """Whether one of the limits ``effects`` is about this user's traffic."""
        return (
            ("flowRateLimited", (self.address, self.target)) in effects
            or ("ipRateLimited", (self.target,)) in effects
            or ("linkRateLimited", (self.access,)) in effects
        )


def respond(events: Sequence[Event], began: float | None, ended: float | None) -> Response:
    """Return the response to an attack.

    Args:
        events: the log, ``run.started`` first.
        began: when the first attack began, in seconds of the run; None: there was none.
        ended: when the last one ended; None: it did not.

    """
    last = events[-1].time
    end = last if ended is None else ended
    start = inf if began is None else began
    measures = _measures(events)
    answers = {
        m.effect: m.since
        for m in reversed(measures)
        if start <= m.since <= end and not m.effect[0].startswith("split")
    }
    beliefs = [e for e in events if e.kind == "belief.changed" and e.data["value"]]
    news = [e for e in beliefs if start <= e.time <= end]
    alarm = min((e.time for e in news if is_alarm(e)), default=None)
    blocks = [since for (kind, _), since in answers.items() if kind in _BLOCKS]

    def after(moment: float | None) -> float | None:
        return None if moment is None else round(moment - start, 6)

    sources = list(_sources(events[0].data))
    attackers = [source for source in sources if source.malicious]
    users = [s for s in sources if not s.malicious and s.start_s < end <= s.end_s]
    held = {m.effect for m in measures if m.since < end <= m.until}
    return Response(
        alarm_after_s=after(alarm),
        throttle_after_s=after(min(answers.values(), default=None)),
        named_after_s=after(_last_new(news, "threat(") or _last_new(news, "spoofed(")),
        blocked_after_s=after(max(blocks, default=None)),
        attackers=len(attackers),
        attackers_limited=sum(source.kept_out(answers.keys()) for source in attackers),
        users=len(users),
        users_limited=sum(user.held_back(held) for user in users),
    )


def _last_new(beliefs: Sequence[Event], start: str) -> float | None:
    """Return when the last of the beliefs that begin with ``start`` was formed first."""
    told = {e.data["belief"]: e.time for e in reversed(beliefs)}
    return max((time for belief, time in told.items() if belief.startswith(start)), default=None)


def _measures(events: Sequence[Event]) -> list[_Measure]:
    lifted = {e.data["measure"]: e.time for e in events if e.kind == "measure.lifted"}
    return [
        _Measure.of(e.data["effect"], e.time, lifted.get(e.data["measure"], inf))
        for e in events
        if e.kind == "measure.applied"
    ]


def _sources(started: Mapping[str, Any]) -> Iterable[_Source]:
    hosts = {host["name"]: host for host in started.get("hosts", ())}
    for number, group in enumerate(started.get("sources", ()), 1):
        host, profile = hosts[group["target"]], PROFILES.get(group["profile"])
        for i in range(1, group["count"] + 1):
            yield _Source(
                address=source_address(number, i),
                target=host["address"],
                access=link_id(host["at"], host["name"]),
                malicious=group["malicious"],
                spoofed=profile is not None and profile.spoofed,
                handshakes=profile is not None and profile.protocol == "tcp",
                start_s=group["start_s"],
                end_s=inf if group["end_s"] is None else group["end_s"],
            )
