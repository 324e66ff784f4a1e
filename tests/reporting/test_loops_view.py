"""Loops by level, from the log: what each decided, passed on and refused, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from tests.slices.test_model import SPEC
from tests.slices.test_scenario_slices import SLICES
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.domain.events import Event
from phalanx.reporting.loops import MOST_STEPS, LoopsView
from phalanx.slices.model import loops_of
from phalanx.store.jsonl import encode_line

GOAL = "¬entityTrouble(iot, gnb1, signalling-storm)"


def passed(to: str, direction: str, reason: str = "") -> dict[str, Any]:
    about = {"conversation": "c", "goal": GOAL, "slice": "iot", "reason": reason}
    return {**about, "to": to, "direction": direction, "tried": []}


def told() -> Iterator[tuple[float, str, str, dict[str, Any]]]:
    loops = [{k: v for k, v in asdict(loop).items() if v} for loop in loops_of(SPEC)]
    yield 0.0, "run", "run.started", {"scenario": "storm", "loops": loops}
    yield 1.0, "sem-gnb1", "goal.adopted", {"goal": GOAL, "instance_id": "g1"}
    about = {"goal": GOAL, "goal_id": "g1"}
    yield 1.0, "sem-gnb1", "plan.started", {"plan": "escalate", "capability": "loop", **about}
    yield 1.1, "sem-gnb1", "loop.passed", passed("nssi-ran", "up", "no plan of its own")
    yield 2.0, "nssi-ran", "plan.started", {"plan": "throttle", "capability": "storm", **about}
    refusal = {"holder": "scaler", "entity": "amf", "action": "scale", "slice": "iot"}
    why = "attackers make its load"
    yield 3.0, "sem-amf", "claim.refused", {**refusal, "conversation": "d", "reason": why}
    yield 4.0, "run", "agent.crashed", {"pop": "nsi-iot"}
    yield 5.0, "pop1", "loop.passed", passed("sem-amf", "up")


@pytest.fixture
def events() -> list[Event]:
    return [
        Event(f"e-{n}", time, *rest[:2], None, rest[2]) for n, (time, *rest) in enumerate(told())
    ]


def test_each_loop_says_what_it_decided_and_how_it_ended(events: list[Event]) -> None:
    view = LoopsView()
    for event in events:
        view.add(event)
    found = view.loops
    assert [step.event for step in found["sem-gnb1"].steps] == ["e-3"]  # not that it chose to ask
    assert found["sem-gnb1"].now == f"waits for nssi-ran to see to {GOAL}"
    assert [step.event for step in found["nssi-ran"].steps] == ["e-4"]
    assert "attackers make its load" in found["sem-amf"].steps[0].words
    assert found["sem-amf"].now == "idle"
    assert found["nsi-iot"].now == "gone"
    assert found["sem-amf"].duty == "AMF amf, for iot"
    assert list(view.levels()) == [
        *("End to end", "Domains", "Slices", "Subnets", "Functions", "PoPs that were asked"),
    ]


def test_a_goal_that_came_back_is_waited_for_no_more(events: list[Event]) -> None:
    view = LoopsView()
    more = Event("e-9", 6.0, "sem-gnb1", "loop.relieved", None, {"goal": GOAL, "by": "nssi-ran"})
    for event in (*events, more):
        view.add(event)
    assert view.loops["sem-gnb1"].now == f"pursues {GOAL}"
    view.add(Event("e-10", 6.0, "sem-gnb1", "goal.ended", None, {"instance_id": "g1"}))
    assert view.loops["sem-gnb1"].now == "idle"


def test_steps_beyond_the_limit_are_counted(events: list[Event]) -> None:
    view = LoopsView()
    for event in (events[0], *(events[3] for _ in range(MOST_STEPS + 3))):
        view.add(event)
    story = view.loops["sem-gnb1"]
    assert (len(story.steps), story.earlier) == (MOST_STEPS, 3)


def loops(path: Path, *options: str, columns: int = 80) -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["loops", str(path), *options])
    return done.exit_code, done.output


def test_the_command_draws_a_tree_and_takes_part_of_it(tmp_path: Path, events: list[Event]) -> None:
    log = tmp_path / "run.jsonl"
    log.write_bytes(b"".join(encode_line(event) for event in events))
    code, said = loops(log)
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith("e2e (manager end to end, for iot): idle")
    assert "nsi-iot (slice iot): gone" in lines
    assert any("nssi-ran (RAN subnet ran, for iot)" in line for line in lines)
    assert max(map(len, lines)) <= 80
    code, said = loops(log, "--slice", "video")
    assert (code, said.strip()) == (2, f"{log}: there is no closed loop of the slice 'video'")
    code, said = loops(log, "--json")
    assert {loop["name"] for loop in json.loads(said)} >= {"e2e", "sem-amf", "pop1"}


def test_loops_that_stand_in_a_circle_are_shown_nonetheless(tmp_path: Path) -> None:
    ring = [{"name": "a", "scope": "slice", "above": ["b"]}, {"name": "b", "above": ["a"]}]
    deep = [{"name": f"l{n}", "above": [f"l{n - 1}"], "slices": 7} for n in range(3000)]
    event = Event("e-1", 0.0, "run", "run.started", None, {"loops": [*ring, *deep, {}, 3]})
    log = tmp_path / "run.jsonl"
    log.write_bytes(encode_line(event))
    code, said = loops(log)
    assert code == 0
    assert "a (above)" in said
    assert all(f"l{n}: idle" in said for n in (0, 1500, 2999))


def test_validate_names_the_slices(tmp_path: Path) -> None:
    ring = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"
    file = tmp_path / "sliced.yaml"
    file.write_text(ring.read_text() + SLICES)
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert done.exit_code == 0
    assert "video, iot; 9 loops" in done.stdout
    assert "slices" not in CliRunner().invoke(app, ["validate", str(ring)]).stdout
