"""Agents that follow different plans notice it, and are told the right one while they run."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.fabric.calls import CallFailed
from phalanx.fabric.operations import (
    PROBE,
    RELOAD,
    Accepted,
    ProbeAnswer,
    ProbeRequest,
    ReloadRequest,
)
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import POPS, plan

pytestmark = processes()
OTHERS = ("north", "east", "south")


def other_plan(**changes: Any) -> str:
    """Return the plan with a link that is much slower."""
    made = plan(**changes)
    made["network"]["links"][2]["latency_ms"] = 40
    return json.dumps(made)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A domain in which west was started with another plan than the others."""
    folder = tmp_path_factory.mktemp("lab")
    with Lab(folder, document=plan()) as made:
        (folder / "west.yaml").write_text(other_plan())
        made.start(*OTHERS)
        made.start("west", settings={"plan": str(folder / "west.yaml")})
        made.until(lambda: made.serving(*POPS), "all agents serve")
        yield made


def findings(lab: Lab, code: int) -> list[str]:
    who = ["--domain", str(lab.testbed.domain.folder)]
    done = CliRunner().invoke(app, ["status", "--json", *who])
    assert done.exit_code == code, done.output
    found: list[str] = json.loads(done.stdout)["findings"]
    return found


def test_each_tells_once_who_differs_and_status_says_it(lab: Lab) -> None:
    lab.until(lambda: len(lab.of("agent.differs")) == 6, "all have noticed")
    told = {(h.event.agent, h.event.data["pop"]) for h in lab.of("agent.differs")}
    assert told == {(pop, "west") for pop in OTHERS} | {("west", pop) for pop in OTHERS}
    (line,) = findings(lab, 1)
    assert line.startswith("west follows another plan (")
    assert ") than east, north, south (" in line


def test_it_is_a_warning_and_all_go_on_bidding(lab: Lab) -> None:
    lab.start_network()
    lab.until(lab.held_off, "the attack is held off")
    bidders = {h.event.agent for h in lab.of("auction.bid")}
    assert "west" in bidders
    assert len(lab.of("agent.differs")) == 6, "it is told once"


def test_an_agent_that_stands_still_is_not_reached(lab: Lab) -> None:
    def probe(within_s: float) -> ProbeAnswer:
        answer = lab.ask("north", PROBE, ProbeRequest("east", within_s))
        assert isinstance(answer, ProbeAnswer), answer
        return answer

    lab.testbed.signal("east", signal.SIGSTOP)
    try:
        assert probe(1.0) == ProbeAnswer(None, "no answer within 1 s")
    finally:
        lab.testbed.signal("east", signal.SIGCONT)
    assert probe(3.0).round_trip_ms is not None


def test_a_plan_is_read_again_unless_it_needs_a_start(lab: Lab) -> None:
    path = lab.folder / "west.yaml"
    timing = {**plan().get("timing", {}), "silence_s": 9.5}
    for text, why in (
        (other_plan(timing=timing), "timing: differ from what west was started with"),
        ("nonsense: [", "west.yaml"),
        (json.dumps(alone("north")), "there is no west any more"),
    ):
        path.write_text(text)
        answer = lab.ask("west", RELOAD, ReloadRequest())
        assert isinstance(answer, CallFailed), answer
        assert why in answer.reason
    assert len(findings(lab, 1)) == 1, "it follows what it followed"

    more = plan()
    more["network"]["pops"].append({"name": "centre", "cores": 4, "memory_gb": 8, "disk_gb": 9})
    more["network"]["links"].append(
        {"between": ["centre", "west"], "bandwidth_mb_s": 50, "latency_ms": 1}
    )
    for pop, place in {**dict.fromkeys(OTHERS, lab.plan), "west": path}.items():
        place.write_text(json.dumps(more))
        answer = lab.ask(pop, RELOAD, ReloadRequest())
        assert isinstance(answer, Accepted), answer
        assert answer.detail.endswith(", of 5 PoPs")
    lab.until(
        lambda: len({e.registration.plan for e in lab.registry.entries() if e.owner in POPS}) == 1,
        "all follow the same plan",
    )
    assert findings(lab, 0) == []


def alone(pop: str) -> dict[str, Any]:
    """Return a plan with one PoP."""
    made = plan(hosts=[], traffic=[], monitors=[])
    made["network"]["pops"] = [p for p in made["network"]["pops"] if p["name"] == pop]
    made["network"]["links"] = []
    return made
