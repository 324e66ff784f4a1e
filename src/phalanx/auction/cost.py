"""What the use of a PoP costs: the functions and predicates of table 4.2 and eq. 4.3, 4.4.

Results by the published prices are shares of a PoP's resources, 0 to 1. ``needs`` stands for the
catalogue: of each VNF that could be deployed some day the resources of one unit, without those
that ask for at least as much as another (``smallest``), since they decide nothing.

The document leaves open: a resource of which the PoP has nothing, or nothing free, or of
which the VNF takes nothing, makes the harmonic mean 0, its limit. So a VNF that runs already and
serves once more, which takes nothing anew, has an ``rsc_eval`` of 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd

Needs = tuple[Resources, ...]

Pricing = Literal["published", "capacity", "scarcity"]
"""How what is used is priced: by eq. 4.3 and 4.4 with the weights of algorithm 1 as printed; or
by total capacity; or so, and dearer the less of it is free. As printed a full PoP is free and a
loaded link cheap, so that auctions fill what is scarce first."""


@lru_cache(maxsize=256)
def smallest(catalogue: tuple[Vnfd, ...]) -> Needs:
    """Return the requirements of one unit that ask for no more than any other of ``catalogue``."""
    found: list[Resources] = []
    for needed in sorted({vnfd.requires for vnfd in catalogue}, key=_magnitude):
        if not _any_within(found, needed):
            found.append(needed)
    return tuple(found)


def _magnitude(needed: Resources) -> tuple[float, float, float]:
    return needed.cores, needed.memory_gb, needed.disk_gb


def _any_within(needs: Iterable[Resources], limit: Resources) -> bool:
    return any(needed.within(limit) for needed in needs)


def _harmonic_mean(part: Resources, total: Resources) -> float:
    cores, memory, disk = part.cores, part.memory_gb, part.disk_gb
    if cores <= 0.0 or memory <= 0.0 or disk <= 0.0:
        return 0.0
    if total.cores <= 0.0 or total.memory_gb <= 0.0 or total.disk_gb <= 0.0:
        return 0.0
    return 3.0 / (total.cores / cores + total.memory_gb / memory + total.disk_gb / disk)


def free_rsc_util(total: Resources, free: Resources) -> float:
    """Return freeRscUtil: the harmonic mean of the free shares (table 4.2)."""
    return _harmonic_mean(free, total)


def cons_rsc_util(total: Resources, required: Resources) -> float:
    """Return consRscUtil: the harmonic mean of the shares that a VNF requires (table 4.2)."""
    return _harmonic_mean(required, total)


def full(free: Resources, needs: Needs) -> bool:
    """Whether no VNF fits into ``free`` (table 4.2)."""
    return not _any_within(needs, free)


def can_deploy(free: Resources, required: Resources, needs: Needs) -> bool:
    """Whether some VNF still fits after one that requires ``required`` (table 4.2)."""
    return _any_within(needs, free - required)


@lru_cache(maxsize=1 << 16)
def rsc_eval_hop(total: Resources, free: Resources, needs: Needs) -> float:
    """Return the cost of passing a PoP (eq. 4.3): what could be deployed there, 0 if nothing."""
    return 0.0 if full(free, needs) else free_rsc_util(total, free)


@lru_cache(maxsize=1 << 16)
def rsc_eval(total: Resources, free: Resources, required: Resources, needs: Needs) -> float:
    """Return the cost of deploying a VNF that requires ``required`` (eq. 4.4).

    That is what it consumes; but all that is free, if nothing could be deployed after it
    although something could after another VNF.
    """
    if can_deploy(free, required, needs):
        return cons_rsc_util(total, required)
    if any(can_deploy(free, other, needs) for other in needs):
        return free_rsc_util(total, free)
    return cons_rsc_util(total, required)


# -- prices by total capacity -----------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def scarcity(total: Resources, free: Resources) -> float:
    """Return how dear a PoP is: 1 if all of it is free, up to 2 if one resource is used up."""
    return 2.0 - min(free_rsc_util(total, free), 1.0)


def passing_cost(total: Resources, free: Resources, needs: Needs, pricing: Pricing) -> float:
    """Return the cost of passing a PoP: by eq. 4.3, or 1, or its scarcity."""
    if pricing == "published":
        return rsc_eval_hop(total, free, needs)
    return scarcity(total, free) if pricing == "scarcity" else 1.0


def hosting_cost(
    total: Resources, free: Resources, required: Resources, needs: Needs, pricing: Pricing
) -> float:
    """Return the cost of deploying a VNF: eq. 4.4; or that in the empty PoP times passing it.

    It is no more than passing the PoP costs, if the VNF has room there.
    """
    if pricing == "published":
        return rsc_eval(total, free, required, needs)
    return rsc_eval(total, total, required, needs) * passing_cost(total, free, needs, pricing)


def link_weight(pricing: Pricing) -> tuple[float, float]:
    """Return what a link's capacity and its free bandwidth count in its weight.

    Published: what is free (algorithm 1, line 29). By scarcity: the capacity times 1 plus the
    share of it that is used, so ``2 * capacity - free``.
    """
    return {"published": (0.0, 1.0), "capacity": (1.0, 0.0), "scarcity": (2.0, -1.0)}[pricing]
