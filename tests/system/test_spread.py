"""A run over processes comes to the outcome of the same run in one process."""

from __future__ import annotations

import json
import os
import signal
from functools import cache
from pathlib import Path

import pytest

from phalanx.bus.nats import find_server
from phalanx.checking import check
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import in_causal_order
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.system import RunResult, run_scenario
from tests.system.rings import attack, document, users

SCENARIO = Path(__file__).parents[2] / "scenarios" / "ddos-resilience.yaml"
SPEED = 5.0
"""Deadlines of auctions, 2 s, are 0.4 s then: a crowded machine still keeps them."""
RUNS = int(os.environ.get("PHALANX_SPREAD_RUNS", "1"))


def _missing() -> str | None:
    try:
        find_server()
    except PhalanxError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.nats,
    pytest.mark.processes,
    pytest.mark.skipif(_missing() is not None, reason=str(_missing())),
]


def outcome(result: RunResult) -> dict[str, object]:
    """Return what a run came to: all but the moments at which it did.

    Goals that its end found open are left out: a look that began a second later may be one.
    """
    summary = result.summary
    end = next(e for e in reversed(result.events) if e.kind == "run.ended")
    applied = [e for e in result.events if e.kind == "measure.applied"]
    return {
        "attackers limited": summary.response.attackers_limited,
        "users limited": summary.response.users_limited,
        "placements": sorted((p.vnf, p.pop, p.units) for p in summary.placements),
        "measures": sorted((e.data["effect"], e.data["pop"]) for e in applied),
        "goals": {how: end.data["goals"].get(how, 0) for how in ("achieved", "failed")},
        "given back": end.data["given_back"],
        "shed": end.data["shed"],
        "mitigated": {h.host: h.mitigated for h in summary.hosts},
    }


@cache
def in_one_process() -> dict[str, object]:
    return outcome(run_scenario(load_scenario(SCENARIO)))


@pytest.mark.parametrize("number", range(RUNS))
def test_the_outcome_is_that_of_one_process(number: int) -> None:
    result = Spread(load_scenario(SCENARIO), SCENARIO, speed=SPEED).run()
    assert outcome(result) == in_one_process()
    known: set[str] = set()
    for event in result.events:
        assert event.cause is None or event.cause in known, f"{event.id} before its cause"
        known.add(event.id)
    ends = [event for event in result.events if event.kind == "process.ended"]
    assert sorted(event.agent for event in ends) == ["network", *(f"pop{i}" for i in range(1, 7))]
    assert in_causal_order(reversed(result.events))[0].kind == "run.started"


def test_an_agent_that_stands_at_no_pop_is_a_process_as_any_other(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    ring = SCENARIO.with_name("quickstart-ring.yaml").read_text(encoding="utf-8")
    plan.write_text(f"{ring}agents: [{{name: camera-slice, scope: slice}}]\n", encoding="utf-8")
    result = Spread(load_scenario(plan), plan).run(until=4.0)
    (started,) = [
        event
        for event in result.events
        if event.kind == "agent.started" and event.agent == "camera-slice"
    ]
    assert (started.data["scope"], started.data["pop"]) == ("slice", None)
    ended = {e.agent for e in result.events if e.kind == "process.ended"}
    assert ended == {"camera-slice", "east", "network", "north", "south", "west"}
    assert result.defects == (), "no process ends with a traceback"
    assert check(result.events) == []


def test_the_run_goes_on_without_an_agent_whose_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "ring.yaml"
    path.write_text(json.dumps(document(duration_s=60, traffic=[users(), attack(30, 55)])))
    said: list[str] = []
    spread = Spread(load_scenario(path), path, speed=2.0, say=said.append)
    killed: list[float] = []

    def kill(now: float) -> None:
        if now > 8 and not killed:
            os.kill(spread._processes.pid("south"), signal.SIGKILL)
            killed.append(now)

    result = spread.run(on_progress=kill)
    line = "the process of south ended: signal 9; the others go on without it"
    assert [text for text in said if "south" in text] == [line]
    (crashed,) = [e for e in result.events if e.kind == "agent.crashed"]
    assert crashed.data["pop"] == "south"
    assert [e for e in result.events if e.kind == "duty.taken_up"]
    applied = [e for e in result.events if e.kind == "measure.applied"]
    assert applied
    assert "south" not in {e.agent for e in result.events if e.time > crashed.time + 3}
    end = result.events[-1]
    assert (end.kind, end.data["reason"]) == ("run.ended", "finished")
