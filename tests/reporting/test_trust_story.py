"""What report, summary and explanation make of trust, from a log written by hand."""

from __future__ import annotations

from typing import Any

from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_important
from phalanx.reporting.explanation import explain
from phalanx.reporting.summary import summarise

REASON = "text-altered phalanx-agent (found so by b, c)"


def log(*told: tuple[float, str, str, dict[str, Any]]) -> list[Event]:
    """Return a log of what agents tell, one after the other; each is caused by the run."""
    begin = Event("run-1", 0.0, "run", "run.started", None, {"scenario": "trust", "seed": 1})
    return [
        begin,
        *(
            Event(f"{agent}.1-{number}", time, agent, kind, "run-1", data)
            for number, (time, agent, kind, data) in enumerate(told)
        ),
    ]


def found(attester: str, tier: str = "affirming", round: int = 0) -> dict[str, Any]:  # noqa: A002
    return {"attester": attester, "tier": tier, "round": round, "modelled": True}


def now(agent: str, standing: str, position: int, reason: str = "") -> dict[str, Any]:
    return {"agent": agent, "standing": standing, "position": position, "reason": reason}


LOG = log(
    (2.0, "secaas", "attestation.result", found("a")),
    (3.0, "a", "trust.changed", now("a", "trusted", 1, "verified by secaas")),
    (3.0, "a", "attestation.result", found("b")),
    (4.0, "b", "trust.changed", now("b", "trusted", 2, "verified by a")),
    (4.0, "b", "attestation.result", found("c")),
    (5.0, "c", "trust.changed", now("c", "trusted", 3, "verified by b")),
    (6.0, "a", "key.installed", {"epoch": 1, "by": "b"}),
    (6.0, "b", "key.installed", {"epoch": 1, "by": "b"}),
    (20.0, "b", "attestation.result", found("c", round=1)),
    (21.0, "b", "attestation.result", found("a", "contraindicated", 1)),
    (22.0, "c", "attestation.result", found("a", "contraindicated", 1)),
    (23.0, "a", "trust.changed", now("a", "quarantined", 9, REASON)),
    (23.0, "c", "trust.changed", now("a", "quarantined", 9, REASON)),
    (24.0, "b", "key.installed", {"epoch": 2, "by": "c"}),
    (60.0, "c", "attestation.result", found("a")),
    (61.0, "a", "trust.changed", now("a", "trusted", 12, "verified by c")),
)


def test_the_summary_tells_the_chain_and_who_was_out_in_one_line() -> None:
    trust = summarise(LOG).trust
    assert trust is not None
    assert trust.line == (
        f"3 agents verified in a chain by 5.0 s; a expelled at 23.0 s: {REASON}, back at 61.0 s"
    )
    assert [(link.verifier, link.agent) for link in trust.chain] == [
        ("secaas", "a"),
        ("a", "b"),
        ("b", "c"),
    ]
    a, _, c = trust.agents
    assert (a.affirmed, a.against, a.last_s, a.by) == (2, 2, 60.0, "c")
    assert (c.affirmed, c.last_s, c.by, c.story) == (2, 20.0, "b", "")
    assert [(e.epoch, e.by, e.agents) for e in trust.epochs] == [
        (1, "b", ["a", "b"]),
        (2, "c", ["b"]),
    ]
    assert trust.modelled


def test_a_log_without_attestation_tells_nothing_of_trust() -> None:
    assert summarise(LOG[:1]).trust is None


def test_explain_tells_why_an_agent_was_expelled() -> None:
    answer = explain(LOG, "a")
    assert answer.words == (f"a is expelled at 23.0 s: {REASON}, back at 61.0 s",)
    assert answer.lines[-1].event.kind == "trust.changed"
    assert explain(LOG, "c").words == ()


def test_an_expulsion_is_told_once_and_silence_by_who_looked() -> None:
    told = [e for e in LOG if e.kind == "trust.changed" and e.data["standing"] == "quarantined"]
    assert [is_important(e) for e in told] == [True, False]
    silent = log((9.0, "a", "trust.changed", now("b", "silent", 5)))[-1]
    late = log((30.0, "b", "trust.changed", now("b", "silent", 5)))[-1]
    assert (is_important(silent), is_important(late)) == (True, False)


def test_a_log_that_lies_about_types_makes_no_report_fail() -> None:
    odd: Any = {"attester": ["x"], "tier": 5, "round": "first", "modelled": "yes", "agent": None}
    events = log(
        *((1.0, "a", kind, odd) for kind in ("attestation.result", "trust.changed")),
        (2.0, "a", "key.installed", {"epoch": None, "by": {}}),
    )
    assert summarise(events).trust is not None
