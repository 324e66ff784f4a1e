"""What a user may do wrong with files and terminals: one line says so, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import Result
from hatchling.build import build_wheel
from typer.testing import CliRunner

from phalanx.cli.files import scenarios
from phalanx.cli.main import VERBS, app
from phalanx.store.jsonl import read_jsonl
from tests.cli.test_malformed import in_time
from tests.nightly import at_night

ROOT = Path(__file__).parents[2]
RING = ROOT / "scenarios" / "quickstart-ring.yaml"


def phalanx(*arguments: object, **settings: str) -> Result:
    return CliRunner(env=settings).invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    with in_time():
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return Path(shutil.copy(RING, tmp_path / "own.yaml"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "l.jsonl"
    assert phalanx("run", RING, "--until", 40, "--log", path).exit_code == 0
    return path


@pytest.mark.parametrize("way", ["same", "spelt", "symlink", "hardlink"])
@pytest.mark.parametrize("option", ["--log", "--report"])
def test_a_run_never_replaces_its_scenario(own: Path, way: str, option: str) -> None:
    other = own.with_name("other.yaml")
    if way == "symlink":
        other.symlink_to(own)
    elif way == "hardlink":
        other.hardlink_to(own)
    elif way == "spelt":
        (own.parent / "sub").mkdir()
        other = own.parent / "sub" / ".." / own.name
    else:
        other = own
    before = own.read_bytes()
    assert "would be overwritten" in refused("run", own, option, other, "--until", 1)
    assert own.read_bytes() == other.read_bytes() == before


def test_a_report_never_replaces_its_log(log: Path, tmp_path: Path) -> None:
    link = tmp_path / "hard.jsonl"
    link.hardlink_to(log)
    before = log.read_bytes()
    for output in (log, link):
        assert "would be overwritten" in refused("report", log, output)
    assert log.read_bytes() == before


def test_outputs_do_not_replace_each_other(own: Path) -> None:
    page = own.with_name("out")
    assert "overwritten" in refused("run", own, "--log", page, "--report", page)
    assert "overwritten" in refused("run", own, "--log", page, "--store", f"sqlite:///{page}")
    assert not page.exists()


def test_only_what_is_ours_is_replaced(own: Path, log: Path) -> None:
    mine = own.with_name("thesis.txt")
    mine.write_text("three years of work")
    assert "is no log" in refused("run", own, "--until", 1, "--log", mine)
    assert "is no page" in refused("report", log, mine)
    assert mine.read_text() == "three years of work"
    for _ in range(2):
        assert phalanx("run", own, "--until", 1, "--log", own.with_name("r.jsonl")).exit_code == 0


@pytest.mark.parametrize("kind", ["named pipe", "device", "directory", "socket"])
def test_what_is_no_file_is_refused_at_once(
    own: Path, log: Path, kind: str, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    if kind == "named pipe":
        os.mkfifo(odd)
    elif kind == "device":
        _, terminal = pty.openpty()
        odd = Path(os.ttyname(terminal))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(odd))
    else:
        odd.mkdir()
    for call in (
        ["run", odd],
        ["validate", odd],
        ["explain", odd],
        ["report", odd, tmp_path / "o.html"],
        ["detect", odd],
        ["collect", odd, tmp_path / "o.csv"],
        ["run", own, "--topology", odd],
        ["agent", "--config", odd],
        *([] if kind == "directory" else [["status", "--bus", odd]]),
        ["report", log, odd],
        ["run", own, "--until", 1, "--log", odd],
        ["run", own, "--until", 1, "--report", odd],
        *([] if kind == "directory" else [["collect", own, odd]]),
    ):
        line = refused(*call)
        assert f"is a {kind}; a file is expected" in line, call


def test_a_pipe_of_the_shell_is_read(log: Path, tmp_path: Path) -> None:
    packed = tmp_path / "l.jsonl.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    script = f"{sys.executable} -m phalanx explain <(zcat {packed}) attack"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == phalanx("explain", log, "attack").stdout


def words(text: str) -> list[str]:
    frames = str.maketrans("│┃:", "   ")
    return [word for word in text.translate(frames).split() if word.isalnum()]


CALLS = (
    "run {own} --until 60",
    "place {own} --goal flowRecord --auctioneer south --traffic 2",
    "explain {log} attack",
    "doctor",
    "run --help",
    "domain --help",
    "--help",
)
PRINT_ALL = """
import json, sys
from typer.testing import CliRunner
from phalanx.cli.main import app
print(json.dumps([CliRunner().invoke(app, call.split()).stdout for call in sys.argv[1:]]))
"""


@at_night
def test_forty_columns_lose_no_word(own: Path, log: Path) -> None:
    calls = [call.format(own=own, log=log) for call in CALLS]

    def printed(columns: int) -> list[str]:
        # Each width in a process of its own: commands stay narrow once they were.
        done = subprocess.run(
            [sys.executable, "-c", PRINT_ALL, *calls],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": str(columns)},
        )
        return json.loads(done.stdout)

    for call, narrow, usual, wide in zip(calls, *map(printed, (40, 80, 300)), strict=True):
        assert words(wide), call
        assert narrow.count("…") == usual.count("…") == wide.count("…"), call
        assert {*words(wide)} - {*words(narrow)} == {*words(wide)} - {*words(usual)} == set(), call


def test_a_goal_is_placed_as_the_log_prints_it(own: Path, log: Path) -> None:
    called = next(e for e in read_jsonl(log) if e.kind == "auction.called")
    goal, tap = called.data["goal"], called.data["tap"]
    done = phalanx("place", own, "--goal", goal, "--auctioneer", tap)
    assert done.stdout.startswith(f"{goal}: ")
    wrong = "flowRecord(10.0.0.10, many, 1)"
    line = refused("place", own, "--goal", wrong, "--auctioneer", tap)
    assert "expected flowRecord(ip, part, parts)" in line


def test_placing_later_counts_what_runs_by_then(own: Path) -> None:
    call = ["place", own, "--goal", "entryScreened", "--auctioneer", "west"]
    first, later = (phalanx(*call, "--at", second, "--json").stdout for second in (0, 30))
    assert first != later  # the filter runs there already: it takes nothing anew


@at_night
def test_the_shell_completes_verbs_options_and_scenarios() -> None:
    script = [sys.executable, "-c", "from phalanx.cli.main import app; app(prog_name='phalanx')"]
    settings = {**os.environ, "_PHALANX_COMPLETE": "complete_bash"}

    def completed(line: str) -> set[str]:
        given = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        done = subprocess.run(
            script,
            capture_output=True,
            text=True,
            env={**settings, **given},
            timeout=60,
            check=False,
        )
        return {*done.stdout.split()}

    assert completed("phalanx r") == {verb for verb in VERBS if verb.startswith("r")}
    assert "--strategy" in completed("phalanx run --st")
    assert completed("phalanx run dd") == {"ddos-linux", "ddos-resilience"}


def test_scenarios_are_known_by_name_and_an_unknown_one_lists_them() -> None:
    assert "ok" in phalanx("validate", "linux/slow-http").stdout
    line = refused("run", "ddos-resiliance")
    assert "did you mean 'ddos-resilience'" in line
    assert all(name in line for name in scenarios())


@at_night
def test_the_wheel_brings_scenarios_and_benchmarks_of_models(tmp_path: Path) -> None:
    """Build the wheel, unpack it into an empty environment, and ask for some by name there."""
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = tmp_path / build_wheel(str(tmp_path))
    finally:
        os.chdir(here)
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    site = next((tmp_path / "empty" / "lib").glob("python*")) / "site-packages"
    shutil.unpack_archive(wheel, site, "zip")
    libraries = next(p for p in sys.path if p.endswith("site-packages"))
    # What it depends on; the checkout is found by a .pth file, which is not read of this path.
    there = {**os.environ, "PYTHONPATH": libraries}
    main = "import phalanx.cli.main as m; assert 'empty' in m.__file__; m.main()"
    for asked, said in (
        ("run quickstart-ring --until 5", "finished at 5.0 s"),
        ("bench robustness", "--data DIR: a folder of runs"),
    ):
        done = subprocess.run(
            [python, "-c", main, *asked.split()],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=there,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
