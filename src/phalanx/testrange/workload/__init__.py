"""Real servers, users and attackers on a testbed, and what they really got."""

from phalanx.testrange.workload.workload import Site, Workload

__all__ = ["Site", "Workload"]
