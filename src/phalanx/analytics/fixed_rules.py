"""The fixed rules: attacks, told from flow counters (never from addresses).

A TCP source that asks for thousands of connections and completes none is flooding; a crowd
completes what it begins, even when the network loses much of it. Sources that are many and
never complete anything are forged. How sure the counts make a finding is the score test of a
share (``statistics``). Windows may be short: nothing is said that the counts do not make
certain. A recorder lists a flow with all its counters or not at all, and counts the packets of
flows that it has no room for as unlisted.

Each source is judged by its own counters alone. Assumptions, without which counters cannot tell:
an honest source completes at least 5 % of the handshakes that it begins; a UDP service answers at
least 5 % of the packets of a source that sends more than 200 a second; nobody sends so many echo
requests, answered or not; of many connections that an honest source holds open, the target answers
at least a third of those to which an answer is due; and of many services that it asks for, at least
a fifth are there. Each verdict errs for one honest source in 700 that lies just on its threshold,
and for far fewer above it: of sources that complete a quarter of their handshakes (half of the
packets lost, both ways), fewer than one in 10^20.

Of sources that are forged, none does much, but together they are a flood. A crowd of honest
users looks alike packet for packet: many sources that ask for one connection each. What tells
them apart is that some of the crowd's handshakes complete, whatever the network loses.
Assumption: of honest sources at least one in five gets through while watched (half of the
packets lost in each direction leaves one in four), and the service is alive: a crowd at a
service that is down for all is taken for forged, as counters cannot tell. The trials are
sources, not packets, since the packets of one source are lost together. The verdict needs 82
sources at least; such a crowd on the assumption's edge is blamed with a chance of 10^-8, a
larger one with less.

Packets of no connection (ACK and SYN-ACK floods) are told by what the target answers: resets, to
nearly all of them. Assumption: an honest client whose connection is reset asks for another one.
Where the target answers others, but nothing to a thousand packets a second, they are a flood too.
Reflection is told by the port of a service that amplifies, by answers larger than honest ones
are on average, and by a target that was not seen to ask. Where only one way of the traffic is
seen, no reset and no request is: connections that complete without one reply show that, and
then nothing is said of UDP, nor of connections that are not answered.

What is spread over many targets may be certain of none of them. Then it is judged for all targets
in the longest prefix that networks route to each other, and each of them has the finding.

Counts of samples (1 packet in R) are judged as the samples that they are, not as what they stand
for: a share is as sure as so many samples make it. Rates are scaled up, and count as reached only
where sampling error cannot explain them.
"""

from __future__ import annotations

from math import sqrt

from msgspec.structs import replace

from phalanx.analytics.detectors import (
    ICMP_FLOOD,
    REFLECTION,
    SCAN,
    SLOW,
    SYN_FLOOD,
    UDP_FLOOD,
    UDP_FRAGMENTS,
    Finding,
)
from phalanx.analytics.group_rules import JudgedWindow, forgeries, prefix_of, reflections, scans
from phalanx.analytics.source_rules import (
    FlowAggregate,
    counted,
    figure,
    judge,
    percent,
    remarkable,
    together,
)
from phalanx.domain.series import TrafficWindow

FLOODED = 0.2
"""Share of a target's octets from flooding sources, or of the connections that are held open
there by slow ones, that makes it anomalous."""

Verdicts = dict[tuple[str, str, str], Finding]
"""By source, target and protocol."""
Attacks = dict[str, list[tuple[FlowAggregate, Finding]]]
"""What sources certainly do to one target, by kind."""


class FixedRules:
    """Implements ``Detector``: looks at flow records alone."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return malicious flows, then anomalous targets, each sorted by address.

        Flow records of one source and target are merged. A target is anomalous if a good part
        of its traffic is an attack: forged floods come first, then floods by what they send,
        then slow connections.
        """
        look = JudgedWindow(window)
        verdicts, forged = _verdicts(look), forgeries(look)
        named = {target for _, target, _ in verdicts}
        flows: list[Finding] = []
        targets: list[Finding] = []
        for target in sorted(named | forged.keys()):
            group = look.towards[target]
            attacks: Attacks = {}
            for one in group if target in named else ():
                finding = verdicts.get((one.source, target, one.protocol))
                if finding is not None:
                    flows.append(_of_samples(finding, one.packets, look.sampling))
                    if finding.kind != SCAN:  # that does a target no harm
                        attacks.setdefault(finding.kind, []).append((one, finding))
            told = _anomaly(target, group, attacks, forged.get(target, []), look.seconds)
            if told is not None:
                packets = sum([one.packets for one in group])
                targets.append(_of_samples(told, packets, look.sampling))
        flows.sort(key=lambda f: (f.source or "", f.target, f.kind))
        return [*flows, *targets]


def _verdicts(look: JudgedWindow) -> Verdicts:
    """Return the verdicts on sources.

    What a source does to a target comes first; then what it does to all targets of a prefix; who
    scans is judged by nothing else that it asks for.
    """
    found: Verdicts = {}
    groups: dict[tuple[str, str, str], list[FlowAggregate]] = {}
    for one in remarkable(look.aggregates, look.seconds):
        finding = judge(one, look.seconds, heard=one.target in look.heard)
        if finding is not None:
            found[one.source, one.target, one.protocol] = finding
    for finding in reflections(look):
        protocol = "udp" if finding.kind == REFLECTION else "tcp"
        found[finding.source or "", finding.target, protocol] = finding
    scanning, times = scans(look), look.times
    for one in [o for o in look.aggregates if times[o.source] > 1 or o.source in scanning]:
        key = one.source, one.target, one.protocol
        prefix = prefix_of(one.target) if times[one.source] > 1 else ""
        if one.syn and one.source in scanning:
            found.pop(key, None)
            if (scan := scanning[one.source]) is not None:
                found[key] = replace(scan, target=one.target, prefix=prefix)
        elif prefix and key not in found:
            groups.setdefault((one.source, prefix, one.protocol), []).append(one)
    for (source, prefix, protocol), group in groups.items():
        if len(group) == 1:
            continue  # judged already
        heard = any(one.target in look.heard for one in group)
        for total in remarkable([together(group)], look.seconds):
            if (wide := judge(total, look.seconds, heard=heard)) is not None:
                for one in group:
                    spread = replace(wide, target=one.target, prefix=prefix)
                    found[source, one.target, protocol] = spread
    return found


def _of_samples(finding: Finding, samples: float, sampling: int) -> Finding:
    """Return the finding with what it was seen in, and how far off its counts may be.

    That is 196 * sqrt(1 / samples) % at most, in 19 cases of 20 (sFlow, sampling theory).
    """
    if sampling == 1:
        return finding
    error = 1.96 / sqrt(max(1.0, samples))
    reason = (
        f"{finding.reason}; seen in {figure(samples)} samples of 1 in {sampling:,}, so counts "
        f"are right within {percent(error)}"
    )
    figures = {"samples": round(samples, 1), "sampling": sampling, "error": round(error, 6)}
    return replace(finding, reason=reason, evidence=finding.evidence | figures)


def _anomaly(
    ip: str,
    group: list[FlowAggregate],
    attacks: Attacks,
    forged: list[Finding],
    seconds: float,
) -> Finding | None:
    """Return what is certain of a target, given the attacks and forgeries that were found there."""
    reasons = list(forged)
    octets = sum([one.octets for one in group])
    floods = {
        kind: sum([one.octets for one, _ in some]) for kind, some in attacks.items() if kind != SLOW
    }
    flooded = sum(floods.values()) / max(1, octets)
    if flooded >= FLOODED:
        evidence = {
            "flooded_share": round(flooded, 6),
            "flooding_sources": sum(len(attacks[each]) for each in floods),
        }
        kind = max(sorted(floods), key=floods.__getitem__)
        sure, prefix = max(f.certainty for _, f in attacks[kind]), attacks[kind][-1][1].prefix
        reasons.append(Finding(kind, ip, None, sure, "", evidence, prefix=prefix))
    if slow := attacks.get(SLOW):
        held = sum([one.open for one, _ in slow]) / sum([one.open for one in group])
        if held >= FLOODED:
            evidence = {"held_share": round(held, 6), "slow_sources": len(slow)}
            sure = max(f.certainty for _, f in slow)
            reasons.append(Finding(SLOW, ip, None, sure, "", evidence))
    if not reasons:
        return None
    merged: dict[str, float] = {}
    for each in reversed(reasons):
        merged |= each.evidence
    why = _why(reasons[0].kind, merged)
    return replace(reasons[0], target=ip, reason=why, evidence=merged, mb_s=octets / seconds / 1e6)


_ASKED = {
    SYN_FLOOD: "SYNs",
    UDP_FLOOD: "UDP packets",
    UDP_FRAGMENTS: "UDP packets",
    ICMP_FLOOD: "ICMP packets",
}
"""What the share of a forgery is of; of other kinds it is of senders."""


_SAME = {"port": "to port", "source_port": "from port", "packet_octets": "of length"}
"""What may be the same of all packets of forged sources."""


def _why(kind: str, seen: dict[str, float]) -> str:
    """Return why the traffic towards an address is an attack, as half a sentence about it."""
    reasons = []
    if "forged_share" in seen:
        asked = _ASKED.get(kind, f"senders of {kind.removesuffix(' flood')} packets")
        reasons.append(
            f"{percent(seen['forged_share'])} of its {asked} ({figure(seen['forged_s'])}/s) come "
            f"from {figure(seen['silent_sources'])} sources that never go on: they are forged"
        )
        same = [f"{text} {seen[name]:.0f}" for name, text in _SAME.items() if name in seen]
        reasons += [f"all of those {', '.join(same)}"] if same else []
    if "flooded_share" in seen:
        reasons.append(
            f"{percent(seen['flooded_share'])} of its octets come from "
            f"{counted(seen['flooding_sources'])} certain to flood"
        )
    if "held_share" in seen:
        reasons.append(
            f"{percent(seen['held_share'])} of its open connections are held by "
            f"{counted(seen['slow_sources'])} that it never answers"
        )
    return "; ".join(reasons)
