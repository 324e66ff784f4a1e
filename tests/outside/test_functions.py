"""Network functions from one file outside the package: new predicates, new effects."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

from tests.published import load_published
from typer.testing import CliRunner

from phalanx.bdi.capability import Capability
from phalanx.cli.files import load_functions
from phalanx.cli.main import app
from phalanx.domain.events import Event
from phalanx.infrastructure.linux.images import build
from phalanx.runtime.system import run_scenario

HERE = Path(__file__).parent
RING = HERE.parents[1] / "scenarios" / "quickstart-ring.yaml"
MIRROR = """
from phalanx.bdi.capability import Capability, plan, when
from phalanx.bdi.steps import Adopt
from phalanx.coordination.measures import enforce
from phalanx.domain.goals import Predicate, want
from phalanx.domain.predicates import Threat
from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.vnf import Vnfd


class Copied(Predicate, frozen=True):
    source: str


class Copier(Capability):
    name = "copier"
    vnfd = Vnfd("copier", Resources(1, 1, 1), image_mb=1)
    {declared}

    @when(Threat, always=True)
    def copy(self, me, threat):
        yield Adopt(want(Copied(threat.source)))

    @plan(Copied)
    def make(self, me, goal):
        match = TrafficMatch(target="10.0.0.10")
        rule = TrafficRule(match, TrafficVerdict.MIRROR)
        yield from enforce(me, goal, goal.goal.predicate, rule)
"""


def copier(folder: Path, declared: str = "") -> str:
    file = folder / "copier.py"
    file.write_text(MIRROR.format(declared=declared))
    return f"{file}:Copier"


def run(*functions: str) -> list[Event]:
    loaded: list[type[Capability]] = load_functions(list(functions))
    return run_scenario(load_published(RING), functions=loaded).events


def about(events: list[Event], kind: str, what: str) -> list[Event]:
    said = ("goal", "effect", "reason")
    return [e for e in events if e.kind == kind and any(what in str(e.data.get(s)) for s in said)]


def test_a_new_effect_is_auctioned_put_into_force_and_taken_back() -> None:
    events = run(f"{HERE / 'tarpit.py'}:Tarpit")
    applied = about(events, "measure.applied", "tarpitted")
    assert {e.data["effect"] for e in applied} == {
        f"tarpitted(10.2.0.{n}, 10.0.0.10)" for n in (1, 2)
    }
    assert {(e.data["rate_mb_s"], e.data["delay_ms"]) for e in applied} == {(0.01, 300.0)}
    assert len(about(events, "auction.awarded", "tarpitted")) == len(applied)
    assert len(about(events, "measure.lifted", "tarpitted")) == len(applied)
    assert events[-1].data["given_back"] is True


def test_a_verdict_that_is_not_offered_is_refused_as_the_function_is_loaded(
    tmp_path: Path,
) -> None:
    named = copier(tmp_path, "enforces = (TrafficVerdict.MIRROR,)")
    log = tmp_path / "log.jsonl"
    done = CliRunner().invoke(app, ["run", str(RING), "--log", str(log), "--function", named])
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        "functions.copier: nothing here can mirror traffic; "
        "offered are limit, drop, proxy, split, steer, serve, enlarge, delay"
    ) in " ".join(done.stderr.split())
    assert not log.exists()


def test_what_nobody_can_do_ends_an_auction_at_once(tmp_path: Path) -> None:
    events = run(copier(tmp_path))  # which does not declare what it asks for
    goals = {e.data["goal"] for e in about(events, "auction.awarded", "copied")}
    assert len(goals) == 2
    for goal in sorted(goals):
        assert len(about(events, "auction.called", goal)) == 1
        assert len(about(events, "auction.awarded", goal)) == 1
        (failed,) = about(events, "auction.failed", goal)
        assert "nothing here can mirror traffic" in failed.data["reason"]


PROGRAM = """
from pathlib import Path

def start(table):
    Path({note!r}).write_text(table)
    return lambda: Path({note!r}).write_text("ended")
"""
BRINGER = """
from phalanx.bdi.capability import Capability
from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

class Bringer(Capability):
    name = "bringer"
    vnfd = Vnfd("bringer", Resources(1, 1, 1), image_mb=0.3)
    program = "brought.py"
"""


def test_the_image_of_a_function_holds_its_file_and_runs_its_program(tmp_path: Path) -> None:
    note, socket = tmp_path / "note", tmp_path / "vnf.sock"
    (tmp_path / "brought.py").write_text(PROGRAM.format(note=str(note)))
    (tmp_path / "bringer.py").write_text(BRINGER)
    (function,) = load_functions([f"{tmp_path / 'bringer.py'}:Bringer"])
    assert function.vnfd is not None
    image = build(function.vnfd, tmp_path)
    with zipfile.ZipFile(image.path) as archive:
        assert archive.read("function/bringer.py").decode() == BRINGER
    words = ["--role", "bringer", "--socket", str(socket), "--table", "phx_00000001"]
    process = subprocess.Popen([sys.executable, "-I", image.path, *words], cwd=tmp_path)
    try:
        until = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        assert note.read_text() == "phx_00000001"
    finally:
        process.terminate()
        process.wait(60)
    assert note.read_text() == "ended"
