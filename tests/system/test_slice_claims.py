"""A service that is a function of a slice: who scales it, or blocks, claims it at its loop."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from phalanx.bdi.capability import Capability, plan, starts
from phalanx.bdi.steps import Adopt, Note, Pause, PlanFailed
from phalanx.coordination.arbitration import SCALE, while_claimed
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.goals import Predicate, want
from phalanx.domain.messages import (
    ActionClaim,
    Advertisement,
    AttackReport,
    Refusal,
    Result,
    Verdict,
)
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import System
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)
from tests.slices.loop_checks import check_fields
from tests.system.rings import about, of

SCENARIOS = Path(__file__).parents[2] / "scenarios"


class Optimised(Predicate, frozen=True):
    entity: str


class Optimiser(Capability):
    """Wants the shop to be larger at second 44, and knows nothing of attacks."""

    name = "optimiser"

    @starts
    def begin(self, me):
        me.call_at(me.now + 44.0, lambda: [Adopt(want(Optimised("shop-amf")))])

    @plan(Optimised)
    def scale(self, me, goal):
        loops = me.capability(LoopContacts).settings.loops
        yield from while_claimed(me, [loops["sem-shop-amf"]], SCALE, "load is high", self.done())

    def done(self):
        yield Note("optimiser.scaled", {})
        yield Pause(1.0)
        raise PlanFailed("once is enough")


def played(name, until, form="CNF"):
    plan = load_scenario(SCENARIOS / f"{name}.yaml")
    slices = SlicesSpec(
        (ManagedFunction("shop-amf", "AMF", "shop", form),),
        (NetworkSliceSubnet("core", "CN", ("shop-amf",)),),
        (NetworkSlice("s1", SNssai(1), ("core",), capabilities=("optimiser",)),),
    )
    system = System(replace(plan, slices=slices), functions=(Optimiser,))
    sent, send = [], system.bus.send
    system.bus.send = lambda message: (sent.append(message), send(message))
    return sent, system.run(until)


def test_users_get_more_once_the_loop_of_the_function_agrees_and_not_twice():
    _, result = played("autoscale-crowd", 60.0)
    (granted,) = of(result, "claim.granted")
    assert (granted.agent, granted.data["holder"]) == ("sem-shop-amf", "south")
    assert of(result, "measure.applied")[0].time > granted.time
    (refused,) = of(result, "claim.refused")
    assert refused.data["holder"] == "nsi-s1"
    assert "scale of south goes first" in refused.data["reason"]
    assert not of(result, "optimiser.scaled")
    check_fields(result.events)


def test_a_physical_function_gets_no_replica_and_who_wants_one_asks_once():
    _, result = played("autoscale-crowd", 90.0, "PNF")
    refused = of(result, "claim.refused")
    assert sorted(event.data["holder"] for event in refused) == ["nsi-s1", "south"]
    reasons = {event.data["reason"] for event in refused}
    assert reasons == {"shop-amf is a physical function: it cannot be scaled"}
    assert len(of(result, "trouble.diagnosed")) > 2
    assert not about(result, "auction.called", "goal", "replicated")
    assert not of(result, "claim.granted")


def test_attackers_are_blocked_at_once_and_what_their_load_asks_for_is_refused():
    sent, result = played("autoscale-attack", 60.0)
    granted = of(result, "claim.granted")
    blocks = {(e.data["holder"], e.data["action"]) for e in granted}
    assert blocks == {("east", "block"), ("west", "block")}
    assert of(result, "measure.applied")[0].time <= granted[0].time
    (refused,) = of(result, "claim.refused")
    assert (refused.data["holder"], refused.data["action"]) == ("nsi-s1", "scale")
    assert "attackers make the load" in refused.data["reason"]
    assert not of(result, "optimiser.scaled")
    loops = {loop["name"] for loop in result.events[0].data["loops"]}
    heard = {type(m.content) for m in sent if m.receiver in loops}
    assert heard == {ActionClaim, Refusal, Result, Verdict}
    assert {AttackReport, Advertisement} < {type(m.content) for m in sent}
