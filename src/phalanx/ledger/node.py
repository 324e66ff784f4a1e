"""The ledger on an Ethereum chain, by the JSON-RPC that every node speaks.

One reader for a process follows the chain and checks what the node says; each account has a queue
of its own that signs, sends, and sends again. Both ask through a carrier, HTTP or the embedded
chain, and are generators that yield a question and are sent its answer, so nothing here waits.

What a node answers is checked against its form, and against what it answered before. Nothing is
recorded of an answer that fails: the status says why in one line, and it is asked again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator
from functools import cache, partial
from importlib.resources import files
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Struct, structs

from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.trust import AttestationResult, Deviation, TrustTier
from phalanx.ledger import (
    Checkpoint,
    Confirmed,
    Head,
    LedgerError,
    LedgerStatus,
    RecordedEntry,
    Refused,
    abi,
)
from phalanx.ledger import entries as kinds
from phalanx.ledger import ethereum as eth
from phalanx.ledger.chain import EmbeddedChain, RpcError, reason_of
from phalanx.ledger.entries import Address, Entry

GAS = 5_000_000
"""Of a transaction: an election among 1,000 agents takes about half."""
DEPLOY_GAS = 9_000_000
LONGEST = 8 << 10
"""Octets of an entry."""
LONGEST_LOG = 16 << 10
"""Octets of what a node says that an entry is."""
WINDOW = 16
"""Transactions of an account that are under way at once."""
AGAIN_S = 10.0
"""After which a transaction that no block has is sent again, in seconds."""
PAUSE_S = 2.0
"""Before a node that failed is asked again, in seconds."""
SPAN = 1_000
"""Blocks whose entries are asked for at once."""
REMEMBERED = 256
"""Blocks whose hashes are kept, to see that they are still there."""
_BLOCK = 1 << 20
"""Positions of a block."""
_MILLION = 1_000_000

T = TypeVar("T")
Answered = Callable[[Any], None]
"""Takes an answer: of a node, a result or a LedgerError."""


class Carrier(Protocol):
    """What brings questions to a node."""

    def ask(self, method: str, params: list[Any], answered: Answered) -> None:
        """Ask; ``answered`` is called once, in a call of the clock."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` when there may be a new block, until closed."""

    def close(self) -> None:
        """End; nothing is answered any more."""


class EmbeddedCarrier:
    """Asks the embedded chain in this process."""

    def __init__(self, chain: EmbeddedChain, clock: Clock) -> None:
        self.chain = chain
        self._clock = clock

    def ask(self, method: str, params: list[Any], answered: Answered) -> None:
        """Ask the chain; the answer comes soon."""
        try:
            result = self.chain.ask(method, params)
        except LedgerError as error:
            result = error
        self._clock.call_soon(partial(answered, result))

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each block, and once at the start."""
        self.chain.watch(changed)
        self._clock.call_soon(changed)

    def close(self) -> None:
        """Let the chain go."""
        self.chain.close()


# -- entries and what the contracts take and tell ------------------------------------------


class _Form(Struct, frozen=True):
    """How an entry travels."""

    contract: str
    selector: str
    """Of the function that takes it."""
    topic: str
    """Of the event that tells it."""
    fields: tuple[str, ...]
    """Types of its fields."""

    @property
    def whole(self) -> str:
        """Type of all of it."""
        return f"({','.join(self.fields)})"


class _Artefacts(Struct, frozen=True):
    bytecode: str
    forms: dict[str, _Form]


@cache
def _artefacts() -> _Artefacts:
    """Read what ``scripts/contracts.py`` wrote."""
    octets = files("phalanx.ledger").joinpath("contracts.json").read_bytes()
    return msgspec.json.decode(octets, type=_Artefacts)


@cache
def _entry_types() -> dict[str, type]:
    """Return the kinds of entries by the topic of their events."""
    return {form.topic: getattr(kinds, name) for name, form in _artefacts().forms.items()}


@cache
def _types(held: type[Struct]) -> tuple[Any, ...]:
    """Return the types of a struct's fields, which msgspec works out anew each time."""
    return tuple(field.type for field in structs.fields(held))


_TIERS = list(TrustTier)


def _outward(kind: str, value: Any) -> Any:
    """Return a field's value as the contracts take it.

    Raises:
        ValueError: if they cannot.

    """
    match value:
        case TrustTier():
            return _TIERS.index(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is no number that a ledger can keep")
            return round(value * _MILLION)
        case str() if kind == "bytes32":
            octets = bytes.fromhex(value or bytes(32).hex())
            if len(octets) != 32:
                raise ValueError(f"{value[:70]!r} is no digest")
            return octets
        case str() if kind == "bytes":
            return bytes.fromhex(value)
        case tuple():
            return [structs.astuple(item) for item in value]
    return value


def _inward(kind: str, wanted: Any, value: Any) -> Any:
    """Return a field's value as the entry has it, of a type that ``wanted`` names."""
    if wanted is TrustTier:
        return _TIERS[value]
    if wanted is float:
        return value / _MILLION
    if wanted is str and kind == "bytes32":
        return value.hex() if any(value) else ""
    if wanted is str and kind == "bytes":
        return value.hex()
    if kind.endswith("[]"):
        return tuple(Deviation(*item) for item in value)
    return value


def calldata(entry: Entry) -> bytes:
    """Return the data of the transaction that records an entry.

    Raises:
        LedgerError: if no chain can keep it, in one line for whoever submitted it.

    """
    form = _artefacts().forms.get(type(entry).__name__)
    if form is None:
        raise LedgerError(f"a chain records no {type(entry).__name__}")
    held = entry.result if isinstance(entry, kinds.Attested) else entry
    try:
        values = [
            _outward(kind, float(value) if wanted is float else value)
            for kind, wanted, value in zip(
                form.fields, _types(type(held)), structs.astuple(held), strict=True
            )
        ]
        octets = bytes.fromhex(form.selector) + abi.encode([form.whole], [values])
    except (ValueError, TypeError, AttributeError, LedgerError) as error:
        raise LedgerError(f"no {type(entry).__name__} that can be recorded: {error}") from None
    if len(octets) > LONGEST:
        raise LedgerError(f"an entry takes {LONGEST} octets at most, and this one {len(octets)}")
    return octets


def entry_of(topics: list[str], data: bytes) -> tuple[Entry, Address]:
    """Return the entry that an event of the contracts holds, and the account that signed it.

    Raises:
        LedgerError: if it is none.

    """
    entry = _entry_types().get(topics[0]) if len(topics) == 2 else None
    if entry is None or len(data) > LONGEST_LOG:
        raise LedgerError("the node answered with an event that the contracts do not have")
    form = _artefacts().forms[entry.__name__]
    values = abi.decode([form.whole], data)[0]
    made = AttestationResult if entry is kinds.Attested else entry
    try:
        held = made(*map(_inward, form.fields, _types(made), values))
        # Such as the kinds of faults: what a contract lets through is still checked.
        msgspec.convert(held, made)
    except (IndexError, msgspec.ValidationError):
        raise LedgerError("the node answered with an entry of wrong values") from None
    author = eth.octets_of(topics[1])
    if len(author) != 32 or any(author[:12]):
        raise LedgerError("the node answered with an entry of nobody")
    return (entry(held) if made is not entry else held), "0x" + author[12:].hex()


# -- the node ------------------------------------------------------------------------------


class _BlockSeen(Struct):
    number: str
    hash: str
    parentHash: str  # noqa: N815
    timestamp: str


class _LogSeen(Struct):
    address: str
    topics: list[str]
    data: str
    blockNumber: str  # noqa: N815
    blockHash: str  # noqa: N815
    transactionHash: str  # noqa: N815
    logIndex: str  # noqa: N815
    removed: bool = False


class _ReceiptSeen(Struct):
    transactionHash: str  # noqa: N815
    blockNumber: str  # noqa: N815
    status: str
    revertReason: str | None = None  # noqa: N815


class _Question(Struct, frozen=True):
    method: str
    params: list[Any]
    type: Any


_Steps = Generator[_Question, Any, None]


def _number(text: str, most: int = 2**32) -> int:
    """Return a number of a node's answer."""
    try:
        number = int(text, 16) if text.startswith("0x") and len(text) <= 18 else -1
    except ValueError:
        number = -1
    if not 0 <= number < most:
        raise LedgerError(f"the node answered {text[:20]!r}, which is no number in its place")
    return number


class EthereumNode:
    """Implements ``LedgerNode`` over a carrier."""

    def __init__(self, url: str, clock: Clock, carrier: Carrier, options: dict[str, str]) -> None:
        """Follow the chain that the carrier leads to.

        Args:
            url: as the status shows it.
            clock: makes all calls.
            carrier: brings questions to the node.
            options: ``operator``, ``confirmations`` and ``gas_price``.

        Raises:
            LedgerError: if an option is wrong.

        """
        self.url = url
        self.clock = clock
        self.carrier = carrier
        _artefacts()  # now: what a process loads later looks new to whoever measures it
        self.operator: Address | None = None
        if "operator" in options:
            self._of(options["operator"].lower())
        self._depth = count_of(options, "confirmations", 0)
        self.ready = False
        """Whether the contracts are there."""
        self.chain = 0
        self.gas_price = count_of(options, "gas_price", -1)
        self.answered: float | None = None
        self.trouble = ""
        self.blocks: list[Head] = []
        """Blocks whose hashes are known, the latest last; beyond it nothing is confirmed."""
        self.recorded: list[RecordedEntry] = []
        self.awaited: dict[str, RecordedEntry | None] = {}
        """What became of transactions that an account here waits for, by hash."""
        self.accounts: list[EthereumLedger] = []
        self._followers: list[Follower] = []
        self._base: Checkpoint | None = None
        """What stands up to there was not read."""
        self._sure = True
        """Whether the ledger has the base's head."""
        self._reading = self._changed = self._closed = False
        carrier.watch(self.poll)

    # -- LedgerNode --------------------------------------------------------------------

    def found(self, secret: bytes, name: AgentId) -> Address:
        """Make the contracts with the operator's first transaction, unless they are there."""
        account = eth.Account(secret)
        if self.operator not in (None, account.address):
            raise LedgerError("another operator has founded this ledger")
        self._of(account.address)
        data = bytes.fromhex(_artefacts().bytecode) + abi.encode(["string"], [name])
        self.join(secret).deploy(data)
        self.poll()
        return account.address

    def join(self, secret: bytes) -> EthereumLedger:
        """Return the ledger for an account."""
        account = eth.Account(secret)
        for ledger in self.accounts:
            if ledger.account == account.address:
                return ledger
        self.accounts.append(EthereumLedger(self, account))
        return self.accounts[-1]

    def resume(self, since: Checkpoint) -> None:
        """Read what comes after a checkpoint alone, if the ledger still has its head."""
        if since.ledger == self.operator and not self.blocks:
            self.blocks, self._base, self._sure = [since.head], since, False

    def close(self) -> None:
        """End all."""
        self._closed = True
        self.carrier.close()

    # -- what accounts use -------------------------------------------------------------

    def run(self, steps: _Steps, done: Callable[[LedgerError | None], None]) -> None:
        """Ask what ``steps`` yield, one question after the other, and say how it ended."""

        def step(answer: Any) -> None:
            if self._closed:
                return
            try:
                asked = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
            except StopIteration:
                done(None)
            except LedgerError as error:
                done(error)
            else:
                self.carrier.ask(asked.method, asked.params, partial(check, asked))

        def check(asked: _Question, answer: Any) -> None:
            if not isinstance(answer, LedgerError):
                try:
                    answer = msgspec.convert(answer, asked.type)
                    self.answered = self.clock.now()
                except (msgspec.ValidationError, RecursionError):
                    answer = LedgerError(f"the node answered {asked.method} with something else")
            step(answer)

        step(None)

    def note(self, trouble: str) -> None:
        """Keep what is wrong for the status; the accounts and the reader go on."""
        self.trouble = trouble

    def address(self, *, of_keys: bool) -> str:
        """Return the address of a contract, which follows from the operator's account."""
        assert self.operator is not None
        attestation = eth.contract_address(self.operator, 0)
        return eth.contract_address(attestation, 1) if of_keys else attestation

    @property
    def head(self) -> Head | None:
        """The latest block that is read."""
        return self.blocks[-1] if self.blocks else None

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Tell a follower what is recorded, and what will be."""
        since, base = follower.since, self._base
        known = since is not None and since.ledger == self.operator
        known = known and (since == base or since.head in self.blocks)  # type: ignore[union-attr]
        if base is not None and not known:
            raise LedgerError("this process reads the ledger from a later entry on")
        self._followers.append(follower)
        if since is not None and not known:
            self.clock.call_soon(follower.restart)
        self.clock.call_soon(partial(self._tell, [follower]))
        return partial(self._leave, follower)

    def _leave(self, follower: Follower) -> None:
        follower.end()
        self._followers = [it for it in self._followers if it is not follower]

    def checkpoint(self) -> Checkpoint | None:
        """Return how far all followers were told."""
        told = all(it.is_through(self.recorded) for it in self._followers)
        if self.operator is None or not (self.blocks and self._sure and told):
            return None
        last = self.recorded[-1] if self.recorded else self._base
        return Checkpoint(self.operator, self.blocks[-1], last.position if last else -1)

    def _tell(self, followers: list[Follower]) -> None:
        if self._sure:
            for follower in followers:
                follower.tell(self.recorded)

    def poll(self) -> None:
        """Read what is new."""
        self._changed = True
        if not self._reading and not self._closed:
            self._reading, self._changed = True, False
            self.run(self._read(), self._read_done)

    # -- reading -----------------------------------------------------------------------

    def _of(self, operator: Address) -> None:
        if len(eth.octets_of(operator)) != 20:
            raise LedgerError(f"operator={operator[:50]} is no account")
        self.operator = operator

    def _read_done(self, error: LedgerError | None) -> None:
        self._reading = False
        if error is not None:
            self.note(str(error))
            self.clock.call_at(self.clock.now() + PAUSE_S, self.poll)
        for ledger in self.accounts:
            ledger.pump()
        if self._changed and error is None:
            self.poll()

    def _read(self) -> _Steps:
        if not self.chain:
            chain = _number((yield _Question("eth_chainId", [], str)), 2**53)
            if self.gas_price < 0:
                self.gas_price = 2 * _number((yield _Question("eth_gasPrice", [], str)), 2**60)
            self.chain = chain
        if self.operator is None:
            self.note("nobody has founded the ledger here, and its URL names no operator")
            return
        if not self.ready:
            address = self.address(of_keys=False)
            code = yield _Question("eth_getCode", [address, "latest"], str)
            self.ready = len(code) > 2
        latest = yield _Question("eth_getBlockByNumber", ["latest", False], _BlockSeen)
        height = _number(latest.number) - self._depth
        if height < 0:
            return
        # What was read before must still be there: the newest block that the node can have.
        trouble = "" if self.ready else "the contracts are not there yet"
        while self.blocks:
            known = next((it for it in reversed(self.blocks) if it.height <= height), None)
            if known is None:
                break
            now = yield _Question("eth_getBlockByNumber", [hex(known.height), False], _BlockSeen)
            if now.hash == known.hash:
                break
            self._rewind(known)
        if self.blocks and self.blocks[-1].height > height:
            trouble = (
                f"the ledger is older than it was: block {self.blocks[-1].height} was seen, "
                f"and the latest is now {height}"
            )
        if not (trouble or self._sure):
            self._sure = True
            self._tell(self._followers)
        while not trouble and (self.blocks[-1].height if self.blocks else -1) < height:
            yield from self._read_span(self.blocks[-1].height + 1 if self.blocks else 0, height)
        self.note(trouble)

    def _read_span(self, first: int, height: int) -> _Steps:
        """Read some blocks; nothing of them is told before all of it was checked."""
        last = min(height, first + SPAN - 1)
        addresses = [self.address(of_keys=False), self.address(of_keys=True)]
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": addresses}
        logs = yield _Question("eth_getLogs", [asked], list[_LogSeen])
        before: _BlockSeen | None = None
        found: list[tuple[RecordedEntry, str]] = []
        position = first * _BLOCK - 1
        for log in logs:
            number = _number(log.blockNumber)
            if before is None or before.hash != log.blockHash:
                if not first <= number <= last:
                    raise LedgerError("the node answered with entries of other blocks")
                before = yield _Question("eth_getBlockByNumber", [hex(number), False], _BlockSeen)
                if before.hash != log.blockHash or _number(before.number) != number:
                    raise LedgerError("the node contradicts itself about a block")
            place = number * _BLOCK + _number(log.logIndex, _BLOCK)
            if place <= position or log.removed or log.address.lower() not in addresses:
                raise LedgerError("the node answered with entries that are out of order or foreign")
            position = place
            entry, author = entry_of(log.topics, eth.octets_of(log.data))
            at_s = float(_number(before.timestamp, 2**53))
            found.append(
                (RecordedEntry(position, at_s, author, entry), log.transactionHash.lower())
            )
        end = yield _Question("eth_getBlockByNumber", [hex(last), False], _BlockSeen)
        if _number(end.number) != last or (
            before is not None and before.number == end.number and before.hash != end.hash
        ):
            raise LedgerError("the node contradicts itself about a block")
        self.blocks.append(Head(last, end.hash))
        del self.blocks[:-REMEMBERED]
        self.recorded += [recorded for recorded, _ in found]
        self._tell(self._followers)
        # Whoever submitted an entry is answered once it was told.
        for recorded, transaction in found:
            if self.awaited.get(transaction, recorded) is None:
                self.awaited[transaction] = recorded

    def _rewind(self, known: Head) -> None:
        """Forget a block that is no longer there, and tell what was in it or after it."""
        self.blocks = [it for it in self.blocks if it.height < known.height]
        kept = (self.blocks[-1].height + 1) * _BLOCK if self.blocks else 0
        while self.recorded and self.recorded[-1].position >= kept:
            recorded = self.recorded.pop()
            for follower in self._followers:
                follower.lose(recorded, len(self.recorded))
        if not self.blocks:
            self._base, self._sure = None, True
        for follower in self._followers:
            since = follower.since
            if since is not None and (not self.blocks or since.head.height >= known.height):
                follower.restart()
        for ledger in self.accounts:
            ledger.rewritten()


class Follower:
    """Tells one who follows each entry once."""

    def __init__(
        self,
        seen: Callable[[RecordedEntry], None],
        gone: Callable[[RecordedEntry], None],
        since: Checkpoint | None = None,
        begins: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._seen = seen
        self._gone = gone
        self.since = since
        """After which it is told; None: all."""
        self._begins = begins
        self._began = since is None
        self._told = 0
        self._ended = False

    def end(self) -> None:
        """Tell nothing more."""
        self._ended = True

    def tell(self, recorded: list[RecordedEntry]) -> None:
        """Tell what is new."""
        if not self._began and self.since is not None and not self._ended:
            self._began = True
            self._told = bisect_right(recorded, self.since.position, key=lambda it: it.position)
            self._begins(True)
        while self._told < len(recorded) and not self._ended:
            self._told += 1
            self._seen(recorded[self._told - 1])

    def is_through(self, recorded: list[RecordedEntry]) -> bool:
        """Whether it was told all of that, or is told nothing more."""
        return self._ended or (self._began and self._told == len(recorded))

    def restart(self) -> None:
        """Tell everything from the beginning: the ledger is not the one of its checkpoint."""
        self.since, self._began, self._told = None, True, 0
        if not self._ended:
            self._begins(False)

    def lose(self, recorded: RecordedEntry, left: int) -> None:
        """Tell that an entry is there no longer, if it was told; so many are left before it."""
        if self._told > left and not self._ended:
            self._told = left
            if self.since is None or recorded.position > self.since.position:
                self._gone(recorded)


class _Waiting(Struct):
    """An entry that has no answer yet."""

    data: bytes
    answer: Answered
    is_deployment: bool = False
    of_keys: bool = False
    nonce: int = -1
    raw: str = ""
    hash: str = ""
    sent: float = -math.inf


_SENT_ALREADY = ("already known", "nonce too low", "already imported", "known transaction")
"""What nodes say of a transaction that they have, or had."""


class EthereumLedger:
    """Implements ``Ledger``: one account's queue."""

    def __init__(self, node: EthereumNode, account: eth.Account) -> None:
        self._node = node
        self._account = account
        self._queue: deque[_Waiting] = deque()
        self._sent: deque[_Waiting] = deque()
        self._kept: deque[_Waiting] = deque(maxlen=REMEMBERED)
        """What blocks have, in case that they are replaced."""
        self._nonce: int | None = None
        self._trouble = ""
        self._pumping = self._again = self._armed = self._rewritten = False

    @property
    def account(self) -> Address:
        """The account that signs what is submitted here."""
        return self._account.address

    def submit(self, entry: Entry, answer: Answered = lambda _: None) -> None:
        """Record ``entry``; ``answer`` is called once, later."""
        try:
            data = calldata(entry)
        except LedgerError as error:
            self._node.clock.call_soon(partial(answer, Refused(str(error))))
            return
        of_keys = _artefacts().forms[type(entry).__name__].contract == "Keys"
        self._queue.append(_Waiting(data, answer, of_keys=of_keys))
        self.pump()

    def follow(
        self,
        seen: Callable[[RecordedEntry], None],
        *,
        gone: Callable[[RecordedEntry], None] = lambda _: None,
        since: Checkpoint | None = None,
        begins: Callable[[bool], None] = lambda _: None,
    ) -> Callable[[], None]:
        """Tell every confirmed entry in the one order, from the beginning or a checkpoint on."""
        return self._node.follow(Follower(seen, gone, since, begins))

    def checkpoint(self) -> Checkpoint | None:
        """Return how far all that follow in this process were told."""
        return self._node.checkpoint()

    def status(self) -> LedgerStatus:
        """Return how the ledger is."""
        node = self._node
        return LedgerStatus(
            kind="ethereum",
            url=node.url,
            head=node.head,
            entries=len(node.recorded),
            waiting=len(self._queue) + len(self._sent),
            age_s=None if node.answered is None else node.clock.now() - node.answered,
            reason=node.trouble or self._trouble,
        )

    def compare(self, head: Head, answer: Callable[[bool | None], None]) -> None:
        """Say whether this account is shown the same ledger as the agent that holds ``head``."""
        found: list[bool | None] = [None]

        def steps() -> _Steps:
            own = self._node.head
            if own is not None and head.height <= own.height:
                asked = [hex(head.height), False]
                block = yield _Question("eth_getBlockByNumber", asked, _BlockSeen)
                found[0] = block.hash.lower() == head.hash.lower()

        soon = self._node.clock.call_soon
        soon(lambda: self._node.run(steps(), lambda _: answer(found[0])))

    # -- what the node calls -----------------------------------------------------------

    def deploy(self, data: bytes) -> None:
        """Make the contracts before anything else, unless they are there."""
        self._queue.appendleft(_Waiting(data, lambda _: None, is_deployment=True))

    def rewritten(self) -> None:
        """Blocks were replaced: see whether they took this account's transactions with them."""
        self._rewritten = True

    def pump(self) -> None:
        """Look what became of what was sent, and send more."""
        self._again = True
        if not self._pumping and (self._queue or self._sent or self._rewritten):
            self._pumping, self._again = True, False
            self._node.run(self._pump(), self._pumped)

    # -- sending -----------------------------------------------------------------------

    def _pumped(self, error: LedgerError | None) -> None:
        self._pumping = False
        self._trouble = "" if error is None else str(error)
        if self._again and error is None:
            self.pump()
        elif (self._queue or self._sent) and not self._armed:
            self._armed = True
            pause = AGAIN_S if error is None else PAUSE_S
            self._node.clock.call_at(self._node.clock.now() + pause, self._try_again)

    def _try_again(self) -> None:
        self._armed = False
        self.pump()

    def _pump(self) -> _Steps:
        node = self._node
        if not node.chain or node.operator is None:
            return
        while self._sent and (yield from self._is_settled(self._sent[0])):
            self._kept.append(self._sent.popleft())
        overdue = bool(self._sent) and node.clock.now() - self._sent[0].sent >= AGAIN_S
        if overdue or self._rewritten:
            yield from self._send_again()
        if self._nonce is None:
            self._nonce = yield from self._count()
        while self._queue and len(self._sent) < WINDOW:
            it = self._queue[0]
            if it.is_deployment and node.ready:
                self._queue.popleft()
                continue
            if not it.is_deployment and not node.ready:
                break
            if it.is_deployment and self._nonce:
                raise LedgerError("the operator's account was used before: take a new one")
            self._sign(it, self._nonce)
            yield from self._send(it)
            self._nonce += 1
            self._sent.append(self._queue.popleft())

    def _count(self) -> Generator[_Question, Any, int]:
        asked = [self.account, "latest"]
        return _number((yield _Question("eth_getTransactionCount", asked, str)), 2**53)

    def _sign(self, it: _Waiting, nonce: int) -> None:
        to = b"" if it.is_deployment else eth.octets_of(self._node.address(of_keys=it.of_keys))
        gas = DEPLOY_GAS if it.is_deployment else GAS
        transaction = eth.Transaction(nonce, self._node.gas_price, gas, to, it.data)
        raw = self._account.sign_transaction(transaction, self._node.chain)
        it.nonce, it.raw, it.hash = nonce, "0x" + raw.hex(), "0x" + eth.keccak(raw).hex()

    def _send(self, it: _Waiting) -> _Steps:
        self._node.awaited.setdefault(it.hash, None)
        try:
            yield _Question("eth_sendRawTransaction", [it.raw], str)
        except RpcError as error:
            if not any(said in str(error).lower() for said in _SENT_ALREADY):
                raise
        it.sent = self._node.clock.now()

    def _is_settled(self, it: _Waiting) -> Generator[_Question, Any, bool]:
        """Answer an entry of which the ledger has shown what became of it."""
        node = self._node
        if node.awaited.get(it.hash) is None:
            asked = _Question("eth_getTransactionReceipt", [it.hash], _ReceiptSeen | None)
            receipt = yield asked
            if receipt is None:
                return False
            if receipt.transactionHash.lower() != it.hash:
                raise LedgerError("the node answered with the receipt of another transaction")
            it.sent = node.clock.now()
            if node.head is None or _number(receipt.blockNumber) > node.head.height:
                return False  # the reader is not there yet
            if receipt.status == "0x0":
                reason = reason_of(receipt.revertReason) if receipt.revertReason else ""
                answer: Confirmed | Refused = Refused(reason or (yield from self._why(it)))
                del node.awaited[it.hash]
                it.answer(answer)
                return True
            if it.is_deployment:
                return True
        recorded = node.awaited.get(it.hash)
        if recorded is None:
            raise LedgerError("the node has taken an entry and does not show it")
        del node.awaited[it.hash]
        it.answer(Confirmed(recorded.position, recorded.time_s))
        return True

    def _why(self, it: _Waiting) -> Generator[_Question, Any, str]:
        """Ask for the reason of a refusal, from a node whose receipts do not give it."""
        to = self._node.address(of_keys=it.of_keys)
        call = {"from": self.account, "to": to, "data": "0x" + it.data.hex()}
        try:
            yield _Question("eth_call", [call, "latest"], str)
        except RpcError as error:
            return str(error).rpartition("reverted: ")[2]
        return "the contracts forbade it"

    def _send_again(self) -> _Steps:
        """Send what no block has, the oldest first; sign anew what was displaced."""
        count = yield from self._count()
        self._rewritten = False
        lost = [it for it in self._kept if it.nonce >= count]
        known = [*lost, *self._sent]
        if not known or known[0].nonce != count:
            # The same account is used elsewhere, or more was lost than is kept here.
            for it in reversed(self._sent):
                self._node.awaited.pop(it.hash, None)
                self._queue.appendleft(it)
            self._sent.clear()
            self._nonce = None
            return
        for it in known:
            yield from self._send(it)
        for it in lost:
            self._node.awaited.pop(it.hash, None)  # it was answered


# -- opening -------------------------------------------------------------------------------


def options_of(url: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return a URL without the options of the ledger, and these."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in given if name not in known])
    options = {name: value for name, value in given if name in known}
    return urlunsplit(parts._replace(query=rest)), options


def seconds(options: dict[str, str], name: str, default: float) -> float:
    """Return an option that is a positive number of seconds.

    Raises:
        LedgerError: if it is none.

    """
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise LedgerError(f"{name}={options[name][:20]} is no number of seconds")
    return value


def count_of(options: dict[str, str], name: str, default: int) -> int:
    """Return an option that is a number from 0.

    Raises:
        LedgerError: if it is none.

    """
    given = options.get(name, str(default))
    if name in options and (not given.isdecimal() or len(given) > 18):
        raise LedgerError(f"{name}={given[:20]} is no number")
    return int(given)


def open_embedded(url: str, clock: Clock) -> EthereumNode:
    """Open the embedded chain: ``memory:``, or ``evm:PATH`` for one that is kept.

    Raises:
        LedgerError: if the URL is wrong, or the file cannot be used.

    """
    bare, options = options_of(url, ("operator", "interval", "confirmations"))
    scheme, _, path = bare.partition(":")
    if (scheme == "evm" and not path) or (scheme == "memory" and path):
        raise LedgerError("the embedded ledger is memory: or evm:PATH")
    chain = EmbeddedChain(clock, path, seconds(options, "interval", 1.0))
    if chain.founder:  # who has the file could have written another in any case
        options.setdefault("operator", chain.founder)
    return EthereumNode(bare, clock, EmbeddedCarrier(chain, clock), options)
