"""A node that lies, fails or is rolled back: nothing is accepted, and one line says why."""

from __future__ import annotations

import copy
import json
import math
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_group import Group, digest, result, secret
from tests.nightly import examples

from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.ledger import Confirmed, Head, LedgerError, open_ledger
from phalanx.ledger import ethereum as eth
from phalanx.ledger.chain import METHODS, EmbeddedChain, RpcError
from phalanx.ledger.entries import KeyHandedOut, Planned, Revoked, RoundOpened
from phalanx.ledger.node import EmbeddedCarrier, EthereumNode

Forge = Callable[[str, Any], Any]
"""Makes another answer of a method's."""


class Liar(EmbeddedCarrier):
    """A node whose answers pass through a forger."""

    forge: Forge | None = None
    refuse: tuple[str, str] | None = None
    """A method, and what the node says instead of doing it."""

    def ask(self, method: str, params: list[Any], answered: Callable[[Any], None]) -> None:
        if self.refuse is not None and method == self.refuse[0]:
            self._clock.call_soon(partial(answered, RpcError(self.refuse[1])))
            return
        if self.forge is None:
            super().ask(method, params, answered)
            return
        try:
            result = self.forge(method, copy.deepcopy(self.chain.ask(method, params)))
        except LedgerError as error:
            result = error
        self._clock.call_soon(partial(answered, result))


def group_with_liar(path: str = "", count: int = 4) -> tuple[Group, Liar]:
    clock = VirtualClock()
    carrier = Liar(EmbeddedChain(clock, path), clock)
    node = EthereumNode("liar:", clock, carrier, {})
    return Group(count, clock=clock, node=node), carrier


def away(_method: str, _answer: Any) -> Any:
    raise LedgerError("the node cannot be reached: no route")


def poll(group: Group) -> None:
    group.node.poll()
    group.wait(4.0)


# -- stalled and away --------------------------------------------------------------------------


def test_a_ledger_that_is_away_holds_nobody_up_and_gets_everything_in_order_later():
    group, carrier = group_with_liar()
    group.verified()
    before = len(group.seen)
    carrier.forge = away
    answers: list[Any] = []
    plans = [Planned(float(n), 1) for n in range(5, 45)]
    for plan in plans:
        group.ledgers["secaas"].submit(plan, answers.append)
    group.wait(3600.0)
    status = group.ledgers["secaas"].status()
    assert (answers, len(group.seen), status.waiting) == ([], before, len(plans))
    assert status.reason == "the node cannot be reached: no route"
    assert status.age_s >= 3590.0
    carrier.forge = None
    group.wait(30.0)
    assert [type(it) for it in answers] == [Confirmed] * len(plans)
    assert group.entries[before:] == plans
    assert group.ledgers["secaas"].status().reason == ""


def test_a_transaction_that_a_node_forgot_is_sent_again():
    group, carrier = group_with_liar()
    group.verified()
    carrier.forge = lambda method, answer: (
        carrier.chain._pending.clear() or answer if method == "eth_sendRawTransaction" else answer
    )
    answers: list[Any] = []
    group.ledgers["secaas"].submit(Planned(7.0, 1), answers.append)
    group.wait(5.0)
    assert answers == []
    carrier.forge = None
    group.wait(15.0)
    assert [type(it) for it in answers] == [Confirmed]


def test_two_processes_that_use_one_account_do_not_lose_entries():
    clock = VirtualClock()
    chain = EmbeddedChain(clock)
    groups = [
        Group(
            1, clock=clock, node=EthereumNode("memory:", clock, EmbeddedCarrier(chain, clock), {})
        )
        for _ in range(2)
    ]
    clock.run(until=5.0)
    plans = [[Planned(float(10 * n + k), 1) for k in range(1, 8)] for n in (1, 2)]
    for group, some in zip(groups, plans, strict=True):
        for plan in some:
            group.ledgers["secaas"].submit(plan)
    clock.run(until=200.0)
    told = [entry for entry in groups[0].entries if isinstance(entry, Planned)]
    assert sorted(told, key=lambda it: it.period_s) == plans[0] + plans[1]


# -- rolled back and rewritten -----------------------------------------------------------------


def replace(group: Group, carrier: EmbeddedCarrier, path: Path) -> None:
    """Let the node serve another chain from now on."""
    carrier.chain.close()
    carrier.chain = EmbeddedChain(group.clock, str(path))
    carrier.chain.watch(group.node.poll)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Group, Liar, Path]]:
    """Give a group, and an older copy of its chain, from before ``a1`` was revoked."""
    group, carrier = group_with_liar(str(tmp_path / "chain.db"))
    group.verified()
    shutil.copy(tmp_path / "chain.db", tmp_path / "old.db")
    group.accept("secaas", Revoked("a1", "infected"))
    yield group, carrier, tmp_path / "old.db"
    carrier.close()


def test_an_older_snapshot_is_noticed_and_takes_nothing_back(kept):
    group, carrier, old = kept
    head = group.ledgers["a0"].status().head
    replace(group, carrier, old)
    poll(group)
    status = group.ledgers["a0"].status()
    assert "older than it was" in status.reason
    assert status.head == head
    assert group.gone == []


def test_a_ledger_that_was_rewritten_tells_what_is_gone(kept):
    group, carrier, old = kept
    revoked = group.seen[-1]
    group.ledgers["secaas"]._kept.clear()  # its author has forgotten it, too
    replace(group, carrier, old)
    poll(group)
    for n in range(3):  # another history grows over it
        carrier.chain.eth_sendRawTransaction(raw_transaction(group, carrier, "a3", n))
        group.wait(2.0)
    assert group.gone == [revoked]
    assert group.ledgers["a0"].status().reason == ""
    follower: list[Any] = []
    group.ledgers["a2"].follow(follower.append)
    group.wait()
    assert Revoked("a1", "infected", 2) not in [it.entry for it in follower]


def test_the_author_of_what_is_gone_sends_it_again(kept):
    group, carrier, old = kept
    revoked = group.seen[-1]
    replace(group, carrier, old)
    carrier.chain.eth_sendRawTransaction(raw_transaction(group, carrier, "a3", 0))
    group.wait(1.5)
    carrier.chain.eth_sendRawTransaction(raw_transaction(group, carrier, "a3", 1))
    group.wait(20.0)
    assert group.gone == [revoked]
    assert [it.entry for it in group.seen if it.entry == revoked.entry] == [revoked.entry] * 2


def raw_transaction(group: Group, carrier: EmbeddedCarrier, name: str, extra: int) -> str:
    """Return a transaction of an account that records nothing."""
    account = eth.Account(secret(name + "stranger"))
    nonce = int(carrier.chain.eth_getTransactionCount(account.address), 16)
    made = eth.Transaction(nonce, 0, 100_000, bytes(20), bytes([extra]))
    return "0x" + account.sign_transaction(made, group.node.chain).hex()


def test_two_peers_that_are_shown_different_ledgers_find_out_by_one_message(tmp_path):
    first, _ = group_with_liar()
    second, _ = group_with_liar()
    first.verified()
    second.verified()
    first.accept("secaas", Planned(20.0, 1))
    second.accept("secaas", Planned(30.0, 1))
    head = first.ledgers["a0"].status().head
    answers: list[Any] = []
    second.ledgers["a1"].compare(head, answers.append)
    first.ledgers["a1"].compare(head, answers.append)
    second.wait()
    first.wait()
    assert answers == [False, True]


def test_a_file_that_was_altered_is_not_opened(tmp_path):
    path = tmp_path / "chain.db"
    group = Group(url=f"evm:{path}").verified()
    group.node.close()
    octets = bytearray(path.read_bytes())
    refused = 0
    for at in range(4096, len(octets), 997):
        altered = octets.copy()
        altered[at] ^= 1
        other = tmp_path / "altered.db"
        other.write_bytes(altered)
        clock = VirtualClock()
        try:
            again = Group(url=f"evm:{other}", clock=clock)
        except LedgerError:
            refused += 1
        else:
            again.wait()
            assert again.seen == group.seen
            again.node.close()
    assert refused > 5


# -- answers that are none ---------------------------------------------------------------------

FIELDS = ["number", "hash", "parentHash", "timestamp", "address", "topics", "data", "blockNumber"]
FIELDS += ["blockHash", "transactionHash", "logIndex", "removed", "status", "revertReason"]
ODD = ["0x", "0x0", "0xzz", "-0x1", "0x" + "f" * 64, "0x" + "f" * 15, " 0x1", "0x1_0"]
_TEXTS = st.text(max_size=40) | st.sampled_from(ODD)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)
    ),
    max_leaves=12,
)


def mutate(data: st.DataObject, value: Any) -> Any:
    """Return a value of which some part is another one."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(value)))
        return {**value, name: mutate(data, value[name])}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case 2:
                return value[::-1]
        return [*value[:at], mutate(data, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and len(value) > 4 and data.draw(st.booleans()):
        at = data.draw(st.integers(2, len(value) - 1))
        return value[:at] + data.draw(st.sampled_from("0123456789abcdef")) + value[at + 1 :]
    return data.draw(_JSON)


def history() -> tuple[Group, Liar]:
    group, carrier = group_with_liar()
    group.verified()
    verifier = None
    group.open(1)
    verifier = group.elected("a1")[0]
    group.accept(verifier, result("a1", verifier, 1))
    return group, carrier


HONEST, SOURCE = history()


@settings(max_examples=examples(90))
@given(data=st.data())
def test_whatever_a_node_answers_nothing_false_is_accepted(data):
    """A reader of a node that lies sees the honest entries, fewer of them, or none: no others."""
    clock = VirtualClock()
    carrier = Liar(EmbeddedChain(clock), clock)
    carrier.chain = SOURCE.chain
    node = EthereumNode("liar:", clock, carrier, {"operator": HONEST.node.operator})
    ledger = node.join(secret("a0"))
    lies = data.draw(st.sets(st.sampled_from(sorted(METHODS)), min_size=1, max_size=3))
    carrier.forge = lambda method, answer: mutate(data, answer) if method in lies else answer
    seen: list[Any] = []
    ledger.follow(seen.append)
    answers: list[Any] = []
    ledger.submit(RoundOpened(2), answers.append)
    clock.run(until=3.0)
    status = ledger.status()
    assert "\n" not in status.reason
    assert len(status.reason) < 250
    told = [it.entry for it in seen]
    if "eth_getLogs" not in lies:  # what the contracts told is then what they told
        assert told == HONEST.entries[: len(told)]
    # Times and authors of a lying node are its own; entries of wrong form never come through.
    json.dumps([type(entry).__name__ for entry in told])
    assert not any(isinstance(answer, Confirmed) for answer in answers)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (lambda log: log | {"address": "0x" + "11" * 20}, "foreign"),
        (lambda log: log | {"removed": True}, "foreign"),
        (lambda log: log | {"blockNumber": "0xffff"}, "other blocks"),
        (lambda log: log | {"blockHash": "0x" + "11" * 32}, "contradicts itself"),
        (lambda log: log | {"logIndex": "0xfffff0000"}, "no number"),
        (lambda log: log | {"topics": log["topics"][:1]}, "do not have"),
        (lambda log: log | {"topics": ["0x" + "11" * 32, log["topics"][1]]}, "do not have"),
        (lambda log: log | {"topics": [log["topics"][0], "0x" + "11" * 32]}, "of nobody"),
        (lambda log: log | {"data": log["data"] + "00" * 32}, "not the values"),
        (lambda log: log | {"data": log["data"][:-64]}, "not the values"),
        (lambda log: log | {"data": "0x" + "ff" * 64}, "not the values"),
        (lambda log: log | {"data": "0x" + "00" * 20000}, "do not have"),
        (lambda log: {"data": 1}, "something else"),
        (lambda log: None, "something else"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_what_is_wrong(lie, said):
    group, carrier = group_with_liar()
    group.verified()
    before = len(group.seen)
    carrier.forge = lambda method, answer: (
        [lie(log) for log in answer] if method == "eth_getLogs" else answer
    )
    group.ledgers["secaas"].submit(Planned(20.0, 1))
    group.wait(5.0)
    assert len(group.seen) == before
    assert said in group.ledgers["a0"].status().reason
    carrier.forge = None
    group.wait(20.0)
    assert group.entries[before:] == [Planned(20.0, 1)]


def test_a_node_that_takes_an_entry_and_hides_it_confirms_nothing():
    group, carrier = group_with_liar()
    group.verified()
    carrier.forge = lambda method, answer: [] if method == "eth_getLogs" else answer
    answers: list[Any] = []
    group.ledgers["secaas"].submit(Planned(20.0, 1), answers.append)
    group.wait(60.0)
    assert answers == []
    assert "does not show it" in group.ledgers["secaas"].status().reason


def test_an_account_without_money_says_so_and_waits():
    group, carrier = group_with_liar()
    group.verified()

    carrier.refuse = ("eth_sendRawTransaction", "insufficient funds for gas * price + value")
    group.ledgers["a0"].submit(RoundOpened(1))
    group.wait(5.0)
    assert "insufficient funds" in group.ledgers["a0"].status().reason
    assert group.ledgers["a0"].status().waiting == 1


# -- what is on the ledger ---------------------------------------------------------------------


def test_no_secret_is_on_the_ledger_in_clear(tmp_path):
    """The overlay's secret, sealed for one agent, and the accounts' keys."""
    overlay = bytes.fromhex(digest("the overlay's secret"))
    own, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    shared = other.exchange(own.public_key())
    sealed = ChaCha20Poly1305(shared).encrypt(bytes(12), overlay, b"a1")
    group = Group(url=f"evm:{tmp_path / 'chain.db'}").verified()
    group.accept("secaas", KeyHandedOut("a1", 1, sealed, "secaas"))
    group.node.close()
    octets = (tmp_path / "chain.db").read_bytes()
    assert sealed in octets
    for held in [overlay, shared, *(secret(name) for name in group.ledgers)]:
        assert held not in octets
        assert held.hex().encode() not in octets


# -- over HTTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"id":1,"result":' + b"[" * 12,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b'HTTP/1.1 500 No\r\n\r\n{"id":9,"result":"0x1"}',
        b'HTTP/1.1 200 OK\r\n\r\n{"id":1,"error":{"message":"a\\nb\\u0000"}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"id":1,"error":[]}',
    ],
)
def test_octets_that_are_no_answer_are_one_line(octets):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    wire, _ = server.accept()
                    wire.recv(65536)
                    wire.sendall(octets)
                    wire.close()
            except OSError:
                pass

        Thread(target=serve, daemon=True).start()
        clock = WallClock()
        node = open_ledger(f"http://127.0.0.1:{server.getsockname()[1]}", clock)
        ledger = node.join(secret("a0"))
        clock.run(5.0, stop=lambda: bool(ledger.status().reason))
        reason = ledger.status().reason
        node.close()
        clock.close()
        server.shutdown(socket.SHUT_RDWR)
    assert reason
    assert reason.isprintable()
    assert len(reason) < 250


@given(method=st.sampled_from(sorted(METHODS)) | st.text(max_size=9), params=_JSON)
def test_the_embedded_chain_refuses_questions_that_are_none(method, params):
    with suppress(LedgerError):
        SOURCE.chain.ask(method, params if isinstance(params, list) else [params])


def test_heads_of_heights_that_cannot_be_are_not_compared():
    group, _ = group_with_liar()
    group.verified()
    answers: list[Any] = []
    for height in (-1, 2**70):
        group.ledgers["a0"].compare(Head(height, "0x"), answers.append)
    group.wait()
    assert answers == [None, None]
    assert math.isfinite(group.ledgers["a0"].status().age_s)


def test_an_entry_is_confirmed_once_so_many_blocks_are_behind_it():
    clock = VirtualClock()
    carrier = EmbeddedCarrier(EmbeddedChain(clock), clock)
    group = Group(clock=clock, node=EthereumNode("x:", clock, carrier, {"confirmations": "2"}))
    answers: list[Any] = []
    group.ledgers["secaas"].submit(Planned(5.0, 1), answers.append)
    for n in range(2, 5):
        group.wait(3.0)
        assert (len(group.seen), len(answers)) == ({2: 0, 3: 1, 4: 2}[n], int(n == 4))
        carrier.chain.eth_sendRawTransaction(raw_transaction(group, carrier, "a3", n))
    group.wait(3.0)
    assert group.entries[1] == Planned(5.0, 1)


# -- a real node that is rolled back -----------------------------------------------------------


@pytest.mark.processes
def test_a_real_node_that_is_rolled_back_is_found_out(anvil_url):
    clock = WallClock()
    group = Group(2, anvil_url, clock, salt="rolled back")
    asked: list[Any] = []
    group.accept("secaas", group.enrolment("a0"))
    group.node.carrier.ask("evm_snapshot", [], asked.append)
    group.wait(0.5)
    group.accept("secaas", group.enrolment("a1"))
    group.ledgers["secaas"]._kept.clear()  # its author will not send it again
    group.node.carrier.ask("evm_revert", [asked[0]], asked.append)
    group.wait(0.5)
    assert asked[1] is True
    assert "older than it was" in group.ledgers["a0"].status().reason
    group.node.carrier.ask("evm_mine", [], asked.append)
    group.wait(1.0)
    assert [it.entry.agent for it in group.gone] == ["a1"]
    assert group.ledgers["a0"].status().reason == ""
    group.accept("secaas", group.enrolment("a1"))
    group.node.close()
    clock.close()
