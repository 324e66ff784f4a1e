"""Random runs of agents that attest each other: the honest stay, one that is not is expelled.

Each run follows from its number alone, so one that failed is run again by ``-k``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from phalanx.cli.fuzz import plan_of, run_plan
from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario, TrustSpec, UpdateSpec
from phalanx.runtime.system import System
from phalanx.trust.register import TrustStanding

RUNS = 40 if "PHALANX_PLANS" in os.environ else 1
DRAWN = 200 if "PHALANX_PLANS" in os.environ else 1
BEGUN_S, OVER_S = 15.0, 65.0
"""Faults begin after the chain, and end long before the run does."""
AGENTS = tuple(f"pop{number}" for number in range(1, 7))
SCENARIO = load_scenario(Path(__file__).parents[2] / "scenarios" / "infected-agent.yaml")


def accidents(random: Random) -> Iterator[FaultSpec]:
    """Give what may happen to honest agents; each agent crashes once at most."""
    for agent in random.sample(AGENTS, random.randint(0, 2)):
        at_s, for_s = random.uniform(BEGUN_S, 40), random.uniform(0.5, 25)
        yield FaultSpec(at_s, "crash", agent=agent, for_s=for_s, memory=random.random() < 0.5)
    for kind in random.sample(("lose", "duplicate", "delay", "reorder"), random.randint(0, 2)):
        at_s, for_s = random.uniform(BEGUN_S, 45), random.uniform(2, 20)
        share, delay_s = random.uniform(0.05, 0.4), random.uniform(0.1, 2.0)
        yield FaultSpec(at_s, kind, share=share, for_s=for_s, delay_s=delay_s)  # type: ignore[arg-type]
    if random.random() < 0.3:
        alone = tuple(random.sample(AGENTS, random.randint(1, 2)))
        at_s, for_s = random.uniform(BEGUN_S, 35), random.uniform(2, 30)
        yield FaultSpec(at_s, "partition", groups=(alone,), for_s=for_s)


def scenario(random: Random, faults: list[FaultSpec]) -> Scenario:
    trust = TrustSpec(period_s=random.uniform(6.0, 12.0), verifiers=random.randint(2, 4))
    return replace(SCENARIO, seed=random.randrange(10_000), faults=tuple(faults), trust=trust)


def ran(plan: Scenario, until: float) -> tuple[dict[str, TrustStanding], list[Event]]:
    system = System(plan)
    events = list(system.run(until).events)
    assert system.trust is not None
    return {n: m.standing for n, m in system.trust.register.members.items()}, events


@pytest.mark.parametrize("number", range(RUNS))
def test_no_accident_makes_an_honest_agent_infected(number: int) -> None:
    random = Random(f"quiet {number}")
    faults = list(accidents(random))
    left = set()
    if random.random() < 0.3:
        left.add(random.choice(AGENTS))
        faults = [f for f in faults if f.agent not in left]
        faults.append(FaultSpec(random.uniform(BEGUN_S, 50), "drain", agent=min(left)))
    plan = replace(scenario(random, faults), traffic=())
    if random.random() < 0.3:
        update = UpdateSpec(random.uniform(BEGUN_S, 50), "service-monitor", "2.0")
        plan = replace(plan, updates=(update,))
    assert plan.trust is not None
    standings, events = ran(plan, OVER_S + 4 * plan.trust.period_s)
    tiers = {e.data["tier"] for e in events if e.kind == "attestation.result"}
    assert "contraindicated" not in tiers
    gone = {name for name, standing in standings.items() if standing is TrustStanding.RETIRED}
    assert gone == left
    assert {standings[name] for name in AGENTS if name not in left} == {TrustStanding.TRUSTED}


@pytest.mark.parametrize("number", range(RUNS))
def test_one_that_is_not_honest_is_expelled_in_time(number: int) -> None:
    random = Random(f"hostile {number}")
    infected = random.random() < 0.6
    # A liar lies from before the attack on, where attackers enter: there it is to filter them.
    agent = random.choice(AGENTS if infected else AGENTS[:4])
    at_s = random.uniform(10, 45) if infected else random.uniform(10, 19)
    plan = scenario(random, [FaultSpec(at_s, "infect" if infected else "lie", agent=agent)])
    assert plan.trust is not None
    if infected:
        plan = replace(plan, traffic=())
    limit_s = 2 * plan.trust.period_s + 4
    standings, events = ran(plan, (at_s if infected else 24.0) + limit_s)
    begun = at_s
    if not infected:
        applied = (e for e in events if e.kind == "measure.applied" and e.data["pop"] == agent)
        begun = next(applied).time
    told = (e for e in events if e.kind == "trust.changed" and e.data["agent"] == agent)
    expelled = next(e.time for e in told if e.data["standing"] == "quarantined")
    assert begun < expelled <= begun + limit_s
    others = {standing for name, standing in standings.items() if name != agent}
    assert others == {TrustStanding.TRUSTED}


@pytest.mark.parametrize("number", range(DRAWN))
def test_no_plan_makes_an_honest_agent_a_liar(number: int) -> None:
    """Networks, attacks and accidents as ``phalanx fuzz`` draws them, with attestation."""
    random = Random(f"plan {number}")
    document = plan_of(number, random.choice(["safety", "liveness"]))
    period_s, verifiers = random.uniform(6.0, 14.0), random.randint(2, 4)
    ran = run_plan({**document, "trust": {"period_s": period_s, "verifiers": verifiers}})
    assert ran.failures == ()
    results = [e for e in ran.events if e.kind == "attestation.result"]
    assert results
    assert not [e for e in results if e.data["tier"] == "contraindicated"]
    # A report that comes late may tell of a rule that was lifted; then verifiers look, and no more.
    suspected = [e for e in ran.events if e.kind == "trust.suspected"]
    assert all(d.startswith("rule-missing ") for e in suspected for d in e.data["deviations"])
