"""The reference of events is held against what real runs write, with faults and an update."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.published import load_published

from phalanx.domain.events import KINDS, Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, UpdateSpec
from phalanx.runtime.system import run_scenario

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "events.md"
FAULTS = (
    FaultSpec(5, "repository-away", for_s=2),
    FaultSpec(18, "crash", agent="north", for_s=30),
    FaultSpec(40, "crash", agent="east", for_s=3),
    FaultSpec(60, "link-down", link=("south", "east"), for_s=10),
    FaultSpec(70, "lose", share=0.3, for_s=5),
    FaultSpec(80, "crash", agent="south", for_s=20),
    FaultSpec(110, "crash", agent="west", for_s=1, memory=True),
    FaultSpec(120, "drain", agent="west"),
)
REAL = {kind for kind in KINDS if kind.startswith("overlay.")}
REAL |= {"lease.recovered", "vnf.crashed", "driver.failed"}
"""Kinds that only runs over real packets write."""
PROCESSES = {
    "process.started",
    "process.ended",
    "certificate.holds",
    "certificate.ends",
    "certificate.unused",
    "revocations.known",
    "identity.admitted",
    "identity.revoked",
    "memory.unusable",
    "connection.lost",
    "connection.regained",
    "outbox.shed",
    "history.gap",
    "access.refused",
    "agent.restored",
    "agent.draining",
    "agent.left",
    "agent.differs",
}
"""Kinds that only agents in processes of their own write."""
SERVICES = {kind for kind in KINDS if kind.startswith("service.")}
"""Kinds that only an orchestrator writes."""
UNSEEN = {
    "auction.waiting",
    "message.shed",
    "action.failed",
    "function.failed",
    "agent.returned",
    "goal.taken_over",
    *REAL,
    *PROCESSES,
    *SERVICES,
    "measure.withdrawn",
    "key.unusable",
    "ledger.refused",
    "image.prefetching",
    "image.cached",
    "image.evicted",
}
"""Kinds that these runs need not write; their own tests see them."""


def described() -> dict[str, tuple[set[str], set[str]]]:
    """Return (fields always there, fields that may be there) of each kind."""
    found = {}
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        kinds, _, words = row.removeprefix("| ").partition(" | ")
        if re.fullmatch(r"(`[a-z]+\.[a-z_]+`(, )?)+", kinds):
            words = re.sub(r"\([^()]*\)", "", words)
            while words != (words := re.sub(r"[{\[][^{}\[\]]*[}\]]", "", words)):
                pass
            fields = re.findall(r"`(\w+)`(\??)", words)
            fields = {f for f, mark in fields if not mark}, {f for f, mark in fields if mark}
            for kind in re.findall(r"`([a-z._]+)`", kinds):
                assert kind not in found, f"{kind} is described twice"
                found[kind] = fields
    return found


@pytest.fixture(scope="module")
def events() -> list[Event]:
    ring = load_published(ROOT / "scenarios" / "quickstart-ring.yaml")
    broken = run_scenario(replace(ring, faults=FAULTS), until=150).events
    crowd = run_scenario(load_published(ROOT / "scenarios" / "flash-crowd.yaml")).events
    attack = load_published(ROOT / "scenarios" / "ddos-resilience.yaml")
    update = UpdateSpec(40, "rate-limiter", "2.0")
    updated = run_scenario(replace(attack, updates=(update,)), until=80).events
    filtered = run_scenario(load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml")).events
    attested = run_scenario(load_scenario(ROOT / "scenarios" / "infected-agent.yaml"), until=80)
    lied = run_scenario(load_scenario(ROOT / "scenarios" / "lying-agent.yaml"), until=30)
    return [*attested.events, *lied.events, *broken, *crowd, *updated, *filtered]


def test_events_have_the_fields_of_the_reference(events: list[Event]) -> None:
    reference = described()
    assert reference.keys() == KINDS.keys()
    for event in events:
        always, maybe = reference[event.kind]
        missing, unknown = always - event.data.keys(), event.data.keys() - always - maybe
        assert (missing, unknown) == (set(), set()), event


def test_the_runs_write_every_kind(events: list[Event]) -> None:
    assert KINDS.keys() - {event.kind for event in events} <= UNSEEN
