"""What the commands of an operator refuse before they connect."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.cli.main import app


def phalanx(*words: object, code: int = 0) -> Result:
    done = CliRunner(env={"PHALANX_DOMAIN": None}).invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("words", [("status",), ("logs",), ("stop", "a"), ("beliefs", "a")])
def test_without_a_domain_one_line_says_what_to_do(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = phalanx(*words, code=2)
    assert refused.stderr.startswith("which domain? Give --domain DIR or --bus FILE")
    assert refused.stderr.count("\n") == 1
    assert "is no domain's directory" in phalanx(*words, "--domain", ".", code=2).stderr
    assert "cannot be read" in phalanx(*words, "--bus", "bus.toml", code=2).stderr
