"""The fixed rules' findings, by sort."""

from __future__ import annotations

from collections.abc import Iterable

from phalanx.analytics.detectors import Finding
from phalanx.analytics.fixed_rules import FixedRules
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TrafficWindow


def malicious_flows(flows: Iterable[FlowStats], seconds: float) -> list[Finding]:
    found = FixedRules().examine(TrafficWindow(seconds, (), tuple(flows)))
    return [finding for finding in found if finding.source is not None]


def anomalous_targets(
    flows: Iterable[FlowStats], seconds: float, unlisted: int = 0
) -> list[Finding]:
    found = FixedRules().examine(TrafficWindow(seconds, (), tuple(flows), unlisted))
    return [finding for finding in found if finding.source is None]
