# The public names and where each comes from: read by type checkers, and by phalanx/__init__.py
# when a name is asked for.
from phalanx.bdi.agent import Agent as Agent, Perform as Perform
from phalanx.bdi.capability import (
    Capability as Capability,
    Library as Library,
    drains as drains,
    hears as hears,
    instead_of as instead_of,
    perceives as perceives,
    plan as plan,
    recalls as recalls,
    remembers as remembers,
    starts as starts,
    when as when,
)
from phalanx.bdi.goals import GoalEnd as GoalEnd, GoalInstance as GoalInstance
from phalanx.bdi.steps import (
    Achieve as Achieve,
    AchieveAll as AchieveAll,
    Act as Act,
    Adopt as Adopt,
    Await as Await,
    Believe as Believe,
    Drop as Drop,
    Forget as Forget,
    Note as Note,
    Pause as Pause,
    Perceive as Perceive,
    PlanFailed as PlanFailed,
)
from phalanx.domain.actions import (
    Enforce as Enforce,
    Failed as Failed,
    FlowRecords as FlowRecords,
    Lift as Lift,
    LinkSample as LinkSample,
    MeasureSample as MeasureSample,
    Observe as Observe,
    ReadLink as ReadLink,
    ReadMeasure as ReadMeasure,
)
from phalanx.domain.agents import AgentId as AgentId, Scope as Scope
from phalanx.domain.errors import (
    LogError as LogError,
    PhalanxError as PhalanxError,
    ScenarioError as ScenarioError,
    StoreError as StoreError,
)
from phalanx.domain.events import Event as Event
from phalanx.domain.goals import (
    Goal as Goal,
    Mode as Mode,
    Predicate as Predicate,
    avert as avert,
    find_out as find_out,
    want as want,
)
from phalanx.domain.network import LinkId as LinkId, PopId as PopId
from phalanx.domain.predicates import (
    Anomalous as Anomalous,
    AnomalousUsage as AnomalousUsage,
    ConnectionFlood as ConnectionFlood,
    FlowRateLimited as FlowRateLimited,
    FlowRecord as FlowRecord,
    HandshakesProxied as HandshakesProxied,
    IpRateLimited as IpRateLimited,
    LinkIp as LinkIp,
    LinkRateLimited as LinkRateLimited,
    Monitored as Monitored,
    OverUsage as OverUsage,
    Quiet as Quiet,
    SplitTrafficLink as SplitTrafficLink,
    SplitTrafficTowardsIp as SplitTrafficTowardsIp,
    Spoofed as Spoofed,
    Threat as Threat,
)
from phalanx.domain.resources import Resources as Resources
from phalanx.domain.rules import (
    TrafficMatch as TrafficMatch,
    TrafficRule as TrafficRule,
    TrafficVerdict as TrafficVerdict,
)
from phalanx.domain.version import VERSION as VERSION
from phalanx.domain.vnf import Vnfd as Vnfd
from phalanx.reporting.explanation import Explanation as Explanation, explain as explain
from phalanx.reporting.frames import RunLog as RunLog, read_log as read_log
from phalanx.runtime.course import RunResult as RunResult
from phalanx.runtime.loading import load_scenario as load_scenario
from phalanx.runtime.scenario import FaultSpec as FaultSpec, Scenario as Scenario
from phalanx.runtime.system import System as System, run_scenario as run_scenario
from phalanx.runtime.whatif import what_if as what_if
