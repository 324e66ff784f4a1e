"""A detector in one file: a source is an attacker if it sends very many packets a second."""

from collections import Counter

from phalanx.analytics.detectors import Finding

MOST_S = 2_000.0


class HeavySenders:
    """Names each source above ``MOST_S`` packets/s, and its target."""

    def examine(self, window):
        """Look at flow records; how much is known of the link's rate is said beside."""
        packets = Counter()
        for flow in window.flows:
            packets[flow.source, flow.target] += flow.packets
        heavy = {flow: n / window.seconds for flow, n in packets.items()}
        heavy = {flow: rate for flow, rate in sorted(heavy.items()) if rate > MOST_S}
        rates = sum(len(s.values) for s in window.series if s.name == "link rate")
        findings = [
            Finding(
                "packet flood", target, source, 0.99, f"sends {rate:.0f} packets/s", {"s": rate}
            )
            for (source, target), rate in heavy.items()
        ]
        for target in sorted({target for _, target in heavy}):
            said = {"rates": float(rates)}
            findings.append(Finding("packet flood", target, None, 0.99, "is flooded", said))
        return findings
