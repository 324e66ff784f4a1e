"""``phalanx logs --from``, and what the commands of an operator refuse before they connect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.domain.events import Event
from phalanx.store.sql import SqlEventStore

EVENTS = [
    Event("a.1-1", 0.0, "a", "process.started", None, {"role": "agent", "incarnation": 1}),
    Event("a.1-2", 1.0, "a", "belief.changed", "a.1-1", {"belief": "b(x)", "value": True}),
    Event("c.1-1", 2.0, "c", "agent.gone", None, {"pop": "a"}),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    with SqlEventStore(f"sqlite:///{path}") as opened:
        opened.receive("edge", EVENTS)
    return path


def phalanx(*words: object, code: int = 0) -> Result:
    done = CliRunner(env={"PHALANX_DOMAIN": None}).invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return done


def test_a_store_is_told_in_words(store: Path) -> None:
    said = phalanx("logs", "--from", store).stdout
    lines = [line.split(maxsplit=1)[1] for line in said.splitlines()]
    assert lines == [
        "a        the process starts as agent (life 1)",
        "c        takes the agent of a for lost",
    ]
    assert "believes b(x)" in phalanx("logs", "--from", store, "a", "--all").stdout
    assert "believes b(x)" in phalanx("logs", "--from", store, "--kind", "belief").stdout
    told = phalanx("logs", "--from", store, "c", "--json").stdout
    assert json.loads(told)["id"] == "c.1-1"
    assert "nothing to tell of d" in phalanx("logs", "--from", store, "d").stderr


def test_of_a_store_the_last_is_before_its_last_event(tmp_path: Path) -> None:
    """Whatever time it is now, and wherever the recorder's clock stood."""
    path, now = tmp_path / "history.db", 1000.0
    with SqlEventStore(f"sqlite:///{path}", lambda: now) as opened:
        for now, event in zip((1000.0, 1050.0, 1060.0), EVENTS, strict=True):  # noqa: B007  # read above
            opened.receive("edge", [event])
    told = phalanx("logs", "--from", path, "--since", "10s", "--all", "--json").stdout
    assert [json.loads(line)["id"] for line in told.splitlines()] == ["a.1-2", "c.1-1"]
    told = phalanx("logs", "--from", path, "--since", "1m", "--all", "--json").stdout
    assert len(told.splitlines()) == 3
    assert "no duration" in phalanx("logs", "--from", path, "--since", "1y", code=2).stderr


def test_a_store_is_not_followed(store: Path) -> None:
    assert "a store is not followed" in phalanx("logs", "--from", store, "-f", code=2).stderr
    assert "none.db" in phalanx("logs", "--from", store.with_name("none.db"), code=2).stderr


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
