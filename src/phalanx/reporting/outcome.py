"""What became of the attack: traffic as it arrived, a verdict by stated rules, key times."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_alarm
from phalanx.reporting.log import Log, finite, names, number, predicate_of, rows, table, text
from phalanx.reporting.summary import QUIET_SHARE, SERVED_SHARE, SETTLED_S
from phalanx.reporting.svg import clock, counted, figure

CONTAINED_SHARE = 0.5
"""Contained means: at most half of the peak arrives and users get at least this share."""
_BLOCKS = {"flowRateLimited", "handshakesProxied"}
"""What keeps attackers out, and nobody else."""
_STEADY, _STEADY_S = 5, 2.0
"""Samples, and seconds, over which the served share is averaged at least, so that no odd sample
decides anything: real users come in bursts."""


class Sample(Struct, frozen=True):
    """Traffic arriving at a host at one time, in MB/s."""

    time: float
    legitimate: float
    malicious: float
    wanted: float


class HostTraffic(Struct, frozen=True):
    """All samples of one host."""

    host: str
    at: str
    """PoP that it hangs on; empty where the log does not say."""
    access_mb_s: float
    """Bandwidth of its access link; 0 where unknown."""
    samples: tuple[Sample, ...]

    @property
    def attacked(self) -> float:
        """Peak of malicious traffic in MB/s."""
        return max((s.malicious for s in self.samples), default=0.0)


class Outcome(Struct, frozen=True):
    """The verdict on one host, with the figures behind it (MB/s and s)."""

    verdict: str
    """``mitigated``, ``contained``, ``not mitigated``, ``no attack`` or ``no samples``."""
    sentence: str
    host: str = ""
    before: float | None = None
    worst: float | None = None
    after: float | None = None
    served: float | None = None
    """Share of the users' demand that was served after mitigation."""
    peak: float | None = None
    now: float | None = None
    began_s: float | None = None
    mitigated_s: float | None = None


class Milestone(Struct, frozen=True):
    """A key time of the run; ``time`` is None if it never came."""

    label: str
    time: float | None
    event: str = ""
    note: str = ""


def hosts_of(log: Log) -> list[HostTraffic]:
    """Return the traffic of every sampled host, the most attacked and busiest first."""
    series: dict[str, list[Sample]] = {}
    for event in log.of("network.sample"):
        for host, figures in table(event.data, "hosts").items():
            if isinstance(figures, dict):
                sample = Sample(
                    finite(event.time),
                    number(figures, "legitimate_mb_s"),
                    number(figures, "malicious_mb_s"),
                    number(figures, "wanted_mb_s"),
                )
                series.setdefault(host, []).append(sample)
    known = {text(row, "name"): row for row in rows(log.setting, "hosts")}
    hosts = [
        HostTraffic(
            host,
            text(known.get(host, {}), "at"),
            number(known.get(host, {}), "bandwidth_mb_s"),
            tuple(samples),
        )
        for host, samples in series.items()
    ]
    return sorted(hosts, key=lambda h: (-h.attacked, -_mean([s.wanted for s in h.samples])))


def attack_span(log: Log, host: HostTraffic | None) -> tuple[float, float] | None:
    """Return when the attack began and ended (the end of the log if it did not); None: none."""
    active: dict[str, bool] = {}
    began: float | None = None
    ended: float | None = None
    for event in log.of("traffic.changed"):
        if event.data.get("malicious") is not True:
            continue
        active[text(event.data, "group")] = event.data.get("active") is True
        if any(active.values()):
            began, ended = event.time if began is None else began, None
        elif began is not None:
            ended = event.time
    if began is None and host is not None:
        hit = [s.time for s in host.samples if s.malicious > 0]
        began, ended = (hit[0], hit[-1]) if hit else (None, None)
    return None if began is None else (began, log.end_s if ended is None else ended)


def judge(log: Log, hosts: Sequence[HostTraffic]) -> Outcome:
    """Judge the most attacked host from what arrived there, by the rules stated above."""
    host = hosts[0] if hosts else None
    span = attack_span(log, host)
    if host is None or not host.samples:
        return Outcome("no samples", "The log holds no traffic samples to judge by.")
    now = host.samples[-1].malicious
    if span is None or not host.attacked:
        goodput = _mean([s.legitimate for s in host.samples])
        wanted = _mean([s.wanted for s in host.samples])
        served = goodput / wanted if wanted else 1.0
        return Outcome(
            "no attack",
            f"No attack reached {host.host}: its users got {figure(goodput)} MB/s, "
            f"{served:.0%} of what they asked for.",
            host=host.host,
            after=goodput,
            served=served,
            peak=0.0,
            now=now,
        )
    began, ended = span
    before = [s.legitimate for s in host.samples if began - SETTLED_S <= s.time < began]
    during = [s for s in host.samples if began <= s.time < ended]
    if not during:
        return Outcome("no samples", "No traffic was sampled while the attack lasted.", host.host)
    start = _mitigated(during, host.attacked)
    settled = (s for s in during if s.time >= ended - SETTLED_S)
    late = list(settled) if start is None else during[start:]
    after, wanted = _mean([s.legitimate for s in late]), _mean([s.wanted for s in late])
    served = after / wanted if wanted else 1.0
    left = _mean([s.malicious for s in late])
    figures = f"{figure(after)} MB/s, {served:.0%} of what they ask for"
    peak = f"{figure(host.attacked)} MB/s"
    if start is not None:
        verdict = "mitigated"
        waited = clock(during[start].time - began, exact=True)
        sentence = (
            f"The attack on {host.host} was mitigated {waited} after it began: its users get "
            f"{figures}, and the attack traffic that reaches it fell from {peak} at its peak to "
            f"{figure(left)} MB/s."
        )
    elif left <= host.attacked / 2 and served >= CONTAINED_SHARE:
        verdict = "contained"
        sentence = (
            f"The attack on {host.host} was contained, not mitigated: {figure(left)} of {peak} "
            f"still arrive, and its users get {figures}."
        )
    else:
        verdict = "not mitigated"
        sentence = (
            f"The attack on {host.host} was not mitigated: {figure(left)} MB/s of it arrive "
            f"(peak {peak}), and its users get {figures}."
        )
    return Outcome(
        verdict,
        sentence,
        host=host.host,
        before=_mean(before) if before else None,
        worst=min(s.legitimate for s in during),
        after=after,
        served=served,
        peak=host.attacked,
        now=now,
        began_s=began,
        mitigated_s=during[start].time if start is not None else None,
    )


def _mitigated(during: Sequence[Sample], peak: float) -> int | None:
    """Return the first sample from which the attack stayed held off and the users served."""
    bad = -1
    hit = next((i for i, s in enumerate(during) if s.malicious > QUIET_SHARE * peak), len(during))
    first = 0
    for index, sample in enumerate(during):
        while index - first >= _STEADY and sample.time - during[first].time >= _STEADY_S:
            first += 1
        lately = during[first : index + 1]
        wanted = sum(s.wanted for s in lately)
        unserved = sum(s.legitimate for s in lately) < SERVED_SHARE * wanted
        if sample.malicious > QUIET_SHARE * peak or unserved:
            bad = index
    start = max(bad, hit) + 1
    return start if start + _STEADY <= len(during) else None


def sent_peak(log: Log) -> float:
    """Return the most that malicious sources sent at a time, in MB/s, as the log tells."""
    groups: dict[str, float] = {}
    peak = 0.0
    for event in log.of("traffic.changed"):
        if event.data.get("malicious") is True:
            active = event.data.get("active") is True
            groups[text(event.data, "group")] = number(event.data, "demand_mb_s") if active else 0.0
            peak = max(peak, sum(groups.values()))
    return peak


def milestones(log: Log, outcome: Outcome) -> list[Milestone]:
    """Return the key times: attack, alarm, first limit, who is who, blocked, all lifted."""
    began = outcome.began_s or 0.0
    applied = [e for e in log.of("measure.applied") if e.time >= began]
    effects = [predicate_of(text(event.data, "effect")) for event in applied]
    blocks = [e for e, effect in zip(applied, effects, strict=True) if effect in _BLOCKS]
    flows = effects.count("flowRateLimited")
    known = _first(_beliefs(log, "anomalous"), began) or next(
        (e for e in log.of("analysis.done") if e.time >= began and names(e.data, "found")), None
    )
    attack = next((e for e in log.of("traffic.changed") if e.data.get("malicious") is True), None)
    last_block = blocks[-1] if blocks else None
    named = _last_new(log, "threat", began) or _last_new(log, "spoofed", began)
    lifted, held = _all_lifted(log)
    steps = [
        ("attack starts", attack, ""),
        ("alarm", _first([e for e in log.of("belief.changed") if is_alarm(e)], began), ""),
        ("first limit", applied[0] if applied else None, ""),
        ("target known", known, ""),
        ("attackers named", named, ""),
        ("attackers blocked", last_block, counted(flows, "flow") if flows else ""),
        ("all lifted", lifted, f"{held} still in force" if held else ""),
    ]
    return [
        Milestone(label, event.time if event else None, event.id if event else "", note)
        for label, event, note in steps
    ]


def _beliefs(log: Log, predicate: str) -> list[Event]:
    return [
        event
        for event in log.of("belief.changed")
        if event.data.get("value") is True and predicate_of(text(event.data, "belief")) == predicate
    ]


def _first(events: Sequence[Event], since: float) -> Event | None:
    return next((event for event in events if event.time >= since), None)


def _last_new(log: Log, predicate: str, since: float) -> Event | None:
    """Return when the last of the beliefs of ``predicate`` was formed first."""
    formed: dict[str, Event] = {}
    for event in _beliefs(log, predicate):
        if event.time >= since:
            formed.setdefault(text(event.data, "belief"), event)
    return max(formed.values(), key=lambda e: e.time, default=None)


def _all_lifted(log: Log) -> tuple[Event | None, int]:
    """Return the event that lifted the last measure in force, and how many remain."""
    held: set[str] = set()
    last: Event | None = None
    for event in log.of("measure.applied", "measure.lifted"):
        if event.kind == "measure.applied":
            held.add(text(event.data, "measure"))
        else:
            held.discard(text(event.data, "measure"))
            last = event
    return (None if held else last), len(held)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
