"""A network of flows in place of a real one; repeatable to the bit."""

from phalanx.infrastructure.reservations.allocations import InvariantError
from phalanx.infrastructure.simulated.flows import OFFERED, part_of
from phalanx.infrastructure.simulated.network import SimulatedNetwork

__all__ = ["OFFERED", "InvariantError", "SimulatedNetwork", "part_of"]
