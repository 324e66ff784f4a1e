"""The summary of a run, from its log alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, is_alarm
from phalanx.reporting.log import Data, Lifetime, number, rows, table, text
from phalanx.reporting.response import Response, ResponseView
from phalanx.reporting.ssla import AgreementsView, TermStory
from phalanx.reporting.traffic import SETTLED_S, AttackOutcome, mean, outcomes
from phalanx.reporting.trust import TrustStory, TrustView

MOST_WITHHELD = 32
"""Of what would have been done, so much is told at the end: the latest."""


class HostSummary(Struct, frozen=True):
    """How one host fared, in MB/s arriving at it."""

    host: str
    verdict: str
    """As in the report: ``mitigated``, ``contained``, ``not mitigated`` or ``no attack``."""
    mitigated: bool | None
    """None: no attack reached it."""
    reason: str
    """The verdict with its figures, in a sentence."""
    causes: tuple[str, ...]
    """Why the attack was not mitigated, step by step; empty if it was."""
    worst_share: float | None
    """Least share of what users wanted that they got in any second of the attack."""
    mean_share: float | None
    """The same over the whole attack."""
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


class StartedInstance(Struct, frozen=True):
    """A VNF that was deployed."""

    time: float
    vnf: str
    pop: str
    units: int
    instance: str


class AppliedMeasure(Struct, frozen=True):
    """A measure that was applied."""

    time: float
    effect: str
    pop: str
    lifted: float | None


_KINDS = ("cores", "memory_gb", "disk_gb")


class EnergyMeter:
    """The energy of the PoPs whose power the run tells: P = idle + (busy - idle) * use of cores.

    A PoP in which nothing runs is taken to be asleep (Fan, Weber and Barroso, ISCA 2007).
    """

    def __init__(self) -> None:
        self._pops: dict[str, Data] = {}
        self._power_w: dict[str, float] = {}
        self._joules = self._now = 0.0

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._joules += sum(self._power_w.values()) * (event.time - self._now)
        self._now = event.time
        if event.kind == "run.started":
            self._pops |= {text(r, "name"): r for r in rows(event.data, "pops") if "idle_w" in r}
        elif event.kind == "resources.changed" and text(event.data, "pop") in self._pops:
            pop, free = text(event.data, "pop"), table(event.data, "free")
            total, idle_w = self._pops[pop], number(self._pops[pop], "idle_w")
            awake = any(number(free, key) < number(total, key) for key in _KINDS)
            cores = number(total, "cores")
            use = 1.0 - number(free, "cores") / cores if cores > 0 else 0.0
            more_w = (number(total, "busy_w", idle_w) - idle_w) * use
            self._power_w[pop] = idle_w + more_w if awake else 0.0

    def result(self) -> float | None:
        """Return the energy until now, in Wh; None: the run tells no PoP's power."""
        return self._joules / 3600.0 if self._pops else None


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
    placements: tuple[StartedInstance, ...]
    limits: tuple[AppliedMeasure, ...]
    withheld: tuple[str, ...]
    """What would have been done, in words, of a run that only observes."""
    auctions: int
    awarded: int
    failed_auctions: int
    messages: dict[str, int]
    lost: int
    """Messages that no agent heard: by a fault, without a path, or to an agent that was dead."""
    shed: int
    mitigated: bool | None
    """Whether every attacked host was mitigated; None if no attack reached any."""
    returned: bool | None
    """Whether all resources are what they were at the start; None while an attack goes on."""
    events: int
    trust: TrustStory | None = None
    """Who verified whom; None: nobody."""
    agreements: tuple[TermStory, ...] = ()
    """How the terms of security agreements were kept."""
    energy_wh: float | None = None
    """What the PoPs took, in Wh; None: the run does not tell their power."""


class SummaryView:
    """Follows a run event by event; keeps its figures and traffic samples, not its events."""

    def __init__(self) -> None:
        self._response = ResponseView()
        self._trust = TrustView()
        self._agreements = AgreementsView()
        self._energy = EnergyMeter()
        self._kinds: Counter[str] = Counter()
        self._placements: list[StartedInstance] = []
        self._withheld: deque[str] = deque(maxlen=MOST_WITHHELD)
        self._alarm_s: float | None = None
        self._now = 0.0
        self._setting: Data = {}
        self._ending: Data | None = None

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._response.add(event)
        self._trust.add(event)
        self._agreements.add(event)
        self._energy.add(event)
        self._kinds[event.kind] += 1
        self._now = event.time
        data = event.data
        if self._alarm_s is None and is_alarm(event):
            self._alarm_s = event.time
        if event.kind == "run.started":
            self._setting = self._setting or data
        elif event.kind == "run.ended":
            self._ending = data
        elif event.kind == "measure.withheld":
            self._withheld.append(describe(event))
        elif event.kind == "instance.started":
            vnf, pop, instance = (text(data, key) for key in ("vnf", "pop", "instance"))
            units = int(number(data, "units", 1))
            self._placements.append(StartedInstance(event.time, vnf, pop, units, instance))

    def result(self) -> Summary:
        """Return the summary so far; of a run that has not ended, what there is."""
        ending, traffic = self._ending or {}, self._response.traffic
        limits = tuple(map(_applied, self._response.measures.all))
        rates = [
            limit.time
            for limit in limits
            if "RateLimited" in limit.effect or "Filtered" in limit.effect
        ]
        began_s = None if traffic.began is None else traffic.began.time
        ended_s = self._now if traffic.ended_s is None else traffic.ended_s
        hosts = tuple(
            self._host(outcome, self._now if began_s is None else began_s, ended_s)
            for outcome in outcomes(traffic, self._now)
            if outcome.host
        )
        judged = [host.mitigated for host in hosts if host.mitigated is not None]
        under_way = began_s is not None and traffic.ended_s is None
        given_back = bool(ending.get("given_back")) and not ending.get("reserved_mb_s")
        return Summary(
            scenario=text(self._setting, "scenario"),
            seed=self._setting.get("seed", 0),
            ended_s=self._now,
            reason=text(ending, "reason", "interrupted"),
            attack_start_s=began_s,
            attack_end_s=traffic.ended_s,
            alarm_s=self._alarm_s,
            first_limit_s=min(rates, default=None),
            last_limit_s=max(rates, default=None),
            response=self._response.result(),
            hosts=hosts,
            placements=tuple(self._placements),
            limits=limits,
            withheld=tuple(self._withheld),
            auctions=self._kinds["auction.called"],
            awarded=self._kinds["auction.awarded"],
            failed_auctions=self._kinds["auction.failed"],
            messages=dict(table(ending, "messages")),
            lost=int(number(ending, "lost") + number(ending, "lost_by_faults")),
            shed=int(number(ending, "shed")),
            mitigated=all(judged) if judged else None,
            returned=None if under_way else given_back,
            events=self._kinds.total(),
            trust=self._trust.result(),
            agreements=self._agreements.result(),
            energy_wh=self._energy.result(),
        )

    def _host(self, outcome: AttackOutcome, start: float, end: float) -> HostSummary:
        samples = self._response.traffic.samples[outcome.host]
        before = [s for s in samples if start - SETTLED_S <= s.time < start]
        late = [s for s in samples if end - SETTLED_S <= s.time < end]
        return HostSummary(
            outcome.host,
            outcome.verdict,
            outcome.mitigated,
            outcome.sentence,
            self._response.causes(outcome),
            outcome.worst_share,
            outcome.mean_share,
            _mean(s.legitimate for s in before),
            min((s.legitimate for s in samples if start < s.time <= end), default=0.0),
            _mean(s.legitimate for s in late),
            max((s.malicious for s in samples), default=0.0),
            _mean(s.malicious for s in late),
            _mean(s.wanted for s in before),
            _mean(s.wanted for s in late),
        )


def summarise(events: Iterable[Event]) -> Summary:
    """Return the summary of a log; of an interrupted run, what there is."""
    view = SummaryView()
    for event in events:
        view.add(event)
    return view.result()


def _applied(measure: Lifetime) -> AppliedMeasure:
    data, (time, lifted) = measure.begun.data, measure.span
    return AppliedMeasure(time, text(data, "effect"), text(data, "pop"), lifted)


def _mean(values: Iterable[float]) -> float:
    return round(mean(values), 6)
