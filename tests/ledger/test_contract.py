"""What every ledger must do, whatever keeps it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from ledger_group import DEVIATION, Group, digest, result, secret

from phalanx.clock.virtual import VirtualClock
from phalanx.domain.trust import TrustTier
from phalanx.ledger import Checkpoint, Confirmed, Head, LedgerError, Refused, open_ledger
from phalanx.ledger.entries import (
    AgentRetired,
    Associated,
    AuditAnchored,
    Breached,
    Enrolled,
    Faulted,
    KeyHandedOut,
    Planned,
    Revoked,
    Rotated,
    RoundOpened,
)


def key(agent: str, epoch: int = 1, by: str = "secaas") -> KeyHandedOut:
    return KeyHandedOut(agent, epoch, bytes(range(64)), by)


def test_every_kind_of_entry_is_told_as_it_was_submitted(group):
    group.verified(verifiers=2, misses=4)
    group.draw(1, "a0", "a1")
    group.open(1, "secaas")
    verifier = group.elected("a3", 2)[0]
    tier = TrustTier.WARNING
    found = result("a3", verifier, 1, tier, at_s=123.456789, deviations=(DEVIATION,) * 3)
    group.accept(verifier, found)
    silent = group.elected("a3", 2)[1]
    group.open(2, "secaas")
    own = [
        (verifier, Faulted(1, "a3", silent, "silent")),
        ("a0", Associated("a0", "a1", 20.5, 0.01)),
        ("a1", Associated("a0", "a1", 20.5, 0.01)),
        ("a1", Breached("a0", "a1", 31.25, 0.0)),
        ("a2", key("a1", by="a2")),
        ("a1", AuditAnchored("a1", "audit.a1.1", 3, "5e" * 32)),
        ("a2", Rotated(2, "routine")),
        ("secaas", Revoked("a4", "stolen", 3)),
        ("a2", AgentRetired("a2", "moved")),
    ]
    for author, entry in own:
        group.accept(author, entry)
    assert found in group.entries
    assert group.entries[-len(own) :] == [entry for _, entry in own]
    accounts = {name: ledger.account for name, ledger in group.ledgers.items()}
    assert [it.author for it in group.seen[-len(own) :]] == [accounts[name] for name, _ in own]
    assert group.entries[0] == Enrolled("secaas", accounts["secaas"], "operator", "", "")
    assert Planned(group.period_s, 2, 4) in group.entries
    positions = [it.position for it in group.seen]
    assert positions == sorted(set(positions))


def test_whole_numbers_are_kept_as_what_they_are(group):
    group.verified()
    group.accept("secaas", Planned(20, 1))
    assert group.entries[-1] == Planned(20.0, 1)


def test_answers_tell_the_position_that_followers_see(group):
    group.verified()
    (receipt,) = group.accept("secaas", Planned(20.0, 1))
    assert group.seen[-1].position == receipt.position
    assert group.seen[-1].time_s == receipt.time_s


def test_all_accounts_see_one_order_from_whenever_they_follow(group):
    early, late = [], []
    group.ledgers["a1"].follow(early.append)
    group.verified()
    end = group.ledgers["a2"].follow(late.append)
    group.wait()
    assert early == late == group.seen
    end()
    group.accept("secaas", Planned(20.0, 1))
    assert late == group.seen[:-1]


def test_reading_goes_on_after_a_checkpoint_or_begins_anew_where_there_is_none(group):
    group.verified()
    since = group.ledgers["a3"].checkpoint()
    already = [it for it in group.seen if since is not None and it.position <= since.position]
    group.accept("secaas", Planned(20.0, 1))
    asked = since or Checkpoint(group.ledgers["secaas"].account, Head(1, "0x"), 1)
    told: list[Any] = []
    group.ledgers["a3"].follow(told.append, since=asked, begins=told.append)
    group.accept("secaas", Planned(30.0, 1))
    group.wait()
    assert told == [since is not None, *group.seen[len(already) :]]
    assert since is None or already == group.seen[:-2]


def test_entries_of_an_account_are_recorded_in_the_order_submitted(group):
    group.verified()
    plans = [Planned(float(n), 1) for n in range(1, 60)]
    answers = group.accept("secaas", *plans)
    assert group.entries[-59:] == plans
    assert [it.position for it in answers] == sorted(it.position for it in answers)


def test_a_refusal_does_not_hold_up_what_follows(group):
    group.verified()
    levels = [Associated("a0", "a1", latency, 0.5) for latency in (20.0, 30.0)]
    answers = group.submit("a0", levels[0], Planned(20.0, 1), levels[1])
    assert [type(it) for it in answers] == [Confirmed, Refused, Confirmed]
    assert group.entries[-2:] == levels


@pytest.mark.parametrize(
    "entry",
    [
        Planned(float("nan"), 1),
        Planned(float("inf"), 1),
        Planned(-1.0, 1),
        Planned(1.0, 2**64),
        Planned("soon", 1),
        Enrolled("a", "0x12", "agent", "", ""),
        Enrolled("a", "0x" + "11" * 20, "agent", "", "xyz"),
        Enrolled("a", "0x" + "11" * 20, "agent", "", "12"),
        Enrolled("a" * 9000, "0x" + "11" * 20, "agent", "", ""),
        Enrolled("\ud800", "0x" + "11" * 20, "agent", "", ""),
        Revoked(None, "", 0),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(entry):
    (answer,) = Group().submit("secaas", entry)
    assert isinstance(answer, Refused)
    assert "\n" not in answer.reason
    assert len(answer.reason) < 200


def test_the_status_tells_how_far_it_is_and_what_waits(group):
    assert group.ledgers["a1"].status().head is None
    assert group.ledgers["a1"].status().age_s is None
    group.verified().wait()
    group.ledgers["a1"].submit(Associated("a0", "a1", 20.0, 0.5))
    status = group.ledgers["a1"].status()
    assert (status.waiting, status.entries, status.reason) == (1, len(group.seen), "")
    assert status.head.height > 0
    assert 0 <= status.age_s <= 3
    group.wait()
    assert group.ledgers["a1"].status().waiting == 0


def test_accounts_of_one_ledger_agree_on_its_heads(group):
    group.verified()
    head = group.ledgers["a1"].status().head
    group.accept("secaas", Planned(20.0, 1))
    answers = {}
    for asked in (head, Head(head.height, digest("other")), Head(head.height + 9, head.hash)):
        group.ledgers["a2"].compare(asked, partial(answers.__setitem__, asked))
    assert answers == {}
    group.wait()
    assert sorted(answers.values(), key=str) == [False, None, True]
    assert answers[head] is True


def test_the_same_input_makes_the_same_ledger():
    heads = []
    for _ in range(2):
        group = Group(4).verified()
        group.open(1)
        heads.append((group.ledgers["a0"].status().head, group.seen))
    assert heads[0] == heads[1]


def test_founding_again_changes_nothing(group):
    group.verified()
    before = list(group.seen)
    group.node.found(secret("secaas", group.salt), "secaas")
    group.wait()
    assert group.seen == before
    with pytest.raises(LedgerError, match="another operator"):
        group.node.found(secret("a0"), "a0")


def test_secrets_that_are_none_are_refused(group):
    for octets in (b"", bytes(32), bytes(31), b"\xff" * 32):
        with pytest.raises(LedgerError, match="32 octets"):
            group.node.join(octets)


def test_without_a_founder_it_says_so():
    clock = VirtualClock()
    node = open_ledger("memory:", clock)
    ledger = node.join(secret("a0"))
    answers = []
    ledger.submit(RoundOpened(1), answers.append)
    clock.run(until=30.0)
    assert answers == []
    assert "founded" in ledger.status().reason


@pytest.mark.parametrize("url", ["", "memory", "ftp://x", "memory:x", "evm:", "memory:?interval=0"])
def test_what_is_no_ledger_is_refused_in_one_line(url):
    with pytest.raises(LedgerError) as refusal:
        open_ledger(url, VirtualClock())
    assert "\n" not in str(refusal.value)


def test_a_kept_ledger_goes_on_after_it_was_closed(tmp_path):
    url = f"evm:{tmp_path / 'chain.db'}"
    group = Group(4, url).verified()
    group.open(1)
    height = group.ledgers["a0"].status().head.height
    group.node.close()
    again = Group(4, url)
    again.wait(1.0)
    assert again.seen == group.seen
    assert again.ledgers["a0"].status().head.height == height
    again.open(2)
    assert again.last(RoundOpened).round == 2
