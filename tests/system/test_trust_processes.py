"""Agents in processes of their own measure up: one is written into, another lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from phalanx.bus.nats import find_server
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.system import RunResult

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"
PERIOD_S = 30.0


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "measuring other processes needs root"
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


def spread(folder: Path, *faults: dict[str, object], until: float = 130.0) -> RunResult:
    """Run the ring over processes; its flood begins once all agents are verified."""
    plan = yaml.safe_load(RING.read_text(encoding="utf-8"))
    plan |= {"duration_s": until, "trust": {"period_s": PERIOD_S}, "faults": [*faults]}
    plan["traffic"][1] |= {"start_s": 50, "end_s": None}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return Spread(load_scenario(path), path).run()


def of(result: RunResult, kind: str, **data: object) -> list[Event]:
    return [e for e in result.events if e.kind == kind and data.items() <= e.data.items()]


def expelled(result: RunResult) -> set[str]:
    return {e.data["agent"] for e in of(result, "trust.changed", standing="quarantined")}


def test_an_agent_into_which_another_process_writes_is_expelled(tmp_path: Path) -> None:
    result = spread(tmp_path, {"kind": "infect", "agent": "east", "at_s": 60})
    assert result.defects == ()
    first = of(result, "attestation.result", round=0, tier="affirming")
    assert {e.data["attester"] for e in first} == {"north", "east", "south", "west"}
    assert not any(e.data["modelled"] for e in result.events if e.kind == "attestation.result")
    assert expelled(result) == {"east"}
    found = of(result, "attestation.result", attester="east", tier="contraindicated")
    assert min(e.time for e in found) > 60
    assert all(any("text-altered" in d for d in e.data["deviations"]) for e in found)
    others = of(result, "key.installed", epoch=2)
    assert {e.agent for e in others} == {"north", "south", "west"}
    ended = of(result, "measure.lifted", pop="east")
    assert "not trusted" in ended[0].data["reason"]
    again = [e for e in of(result, "measure.applied") if e.time > ended[0].time]
    assert again
    assert again[0].data["pop"] != "east"


def test_a_liar_whose_program_is_genuine_is_expelled_for_what_it_does(tmp_path: Path) -> None:
    result = spread(tmp_path, {"kind": "lie", "agent": "west", "at_s": 40})
    assert result.defects == ()
    assert expelled(result) == {"west"}
    found = of(result, "attestation.result", attester="west", tier="contraindicated")
    lies = ("bid-false ", "rule-other ")
    assert all(d.startswith(lies) for e in found for d in e.data["deviations"])
