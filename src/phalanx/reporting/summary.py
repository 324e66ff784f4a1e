"""The summary of a run, from its log alone."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_alarm
from phalanx.reporting.response import Response, respond

SETTLED_S = 10.0
"""Length of the spans over which traffic is averaged, in seconds."""
SERVED_SHARE = 0.95
"""Users count as served from this share of what they got before."""
QUIET_SHARE = 0.01
"""An attack counts as held off when no more than this share of its peak arrives."""


class HostSummary(Struct, frozen=True):
    """How one host fared, in MB/s arriving at it."""

    host: str
    before_mb_s: float
    """Legitimate traffic before the first attack."""
    worst_mb_s: float
    """The least legitimate traffic during it."""
    after_mb_s: float
    """Legitimate traffic in the last seconds of the attack."""
    attack_peak_mb_s: float
    attack_after_mb_s: float
    """Attack traffic in the last seconds of the attack."""
    wanted_before_mb_s: float
    """What legitimate users asked for before the attack."""
    wanted_after_mb_s: float
    """What they asked for in its last seconds."""

    @property
    def recovered(self) -> float:
        """Share of what users want that they get at the end of the attack, relative to before."""
        if not self.before_mb_s or not self.wanted_after_mb_s:
            return 1.0
        return (self.after_mb_s / self.wanted_after_mb_s) / (
            self.before_mb_s / self.wanted_before_mb_s
        )

    @property
    def left(self) -> float:
        """Attack traffic at the end of the attack relative to its peak."""
        return self.attack_after_mb_s / self.attack_peak_mb_s if self.attack_peak_mb_s else 0.0


class Placement(Struct, frozen=True):
    """A VNF that was deployed."""

    time: float
    vnf: str
    pop: str
    units: int
    instance: str


class Limit(Struct, frozen=True):
    """A measure that was applied."""

    time: float
    effect: str
    pop: str
    lifted: float | None


class Summary(Struct, frozen=True):
    """What a run comes to."""

    scenario: str
    seed: int
    ended_s: float
    reason: str
    attack_start_s: float | None
    attack_end_s: float | None
    alarm_s: float | None
    first_limit_s: float | None
    last_limit_s: float | None
    response: Response
    hosts: tuple[HostSummary, ...]
    placements: tuple[Placement, ...]
    limits: tuple[Limit, ...]
    auctions: int
    awarded: int
    failed_auctions: int
    messages: dict[str, int]
    shed: int
    returned: bool
    """Whether all resources are what they were at the start."""
    events: int

    @property
    def mitigated(self) -> bool:
        """Whether the attack still goes on, and no host feels it any more.

        At least 95 % of the legitimate traffic is back, and at most 1 % of the peak is left.
        """
        return all(
            host.recovered >= SERVED_SHARE and host.left <= QUIET_SHARE
            for host in self.hosts
            if host.attack_peak_mb_s > 0
        )


def summarise(events: Sequence[Event]) -> Summary:
    """Return the summary of a log; of an interrupted run, what there is."""
    started = events[0].data
    ended = next((e for e in reversed(events) if e.kind == "run.ended"), None)
    span = _attack(events)
    lifted = {e.data["measure"]: e.time for e in events if e.kind == "measure.lifted"}
    limits = tuple(
        Limit(e.time, e.data["effect"], e.data["pop"], lifted.get(e.data["measure"]))
        for e in events
        if e.kind == "measure.applied"
    )
    rates = [limit.time for limit in limits if "RateLimited" in limit.effect]
    kinds = [e.kind for e in events]
    return Summary(
        scenario=started.get("scenario", ""),
        seed=started.get("seed", 0),
        ended_s=events[-1].time,
        reason=ended.data["reason"] if ended is not None else "interrupted",
        attack_start_s=span[0],
        attack_end_s=span[1],
        alarm_s=next((e.time for e in events if is_alarm(e)), None),
        first_limit_s=min(rates, default=None),
        last_limit_s=max(rates, default=None),
        response=respond(events, *span),
        hosts=_hosts(events, span),
        placements=tuple(
            Placement(e.time, e.data["vnf"], e.data["pop"], e.data["units"], e.data["instance"])
            for e in events
            if e.kind == "instance.started"
        ),
        limits=limits,
        auctions=kinds.count("auction.called"),
        awarded=kinds.count("auction.awarded"),
        failed_auctions=kinds.count("auction.failed"),
        messages=ended.data["messages"] if ended is not None else {},
        shed=ended.data["shed"] if ended is not None else 0,
        returned=ended is not None
        and bool(ended.data["given_back"])
        and not ended.data["reserved_mb_s"],
        events=len(events),
    )


def _attack(events: Sequence[Event]) -> tuple[float | None, float | None]:
    changes = [e for e in events if e.kind == "traffic.changed" and e.data["malicious"]]
    starts = [e.time for e in changes if e.data["active"]]
    ends = [e.time for e in changes if not e.data["active"]]
    return min(starts, default=None), max(ends, default=None)


def _hosts(
    events: Sequence[Event], span: tuple[float | None, float | None]
) -> tuple[HostSummary, ...]:
    samples: dict[str, list[tuple[float, float, float, float]]] = {}
    for event in events:
        if event.kind == "network.sample":
            for host, rates in event.data["hosts"].items():
                samples.setdefault(host, []).append(
                    (
                        event.time,
                        rates["legitimate_mb_s"],
                        rates["malicious_mb_s"],
                        rates["wanted_mb_s"],
                    )
                )
    start = span[0] if span[0] is not None else events[-1].time
    end = span[1] if span[1] is not None else events[-1].time
    summaries = []
    for host, rows in samples.items():
        before = [row for row in rows if start - SETTLED_S <= row[0] < start]
        during = [good for t, good, _, _ in rows if start < t <= end]
        late = [row for row in rows if end - SETTLED_S <= row[0] < end]
        summaries.append(
            HostSummary(
                host,
                _mean([good for _, good, _, _ in before]),
                min(during, default=0.0),
                _mean([good for _, good, _, _ in late]),
                max((bad for _, _, bad, _ in rows), default=0.0),
                _mean([bad for _, _, bad, _ in late]),
                _mean([wanted for *_, wanted in before]),
                _mean([wanted for *_, wanted in late]),
            )
        )
    return tuple(summaries)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0
