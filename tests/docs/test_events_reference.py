"""The reference of events is held against what real runs write, with faults and an update."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec.structs import replace
from tests.nightly import at_night
from tests.published import load_published

from phalanx.domain.events import Event
from phalanx.domain.rules import AllowedSources
from phalanx.domain.trust import ServiceLevel
from phalanx.reporting.event_text import KINDS
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, TrustSpec, UpdateSpec
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
REAL |= {"lease.recovered", "vnf.crashed", "driver.failed", "router.changed"}
REAL |= {"route.announced", "route.withdrawn", "route.refused"}
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
LOOPS = {kind for kind in KINDS if kind.startswith(("loop.", "claim.", "policy."))}
"""Kinds that only loops of slices write: tests/slices/loop_checks.py holds their fields."""
UNSEEN = {
    "policy.unenforced",
    "policy.withdrawn",
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
    "measure.unneeded",
    "key.unusable",
    "ledger.refused",
    "image.prefetching",
    "image.cached",
    "image.evicted",
    "diagnosis.limited",
    "audit.sealed",
    "operator.acted",
    *LOOPS,
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


def run_all() -> list[Event]:
    ring = load_published(ROOT / "scenarios" / "quickstart-ring.yaml")
    broken = run_scenario(replace(ring, faults=FAULTS), until=150).events
    crowd = run_scenario(load_published(ROOT / "scenarios" / "flash-crowd.yaml")).events
    attack = load_published(ROOT / "scenarios" / "ddos-resilience.yaml")
    update = UpdateSpec(40, "rate-limiter", "2.0")
    updated = run_scenario(replace(attack, updates=(update,)), until=80).events
    filtered = run_scenario(load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml")).events
    infected = load_scenario(ROOT / "scenarios" / "infected-agent.yaml")
    attested = run_scenario(infected, until=80)
    lost = FaultSpec(50, "lose", agent="pop4", share=0.25, for_s=100)
    levels = TrustSpec(period_s=10.0, service_levels=ServiceLevel(100.0, 0.02))
    watched = run_scenario(
        replace(infected, traffic=(), faults=(lost,), trust=levels, duration_s=420)
    )
    lied = run_scenario(load_scenario(ROOT / "scenarios" / "lying-agent.yaml"), until=30)
    guarded = run_scenario(load_scenario(ROOT / "scenarios" / "autoscale-attack.yaml"), until=60)
    leaking = load_scenario(ROOT / "scenarios" / "restart-limits.yaml")
    functions = {k: v for k, v in leaking.functions.items() if k != "service-replica"}
    restarted = run_scenario(replace(leaking, functions=functions), until=90)
    policed = run_scenario(load_scenario(ROOT / "scenarios" / "isolated-slices.yaml"), until=40)
    agreed = run_scenario(load_scenario(ROOT / "scenarios" / "negotiated-agreement.yaml"), until=10)
    ring = load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml")
    allow = (AllowedSources("10.2.0.1", "office"),)
    observed = run_scenario(replace(ring, mode="observe", allow=allow), until=60)
    foreseen = run_scenario(load_scenario(ROOT / "scenarios" / "forecast-placement.yaml"), until=50)
    return [
        *foreseen.events,
        *observed.events,
        *policed.events,
        *agreed.events,
        *guarded.events,
        *restarted.events,
        *attested.events,
        *watched.events,
        *lied.events,
        *broken,
        *crowd,
        *updated,
        *filtered,
    ]


@at_night
def test_runs_write_every_kind_of_event_with_the_fields_of_the_reference() -> None:
    reference, seen = described(), set()
    assert reference.keys() == KINDS
    for event in run_all():
        always, maybe = reference[event.kind]
        missing, unknown = always - event.data.keys(), event.data.keys() - always - maybe
        assert (missing, unknown) == (set(), set()), event
        seen.add(event.kind)
    assert KINDS - seen <= UNSEEN
