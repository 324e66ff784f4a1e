"""Slices and capabilities that the tests of loops share."""

from __future__ import annotations

from msgspec.structs import replace

from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.steps import Adopt, Believe, Pause, PlanFailed
from phalanx.domain.agents import Loop
from phalanx.domain.goals import Mode, avert
from phalanx.domain.predicates import EntityTrouble
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
    loops_of,
)


def function(name, kind="AMF"):
    return ManagedFunction(name, kind, f"h-{name}")


def small(*, sharing="non-shared"):
    """Return a slice with a RAN of two gNBs and a core of AMF and SMF."""
    return SlicesSpec(
        (function("gnb1", "gNB"), function("gnb2", "gNB"), function("amf"), function("smf")),
        (
            NetworkSliceSubnet("ran", "RAN", ("gnb1", "gnb2")),
            NetworkSliceSubnet("core", "CN", ("amf", "smf")),
        ),
        (NetworkSlice("s1", SNssai(1), ("ran", "core"), sharing),),
    )


def loops(spec=None, **capabilities) -> list[Loop]:
    """Return the loops of a spec, some with capabilities by name: ``nssi_core=("healer",)``."""
    given = {name.replace("_", "-"): names for name, names in capabilities.items()}
    found = loops_of(spec or small())
    return [replace(x, capabilities=given.get(x.name, x.capabilities)) for x in found]


class Healer(Capability):
    """Ends any trouble after a while."""

    name = "healer"
    parameters = {"heal_s": 1.0}  # noqa: RUF012

    @plan(EntityTrouble, Mode.AVERT)
    def heal(self, me, goal):
        yield Pause(me.parameter(self, "heal_s"))
        yield Believe(goal.goal.predicate, value=False)


class Bungler(Capability):
    """Has a plan for any trouble, which fails."""

    name = "bungler"

    @plan(EntityTrouble, Mode.AVERT)
    def bungle(self, me, goal):
        yield Pause(0.5)
        raise PlanFailed("it slipped")


def trouble(entity="gnb1", kind="overloaded", slice_name="s1"):
    return EntityTrouble(slice_name, entity, kind)


def suffer(bench, name, one=None):
    """Let a loop see a trouble and want it over."""
    one = one or trouble(bench._index.all[name].entity)
    bench.pursue(name, Believe(one), Adopt(avert(one)))
    return one
