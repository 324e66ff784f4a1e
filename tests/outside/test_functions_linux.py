"""Network functions from one file outside the package, as processes over real packets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.system.conftest import SCENARIOS
from tests.system.linux_runs import Process, lacking, traces

from phalanx.store.jsonl import read_jsonl

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

HERE = Path(__file__).parent
QUICK = HERE.parents[1] / "docs" / "examples" / "quick_classifier.py"
TARPIT = HERE / "tarpit.py"


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    reason = lacking("nginx", "ip", "nft")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")


def test_functions_from_outside_work_in_processes_of_their_own(tmp_path: Path) -> None:
    """The tutorial's classifier finds the attackers, and a tarpit slows them down."""
    text = (SCENARIOS / "linux" / "udp-flood.yaml").read_text(encoding="utf-8")
    figures = "{cores: 2, memory_gb: 4, disk_gb: 10, image_mb: 1, boot_s: 0, handles_mb_s: 4}"
    text = text.replace(f"  classifier: {figures}", f"  quick-classifier: {figures}\n  TARPIT")
    text = text.replace("TARPIT", "tarpit: {image_mb: 1, boot_s: 0}")
    text += "\nstrategy: published\n"  # the service strategy asks for no classifier
    plan, log = tmp_path / "plan.yaml", tmp_path / "log.jsonl"
    plan.write_text(text, encoding="utf-8")
    functions = ["--function", f"{QUICK}:QuickClassifier", "--function", f"{TARPIT}:Tarpit"]
    with Process(str(plan), "--log", str(log), *functions) as process:
        mark = process.run()
        assert process.wait() == 0, process.text()
    events = read_jsonl(log)
    started = {e.data["vnf"] for e in events if e.kind == "instance.started"}
    assert {"quick-classifier", "tarpit"} <= started
    assert "classifier" not in started
    applied = [e for e in events if e.kind == "measure.applied"]
    slowed = {e.data["effect"] for e in applied if e.data["effect"].startswith("tarpitted")}
    assert len(slowed) == 8
    assert [e.data for e in events if e.kind in ("driver.failed", "vnf.crashed")] == []
    assert traces(mark) == []
