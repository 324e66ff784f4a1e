"""Site files: one real machine that guards the hosts behind its interfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from phalanx.domain.errors import ScenarioError
from phalanx.loading import Name, parse_as, read_text
from phalanx.runtime.scenario import (
    Address,
    Amount,
    Count,
    FunctionSpec,
    GoalName,
    GoalSpec,
    HostSpec,
    MonitorSpec,
    NetworkSpec,
    ParameterName,
    PopSpec,
    Positive,
    Scenario,
    Strategy,
    Timing,
)

DEVICE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z"
LIMITER = FunctionSpec(cores=0.1, memory_gb=0.05, disk_gb=0.01, image_mb=1, boot_s=0, shared=True)
ANALYSER = FunctionSpec(
    cores=0.2, memory_gb=0.1, disk_gb=0.01, image_mb=1, boot_s=0, handles_mb_s=100
)
"""The kernel counts for it: what a process needs grows with the flows, not with the traffic."""

FUNCTIONS = {
    "link-monitor": LIMITER,
    "rate-limiter": LIMITER,
    "syn-proxy": LIMITER,
    "anomaly-detector": ANALYSER,
    "classifier": ANALYSER,
}
PARAMETERS = {
    "monitor_interval_s": 0.1,
    "analysis_s": 0.4,
    "classify_s": 0.4,
    "eager": 1.0,
    "verdict_valid_s": 2.0,
    "alarm_repeat_s": 2.0,
    "quiet_interval_s": 5.0,
    "service_look_s": 0.2,
    "slow_look_s": 4.0,
    "service_memory_s": 5.0,
    "report_repeat_s": 1.0,
    "entry_look_s": 0.2,
}
"""Counters of the kernel can be read often, and a look at them may be short."""
LIMIT = 0.5
"""While the sources are not known yet, this share of a guarded host's bandwidth passes."""


class GuardedSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A host that the site guards, and the interface through which packets leave to it."""

    name: Name
    address: Address
    interface: Annotated[str, Meta(pattern=DEVICE)]
    """The only interfaces that are ever touched are those named here."""
    bandwidth_mb_s: Positive
    """What the link to the host carries."""
    threshold_mb_s: Positive
    """More traffic than this out of the interface, whatever its destination, is looked into."""
    connections: Count | None = None
    """More open TCP connections than this are looked into; None: they are not counted."""


class SiteSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One PoP on a real machine."""

    pop: Name
    """Name of the agent, in its log."""
    cores: Amount
    """What VNFs may book of this machine, by their descriptors; nothing is enforced."""
    memory_gb: Amount
    disk_gb: Amount
    guards: Annotated[tuple[GuardedSpec, ...], Meta(min_length=1, max_length=1000)]
    state: Annotated[str, Meta(min_length=1, max_length=1000)] = "/var/lib/phalanx"
    """Directory in which leases survive restarts."""
    functions: dict[Name, FunctionSpec] = field(default_factory=FUNCTIONS.copy)
    strategy: Strategy = "service"
    """As in a [scenario](scenario.md); here all traffic enters at the guarded interface."""
    goals: dict[GoalName, GoalSpec] = {}
    parameters: dict[ParameterName, Annotated[float, Meta(ge=-1e9, le=1e9)]] = {}
    timing: Timing = Timing(auction_deadline_s=0.3)

    def to_scenario(self, duration_s: float) -> Scenario:
        """Return the site as a network of one PoP without traffic of its own."""
        return Scenario(
            name=self.pop,
            duration_s=duration_s,
            network=NetworkSpec(
                (PopSpec(self.pop, self.cores, self.memory_gb, self.disk_gb),), self.pop
            ),
            functions=self.functions,
            hosts=tuple(
                HostSpec(g.name, self.pop, g.address, g.bandwidth_mb_s) for g in self.guards
            ),
            monitors=tuple(
                MonitorSpec(
                    f"{self.pop}>{g.name}", self.pop, g.threshold_mb_s, connections=g.connections
                )
                for g in self.guards
            ),
            goals=self.goals,
            strategy=self.strategy,
            parameters={**self._own_parameters(), **self.parameters},
            timing=self.timing,
        )

    def _own_parameters(self) -> dict[str, float]:
        """Return the parameters of the functions where the site's file sets none.

        A limit is one figure for all guarded hosts, so that of the smallest is taken.
        """
        limit = LIMIT * min(guarded.bandwidth_mb_s for guarded in self.guards)
        return {**PARAMETERS, "link_rate_mb_s": limit, "ip_rate_mb_s": limit}


def load_site(path: str | Path) -> SiteSpec:
    """Return the site in the YAML file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    site, _ = parse_as(SiteSpec, read_text(path), str(path))
    for what in ("name", "address"):
        values = [getattr(guarded, what) for guarded in site.guards]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ScenarioError(f"{path}: guards: two have the {what} {twice[0]}")
    return site
