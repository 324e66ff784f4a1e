"""Explanations come from the causes in the log."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ddos_log import ddos_log

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.explanation import explain
from phalanx.reporting.log import Log

LOG = Log(ddos_log())


def event(name: str, kind: str, cause: str | None, **data: object) -> Event:
    return Event(name, 0.0, "pop1", kind, cause, dict(data))


def test_a_chain_runs_from_the_root_to_the_event_by_causes_alone() -> None:
    by_id = {e.id: e for e in LOG.events}
    applied = next(
        e for e in LOG.events if e.kind == "measure.applied" and "flowRate" in str(e.data)
    )
    answer = explain(LOG, applied.id)
    chain = [line.event for line in answer.lines]
    assert chain[0].kind == "run.started"
    assert chain[-1] == applied
    assert all(line.depth == 0 for line in answer.lines)
    assert all(by_id[str(e.cause)] == before for before, e in pairwise(chain))
    kinds = {e.kind for e in chain}
    assert {"auction.awarded", "analysis.done", "auction.failed", "goal.adopted"} <= kinds


def test_a_fragment_finds_what_was_done_about_it_and_counts_the_rest() -> None:
    answer = explain(LOG, "10.5.0.3")
    assert answer.lines[-1].event.kind == "measure.applied"
    assert "10.5.0.3" in answer.title
    assert len(answer.others) > 2
    assert explain(LOG, "10.5.0.3".upper()) == answer


def test_last_is_the_last_event_that_somebody_did() -> None:
    last = explain(LOG, "last").lines[-1].event
    assert last.kind not in ("run.ended", "network.sample", "resources.changed")


def test_attack_tells_what_came_of_it() -> None:
    answer = explain(LOG, "attack")
    shown = [line.event for line in answer.lines]
    effects = [str(e.data["effect"]) for e in shown if e.kind == "measure.applied"]
    assert sum("flowRateLimited" in effect for effect in effects) == 8
    assert any("ipRateLimited" in effect for effect in effects)
    depths = {line.event.id: line.depth for line in answer.lines}
    assert all(depths.get(str(e.cause), -1) < depths[e.id] for e in shown)


def test_attack_without_effects_is_still_told() -> None:
    log = [event("r", "run.started", None), event("t", "traffic.changed", "r", malicious=True)]
    assert [line.event.id for line in explain(log, "attack").lines] == ["t"]


@pytest.mark.parametrize("what", ["attack", "nothing like that"])
def test_what_the_log_does_not_tell_is_refused(what: str) -> None:
    with pytest.raises(LogError, match=r"no attack|no event matches"):
        explain([event("r", "run.started", None)], what)


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(LogError):
        explain([], "last")


def test_a_log_that_begins_in_the_middle_and_a_circle_of_causes_end() -> None:
    log = [event("a", "goal.adopted", "b"), event("b", "goal.adopted", "a")]
    assert [len(explain(log, name).lines) for name in "ab"] == [1, 2]
    assert len(explain([event("x", "goal.adopted", "gone")], "x").lines) == 1
