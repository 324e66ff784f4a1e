"""Evidence in words: why a verdict was given."""

from __future__ import annotations

from phalanx.analytics.detection import TargetVerdict
from phalanx.analytics.sources import SLOW, SYN_FLOOD, FlowVerdict


def why_flow(verdict: FlowVerdict) -> str:
    """Return why a source is malicious, as half a sentence about it."""
    seen = verdict.evidence
    if verdict.kind == SYN_FLOOD:
        return (
            f"asks for {_number(seen['syn_s'])} connections/s and completed "
            f"{_number(seen['established'])}, certainly less than "
            f"{_share(seen['completes_at_most'])}"
        )
    if verdict.kind == SLOW:
        return (
            f"holds {_number(seen['open'])} connections open, {_number(seen['answered'])} of them "
            f"answered, certainly less than {_share(seen['answered_at_most'])}"
        )
    return (
        f"sends {_number(seen['packets_s'])} packets/s and gets replies to certainly fewer than "
        f"{_share(seen['replied_at_most'])} of them"
    )


def why_target(verdict: TargetVerdict) -> str:
    """Return why the traffic towards an address is an attack, as half a sentence about it."""
    seen = verdict.evidence
    reasons = []
    if verdict.spoofed:
        asked = "SYNs" if verdict.kind == SYN_FLOOD else "UDP packets"
        reasons.append(
            f"{_share(seen['forged_share'])} of its {asked} ({_number(seen['forged_s'])}/s) come "
            f"from {_number(seen['silent_sources'])} sources that never go on: they are forged"
        )
    if "flooded_share" in seen:
        reasons.append(
            f"{_share(seen['flooded_share'])} of its octets come from "
            f"{_sources(seen['flooding_sources'])} certain to flood"
        )
    if "held_share" in seen:
        reasons.append(
            f"{_share(seen['held_share'])} of its open connections are held by "
            f"{_sources(seen['slow_sources'])} that it never answers"
        )
    return "; ".join(reasons)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _sources(count: float) -> str:
    return f"{count:,.0f} source{'s' * (count != 1)}"


def _share(value: float) -> str:
    return f"{value * 100:.3g} %"
