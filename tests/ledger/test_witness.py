"""The ledger without a chain: who shows two peers different logs is exposed, with proof."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_group import Group, result, secret
from msgspec.structs import replace

from phalanx.clock.virtual import VirtualClock
from phalanx.ledger import LedgerError, RecordedEntry, open_ledger
from phalanx.ledger.entries import Associated, Planned, Revoked
from phalanx.ledger.ethereum import Account
from phalanx.ledger.witness import MerkleLog, SignedCheckpoint, SignedRecord, WitnessNode


def link(latency: float) -> Associated:
    return Associated("a0", "a1", latency, 0.5)


def witnesses(count: int = 4, needed: int = 2) -> Group:
    return Group(count, url=f"witness:?witnesses={needed}").verified()


# -- the tree ---------------------------------------------------------------------------------


def tree(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 9162, 2.1.1, defines it."""
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40))
def test_roots_are_those_of_the_rfc(leaves):
    log = MerkleLog()
    for n, leaf in enumerate(leaves):
        root, log._peaks = log.root_with(leaf.hex())
        assert root == tree(leaves[: n + 1]).hex()


# -- a liar with a key of its own ------------------------------------------------------------------


class Forger:
    """Signs whatever it likes with the key of ``a0``, and tells each peer something else."""

    def __init__(self, group: Group) -> None:
        self.account = Account(secret("a0"))
        self.log = MerkleLog()
        for record in group.ledgers["a1"].logs[self.account.address].records:
            self.log.append(record)
        self.tail = self.log.records[-1]

    def record(self, entry: Any, **others: Any) -> SignedRecord:
        fields = {"author": self.account.address, "index": len(self.log.records)}
        fields |= {"previous": self.tail.digest, "time_s": 99.0}
        made = SignedRecord(entry=entry, **(fields | others))
        root, _ = self.log.root_with(made.digest)
        signed = SignedCheckpoint(made.author, made.index + 1, root, b"").signed
        return replace(made, root=root, signature=self.account.sign(signed))


@pytest.fixture
def group() -> Group:
    group = witnesses(4, 3)
    group.accept("a0", link(1.0))
    group.wait()
    return group


def test_a_log_shown_differently_to_two_peers_is_exposed_when_they_compare(group):
    forger = Forger(group)
    first, second = forger.record(link(2.0)), forger.record(link(3.0))
    group.ledgers["a1"].receive(msgspec.json.encode(first))
    group.ledgers["a2"].receive(msgspec.json.encode(second))
    group.wait()
    for name in ("a1", "a2", "a3", "secaas"):
        ledger = group.ledgers[name]
        proof = ledger.exposed[forger.account.address]
        assert {it.root for it in proof} == {first.root, second.root}
        for shown in proof:
            shown.check()  # both are signed by the liar: anybody can see it
        assert "has shown two logs" in ledger.status().reason
    before = len(group.seen)
    group.ledgers["a0"].submit(link(4.0))
    group.wait(60.0)
    assert len(group.seen) == before  # nothing that it says counts any more


def test_one_co_signature_more_than_liars_is_needed_to_confirm(group):
    """What was shown to one peer alone is not confirmed, though that peer signs it."""
    forger = Forger(group)
    group.node.hub._receivers = [group.ledgers["a1"].receive]
    group.ledgers["a1"].receive(msgspec.json.encode(forger.record(link(2.0))))
    group.wait(60.0)
    assert link(2.0) not in group.entries
    assert not any(it.entry == link(2.0) for it in group.ledgers["a1"]._recorded)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: replace(it, signature=bytes(65)),
        lambda it: replace(it, root="11" * 32),
        lambda it: replace(it, previous="11" * 32),
        lambda it: replace(it, time_s=1.0),
        lambda it: replace(it, entry=link(9.0)),
        lambda it: replace(it, author=Account(secret("a2")).address),
        lambda it: replace(it, index=-1),
        lambda it: replace(it, index=2**62),
    ],
)
def test_records_that_do_not_follow_or_are_not_signed_are_left_out(group, spoil):
    before = len(group.seen)
    spoilt = spoil(Forger(group).record(link(2.0)))
    for name in group.ledgers:
        group.ledgers[name].receive(msgspec.json.encode(spoilt))
    group.wait(30.0)
    assert len(group.seen) == before
    assert not any(ledger.exposed for ledger in group.ledgers.values())


@given(octets=st.binary(max_size=80), at=st.integers(0, 600), by=st.integers(1, 255))
def test_octets_that_are_no_message_change_nothing(octets, at, by):
    group = witnesses(2, 1)
    before = list(group.seen)
    message = bytearray(msgspec.json.encode(Forger(group).record(link(2.0))))
    message[at % len(message)] ^= by
    for said in (octets, bytes(message), b"[" * 5000, b"{" * 100_000):
        group.ledgers["a1"].receive(said)
    group.wait()
    assert group.seen == before
    assert group.ledgers["a1"].exposed == {}


def test_what_only_operators_may_record_is_not_told_of_others(group):
    forger = Forger(group)
    for name in group.ledgers:
        group.ledgers[name].receive(msgspec.json.encode(forger.record(Revoked("a1", "mine"))))
    group.wait(30.0)
    assert not any(isinstance(entry, Revoked) for entry in group.entries)
    for author, entry in (
        ("a0", Planned(1.0, 1)),
        ("a0", result("a1", "a2", 1)),
        ("stranger", link(1.0)),
    ):
        group.ledgers.setdefault("stranger", group.node.join(secret("stranger")))
        assert group.refuse(author, entry)


def test_an_entry_waits_for_its_witnesses_and_is_shown_again(group):
    hub = group.node.hub
    present, hub._receivers = hub._receivers, []
    answers: list[Any] = []
    group.ledgers["a0"].submit(link(2.0), answers.append)
    group.wait(60.0)
    assert (answers, group.ledgers["a0"].status().waiting) == ([], 1)
    hub._receivers = present
    group.wait(15.0)
    assert len(answers) == 1
    assert group.entries[-1] == link(2.0)


def test_who_comes_late_is_told_everything():
    group = witnesses()
    seen: list[RecordedEntry] = []
    late = group.node.join(secret("late"))
    late.follow(seen.append)
    group.wait()
    assert sorted(map(str, (it.entry for it in seen))) == sorted(map(str, group.entries))


def test_two_processes_meet_through_whatever_carries_octets():
    """Each process has a node of its own; a wire carries what one hub says to the other."""
    clock = VirtualClock()
    nodes = [open_ledger("witness:", clock) for _ in range(2)]
    assert all(isinstance(node, WitnessNode) for node in nodes)
    wire: list[bytes] = []
    ends = [node.hub.attach(wire.append) for node in nodes]
    operator = nodes[0].found(secret("secaas"), "secaas")
    nodes[1].operator = operator
    seen: list[RecordedEntry] = []
    nodes[1].join(secret("a0")).follow(seen.append)
    for _ in range(5):  # each hub hears of the other what came over the wire
        clock.run(until=clock.now() + 1.0)
        for octets in wire[:]:
            wire.remove(octets)
            for end in ends:
                end(octets)
    assert [it.author for it in seen] == [operator]


@pytest.mark.parametrize("url", ["witness:x", "witness:?witnesses=-1", "witness:?witnesses=x"])
def test_urls_that_are_wrong_are_refused(url):
    with pytest.raises(LedgerError):
        open_ledger(url, VirtualClock())
