"""Explanations come from the causes in the log."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

import pytest
from ddos_log import ddos_log

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.explanation import explain
from phalanx.reporting.log import Log, whole_word
from phalanx.reporting.utility import comparison, utility
from phalanx.reporting.why_not import auctions_of


@cache
def whole() -> Log:
    """Return the log of the scenario: no worker runs it to learn which tests there are."""
    return Log(ddos_log(until=490))


def event(name: str, kind: str, cause: str | None, **data: object) -> Event:
    return Event(name, 0.0, "pop1", kind, cause, dict(data))


def test_a_chain_runs_from_the_root_to_the_event_by_causes_alone() -> None:
    by_id = {e.id: e for e in whole().events}
    applied = next(
        e for e in whole().events if e.kind == "measure.applied" and "flowRate" in str(e.data)
    )
    answer = explain(whole(), applied.id)
    chain = [line.event for line in answer.lines]
    assert chain[0].kind == "run.started"
    assert chain[-1] == applied
    assert all(line.depth == 0 for line in answer.lines)
    assert all(by_id[str(e.cause)] == before for before, e in pairwise(chain))
    kinds = {e.kind for e in chain}
    assert {"auction.awarded", "analysis.done", "auction.failed", "goal.adopted"} <= kinds


def test_a_name_finds_what_was_done_about_it_and_counts_the_rest() -> None:
    answer = explain(whole(), "flowRateLimited")
    assert answer.lines[-1].event.kind == "measure.applied"
    assert "flowRateLimited" in answer.title
    assert len(answer.others) > 2
    assert explain(whole(), "FLOWRATELIMITED") == answer


@pytest.mark.parametrize(
    ("what", "found"),
    [("10.2.0.1", "a"), ("10.2.0.12", "b"), ("pop1", "c"), ("linkRateLimited", "e")],
)
def test_addresses_and_names_are_matched_whole(what: str, found: str) -> None:
    log = [
        event("a", "goal.adopted", None, goal="flowRateLimited(10.2.0.1, 10.0.0.9)"),
        event("b", "goal.adopted", None, goal="flowRateLimited(10.2.0.12, 10.0.0.9)"),
        event("c", "resources.told", None, pop="pop1"),
        event("d", "resources.told", None, pop="pop12"),
        event("e", "goal.adopted", None, goal="linkRateLimited(pop12>h)"),
    ]
    log = [Event(e.id, 0.0, "x", e.kind, None, e.data) for e in log]
    word = whole_word(what)
    assert [e.id for e in log if word.search(str(e.data))] == [found]
    with pytest.raises(LogError, match="no event matches"):
        explain(log, "10.2.0")


def test_an_address_that_was_blocked_says_where_when_and_for_how_long() -> None:
    answer = explain(whole(), "10.5.0.3")
    assert answer.title == "10.5.0.3 was blocked; that is lifted now"
    assert "an attacker of attackers: it enters at pop3" in answer.words[0]
    assert "held it at pop5 from 186.8" in answer.words[1]
    assert "until 440.8" in answer.words[1]
    assert answer.lines[-1].event.kind == "measure.applied"


def test_an_address_of_ipv6_is_answered_for_its_network() -> None:
    said = {"effect": "attackFiltered(2001:db8::10, gate, 2 sources 8f)", "measure": "m"}
    said |= {"verdict": "drop", "pop": "gate", "sources": ["2001:db8:7::/64", "2001:db8:17::/64"]}
    log = [
        Event("run-1", 0.0, "run", "run.started", None, {}),
        Event("n-1", 1.0, "network", "measure.applied", "run-1", said),
    ]
    for asked in ("2001:db8:7::5", "2001:db8:7::/64", "2001:db8:7:0:1:2:3:4"):
        assert explain(log, asked).title == "2001:db8:7::/64 is blocked"
    assert explain(log, "2001:db8:8::5").title == "Why 2001:db8:8::/64 was not blocked"


def test_an_honest_address_is_answered_with_what_was_seen_of_it() -> None:
    service = ddos_log(strategy="service", until=60)
    answer = explain(service, "10.2.0.1")
    assert answer.title == "Why 10.2.0.1 was not blocked"
    looks = [e for e in service if e.kind == "analysis.done" and "10.2.0.1" in e.data["passed"]]
    figures = looks[-1].data["passed"]["10.2.0.1"]
    assert figures["replies"] > 0
    assert f"judged it honest: packets {figures['packets']}" in answer.words[-2]
    assert "at most 5%" in answer.words[-1]


def test_an_address_that_nobody_saw_is_answered_too() -> None:
    answer = explain(whole(), "10.99.0.1")
    assert answer.lines == ()
    assert "no source of the scenario has this address" in answer.words[0]
    outside = explain(ddos_log(strategy="service", until=60), "10.4.0.1")  # of another host
    assert "No analysis looked at the traffic to its target" in outside.words[-1]


def attacked(*events: Event) -> list[Event]:
    """Return a log in which 10.1.0.1 enters at pop1 towards 10.0.0.9, and what came of it."""
    setting = {
        "hosts": [{"name": "h", "at": "pop9", "address": "10.0.0.9"}],
        "sources": [{"group": "g", "at": ["pop1"], "target": "h", "count": 1, "malicious": True}],
    }
    return [Event("r", 0.0, "run", "run.started", None, setting), *events]


NAMED = event("n", "analysis.done", "r", goal="monitored(a>b)", found=["10.1.0.1>10.0.0.9"])


def test_a_block_that_nobody_could_take_names_every_refusal_in_full() -> None:
    reason = "needs 4 cores, 1 free, " + 100 * "and more " + "at the end"
    refusals = {"pop2": reason, "pop3": "no bandwidth free"}
    goal = "flowRateLimited(10.1.0.1, 10.0.0.9)"
    failed = event(
        "f", "auction.failed", "n", goal=goal, reason="all bidders refused", refusals=refusals
    )
    answer = explain(attacked(NAMED, failed), "10.1.0.1")
    assert answer.words[1].startswith("pop1 named it")
    assert f"all bidders refused; pop2: {reason}; pop3: no bandwidth free." in answer.words[2]
    assert answer.lines[-1].event.id == "f"


def test_a_report_that_an_entry_contradicts_blocks_nobody() -> None:
    figures = {"packets": 9, "replies": 8, "syn": 7, "established": 6}
    look = event(
        "l",
        "analysis.done",
        "n",
        goal="entryScreened(10.0.0.9, pop1)",
        passed={"10.1.0.1": figures},
    )
    words = explain(attacked(NAMED, look), "10.1.0.1").words
    assert "contradicts the report: packets 9, replies 8, syn 7, established 6" in words[2]
    (*_, hearsay) = explain(attacked(NAMED), "10.1.0.1").words
    assert "hearsay alone blocks nobody" in hearsay


# -- auctions ---------------------------------------------------------------------------------


def test_each_utility_can_be_worked_out_from_its_explanation() -> None:
    for auction in auctions_of(whole()):
        ranked = [bid for bid in auction.bids if bid.utility is not None]
        for bid in ranked:
            assert sum(s.weight * s.normalised for s in bid.shares) == pytest.approx(
                bid.utility, abs=2e-6
            )
        answer = explain(whole(), auction.auction)
        assert [row[0] for row in answer.table[1:]] == [bid.agent for bid in ranked]


def test_why_not_says_which_term_decided_and_what_would_have_equalled_the_winner() -> None:
    answer = explain(whole(), "pop6.1/auction4", "pop3")
    assert answer.title == "Why pop5 and not pop3: linkRateLimited(pop6>server) (pop6.1/auction4)"
    assert "The term that decided is T" in answer.words[0]
    assert [row[0] for row in answer.table] == ["term", "T", "C", "D", "utility"]
    needed = float(re.search(r"with T ([\d.]+) s", answer.words[1])[1])  # type: ignore[index]
    weight = float(re.search(r"a weight of T below ([\d.]+)", answer.words[1])[1])  # type: ignore[index]
    (call,) = [e for e in whole().of("auction.called") if e.data["auction"] == "pop6.1/auction4"]
    (award,) = [e for e in whole().of("auction.awarded") if e.data["auction"] == "pop6.1/auction4"]

    def winner(time_s: float, time_weight: float) -> str:
        rows = [
            {**row, "T": time_s} if row["agent"] == "pop3" else row for row in award.data["ranking"]
        ]
        rest = (1 - time_weight) / 2
        weights = {"time": time_weight, "cost": rest, "decentralisation": rest}
        shares = comparison(call.data | {"preferences": weights}, rows).shares()
        both = {row["agent"]: utility(s) for row, s in zip(rows, shares, strict=True)}
        return min(("pop3", "pop5"), key=both.__getitem__)

    assert [winner(needed + change, 0.8) for change in (-0.01, 0.01)] == ["pop3", "pop5"]
    assert [winner(100, weight + change) for change in (-0.01, 0.01)] == ["pop3", "pop5"]


def test_why_there_was_no_bid_is_its_refusal_in_full_with_what_was_lacking() -> None:
    answer = explain(whole(), "pop5.1/auction15", "pop5")
    assert answer.words[0] == "pop5 did not bid: needs 4 cores, 1 free."
    assert "rate-limiter (1 cores), anomaly-detector (2 cores)" in answer.words[1]
    assert answer.words[2] == "It could have bid with 3 more cores free."
    event_id = next(e.id for e in whole().of("auction.failed"))
    assert explain(whole(), event_id, "pop5") == answer
    assert (
        explain(whole(), "10.0.6.10, 0, 1", "pop5").title != answer.title
    )  # the last that matches


def test_an_agent_that_was_not_asked_and_one_that_is_unknown() -> None:
    service = Log(ddos_log(strategy="service", until=60))
    answer = explain(service, "entryScreened", "pop6")
    assert answer.words[0].startswith("pop6 was not asked: one agent was called.")
    with pytest.raises(LogError, match="no agent 'pop77'"):
        explain(service, "entryScreened", "pop77")
    with pytest.raises(LogError, match="no auction matches"):
        explain(service, "nothing", "pop6")


def test_a_silent_agent_is_told_from_one_that_was_not_asked() -> None:
    log = [
        event("c", "auction.called", None, auction="x", goal="g(h)", bidders=2),
        Event("f", 2.0, "pop1", "auction.failed", "c", {"auction": "x", "silent": ["pop2"]}),
        Event("d", 1.0, "pop1", "agent.gone", "c", {"pop": "pop2"}),
        Event("e", 1.0, "pop2", "agent.started", None, {}),
    ]
    words = explain(log, "x", "pop2").words
    assert words[0] == "pop2 was called and did not answer before the deadline."
    assert "takes the agent of pop2 for lost" in words[1]


def test_last_is_the_last_event_that_somebody_did() -> None:
    last = explain(whole(), "last").lines[-1].event
    assert last.kind not in ("run.ended", "network.sample", "resources.changed")


def test_attack_tells_what_came_of_it() -> None:
    answer = explain(whole(), "attack")
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
