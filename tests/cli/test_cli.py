"""The command line as a user meets it: figures on stdout, one line on stderr, an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from phalanx.cli import run as run_module
from phalanx.cli.main import VERBS, app
from phalanx.domain.events import Event
from phalanx.domain.version import VERSION
from phalanx.store.jsonl import read_jsonl, read_log
from phalanx.store.sql import SqlEventStore
from tests.nightly import sample
from tests.store.small_disk import small_disk

FOLDER = Path(__file__).parents[2] / "scenarios"
RING = str(FOLDER / "quickstart-ring.yaml")
DDOS = str(FOLDER / "ddos-resilience.yaml")


def phalanx(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert "Traceback" not in result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: str) -> str:
    code, out, err = phalanx(*arguments)
    assert code == 2
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run.jsonl"
    code, out, err = phalanx("run", RING, "--until", "60", "--log", str(path))
    assert (code, err) == (0, "")
    assert "finished at 60.0 s" in out
    return path


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_version_and_help() -> None:
    assert phalanx("--version") == (0, f"phalanx {VERSION}\n", "")
    code, out, _ = phalanx("--help")
    assert code == 0
    for verb, line in VERBS.items():
        assert words(f"{verb} {line}") in words(out)
        assert line in words(phalanx(verb, "--help")[1])
    code, _, err = phalanx("explian")
    assert code == 2
    assert "Did you mean 'explain'?" in err


def test_the_list_of_verbs_imports_none() -> None:
    code = """
import sys
from phalanx.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert sorted(name for name in sys.modules if name.startswith("phalanx.cli.")) == [
    "phalanx.cli.main", "phalanx.cli.terminal"
]
"""
    subprocess.run([sys.executable, "-c", code, "--help"], stdout=subprocess.DEVNULL, check=True)


def test_validate_says_ok_and_what_there_is() -> None:
    code, out, err = phalanx("validate", DDOS)
    assert (code, err) == (0, "")
    assert f"{DDOS}: ok" in out
    assert "6 PoPs, 7 links, repository at pop5" in out
    assert "8 attackers (6 MB/s)" in out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\1\2",
        b"\xff\xfe",
        b"a: [",
        b"a: &x 1\nb: *x",
        b"- " * 500,
        b"name: x\n" * 3,
        b"name: '[red]'\nduration_s: 8 MB",
        b"'\x1b[31m': 1",
    ],
)
def test_validate_refuses_every_malformed_file_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("x" * 100 + ".yaml")  # a long line is not wrapped
    path.write_bytes(content)
    assert refused("validate", str(path)).startswith(f"{path}: ")


def test_an_unknown_function_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(Path(RING).read_text().replace("classifier: {", "clasifier: {"))
    assert refused("validate", str(path)).startswith(f"{path}: functions.clasifier: ")


def test_place_shows_bids_and_refusals(tmp_path: Path) -> None:
    published = tmp_path / "published.yaml"
    published.write_text(Path(DDOS).read_text(encoding="utf-8") + "strategy: published\n")
    where = ("--auctioneer", "pop6", "--traffic", "4")
    call = ["place", str(published), "--goal", "?AnomalousUsage", *where]
    code, out, err = phalanx(*call)
    assert (code, err) == (0, "")
    assert "6.555" in out
    answer = json.loads(phalanx(*call, "--json")[1])
    assert answer["winner"] == "pop5"
    assert answer["goal"] == "?anomalousUsage(pop6>server, 0, 1)"
    # Table 5.8, second auction.
    costs = {row["agent"]: round(row["C"], 2) for row in answer["ranking"]}
    assert costs == {"pop1": 17.22, "pop2": 27.48, "pop3": 21.84, "pop4": 11.84, "pop5": 6.55}
    assert answer["refusals"] == {"pop6": "needs 2 cores, 1 free"}


@pytest.mark.parametrize("goal", ["linkRateLimited", "LinkRateLimited", "¬linkRateLimited"])
def test_goal_names_are_taken_in_several_spellings(goal: str) -> None:
    answer = json.loads(phalanx("place", DDOS, "--goal", goal, "--auctioneer", "pop6", "--json")[1])
    assert answer["goal"] == "linkRateLimited(pop6>server)"
    assert len(answer["ranking"]) == 6


def test_place_refuses_what_it_does_not_know() -> None:
    line = refused("place", DDOS, "--goal", "anomalousUse", "--auctioneer", "pop6")
    assert "did you mean 'anomalousUsage'?" in line
    assert "linkRateLimited" in line
    line = refused("place", DDOS, "--goal", "flowRecord", "--auctioneer", "pop9")
    assert "there is no PoP 'pop9'" in line


def test_run_tells_the_story_and_ends_with_figures(log: Path) -> None:
    code, out, _ = phalanx("run", RING, "--until", "60")
    assert code == 0
    assert "attackers send (2 × syn-flood, 6 MB/s in all)" in out
    assert "awards entryScreened(10.0.0.10, east) to east" in out
    assert "users before" in out
    assert out.count("customers send") == 2, "of a group that grows, begin and end are shown"
    assert read_jsonl(log)[-1].kind == "run.ended"


def test_run_is_the_same_for_a_seed_and_another_for_another(log: Path, tmp_path: Path) -> None:
    logs = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path, seed in zip(logs, ("1", "2"), strict=True):
        phalanx("run", RING, "--until", "60", "--seed", seed, "--log", str(path))
    assert logs[0].read_bytes() == log.read_bytes()
    assert logs[1].read_bytes() != log.read_bytes()


def test_report_and_store_are_written(tmp_path: Path, log: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    page = tmp_path / "page.html"
    for _ in range(2):
        code, out, _ = phalanx("run", RING, "--until", "20", "--report", str(page), "--store", url)
        assert code == 0
    assert "kept in the store as quickstart-ring-1-2" in out
    assert page.read_text(encoding="utf-8").startswith("<!")
    with SqlEventStore(url) as store:
        assert store.runs() == ("quickstart-ring-1", "quickstart-ring-1-2")
        first = list(store.events("quickstart-ring-1"))
        assert first == list(store.events("quickstart-ring-1-2"))
        assert first[-1].kind == "run.ended"
    again = tmp_path / "again.html"
    assert phalanx("report", str(log), str(again))[0] == 0
    assert again.stat().st_size > 1000


def test_run_goes_on_another_network_and_says_what_is_assumed(tmp_path: Path) -> None:
    graph = tmp_path / "line.graphml"
    nodes = "".join(f'<node id="{i}"/>' for i in range(5))
    edges = "".join(f'<edge source="{i}" target="{i + 1}"/>' for i in range(4))
    graph.write_text(f"<graphml><graph>{nodes}{edges}</graph></graphml>")
    code, out, _ = phalanx("run", RING, "--until", "3", "--topology", str(graph))
    assert code == 0
    assert "note: line.graphml: 4 of 4 links without a speed; taken as 1250 MB/s" in out
    assert "5 PoPs, 4 links" in out
    graph.write_text("junk")
    assert "no XML" in refused("run", RING, "--topology", str(graph))


def test_an_attack_that_is_not_mitigated_is_said_with_its_causes() -> None:
    run = ("run", RING, "--until", "20", "--strategy", "published")
    code, out, err = phalanx(*run, "--json")
    summary = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1), "one object and nothing else"
    assert (summary["scenario"], summary["ended_s"]) == ("quickstart-ring", 20)
    assert (summary["mitigated"], summary["returned"]) == (False, None)
    (shop,) = summary["hosts"]
    assert shop["verdict"] == "not mitigated"
    assert shop["worst_share"] < shop["mean_share"] < 1
    code, out, _ = phalanx(*run)
    assert code == 0
    assert words(shop["reason"]) in words(out)
    assert all(words(f"- {cause}") in words(out) for cause in shop["causes"])


@pytest.mark.parametrize(
    ("strategy", "monitor"), [("service", "service-monitor"), ("published", "link-monitor")]
)
def test_the_strategy_of_a_run_can_be_chosen(strategy: str, monitor: str) -> None:
    code, out, _ = phalanx("run", RING, "--until", "1", "--strategy", strategy)
    assert code == 0
    assert f"{monitor} at south" in words(out)


def test_a_strategy_that_the_scenario_does_not_fit_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    text = Path(RING).read_text(encoding="utf-8").replace("  link-monitor: {}\n", "")
    own.write_text("strategy: service\n" + text, encoding="utf-8")
    assert phalanx("run", str(own), "--until", "1")[0] == 0
    line = refused("run", str(own), "--strategy", "published")
    assert "with --strategy published: functions: link-monitor is missing" in line


@pytest.mark.parametrize(
    "words",
    sample(
        [
            ("explain", "--help"),
            ("--help",),
            ("run", RING, "--until", "20"),
            ("run", RING, "--until", "20", "--json"),
            ("place", DDOS, "--goal", "linkRateLimited", "--auctioneer", "pop6", "--json"),
        ],
        4,
    ),
)
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log"
    kept = ["--log", str(log)] * (words[0] == "run")
    command = [sys.executable, "-m", "phalanx", *words, *kept]
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert words[0] != "run" or read_jsonl(log)[-1].kind == "run.ended"


def test_a_run_whose_function_failed_ends_with_exit_code_1(tmp_path: Path) -> None:
    example = FOLDER.parent / "docs" / "examples" / "bulletin" / "bulletin.py"
    broken = tmp_path / "broken.py"
    broken.write_text(example.read_text().replace("yield Note(", "yield 1 / 0, ("))
    code, out, err = phalanx("run", RING, "--function", f"{broken}:Bulletin", "--until", "60")
    assert code == 1
    assert "finished at 60.0 s" in out, "the defect is contained"
    assert err.startswith("function failed: bulletin.publish: ")
    assert "division by zero" in err


class CalledError(Exception):
    """The run began."""


def test_what_cannot_be_written_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise CalledError

    monkeypatch.setattr(run_module, "run_scenario", begin)
    nowhere = str(tmp_path / "no" / "where")
    assert "does not exist" in refused("run", RING, "--log", nowhere)
    assert "does not exist" in refused("run", RING, "--report", nowhere)
    assert "is a directory" in refused("run", RING, "--log", str(tmp_path))
    assert "the store must be" in refused("run", RING, "--store", "nonsense")
    with pytest.raises(CalledError):
        phalanx("run", RING, "--log", str(tmp_path / "log"))
    assert list(tmp_path.iterdir()) == [], "a log that failed leaves nothing behind"


def test_the_first_interrupt_ends_the_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_module.run_scenario

    def interrupted(*arguments: Any, **options: Any) -> Any:
        def strike(event: Event) -> None:
            if event.time >= 10 and not struck:
                struck.append(event.id)
                os.kill(os.getpid(), signal.SIGINT)

        struck: list[str] = []
        return original(*arguments, **{**options, "sinks": [*options["sinks"], strike]})

    monkeypatch.setattr(run_module, "run_scenario", interrupted)
    before = signal.getsignal(signal.SIGINT)
    log, page = tmp_path / "log.jsonl", tmp_path / "page.html"
    code, out, _ = phalanx("run", RING, "--log", str(log), "--report", str(page))
    assert code == 130
    assert "interrupted at 1" in out
    last = read_jsonl(log)[-1]
    assert (last.kind, last.data["reason"]) == ("run.ended", "interrupted")
    assert 10 <= last.time < 20
    assert page.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run_module, "run_scenario", stubborn)
    code, _, err = phalanx("run", RING)
    assert (code, err) == (130, "interrupted\n")


def test_explain_tells_the_chain(log: Path) -> None:
    code, out, err = phalanx("explain", str(log), "attackFiltered")
    assert (code, err) == (0, "")
    assert "run-1" in out
    assert "of service-monitor for monitored(south>shop, 4.5, 0)" in " ".join(out.split())
    assert phalanx("explain", str(log))[0] == 0
    assert "attackFiltered(10.0.0.10, east" in phalanx("explain", str(log), "attack")[1]


def test_explain_refuses_what_it_cannot_read_or_find(log: Path, tmp_path: Path) -> None:
    assert "no event matches 'unicorn'" in refused("explain", str(log), "unicorn")
    assert "No such file" in refused("explain", str(tmp_path / "gone"))
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff\0{")
    assert "line 1" in refused("explain", str(broken))


def test_a_log_that_was_cut_or_damaged_is_read_as_far_as_it_is_whole(
    log: Path, tmp_path: Path
) -> None:
    octets = log.read_bytes()
    cut, page = tmp_path / "cut.jsonl", tmp_path / "page.html"
    random = Random(1)
    harmed = [octets[: len(octets) - 20]]
    for _ in range(10):
        damaged = bytearray(octets[: random.randrange(2_000, len(octets))])
        for _ in range(random.choice([1, 5, 50])):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        harmed.append(bytes(damaged))
    for octets in harmed:
        cut.write_bytes(octets)
        for words in ("explain", str(cut), "last"), ("report", str(cut), str(page)):
            code, _, err = phalanx(*words)
            note, *more = err.splitlines()
            assert note.startswith(f"{cut}: ")
            assert "left out (" in note
            assert "Traceback" not in err
            if code == 2:  # damage made another key or value of one
                assert [line.startswith(f"{cut}: an event does not hold") for line in more] == [
                    True
                ]
            else:
                assert (code, more) == (0, [])
    cut.write_bytes(harmed[0])
    assert phalanx("explain", str(cut), "last")[0] == 0


def test_bench_runs_what_the_checkout_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "bench_good.py").write_text("")
    (folder / "bench_bad.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert phalanx("bench", "good")[0] == 0
    code, _, err = phalanx("bench")
    assert (code, err) == (1, "failed: bad\n")
    assert "did you mean 'good'?" in refused("bench", "goof")


def test_bench_says_where_benchmarks_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("phalanx.cli.bench.__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    assert "source checkout" in refused("bench")


SCENARIO = ("run", RING, "--seed", "7")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "phalanx", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def enough(folder: Path, url: str) -> bool:
    """Whether a run has written to its log, and more than five events to its store."""
    with SqlEventStore(url) as store:
        kept = [len(list(store.events(name))) for name in store.runs()]
    return max(kept, default=0) > 5 and any(
        b"\n" in part.read_bytes() for part in folder.glob("log.jsonl.part-*")
    )


@pytest.mark.parametrize("number", sample([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], 3))
def test_a_short_run_that_is_ended_leaves_its_history(
    tmp_path: Path, number: signal.Signals
) -> None:
    log, store = tmp_path / "log.jsonl", f"sqlite:///{tmp_path / 'h.db'}"
    words = (*SCENARIO, "--realtime", "1", "--log", str(log), "--store", store)
    with start(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # something has happened
        while number == signal.SIGKILL and process.poll() is None and not enough(tmp_path, store):
            time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=60)
    written = log if number != signal.SIGKILL else next(tmp_path.glob("log.jsonl.part-*"))
    events = read_jsonl(written)
    assert events[0].kind == "run.started"
    with SqlEventStore(store) as opened:
        (name,) = opened.runs()
        kept = list(opened.events(name))
    if number == signal.SIGKILL:
        assert kept[0] == events[0]
    else:
        assert process.returncode == 130
        assert events[-1].kind == "run.ended"
        assert kept == events


@pytest.mark.parametrize("kind", ["--log", "--store"])
def test_a_full_disk_ends_no_run_and_deletes_nothing(tmp_path: Path, kind: str) -> None:
    size = 60_000 if kind == "--log" else 260_000  # the tables alone take 100 kB
    with small_disk(tmp_path, size) as disk:
        path = disk / "history"
        code, out, err = phalanx(
            *SCENARIO, kind, f"sqlite:///{path}" if kind == "--store" else str(path)
        )
        assert code == 4
        assert "finished at 240.0 s" in out
        first, *_, last = err.splitlines()
        assert "the run goes on" in first
        if kind == "--log":
            (part,) = disk.glob("history.part-*")
            assert str(part) in last
            events = read_log(part).events
        else:
            assert "the store is incomplete" in last
            with SqlEventStore(f"sqlite:///{path}") as store:
                events = list(store.events("quickstart-ring-7"))
    code, _, _ = phalanx(*SCENARIO, "--log", str(tmp_path / "whole"))
    assert code == 0
    whole = read_jsonl(tmp_path / "whole")
    assert 0 < len(events) < len(whole)
    assert events == whole[: len(events)]
