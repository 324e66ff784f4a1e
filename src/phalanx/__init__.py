"""Phalanx: autonomous agents that keep network services alive under attack.

The names below are what you may rely on: to write a network function, to run a scenario, to
read its log. ``phalanx.testing`` has what a test of a function needs. Each is imported when it
is asked for, so ``import phalanx`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phalanx.bdi import (
        Achieve,
        AchieveAll,
        Act,
        Adopt,
        Agent,
        Await,
        Believe,
        Capability,
        Drop,
        Forget,
        GoalEnd,
        GoalInstance,
        Library,
        Note,
        Pause,
        Perceive,
        Perform,
        PlanFailed,
        drains,
        hears,
        instead_of,
        perceives,
        plan,
        recalls,
        remembers,
        starts,
        when,
    )
    from phalanx.domain.actions import (
        Enforce,
        Failed,
        FlowRecords,
        Lift,
        LinkSample,
        MeasureSample,
        Observe,
        ReadLink,
        ReadMeasure,
    )
    from phalanx.domain.agents import AgentId, Scope
    from phalanx.domain.errors import LogError, PhalanxError, ScenarioError, StoreError
    from phalanx.domain.events import Event
    from phalanx.domain.goals import Goal, Mode, Predicate, avert, find_out, want
    from phalanx.domain.network import LinkId, PopId
    from phalanx.domain.predicates import (
        Anomalous,
        AnomalousUsage,
        ConnectionFlood,
        FlowRateLimited,
        FlowRecord,
        HandshakesProxied,
        IpRateLimited,
        LinkIp,
        LinkRateLimited,
        Monitored,
        OverUsage,
        Quiet,
        SplitTrafficLink,
        SplitTrafficTowardsIp,
        Spoofed,
        Threat,
    )
    from phalanx.domain.resources import Resources
    from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
    from phalanx.domain.version import VERSION
    from phalanx.domain.vnf import Vnfd
    from phalanx.reporting.explanation import Explanation, explain
    from phalanx.reporting.frames import RunLog, read_log
    from phalanx.runtime.course import RunResult
    from phalanx.runtime.loading import load_scenario
    from phalanx.runtime.scenario import FaultSpec, Scenario
    from phalanx.runtime.system import System, run_scenario
    from phalanx.runtime.whatif import what_if

_HOMES = {
    "phalanx.bdi": (
        "Achieve AchieveAll Act Adopt Agent Await Believe Capability Drop Forget GoalEnd "
        "GoalInstance Library Note Pause Perceive Perform PlanFailed drains hears instead_of "
        "perceives plan recalls remembers starts when"
    ),
    "phalanx.domain.actions": (
        "Enforce Failed FlowRecords Lift LinkSample MeasureSample Observe ReadLink ReadMeasure"
    ),
    "phalanx.domain.agents": "AgentId Scope",
    "phalanx.domain.errors": "LogError PhalanxError ScenarioError StoreError",
    "phalanx.domain.events": "Event",
    "phalanx.domain.goals": "Goal Mode Predicate avert find_out want",
    "phalanx.domain.network": "LinkId PopId",
    "phalanx.domain.predicates": (
        "Anomalous AnomalousUsage ConnectionFlood FlowRateLimited FlowRecord HandshakesProxied "
        "IpRateLimited LinkIp LinkRateLimited Monitored OverUsage Quiet SplitTrafficLink "
        "SplitTrafficTowardsIp Spoofed Threat"
    ),
    "phalanx.domain.resources": "Resources",
    "phalanx.domain.rules": "TrafficMatch TrafficRule TrafficVerdict",
    "phalanx.domain.version": "VERSION",
    "phalanx.domain.vnf": "Vnfd",
    "phalanx.reporting.explanation": "Explanation explain",
    "phalanx.reporting.frames": "RunLog read_log",
    "phalanx.runtime.loading": "load_scenario",
    "phalanx.runtime.scenario": "FaultSpec Scenario",
    "phalanx.runtime.course": "RunResult",
    "phalanx.runtime.system": "System run_scenario",
    "phalanx.runtime.whatif": "what_if",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [*_HOME_OF]  # noqa: PLE0604  # strings, from the table above


def __getattr__(name: str) -> object:
    if name == "__version__":
        name = "VERSION"
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'phalanx' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
