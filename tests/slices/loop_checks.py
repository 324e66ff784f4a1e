"""What any run of loops is held against."""

from __future__ import annotations

from msgspec import to_builtins

from phalanx.checking.loops import LoopRules
from phalanx.checking.rules import RunFacts
from phalanx.domain.events import Event
from tests.docs.test_events_reference import described

FIELDS = described()


def check_fields(events):
    """Hold that what loops record has the fields of the reference, no more and no less."""
    for event in events:
        if event.kind.startswith(("loop.", "claim.", "policy.")):
            always, maybe = FIELDS[event.kind]
            assert always <= event.data.keys() <= always | maybe, event


def broken(events, loops):
    """Return the violations of the rules about loops."""
    found = []
    rules = LoopRules(RunFacts(0.0, whole=True), found.append)
    about = {"loops": [to_builtins(loop) for loop in loops]}
    for event in [Event("run-1", 0.0, "run", "run.started", None, about), *events]:
        getattr(rules, f"on_{event.kind.replace('.', '_')}", lambda _: None)(event)
    rules.end(events[-1])
    return found


def check_loops(bench):
    """Hold what a bench recorded against the reference, and against the rules."""
    check_fields(bench.events)
    violations = broken(bench.events, bench.loops.values())
    assert not violations, violations[:3]
