"""Checks that need a log and nothing else: what a correct run can never have recorded."""

from phalanx.checking.invariants import APART_S, RULES, Checker, as_seen, check
from phalanx.checking.rules import Violation

__all__ = ["APART_S", "RULES", "Checker", "Violation", "as_seen", "check"]
