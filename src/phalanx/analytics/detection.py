"""Attacks, told from flow counters (never from who sends them).

A TCP source that asks for thousands of connections and completes none is flooding; a crowd
completes what it begins, even when the network loses much of it (``sources``). Sources that are
many and never complete anything are forged (``forged``). How sure the counts make one is the
score test of a share (``certainty``). Windows may be short: nothing is said that the counts do
not make certain. A recorder lists a flow with all its counters or not at all, and counts the
packets of flows that it has no room for as unlisted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from phalanx.analytics.certainty import wilson
from phalanx.analytics.forged import Forgery, forgeries
from phalanx.analytics.sources import SLOW, FlowVerdict, judge
from phalanx.analytics.tallies import Tally, tally
from phalanx.domain.actions import FlowStats

__all__ = [
    "FlowVerdict",
    "TargetVerdict",
    "Verdicts",
    "anomalous_targets",
    "detect",
    "malicious_flows",
    "wilson",
]

FLOODED = 0.2
"""Share of a target's octets from flooding sources, or of the connections that are held open
there by slow ones, that makes it anomalous."""


class TargetVerdict(Struct, frozen=True):
    """An address whose traffic is anomalous, and why."""

    ip: str
    mb_s: float
    """Traffic towards it that was seen, in MB/s."""
    evidence: dict[str, float]
    kind: str
    """``syn flood``, ``udp flood`` or ``slow connections``: forged floods come first, then
    floods by who sends most, then slow connections."""
    spoofed: bool
    """The sources of ``kind`` are forged: to block them one by one would be useless."""
    confidence: float
    """1 minus the chance of such counts from honest sources on the threshold."""


def malicious_flows(flows: Iterable[FlowStats], seconds: float) -> list[FlowVerdict]:
    """Return the flows that certainly are malicious, by source and target.

    Args:
        flows: records of ``seconds``; those of one source and target are merged.
        seconds: time in which they were seen.

    """
    return detect(flows, seconds).flows


def anomalous_targets(
    flows: Iterable[FlowStats], seconds: float, unlisted: int = 0
) -> list[TargetVerdict]:
    """Return the addresses whose traffic is an attack to a good part, each once.

    Args:
        flows: records of ``seconds``.
        seconds: time in which they were seen.
        unlisted: packets of flows that the recorder had no room for.

    """
    return detect(flows, seconds, unlisted).targets


class Verdicts(NamedTuple):
    """What flow records say: ``malicious_flows`` and ``anomalous_targets`` at once."""

    flows: list[FlowVerdict]
    targets: list[TargetVerdict]


def detect(flows: Iterable[FlowStats], seconds: float, unlisted: int = 0) -> Verdicts:
    """Return both sorts of verdicts on the same records."""
    tallies = tally(flows)
    named: list[FlowVerdict] = []
    targets: dict[str, _Target] = {}
    for each in tallies:
        target = targets.get(each.target)
        if target is None:
            target = targets[each.target] = _Target()
        verdict = judge(each, seconds)
        target.add(each, verdict)
        if verdict is not None:
            named.append(verdict)
    forged = forgeries(tallies, seconds, unlisted)
    judged = (t.verdict(ip, seconds, forged.get(ip, [])) for ip, t in sorted(targets.items()))
    return Verdicts(
        sorted(named, key=lambda v: (v.source, v.target, v.kind)),
        [verdict for verdict in judged if verdict is not None],
    )


class _Attack(Struct):
    """What the named sources of one kind do to a target."""

    sources: int = 0
    octets: int = 0
    open: int = 0
    confidence: float = 0.0
    """That of the surest verdict."""


class _Target(Struct):
    """All that was seen towards one address."""

    octets: int = 0
    open: int = 0
    attacks: dict[str, _Attack] = field(default_factory=dict)

    def add(self, tally: Tally, verdict: FlowVerdict | None) -> None:
        self.octets += tally.octets
        self.open += tally.open
        if verdict is not None:
            attack = self.attacks.setdefault(verdict.kind, _Attack())
            attack.sources += 1
            attack.octets += tally.octets
            attack.open += tally.open
            attack.confidence = max(attack.confidence, verdict.confidence)

    def verdict(self, ip: str, seconds: float, forged: Sequence[Forgery]) -> TargetVerdict | None:
        """Return the verdict on this target, given the forgeries that were found there."""
        reasons: list[tuple[str, float, dict[str, float]]] = [
            (forgery.kind, forgery.confidence, forgery.evidence) for forgery in forged
        ]
        floods = [a for kind, a in self.attacks.items() if kind != SLOW]
        flooded = sum(a.octets for a in floods) / max(1, self.octets)
        if flooded >= FLOODED:
            evidence = {
                "flooded_share": round(flooded, 6),
                "flooding_sources": sum(a.sources for a in floods),
            }
            kind = max(sorted(self.attacks.keys() - {SLOW}), key=lambda k: self.attacks[k].octets)
            reasons.append((kind, self.attacks[kind].confidence, evidence))
        slow = self.attacks.get(SLOW)
        if slow is not None and slow.open / self.open >= FLOODED:
            evidence = {
                "held_share": round(slow.open / self.open, 6),
                "slow_sources": slow.sources,
            }
            reasons.append((SLOW, slow.confidence, evidence))
        if not reasons:
            return None
        merged: dict[str, float] = {}
        for _, _, evidence in reversed(reasons):
            merged |= evidence
        kind, sure, _ = reasons[0]
        mb_s = self.octets / seconds / 1e6
        return TargetVerdict(ip, mb_s, merged, kind, bool(forged), sure)
