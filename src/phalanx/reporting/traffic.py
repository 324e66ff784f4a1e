"""Traffic as it arrived at the hosts, and a verdict on it by stated rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.figures import clock, figure
from phalanx.reporting.log import Data, finite, number, rows, table, text

SETTLED_S = 10.0
"""Length of the spans over which traffic is averaged, in seconds."""
SERVED_SHARE = 0.95
"""Users count as served from this share of what they got before."""
QUIET_SHARE = 0.01
"""An attack counts as held off when no more than this share of its peak arrives."""
CONTAINED_SHARE = 0.5
"""Contained means: at most half of the peak arrives and users get at least this share."""
_STEADY, _STEADY_S = 5, 2.0
"""Samples, and seconds, over which the served share is averaged at least, so that no odd sample
decides anything: real users come in bursts."""


class TrafficSample(Struct, frozen=True):
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
    samples: tuple[TrafficSample, ...]

    @property
    def attacked(self) -> float:
        """Peak of malicious traffic in MB/s."""
        return max((s.malicious for s in self.samples), default=0.0)


class Traffic:
    """What arrives at each host and when attackers send, event by event."""

    def __init__(self) -> None:
        self.samples: dict[str, list[TrafficSample]] = {}
        """By host."""
        self.began: Event | None = None
        """When the first attack began."""
        self.ended_s: float | None = None
        """When the last attack ended; None if there was none, or it goes on."""
        self.sent_peak = 0.0
        """The most that malicious sources sent at a time, in MB/s."""
        self._sent: dict[str, float] = {}
        self._hosts: dict[str, Data] = {}

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        if event.kind == "run.started":
            self._hosts |= {text(row, "name"): row for row in rows(event.data, "hosts")}
        elif event.kind == "network.sample":
            for host, figures in table(event.data, "hosts").items():
                if isinstance(figures, dict):
                    rates = ("legitimate_mb_s", "malicious_mb_s", "wanted_mb_s")
                    sample = TrafficSample(finite(event.time), *(number(figures, r) for r in rates))
                    self.samples.setdefault(host, []).append(sample)
        elif event.kind == "traffic.changed" and event.data.get("malicious") is True:
            self._attack(event)

    def _attack(self, event: Event) -> None:
        if event.data.get("active") is True:
            self.began, self.ended_s = self.began or event, None
            self._sent[text(event.data, "group")] = number(event.data, "demand_mb_s")
            self.sent_peak = max(self.sent_peak, sum(self._sent.values()))
        else:
            self._sent.pop(text(event.data, "group"), None)
            if self.began is not None and not self._sent:
                self.ended_s = event.time

    def hosts(self) -> list[HostTraffic]:
        """Return the traffic of every sampled host, the most attacked and busiest first."""
        hosts = []
        for host, samples in self.samples.items():
            known = self._hosts.get(host, {})
            access = number(known, "bandwidth_mb_s")
            hosts.append(HostTraffic(host, text(known, "at"), access, tuple(samples)))
        return sorted(hosts, key=lambda h: (-h.attacked, -mean(s.wanted for s in h.samples)))


class AttackOutcome(Struct, frozen=True):
    """The verdict on one host, with the figures behind it (MB/s and s)."""

    verdict: str
    """``mitigated``, ``contained``, ``not mitigated``, ``no attack`` or ``no samples``."""
    sentence: str
    host: str = ""
    before: float | None = None
    worst_share: float | None = None
    """Least share of what users wanted that they got in a second of the attack."""
    mean_share: float | None = None
    """The same over the whole attack."""
    after: float | None = None
    served: float | None = None
    """Share of the users' demand that was served after mitigation."""
    peak: float | None = None
    now: float | None = None
    began_s: float | None = None
    mitigated_s: float | None = None

    @property
    def mitigated(self) -> bool | None:
        """None: there is no verdict, or no attack reached the host."""
        return None if self.verdict in {"no attack", "no samples"} else self.verdict == "mitigated"


def attack_span(traffic: Traffic, end_s: float) -> tuple[float, float] | None:
    """Return when the attack began and ended (``end_s`` if it goes on); None if there was none.

    A log that does not say when attackers send is judged by what arrives at the most attacked
    host.
    """
    if traffic.began is not None:
        return traffic.began.time, end_s if traffic.ended_s is None else traffic.ended_s
    hit = [s.time for host in traffic.hosts()[:1] for s in host.samples if s.malicious > 0]
    return (hit[0], hit[-1]) if hit else None


def judge(traffic: Traffic, end_s: float) -> AttackOutcome:
    """Judge the most attacked host from what arrived there until ``end_s``."""
    return outcomes(traffic, end_s)[0]


def outcomes(traffic: Traffic, end_s: float) -> list[AttackOutcome]:
    """Judge every host from what arrived there until ``end_s``, the most attacked one first."""
    span = attack_span(traffic, end_s)
    judged = [_judge(host, span) for host in traffic.hosts() if host.samples]
    nothing = "The log holds no traffic samples to judge by."
    return judged or [AttackOutcome("no samples", nothing)]


def _judge(host: HostTraffic, span: tuple[float, float] | None) -> AttackOutcome:
    now = host.samples[-1].malicious
    during = [s for s in host.samples if span is None or span[0] <= s.time < span[1]]
    if span is None or not host.attacked:
        goodput, served = _served(host.samples)
        return AttackOutcome(
            "no attack",
            f"No attack reached {host.host}: its users got {figure(goodput)} MB/s, "
            f"{served:.0%} of what they asked for.",
            host=host.host,
            worst_share=min(_by_second(during), default=None),
            mean_share=_served(during)[1],
            after=goodput,
            served=served,
            peak=0.0,
            now=now,
        )
    began, ended = span
    before = [s for s in host.samples if began - SETTLED_S <= s.time < began]
    if not during:
        nothing = "No traffic was sampled while the attack lasted."
        return AttackOutcome("no samples", nothing, host.host)
    start = _mitigated(during, host.attacked)
    settled = [s for s in during if s.time >= ended - SETTLED_S]
    late = settled if start is None else during[start:]
    after, served = _served(late)
    left = mean(s.malicious for s in late)
    users = f"its users get {figure(after)} MB/s, {served:.0%} of what they ask for"
    if not any(s.wanted for s in host.samples):
        users = "it has no users"
    peak = f"{figure(host.attacked)} MB/s"
    if start is not None:
        verdict = "mitigated"
        waited = clock(during[start].time - began, exact=True)
        sentence = (
            f"The attack on {host.host} was mitigated {waited} after it began: "
            f"{users}, and the attack traffic that reaches it fell from {peak} at its peak to "
            f"{figure(left)} MB/s."
        )
    elif left <= host.attacked / 2 and served >= CONTAINED_SHARE:
        verdict = "contained"
        sentence = (
            f"The attack on {host.host} was contained, not mitigated: {figure(left)} of {peak} "
            f"still arrive, and {users}."
        )
    else:
        verdict = "not mitigated"
        sentence = (
            f"The attack on {host.host} was not mitigated: {figure(left)} MB/s of it arrive "
            f"(peak {peak}), and {users}."
        )
    goodput, usual = _served(before)
    quiet = left <= QUIET_SHARE * host.attacked
    if start is None and quiet and SERVED_SHARE * usual <= served < SERVED_SHARE > usual:
        sentence += f" Before it began they got {usual:.0%}: the network carries no more to them."
    return AttackOutcome(
        verdict,
        sentence,
        host=host.host,
        before=goodput if before else None,
        worst_share=min(_by_second(during), default=None),
        mean_share=_served(during)[1],
        after=after,
        served=served,
        peak=host.attacked,
        now=now,
        began_s=began,
        mitigated_s=during[start].time if start is not None else None,
    )


def _served(samples: Sequence[TrafficSample]) -> tuple[float, float]:
    """Return what users got on average in MB/s, and its share of what they wanted."""
    got, wanted = mean(s.legitimate for s in samples), mean(s.wanted for s in samples)
    return got, got / wanted if wanted else 1.0


def _by_second(samples: Sequence[TrafficSample]) -> list[float]:
    """Return second by second the share of what users wanted that they got."""
    seconds: dict[int, list[TrafficSample]] = {}
    for sample in samples:
        seconds.setdefault(int(sample.time), []).append(sample)
    return [min(1.0, _served(each)[1]) for each in seconds.values()]


def _mitigated(during: Sequence[TrafficSample], peak: float) -> int | None:
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


def mean(values: Iterable[float]) -> float:
    """Return the average of ``values``, 0 if there are none."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0
