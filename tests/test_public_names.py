"""What people may use: the names of ``phalanx``, and nothing else in the reference."""

import re
import subprocess
import sys
from pathlib import Path

import phalanx

ROOT = Path(__file__).parents[1]
NAMES = re.findall(
    r"\w+",
    """
Achieve AchieveAll Act Adopt Agent AgentId Anomalous AnomalousUsage Await Believe Capability
ConnectionFlood Drop Enforce Event Explanation Failed FaultSpec FlowRateLimited FlowRecord
FlowRecords Forget Goal GoalEnd GoalInstance HandshakesProxied IpRateLimited Library Lift LinkId
LinkIp LinkRateLimited LinkSample LogError MeasureSample Mode Monitored Note Observe OverUsage
Pause Perceive Perform PhalanxError PlanFailed PopId Predicate Quiet ReadLink ReadMeasure
Resources RunLog RunResult Scenario ScenarioError Scope SplitTrafficLink SplitTrafficTowardsIp
Spoofed StoreError System Threat TrafficMatch TrafficRule TrafficVerdict VERSION Vnfd avert
drains explain find_out hears instead_of load_scenario perceives plan read_log recalls remembers
run_scenario starts want what_if when
""",
)


def test_the_public_names_are_these() -> None:
    assert sorted(phalanx.__all__) == sorted(dir(phalanx)) == sorted(NAMES)
    assert all(getattr(phalanx, name) is not None for name in NAMES)
    assert not hasattr(phalanx, "Outlook")


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = "import sys, phalanx; print(sorted(m for m in sys.modules if m.startswith('phalanx.')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_reference_imports_public_names_alone() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"^\s*(?:from|import) (phalanx[\w.]*)", page, re.MULTILINE))
    assert modules <= {"phalanx", "phalanx.testing"}
