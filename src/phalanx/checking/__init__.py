"""Checks that need a log and nothing else: what a correct run can never have recorded."""

from phalanx.checking.invariants import RULES, Checker, check
from phalanx.checking.rules import Violation

__all__ = ["RULES", "Checker", "Violation", "check"]
