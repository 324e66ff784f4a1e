"""Testbeds on one machine: namespaces for a network, real servers, users and attackers."""

from phalanx.testrange.testbed import Testbed
from phalanx.testrange.workload import Workload

__all__ = ["Testbed", "Workload"]
