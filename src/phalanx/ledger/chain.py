"""The embedded chain: one machine that answers an Ethereum node's JSON-RPC, kept in SQLite.

Contracts run in revm. Blocks are made while transactions wait, an interval after the first of
them, so on virtual time the same input makes the same blocks to the octet. What is kept is the
signed transactions by block; a chain is opened by running them again, and each block's hash must
come out as it was.

It stands for a chain, and is none that several parties keep: who has its file can write another.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pyrevm
from msgspec import Struct

from phalanx.clock import Clock
from phalanx.ledger import LedgerError, abi
from phalanx.ledger import ethereum as eth
from phalanx.ledger.ethereum import Transaction, keccak, octets_of, rlp

CHAIN_ID = 7466
"""Of every embedded chain."""
GAS_LIMIT = 12_000_000
"""Of a transaction."""
LONGEST = 64 << 10
"""Octets of a transaction."""
_REVERT = bytes.fromhex("08c379a0")
_SCHEMA = (
    "create table if not exists blocks "
    "(number integer primary key, timestamp integer, hash blob, transactions blob)"
)


class RpcError(LedgerError):
    """A node answered that it does not do what it was asked."""


class Block(Struct, frozen=True):
    """A block of the embedded chain."""

    number: int
    hash: str
    parent: str
    timestamp: int
    entries: int = 0
    packed: bytes = b""
    """Its logs in a tenth of their octets: a chain of months stands in memory."""

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Return what contracts told in it, as ``eth_getLogs`` has it."""
        return msgspec.msgpack.decode(zlib.decompress(self.packed)) if self.entries else []


class _Receipt(Struct, frozen=True):
    number: int
    status: str
    gas_used: str
    made: str | None
    revert: str


class EmbeddedChain:
    """A chain in this process. ``ask`` answers at once; blocks come by calls of the clock."""

    def __init__(self, clock: Clock, path: str = "", interval_s: float = 1.0) -> None:
        """Open the chain, or begin it.

        Args:
            clock: its seconds are those of the blocks.
            path: SQLite file that keeps it; empty: nothing does.
            interval_s: how long a block waits for more transactions, in seconds.

        Raises:
            LedgerError: if the file cannot be used, or was altered.

        """
        self._clock = clock
        self._interval = interval_s
        self._listeners: list[Callable[[], None]] = []
        self._evm = pyrevm.EVM(spec_id="MERGE")
        self._pending: dict[str, tuple[bytes, Transaction, str]] = {}
        self._nonces: dict[str, int] = {}
        self._receipts: dict[str, _Receipt] = {}
        self._blocks = [Block(0, "0x" + bytes(32).hex(), "0x" + bytes(32).hex(), 0)]
        self.founder = ""
        """Account that made the first contract; empty: there is none."""
        self._closed = False
        self._file: sqlite3.Connection | None = None
        if path:
            try:
                self._file = sqlite3.connect(path, timeout=1.0, isolation_level=None)
                self._file.execute("pragma locking_mode=exclusive")
                self._file.execute("begin exclusive")
                self._file.execute(_SCHEMA)
                self._file.execute("commit")
                self._reopen(self._file)
            except (sqlite3.Error, LedgerError) as error:
                self.close()
                raise LedgerError(f"the file of the ledger cannot be used: {error}") from None
        # A clock that begins anew does not take the chain's time back.
        self._zero = max(0, self._blocks[-1].timestamp - int(clock.now()))

    @property
    def height(self) -> int:
        """Number of the latest block."""
        return self._blocks[-1].number

    def watch(self, made: Callable[[], None]) -> None:
        """Call ``made`` after each block."""
        self._listeners.append(made)

    def close(self) -> None:
        """Make no more blocks, and let the file go."""
        self._closed = True
        if self._file is not None:
            self._file.close()

    def ask(self, method: str, params: list[Any]) -> Any:
        """Return the result of a JSON-RPC method.

        Raises:
            RpcError: if the node refuses it.

        """
        if method not in METHODS:
            raise RpcError(f"the method {method[:40]!r} does not exist")
        try:
            return getattr(self, method)(*params)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError):
            raise RpcError(f"invalid params of {method}") from None

    # -- methods -------------------------------------------------------------------------------

    def eth_chainId(self) -> str:  # noqa: N802
        """Return the number of the chain."""
        return hex(CHAIN_ID)

    def eth_gasPrice(self) -> str:  # noqa: N802
        """Return what gas costs: nothing."""
        return "0x0"

    def eth_getTransactionCount(self, account: str, tag: str = "latest") -> str:  # noqa: N802
        """Return how many transactions an account has sent."""
        known = self._nonces.get(account.lower(), 0)
        if tag == "pending":
            known += sum(sender == account.lower() for _, _, sender in self._pending.values())
        return hex(known)

    def eth_sendRawTransaction(self, text: str) -> str:  # noqa: N802
        """Take a signed transaction for the next block; return its hash."""
        raw = octets_of(text)
        if len(raw) > LONGEST:
            raise RpcError("oversized data")
        tx, sender = eth.read_transaction(raw, CHAIN_ID)
        name = "0x" + keccak(raw).hex()
        if name in self._pending or name in self._receipts:
            raise RpcError("already known")
        due = int(self.eth_getTransactionCount(sender, "pending"), 16)
        if tx.nonce != due:
            raise RpcError("nonce too low" if tx.nonce < due else "nonce too high")
        if tx.gas > GAS_LIMIT:
            raise RpcError("exceeds block gas limit")
        if not self._pending:
            self._clock.call_at(self._clock.now() + self._interval, self._make)
        self._pending[name] = raw, tx, sender
        return name

    def eth_getTransactionReceipt(self, name: str) -> dict[str, Any] | None:  # noqa: N802
        """Return what became of a transaction; None: no block has it."""
        it = self._receipts.get(name)
        if it is None:
            return None
        return {
            "transactionHash": name,
            "blockNumber": hex(it.number),
            "blockHash": self._blocks[it.number].hash,
            "status": it.status,
            "gasUsed": it.gas_used,
            "contractAddress": it.made,
            "revertReason": it.revert,
        }

    def eth_getBlockByNumber(self, tag: str, _: bool = False) -> dict[str, Any] | None:  # noqa: N802
        """Return a block by its number or ``latest``; None: there is none."""
        number = self.height if tag == "latest" else int(tag, 16)
        if not 0 <= number <= self.height:
            return None
        it = self._blocks[number]
        return {
            "number": hex(number),
            "hash": it.hash,
            "parentHash": it.parent,
            "timestamp": hex(it.timestamp),
        }

    def eth_getLogs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        """Return what contracts told in some blocks."""
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        addresses = {address.lower() for address in wanted["address"]}
        blocks = self._blocks[max(first, 0) : last + 1]
        return [log for block in blocks for log in block.logs if log["address"] in addresses]

    def eth_getCode(self, address: str, _tag: str = "latest") -> str:  # noqa: N802
        """Return a contract's code."""
        code = self._evm.basic(address).code or b""
        return "0x" + code.rstrip(b"\0").hex()

    def eth_call(self, call: dict[str, str], _tag: str = "latest") -> str:
        """Return what a view function of a contract says."""
        try:
            octets = self._evm.message_call(
                call.get("from", "0x" + bytes(20).hex()),
                call["to"],
                calldata=octets_of(call["data"]),
                gas=GAS_LIMIT,
                is_static=True,
            )
        except RuntimeError as error:
            revert = _revert(str(error))
            raise RpcError(f"execution reverted: {reason_of(revert)}") from None
        return "0x" + bytes(octets).hex()

    # -- blocks --------------------------------------------------------------------------------

    def _make(self) -> None:
        if self._closed:
            return
        pending, self._pending = list(self._pending.values()), {}
        timestamp = max(self._blocks[-1].timestamp, self._zero + int(self._clock.now()))
        raws = [raw for raw, _, _ in pending]
        block = self._run(timestamp, raws, [(tx, sender) for _, tx, sender in pending])
        if self._file is not None:
            row = (block.number, timestamp, octets_of(block.hash), msgspec.msgpack.encode(raws))
            self._file.execute("insert into blocks values (?, ?, ?, ?)", row)
        for made in self._listeners:
            self._clock.call_soon(made)

    def _run(
        self, timestamp: int, raws: list[bytes], pending: list[tuple[Transaction, str]]
    ) -> Block:
        """Run the transactions of the next block, and return it."""
        parent, number = self._blocks[-1].hash, self.height + 1
        digest = keccak(rlp([octets_of(parent), number, timestamp, keccak(rlp(raws))]))
        name = "0x" + digest.hex()
        # What no sender of these transactions could know stands for the beacon's randomness.
        drawn = keccak(b"randomness" + octets_of(parent))
        self._evm.set_block_env(
            pyrevm.BlockEnv(number=number, timestamp=timestamp, prevrandao=drawn, gas_limit=2**62)
        )
        logs: list[dict[str, Any]] = []
        for raw, (tx, sender) in zip(raws, pending, strict=True):
            here = "0x" + keccak(raw).hex()
            self._receipts[here], events = self._execute(number, tx, sender)
            for address, topics, data in events:
                logs.append(
                    {
                        "address": address.lower(),
                        "topics": topics,
                        "data": data,
                        "blockNumber": hex(number),
                        "blockHash": name,
                        "transactionHash": here,
                        "logIndex": hex(len(logs)),
                    }
                )
        packed = zlib.compress(msgspec.msgpack.encode(logs), 1)
        block = Block(number, name, parent, timestamp, len(logs), packed)
        self._blocks.append(block)
        return block

    def _execute(
        self, number: int, tx: Transaction, sender: str
    ) -> tuple[_Receipt, list[tuple[str, list[str], str]]]:
        """Run one transaction; return its receipt, and address, topics and data of its events."""
        nonce = self._nonces.get(sender, 0)
        self._nonces[sender] = nonce + 1
        made, revert = None, ""
        try:
            if tx.to:
                to = "0x" + tx.to.hex()
                self._evm.message_call(sender, to, calldata=tx.data, gas=tx.gas)
            else:
                made = self._deploy(sender, nonce, tx)
        except RuntimeError as error:
            revert = _revert(str(error))
        result = self._evm.result
        logs = [] if revert or result is None else result.logs
        gas_used = hex(tx.gas if result is None else result.gas_used)
        receipt = _Receipt(number, "0x0" if revert else "0x1", gas_used, made, revert)
        return receipt, [(it.address, it.topics, "0x" + it.data[1].hex()) for it in logs]

    def _deploy(self, sender: str, nonce: int, tx: Transaction) -> str:
        """Make a contract; revm counts a nonce of its own, which is the accounts' here."""
        self._evm.insert_account_info(sender, pyrevm.AccountInfo(nonce=nonce))
        self._evm.deploy(sender, tx.data, gas=tx.gas)
        self.founder = self.founder or sender
        return eth.contract_address(sender, nonce)

    def _reopen(self, file: sqlite3.Connection) -> None:
        rows = file.execute("select number, timestamp, hash, transactions from blocks order by 1")
        for number, timestamp, digest, octets in rows:
            try:
                raws = msgspec.msgpack.decode(octets, type=list[bytes])
                pending = [eth.read_transaction(raw, CHAIN_ID) for raw in raws]
                sound = number == self.height + 1
                sound = sound and octets_of(self._run(timestamp, raws, pending).hash) == digest
            except (msgspec.MsgspecError, LedgerError):
                sound = False
            if not sound:
                raise LedgerError(f"it was altered at block {number}")


def _revert(text: str) -> str:
    """Return the octets that a contract reverted with, from what revm says of it."""
    return "0x" + text.partition("output: 0x")[2].partition(" ")[0]


def reason_of(octets: str) -> str:
    """Return the reason that a contract gave for a revert, from the octets of it in hexadecimal."""
    try:
        held = octets_of(octets)
        if held[:4] == _REVERT:
            return eth.one_line(abi.decode(["string"], held[4:])[0])
    except LedgerError:
        pass
    return "the contracts forbid it"


METHODS = {name for name in vars(EmbeddedChain) if name.startswith("eth_")}
"""Methods of JSON-RPC that the embedded chain has."""
