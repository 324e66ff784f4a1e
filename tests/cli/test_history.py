"""``phalanx history`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.cli.terminal import duration
from phalanx.domain.events import Event
from phalanx.store.sql import SqlEventStore

LOG = [
    Event("run-1", 0.0, "run", "run.started", None, {"scenario": "ring", "seed": 1}),
    Event("a.1-1", 1.0, "a", "belief.changed", "run-1", {"belief": "hot(x)", "value": True}),
    Event("a.1-2", 2.0, "a", "goal.adopted", "a.1-1", {"goal": "¬hot(x)", "scope": "video"}),
    Event("b.1-1", 3.0, "b", "plan.started", "lost", {"goal": "¬hot(x)", "plan": "cool"}),
    Event(
        "network-1", 4.0, "network", "network.sample", "run-1",
        {"hosts": {"shop": {"legitimate_mb_s": 0.25}}},
    ),
]  # fmt: skip


def phalanx(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["history", *arguments], env={"COLUMNS": "160"})
    assert "Traceback" not in result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def told(*arguments: str) -> str:
    code, out, err = phalanx(*arguments)
    assert (code, err) == (0, "")
    return out


def lines(*arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in told(*arguments, "--json").splitlines()]


def refused(*arguments: str) -> str:
    code, out, err = phalanx(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("history") / "events.db")
    with SqlEventStore(f"sqlite:///{path}", now=lambda: 1_700_000_000.0) as store:
        store.receive("ring", LOG)
    return path


def test_events_are_told_in_words(store: str) -> None:
    out = told(store)
    assert [line.split()[0] for line in out.splitlines()] == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert "believes hot(x)" in out
    assert told(f"sqlite:///{store}") == told("show", store) == out


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--agent", "a"), ["a.1-1", "a.1-2"]),
        (("--scope", "video"), ["a.1-2"]),
        (("--kind", "plan.started", "--kind", "goal.adopted"), ["a.1-2", "b.1-1"]),
        (("--since", "2", "--until", "3"), ["a.1-2", "b.1-1"]),
        (("--since", "2023-11-14T00:00:00+00:00", "--limit", "2"), ["run-1", "a.1-1"]),
        (("--until", "2023-11-14T00:00:00+00:00"), []),
        (("--causes", "a.1-2"), ["run-1", "a.1-1", "a.1-2"]),
        (("--effects", "run-1"), ["a.1-1", "a.1-2", "network-1"]),
        (("--decisions",), ["a.1-2", "b.1-1"]),
    ],
)
def test_questions(store: str, options: tuple[str, ...], ids: list[str]) -> None:
    assert [line["id"] for line in lines(store, *options)] == ids
    out = told(store, *options)
    assert all(each in out for each in ids)
    assert ids or out == "nothing matches\n"


def test_a_broken_chain_is_said(store: str) -> None:
    words = "what came before is not known: lost, the cause of b.1-1, is not in the store"
    assert words in told(store, "--causes", "b.1-1")
    (decision,) = lines(store, "--decisions", "--agent", "b")
    assert decision["broken"] == {"effect": "b.1-1", "cause": "lost", "why": "missing"}


def test_metrics_and_knowledge(store: str) -> None:
    assert "host.legitimate_mb_s" in told(store, "--metrics", "list")
    assert "0.25 MB/s" in told(store, "--metrics", "host.legitimate_mb_s")
    (figure,) = lines(store, "--metrics", "host.legitimate_mb_s")
    assert (figure["value"], figure["labels"]) == (0.25, {"host": "shop"})
    assert "hot(x)" in told(store, "--knowledge")
    (known,) = lines(store, "--knowledge")
    assert (known["agent"], known["predicate"], known["value"]) == ("a", "hot(x)", True)


def test_what_is_more_than_wanted_is_said(store: str) -> None:
    assert "these are the first 2; --limit 0 shows all" in told(store, "--limit", "2")
    assert "--limit 0" not in told(store, "--limit", "5")
    assert len(lines(store, "--limit", "2")) == 2


def test_several_runs_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    path = str(tmp_path / "events.db")
    with SqlEventStore(f"sqlite:///{path}") as kept:
        assert told(path) == f"{path} keeps no run yet\n"
        kept.receive("first", LOG)
        kept.receive("second", LOG[:1])
    out = told(path)
    assert "first" in out
    assert "second" in out
    assert [line["name"] for line in lines(path)] == ["first", "second"]
    assert len(lines(path, "--run", "second")) == 1
    assert "it keeps second, first; choose one with --run" in refused(path, "--agent", "a")
    assert "no run 'third'; it keeps second, first" in refused(path, "--run", "third")


def test_retain(tmp_path: Path) -> None:
    path = str(tmp_path / "events.db")
    with SqlEventStore(f"sqlite:///{path}", now=lambda: 1_700_000_000.0) as kept:
        kept.receive("ring", LOG)
    dry = told("retain", path, "--keep", "7d", "--dry-run")
    assert dry.startswith("5 events would be retired\n")
    assert len(lines(path)) == 5
    (done,) = lines("retain", path, "--keep", "7d", "--decisions", "5200w", "--size", "1GB")
    assert (done["events"], done["marked"]) == (2, 1)
    assert [line["id"] for line in lines(path)] == ["a.1-1", "a.1-2", "b.1-1"]
    assert "(its cause was retired)" in told(path)
    assert "run-1, the cause of a.1-1, has been retired" in told(path, "--causes", "a.1-2")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--causes", "nothing"), "run 'ring' holds no event 'nothing'"),
        (("--metrics", "cpu"), "no metric 'cpu'; there are: host.legitimate_mb_s"),
        (("--run", "x"), "no run 'x'; it keeps ring"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    store: str, arguments: tuple[str, ...], what: str
) -> None:
    assert what in refused(store, *arguments)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("STORE", "--since", "noon"), "neither seconds of the run (12.5) nor a date"),
        (("STORE", "--causes", "a", "--decisions"), "exclude each other"),
        (("retain", "STORE"), "say what to keep"),
        (("retain", "STORE", "--keep", "long"), "no duration such as 90s"),
        (("retain", "STORE", "--size", "big"), "no size such as 500MB"),
    ],
)
def test_bad_options_are_refused(store: str, arguments: tuple[str, ...], what: str) -> None:
    code, out, err = phalanx(*(store if word == "STORE" else word for word in arguments))
    assert (code, out) == (2, "")
    assert what in " ".join(err.replace("│", " ").split())


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "typo.db"
    assert refused(str(path)) == f"{path}: there is no such store\n"
    assert not path.exists()
    path.touch()
    assert "is empty: no store of Phalanx" in refused(str(path))
    path.write_bytes(b"no database, but long enough to be read as the head of one" * 40)
    assert "file is not a database" in refused(str(path))
    assert "the store must be" in refused("mysql://user:secret@host/db")


# -- durations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5 h", 5400), (" 15min ", 900), ("7d", 604_800), ("4w", 2_419_200)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "s", "5 years", "1e3s", "5s5s", "٥s", "3m"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration such as 90s"):
        duration(text)


def test_m_are_minutes_only_where_nobody_is_hurt_by_meaning_months() -> None:
    assert duration("3m", m=True) == 180
