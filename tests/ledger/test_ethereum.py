"""Ethereum's formats, held against the libraries that define them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_group import secret

from phalanx.ledger import LedgerError
from phalanx.ledger.abi import decode, encode
from phalanx.ledger.ethereum import (
    Account,
    Transaction,
    contract_address,
    fields_of,
    keccak,
    one_line,
    read_transaction,
    rlp,
    signer,
)

# One of its libraries lets every later test of the process recurse until the stack is full.
LIMIT = sys.getrecursionlimit()
sys.setrecursionlimit(LIMIT)

SECRETS = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))
TRANSACTIONS = st.builds(
    Transaction,
    nonce=st.integers(0, 2**40),
    gas_price=st.integers(0, 2**50),
    gas=st.integers(21_000, 2**32),
    to=st.binary(min_size=20, max_size=20),
    data=st.binary(max_size=300),
)


@pytest.fixture(scope="module")
def reference():
    """Return what signs beside us; its import takes half a second, and raises a limit of calls."""
    limit = sys.getrecursionlimit()
    signer = import_module("eth_account").Account
    sys.setrecursionlimit(limit)
    return signer


@given(held=SECRETS, it=TRANSACTIONS, chain=st.integers(1, 2**31))
def test_transactions_are_signed_as_eth_account_signs_them(reference, held, it, chain):
    account = Account(held)
    wanted = {"nonce": it.nonce, "gasPrice": it.gas_price, "gas": it.gas, "value": 0}
    wanted |= {"to": it.to, "data": it.data, "chainId": chain}
    raw = account.sign_transaction(it, chain)
    assert raw == bytes(reference.sign_transaction(wanted, held).raw_transaction)
    assert account.address == reference.from_key(held).address.lower()
    assert read_transaction(raw, chain) == (it, account.address)


@given(it=TRANSACTIONS, at=st.integers(0, 10_000), by=st.integers(1, 255))
def test_a_transaction_of_which_an_octet_was_altered_is_not_its_signers(it, at, by):
    account = Account(secret("a0"))
    raw = bytearray(account.sign_transaction(it, 5))
    raw[at % len(raw)] ^= by
    try:
        _, sender = read_transaction(bytes(raw), 5)
    except LedgerError:
        return
    assert sender != account.address


@given(st.binary(max_size=200))
def test_octets_that_are_no_transaction_are_refused(octets):
    with pytest.raises(LedgerError):
        read_transaction(octets, 5)


@given(st.lists(st.binary(max_size=80), max_size=12))
def test_lists_of_octets_are_read_as_they_were_written(fields):
    assert fields_of(rlp(fields)) == fields


@given(st.binary(max_size=60))
def test_one_list_has_one_encoding(octets):
    try:
        fields = fields_of(octets)
    except LedgerError:
        return
    assert rlp(fields) == octets


def test_a_list_that_says_it_is_huge_is_refused_at_once():
    for octets in (b"\xff" * 9, b"\xfb\xff\xff\xff\xff" + bytes(9), b"\xc9\xbf" + b"\xff" * 8):
        with pytest.raises(LedgerError):
            fields_of(octets)


@given(st.binary(max_size=400))
def test_values_have_one_encoding(octets):
    kinds = ["(string,uint64,bytes32,(string,string)[])"]
    try:
        values = decode(kinds, octets)
    except LedgerError:
        return
    assert encode(kinds, values) == octets


def test_known_values():
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    # The contract that the first account of every development node makes first.
    account = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    assert contract_address(account, 0) == "0x5fbdb2315678afecb367f032d93f642f64180aa3"


@given(st.binary(max_size=70))
def test_signatures_of_nobody_are_refused_or_of_another(octets):
    with suppress(LedgerError):
        assert signer(keccak(b"x"), octets) != Account(secret("a0")).address


@given(st.text())
def test_what_a_node_says_is_one_printable_line(text):
    assert one_line(text).isprintable()


@pytest.mark.parametrize("command", ["import phalanx", "import phalanx.ledger, phalanx.cli.ledger"])
def test_nothing_of_ethereum_is_imported_before_a_ledger_is_opened(command):
    names = "{'pyrevm', 'coincurve', 'eth_abi', 'Crypto'}"
    look = f"import sys; {command}; print({names} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
