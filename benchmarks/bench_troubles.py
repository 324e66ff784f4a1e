"""Ten troubles of a slice: a flat set of agents, one central loop, and the hierarchy.

The troubles stand in docs/loops.md, where they were written down before the first run. Each is a
change of ``scenarios/signalling-storm.yaml``, and runs three times on virtual time with the same
devices, attackers and faults: without slices, so that agents of PoPs act alone and claim nothing;
with one loop that alone adds up and decides, every 10 s; and with the loops of the scenario.

Relief is the time from the begin of the trouble until legitimate devices get 95 % of what they ask
for over ten seconds, for good. Wrong actions are legitimate devices that were dropped, and replicas
put in force within 15 s after the begin of a storm, or without any growth.

Run it with ``python benchmarks/bench_troubles.py [--quick] [--seed N] [--trouble N]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.analytics.detectors import SIGNALLING_STORM
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, perceives, starts
from phalanx.bdi.steps import Adopt, Believe, Steps
from phalanx.coordination.measures import PROTECT
from phalanx.domain.agents import Loop
from phalanx.domain.goals import avert
from phalanx.domain.messages import AttackReport, Insight, Performative
from phalanx.domain.predicates import EntityTrouble
from phalanx.runtime.course import RunResult
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario
from phalanx.runtime.system import run_scenario
from phalanx.slices.loop import Gathered
from phalanx.slices.signalling import SignallingGuard
from tables import QUICK, console, show

SCENARIO = Path(__file__).parents[1] / "scenarios" / "signalling-storm.yaml"
ARMS = ("flat", "central", "hierarchy")
BEGAN, ENDED = 95.0, 170.0
WINDOW, ENOUGH = 10, 0.95
SOON_S = 15.0
CENTRAL_S = 10.0
"""Timescale of a loop end to end."""
RAN = ("ran1", "ran2", "ran3", "ran4")
DECIDES = {"flat": "core", "central": "nssi-all", "hierarchy": "nssi-ran"}


class Central(SignallingGuard):
    """The one loop that adds up and decides; those of functions pass on what they see."""

    name = "signalling-guard"

    @perceives(Gathered)
    def judge(self, me: Agent, gathered: Gathered) -> Steps:
        """Decide, if this is that loop."""
        if me.scope.name == "sub-slice":
            yield from super().judge(me, gathered)
        else:
            for insight in gathered.insights:
                self._tell(me, insight)

    @staticmethod
    def _below(me: Agent, own: Loop) -> list[Loop]:
        return [loop for loop in SignallingGuard._below(me, own) if loop.kind == "gNB"]


def denying(kind: type[SignallingGuard]) -> type[Capability]:
    """Return a guard that finds nothing at the loop that adds up for the RAN."""

    class Denies(kind):  # type: ignore[misc, valid-type]
        name = "signalling-guard"

        @perceives(Gathered)
        def judge(self, me: Agent, gathered: Gathered) -> Steps:
            if me.name not in DECIDES.values():
                yield from super().judge(me, gathered)

    return Denies


class Liar(Capability):
    """Reports a storm that is not there, with addresses of legitimate devices."""

    name = "liar"

    @starts
    def begin(self, me: Agent) -> None:
        """Wait until the agents know what is usual."""
        me.call_at(80.0, lambda: self._lie(me))

    def _lie(self, me: Agent) -> Steps:
        named = tuple(f"10.1.0.{i}" for i in range(1, 21))
        report = AttackReport("10.0.6.10", (SIGNALLING_STORM,), named)
        for pop in (*RAN, "core"):
            me.tell(Performative.INFORM, pop, "attack", report)
        if me.scope.name == "sub-slice":
            entity = me.name.removeprefix("nssi-")
            why = "so it says"
            insight = Insight("machines", entity, SIGNALLING_STORM, 1.0, "", why)
            me.tell(Performative.INFORM, "nsi-machines", me.new_id("lie"), insight)
            trouble = EntityTrouble("machines", entity, SIGNALLING_STORM)
            yield Believe(trouble)
            yield Adopt(avert(trouble), PROTECT)


class Trouble(Struct, frozen=True):
    """One trouble: how it changes the scenario."""

    name: str
    began: float = BEGAN
    ended: float = ENDED
    without: tuple[str, ...] = ()
    """Groups of traffic that are left out."""
    storm_at: tuple[str, ...] = RAN
    faults: Callable[[str], tuple[FaultSpec, ...]] = lambda _: ()
    """By arm."""
    lies: bool = False
    denies: bool = False


def dies(arm: str) -> tuple[FaultSpec, ...]:
    """Return the death of who decides."""
    return (FaultSpec(BEGAN + 3, "crash", agent=DECIDES[arm]),)


def parted(arm: str) -> tuple[FaultSpec, ...]:
    """Return a partition between RAN and CN."""
    sems = () if arm == "flat" else tuple(f"sem-gnb-{i}" for i in range(1, 5))
    loops = ("nssi-ran",) if arm == "hierarchy" else ()
    return (FaultSpec(BEGAN + 1, "partition", groups=((*RAN, *sems, *loops),), for_s=40.0),)


def outage(_: str) -> tuple[FaultSpec, ...]:
    """Return a cut between RAN and CN."""
    return tuple(
        FaultSpec(90.0, "link-down", link=("agg", x), for_s=30.0) for x in ("core", "edge")
    )


def loss(_: str) -> tuple[FaultSpec, ...]:
    """Return a loss of three messages in ten."""
    return (FaultSpec(BEGAN, "lose", share=0.3, for_s=ENDED - BEGAN),)


TROUBLES = (
    Trouble("storm, with growth"),
    Trouble("storm at one gNB", storm_at=("ran1",)),
    Trouble("storm without growth", without=("newcomers",)),
    Trouble("growth without a storm", began=70.0, without=("storm",)),
    Trouble("outage, all come back", 120.0, without=("storm", "newcomers"), faults=outage),
    Trouble("storm, who decides dies", faults=dies),
    Trouble("storm, RAN and CN parted", faults=parted),
    Trouble("a storm is invented", 80.0, without=("storm", "newcomers"), lies=True),
    Trouble("a storm is denied", denies=True),
    Trouble("storm, messages lost", faults=loss),
)


def plan(trouble: Trouble, arm: str, whole: Scenario) -> Scenario:
    """Return the scenario of a trouble for one of the three."""
    traffic = tuple(
        replace(g, at=trouble.storm_at) if g.name == "storm" else g
        for g in whole.traffic
        if g.name not in trouble.without
    )
    made = replace(whole, traffic=traffic, faults=trouble.faults(arm))
    spec = made.slices
    assert spec is not None
    if arm == "flat":
        liar = DeclaredAgent("liar", "domain", ("liar",), pop="ran1")
        pops = made.network.pops
        if trouble.denies:
            pops = tuple(replace(p, agent=p.name not in RAN[:2]) for p in pops)
        agents = (*made.agents, liar) if trouble.lies else made.agents
        network = replace(made.network, pops=pops)
        return replace(made, network=network, agents=agents, slices=None)
    subnets, lies = spec.subnets, ("liar",) if trouble.lies else ()
    if arm == "central":
        functions = tuple(f.name for f in spec.functions)
        guard = ("signalling-guard", *lies)
        subnets = (replace(subnets[0], name="all", functions=functions, capabilities=guard),)
        (one,) = spec.slices
        slices = (replace(one, subnets=("all",), capabilities=()),)
        made = replace(made, parameters={**made.parameters, "loop_sub_slice_s": CENTRAL_S})
        return replace(made, slices=replace(spec, subnets=subnets, slices=slices))
    ran = replace(subnets[0], capabilities=(*subnets[0].capabilities, *lies))
    return replace(made, slices=replace(spec, subnets=(ran, *subnets[1:])))


def run(trouble: Trouble, arm: str, seed: int) -> RunResult:
    """Run a trouble for one of the three."""
    scenario = plan(trouble, arm, load_scenario(SCENARIO))
    for field, why in offences(scenario):
        raise SystemExit(f"{trouble.name}, {arm}: {field}: {why}")
    kind = Central if arm == "central" else SignallingGuard
    guard = denying(kind) if trouble.denies else kind
    functions = (guard, Liar) if trouble.lies else (guard,)
    return run_scenario(scenario, seed, functions=functions, until=trouble.ended)


def relief_s(result: RunResult, trouble: Trouble) -> float | None:
    """Return after how long devices get enough for good; None: not before the end."""
    seen = [(e.time, e.data["hosts"]["amf"]) for e in result.events if e.kind == "network.sample"]
    # A sample tells what was got in the last second, and what is wanted from now on.
    shares = [
        (time, then["wanted_mb_s"], now["legitimate_mb_s"])
        for (_, then), (time, now) in pairwise(seen)
        if time > trouble.began
    ]
    below = trouble.began
    for i in range(WINDOW, len(shares) + 1):
        _, wanted, got = zip(*shares[i - WINDOW : i], strict=True)
        if sum(got) < ENOUGH * sum(wanted):
            below = shares[i - 1][0]
    return below - trouble.began if below < shares[-1][0] else None


def wrong(result: RunResult, trouble: Trouble, scenario: Scenario) -> Iterator[str]:
    """Yield each wrong action."""
    storm = {s.address for s in scenario.to_sources() if s.profile.malicious}
    growth = "newcomers" not in trouble.without
    for event in result.events:
        if event.kind != "measure.applied":
            continue
        effect: str = event.data.get("effect", "")
        sources: list[Any] = event.data.get("sources", [])
        if effect.startswith("attackFiltered"):
            yield from sorted({*sources} - storm)
        soon = storm and trouble.began <= event.time < trouble.began + SOON_S
        if effect.startswith("replicated") and (soon or not growth):
            yield effect


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", default=QUICK, help="one trouble")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("--trouble", type=int, action="append", help="this one, from 1; repeatable")
    given = parser.parse_args()
    numbers = given.trouble or ([3] if given.quick else range(1, len(TROUBLES) + 1))
    rows, lost = [], []
    for number in numbers:
        trouble, row = TROUBLES[number - 1], [f"{number} {TROUBLES[number - 1].name}"]
        figures = {}
        for arm in ARMS:
            result = run(trouble, arm, given.seed)
            scenario = plan(trouble, arm, load_scenario(SCENARIO))
            after, errors = relief_s(result, trouble), len([*wrong(result, trouble, scenario)])
            sent = sum(result.summary.messages.values())
            figures[arm] = (float("inf") if after is None else after, errors, sent)
            relief = "never" if after is None else f"{after:.0f} s"
            row.append(f"{relief}, {sent:,}, {errors}")
        rows.append(row)
        mine = figures["hierarchy"]
        for arm in ("flat", "central"):
            named = zip(("relief", "wrong actions", "messages"), figures[arm], mine, strict=True)
            worse = [name for name, theirs, own in named if own > theirs]
            if worse:
                lost.append(f"{number} against {arm}: {', '.join(worse)}")
        console.print(f"{trouble.name}: done", style="dim")
    note = "Where the hierarchy does worse:\n" + "\n".join(lost or ["nowhere"])
    title = f"ten troubles, seed {given.seed}: time to relief, messages, wrong actions"
    show(title, ("trouble", *ARMS), rows, note)


if __name__ == "__main__":
    main()
