"""A detector from one file outside the package, installed by an entry point."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.installed import install
from tests.published import load_published
from typer.testing import CliRunner

from phalanx.analytics.detectors import detector_class
from phalanx.cli.main import app
from phalanx.runtime.system import run_scenario

HERE = Path(__file__).parent
RING = HERE.parents[1] / "scenarios" / "quickstart-ring.yaml"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = "[phalanx.detectors]\nheavy-senders = heavy_senders:HeavySenders\n"
    source = (HERE / "heavy_senders.py").read_text(encoding="utf-8")
    install(monkeypatch, tmp_path, "heavy_senders", source, entry)
    detector_class.cache_clear()
    yield
    detector_class.cache_clear()


def with_detector(folder: Path, name: str) -> Path:
    """Return the ring whose analysers use the detector of that name."""
    text = RING.read_text(encoding="utf-8")
    # The cheapest analyser is the one at the link, where the monitor is.
    text = text.replace("time: 0.6, cost: 0.3, decent", "time: 0, cost: 0.9, decent")
    plan = folder / "plan.yaml"
    plan.write_text(
        re.sub(r"(anomaly-detector|classifier): {", rf"\g<0>detector: {name}, ", text),
        encoding="utf-8",
    )
    return plan


@pytest.mark.usefixtures("installed")
def test_a_scenario_names_a_detector_and_its_findings_are_acted_on(tmp_path: Path) -> None:
    events = run_scenario(load_published(with_detector(tmp_path, "heavy-senders"))).events
    done = [e.data for e in events if e.kind == "analysis.done"]
    assert {d["detector"] for d in done} == {"heavy-senders"}
    found = {what: why for d in done for what, why in d["reasons"].items()}
    assert {"10.2.0.1", "10.2.0.2", "10.0.0.10"} <= set(found)
    assert re.fullmatch(r"sends \d+ packets/s", found["10.2.0.1"])
    blocked = {e.data["effect"] for e in events if e.kind == "measure.applied"}
    assert {f"flowRateLimited(10.2.0.{n}, 10.0.0.10)" for n in (1, 2)} <= blocked
    watched = [d["evidence"]["10.0.0.10"] for d in done if d["goal"].startswith("?")]
    assert any(evidence.get("rates", 0) > 1 for evidence in watched)  # a monitor's series


def test_a_detector_that_is_not_there_is_refused_as_the_function_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(with_detector(tmp_path, "nobody"))])
    assert (done.exit_code, done.stdout) == (2, "")
    refused = " ".join(done.stderr.split())
    assert "functions.anomaly-detector.detector: no detector 'nobody'; known are" in refused
