"""An infrastructure from one file outside the package: named by --on, and run on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.installed import install
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.domain.errors import PhalanxError
from phalanx.runtime.environment import infrastructures, open_environment

HERE = Path(__file__).parent
RING = HERE.parents[1] / "scenarios" / "quickstart-ring.yaml"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = "[phalanx.infrastructures]\nlab = lab:LabEnvironment\nlost = nowhere:Environment\n"
    install(monkeypatch, tmp_path, "lab", (HERE / "lab.py").read_text(), entries)


def test_a_scenario_runs_on_it_by_its_name() -> None:
    result = CliRunner().invoke(app, ["run", str(RING), "--on", "lab", "--until", "60"])
    assert result.exit_code == 0, result.output
    assert "a lab for 4 PoPs" in result.output
    assert sys.modules["lab"].ASKED["Deploy"] > 0


def test_one_that_is_unknown_or_cannot_be_loaded_is_refused_in_one_line() -> None:
    assert {"lab", "linux", "simulation"} <= set(infrastructures())
    result = CliRunner().invoke(app, ["run", str(RING), "--on", "moon"])
    assert result.exit_code == 2
    assert "'moon' is not one of lab, linux, lost, simulation" in " ".join(result.output.split())
    for name, reason in (("moon", "there are lab, linux"), ("lost", "needs nowhere")):
        with pytest.raises(PhalanxError, match=reason):
            open_environment(name, print)
