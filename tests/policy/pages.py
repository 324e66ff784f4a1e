"""Scenarios with what a page of intents comes to."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from phalanx.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "examples" / "recorder.txt"
PLAN = ROOT / "scenarios" / "linux" / "isolated-slices.yaml"


def applied(folder: Path) -> Path:
    """Return the scenario with what the page comes to, as the command writes it."""
    bare, plan = folder / "bare.yaml", folder / "plan.yaml"
    bare.write_text(PLAN.read_text().partition("\npolicy:")[0] + "\n")
    words = ["intent", "apply", str(PAGE), "--scenario", str(bare), "--out", str(plan)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return plan
