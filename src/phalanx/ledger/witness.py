"""A ledger without a chain: signed logs that agents show each other; implements ``Ledger``.

Each account keeps a log of its own, hash-chained and signed, and signs how far it goes: size and
root of a Merkle tree over it (RFC 9162, 2.1). Others take the records, hold them against what
they have, and co-sign. An entry is confirmed by so many co-signatures. A log that was shown
differently to two witnesses is exposed by the first of them that hears the other's co-signature,
with two contradicting signatures of its author as proof, and nothing of its author counts then.

It is the honest baseline: there is no one order between authors. Of two entries that exclude each
other each agent may see another one first, so the rules are few: who is enrolled may record, and
what is an operator's to say is an operator's. Operators alone open rounds.

Messages go through a hub that hands each to all others. To reach other processes, attach to it
what carries octets there, and give it what comes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.ledger import (
    Checkpoint,
    Confirmed,
    Head,
    LedgerError,
    LedgerStatus,
    RecordedEntry,
    Refused,
)
from phalanx.ledger import entries as kinds
from phalanx.ledger.election import assigned
from phalanx.ledger.entries import OPERATOR, Address, Entry
from phalanx.ledger.ethereum import Account, one_line, signer
from phalanx.ledger.node import Answered, Follower, count_of, options_of

AGAIN_S = 10.0
"""After which what has too few co-signatures is shown again, in seconds."""
DELAY_S = 0.001
"""Of a message within a process, in seconds."""
PAUSE_S = 1.0
"""Before a log is asked for again, in seconds."""
LONGEST = 64 << 10
"""Octets of a message."""
_ZERO = "00" * 32
_OPERATORS_ONLY = (kinds.Enrolled, kinds.Planned, kinds.RoundOpened, kinds.Revoked)
_signer = lru_cache(1 << 14)(signer)
_assigned = lru_cache(1 << 12)(assigned)


class SignedRecord(Struct, frozen=True, tag=True):
    """An entry in the log of its author, with the signature of all of that log up to it."""

    author: Address
    index: int
    previous: str
    """Digest of the record before."""
    time_s: float
    entry: Entry
    root: str = ""
    """Of the Merkle tree over the log, this record included."""
    signature: bytes = b""
    """Of the author, over author, size and root."""
    again: bool = False
    """Too few witnesses signed it: now all shall. Not signed itself."""

    @property
    def digest(self) -> str:
        """Digest of what is signed by way of the root."""
        return sha256(
            msgspec.json.encode(replace(self, root="", signature=b"", again=False))
        ).hexdigest()

    @property
    def checkpoint(self) -> SignedCheckpoint:
        """What its author signed of the log."""
        return SignedCheckpoint(self.author, self.index + 1, self.root, self.signature)


class SignedCheckpoint(Struct, frozen=True, tag=True):
    """How far a log goes, signed by its author and, where there is one, by a witness."""

    author: Address
    size: int
    root: str
    signature: bytes
    witness: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the author's signature and the witness's are over."""
        return sha256(f"{self.author} {self.size} {self.root}".encode()).digest()

    def check(self) -> None:
        """Raise LedgerError if the author has not signed it."""
        if _signer(self.signed, self.signature) != self.author:
            raise LedgerError("a log that its author has not signed")


class WantedRecords(Struct, frozen=True, tag=True):
    """A witness lacks the records of a log from an index on."""

    author: Address
    """Empty: all logs, or of each its own."""
    index: int
    of: Address = ""
    """Who shall show them; empty: each."""


_READ: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    SignedRecord | SignedCheckpoint | WantedRecords
)


class MerkleLog:
    """Digests of records, and the root of the tree over the first of them, for every size."""

    def __init__(self) -> None:
        self.records: list[SignedRecord] = []
        self._peaks: list[tuple[int, bytes]] = []

    def root_with(self, digest: str) -> tuple[str, list[tuple[int, bytes]]]:
        """Return the root of the tree with one more record, and the tree's perfect parts."""
        peaks = [*self._peaks, (0, sha256(b"\0" + bytes.fromhex(digest)).digest())]
        while len(peaks) > 1 and peaks[-2][0] == peaks[-1][0]:
            (height, left), (_, right) = peaks[-2:]
            peaks[-2:] = [(height + 1, sha256(b"\1" + left + right).digest())]
        root = peaks[-1][1]
        for _, left in reversed(peaks[:-1]):
            root = sha256(b"\1" + left + root).digest()
        return root.hex(), peaks

    def append(self, record: SignedRecord) -> None:
        """Take the next record.

        Raises:
            LedgerError: if it does not follow on what is here.

        """
        root, peaks = self.root_with(record.digest)
        previous = self.records[-1].digest if self.records else _ZERO
        if (record.index, record.previous, record.root) != (len(self.records), previous, root):
            raise LedgerError("a record that does not follow on the log")
        record.checkpoint.check()
        self._peaks = peaks
        self.records.append(record)


class MemoryHub:
    """Hands each message to all who are attached, but its sender."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receivers: list[Callable[[bytes], None]] = []

    def attach(self, receive: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Give ``receive`` what others send; return what sends to them."""
        self._receivers.append(receive)
        return partial(self._send, receive)

    def _send(self, sender: Callable[[bytes], None], octets: bytes) -> None:
        self._clock.call_at(self._clock.now() + DELAY_S, partial(self._give, sender, octets))

    def _give(self, sender: Callable[[bytes], None], octets: bytes) -> None:
        for receive in self._receivers:
            if receive != sender:
                receive(octets)


class WitnessNode:
    """Implements ``LedgerNode`` for the accounts of a process; ``hub`` leads to others."""

    def __init__(self, url: str, clock: Clock, operator: str | None, witnesses: int) -> None:
        self.url = url
        self.clock = clock
        self.operator = operator
        self.witnesses = witnesses
        self.hub = MemoryHub(clock)
        self.closed = False
        self._joined: dict[Address, WitnessLedger] = {}

    def resume(self, since: Checkpoint) -> None:
        """Do nothing: logs are shown from their beginning."""

    def found(self, secret: bytes, name: AgentId) -> Address:
        """Record the operator's enrolment as the first entry."""
        account = Account(secret).address
        if self.operator not in (None, account):
            raise LedgerError("another operator has founded this ledger")
        self.operator = account
        ledger = self.join(secret)
        if not ledger.logs[account].records:
            ledger.submit(kinds.Enrolled(name, account, OPERATOR, "", ""))
        return account

    def join(self, secret: bytes) -> WitnessLedger:
        """Return the ledger for an account."""
        account = Account(secret)
        if account.address not in self._joined:
            sibling = next(iter(self._joined), "")
            self._joined[account.address] = WitnessLedger(self, account, sibling)
        return self._joined[account.address]

    def close(self) -> None:
        """Say and hear no more."""
        self.closed = True


class WitnessLedger:
    """Implements ``Ledger``: one account's log, and its copies of the others'."""

    def __init__(self, node: WitnessNode, account: Account, sibling: Address) -> None:
        self.logs: dict[Address, MerkleLog] = defaultdict(MerkleLog)
        self.exposed: dict[Address, tuple[SignedCheckpoint, SignedCheckpoint]] = {}
        """Authors that showed their log differently, with what proves it to anybody."""
        self._node = node
        self._account = account
        self._agents: dict[Address, kinds.Enrolled] = {}
        self._members: tuple[AgentId, ...] = ()
        self._seed = _ZERO
        self._epoch = 1
        self._cosigned: dict[Address, dict[Address, SignedCheckpoint]] = defaultdict(dict)
        """By author and witness: what the witness has signed of the author's log at last."""
        self._early: dict[Address, list[SignedCheckpoint]] = defaultdict(list)
        self._asked: dict[Address, float] = {}
        self._shown: dict[Address, tuple[float, int]] = {}
        self._told: dict[Address, int] = defaultdict(int)
        self._recorded: list[RecordedEntry] = []
        self._followers: list[Follower] = []
        self._answers: dict[int, Answered] = {}
        self._heard: float | None = None
        self._trouble = ""
        self._armed = False
        self._send = node.hub.attach(self.receive)
        self._say(WantedRecords("", 0, sibling))

    @property
    def account(self) -> Address:
        """The account that signs what is submitted here."""
        return self._account.address

    def submit(self, entry: Entry, answer: Answered = lambda _: None) -> None:
        """Record ``entry``; ``answer`` is called once, later."""
        soon, log = self._node.clock.call_soon, self.logs[self.account]
        if reason := self._forbidden(self.account, entry):
            soon(partial(answer, Refused(reason)))
            return
        previous = log.records[-1].digest if log.records else _ZERO
        if isinstance(entry, kinds.RoundOpened):
            entry = replace(entry, seed=sha256((self._seed + previous).encode()).hexdigest())
        elif isinstance(entry, kinds.Revoked):
            entry = replace(entry, epoch=self._epoch + 1)
        now = self._node.clock.now()
        record = SignedRecord(self.account, len(log.records), previous, now, entry)
        try:
            # As others will read it.
            read = _READ.decode(msgspec.json.encode(record))
            if read != record or len(msgspec.json.encode(entry)) > LONGEST // 2:
                raise ValueError("its values are none, or too long")
            assert isinstance(read, SignedRecord)
            record = read
        except (ValueError, TypeError, RecursionError) as error:
            soon(partial(answer, Refused(one_line(f"no entry that can be recorded: {error}"))))
            return
        root, _ = log.root_with(record.digest)
        signed = SignedCheckpoint(self.account, record.index + 1, root, b"").signed
        record = replace(record, root=root, signature=self._account.sign(signed))
        log.append(record)
        self._answers[record.index] = answer
        self._say(record)
        soon(partial(self._confirm, self.account))
        self._arm()

    def follow(
        self,
        seen: Callable[[RecordedEntry], None],
        *,
        gone: Callable[[RecordedEntry], None] = lambda _: None,
        since: Checkpoint | None = None,
        begins: Callable[[bool], None] = lambda _: None,
    ) -> Callable[[], None]:
        """Tell every confirmed entry in the order in which this account came to know them."""
        follower = Follower(seen, gone)
        self._followers.append(follower)
        if since is not None:
            self._node.clock.call_soon(partial(begins, False))
        self._node.clock.call_soon(lambda: follower.tell(self._recorded))
        return follower.end

    def checkpoint(self) -> Checkpoint | None:
        """Return None: logs are shown to a process that starts again from their beginning."""
        return None

    def status(self) -> LedgerStatus:
        """Return how the ledger is; its head is that of the operator's log."""
        now = self._node.clock.now()
        return LedgerStatus(
            kind="witness",
            url=self._node.url,
            head=self._operators_head(),
            entries=len(self._recorded),
            waiting=len(self._answers),
            age_s=None if self._heard is None else now - self._heard,
            reason=self._trouble,
        )

    def compare(self, head: Head, answer: Callable[[bool | None], None]) -> None:
        """Say whether this account is shown the same log of the operator."""
        log = self.logs[self._node.operator or ""].records
        known = 0 < head.height <= len(log)
        same = log[head.height - 1].root == head.hash if known else None
        self._node.clock.call_soon(partial(answer, same))

    # -- messages ------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> None:
        """Take what another witness says; what is none is left out."""
        if self._node.closed or len(octets) > LONGEST:
            return
        try:
            message = _READ.decode(octets)
            self._heard = self._node.clock.now()
            if isinstance(message, SignedRecord):
                self._take(message)
            elif isinstance(message, SignedCheckpoint):
                self._hear(message)
            elif message.of == self.account or not (message.of or message.author):
                self._show(message)
        except (LedgerError, ValueError, RecursionError) as error:
            self._trouble = self._trouble or one_line(f"a peer said what is none: {error}")

    def _say(self, message: SignedRecord | SignedCheckpoint | WantedRecords) -> None:
        if not self._node.closed:
            self._send(msgspec.json.encode(message))

    def _show(self, asked: WantedRecords) -> None:
        """Show records, and who has co-signed them; once for all who ask at one time."""
        authors = [asked.author or self.account]
        if asked.of and not asked.author:
            authors = sorted(self.logs)
        for author in authors:
            shown = self._node.clock.now(), asked.index
            if self._shown.get(author) != shown:
                self._shown[author] = shown
                for record in self.logs[author].records[asked.index :]:
                    self._say(record)
                for cosigned in self._cosigned[author].values():
                    self._say(cosigned)

    def _with_signature(self, seen: SignedCheckpoint) -> SignedCheckpoint:
        return replace(seen, witness=self._account.sign(sha256(b"witness" + seen.signed).digest()))

    def _want(self, author: Address, of: Address) -> None:
        """Ask for what is missing of a log, though not for each record that shows it."""
        now = self._node.clock.now()
        if self._asked.get(author, -PAUSE_S) + PAUSE_S <= now:
            self._asked[author] = now
            self._say(WantedRecords(author, len(self.logs[author].records), of))

    def _take(self, record: SignedRecord) -> None:
        log = self.logs[record.author]
        record.checkpoint.check()
        if record.index > len(log.records):
            self._want(record.author, record.author)
            return
        if record.index < len(log.records):
            self._hold_against(record.checkpoint)
        else:
            log.append(record)
        if self._cosigns(record):
            mine = self._with_signature(record.checkpoint)
            self._cosigned[record.author][self.account] = mine
            self._say(mine)
        for early in self._early.pop(record.author, []):
            self._hear(early)
        self._confirm(record.author)

    def _cosigns(self, record: SignedRecord) -> bool:
        """Whether this account signs that it was shown a record; once each at most."""
        author, signed = record.author, self._cosigned[record.author].get(self.account)
        if author == self.account or author in self.exposed:
            return False
        if signed is not None and signed.size > record.index:
            return False
        if record.again:
            return True
        known = self._agents.get(author)
        name, number = known.agent if known else "", self._node.witnesses
        own = self._agents.get(self.account)
        return own is not None and own.agent in _assigned(record.root, name, self._members, number)

    def _hear(self, seen: SignedCheckpoint) -> None:
        """Hold what another witness was shown against what was shown here."""
        seen.check()
        witness = _signer(sha256(b"witness" + seen.signed).digest(), seen.witness)
        if seen.size > len(self.logs[seen.author].records):
            self._early[seen.author] = [*self._early[seen.author][-99:], seen]
            self._want(seen.author, witness)
        elif seen.size > 0 and self._hold_against(seen):
            cosigned = self._cosigned[seen.author]
            if witness not in cosigned or cosigned[witness].size < seen.size:
                cosigned[witness] = seen
            self._confirm(seen.author)

    def _hold_against(self, seen: SignedCheckpoint) -> bool:
        own = self.logs[seen.author].records[seen.size - 1].checkpoint
        if own.root == seen.root:
            return True
        if seen.author not in self.exposed:
            self.exposed[seen.author] = own, seen
            self._trouble = f"{seen.author} has shown two logs of {seen.size} entries"
            for shown in (own, seen):  # the proof, for all who hear it
                self._say(self._with_signature(shown))
        return False

    # -- confirmation --------------------------------------------------------------------------

    def _confirm(self, author: Address) -> None:
        """Tell what has enough co-signatures."""
        waiting = [author]
        while waiting:
            if not self._confirm_next(waiting[-1]):
                waiting.pop()
            elif self._recorded and isinstance(self._recorded[-1].entry, kinds.Enrolled):
                waiting = sorted(self.logs)  # another one who may record, or who witnessed

    def _confirm_next(self, author: Address) -> bool:
        records, index = self.logs[author].records, self._told[author]
        if index == len(records) or author in self.exposed or not self._counts(author):
            return False
        signed = sum(
            it.size > index and witness != author and self._counts(witness)
            for witness, it in self._cosigned[author].items()
        )
        if signed < min(self._node.witnesses, len(self._agents) - (author in self._agents)):
            return False
        self._told[author] += 1
        record = records[index]
        reason = self._forbidden(author, record.entry)
        if not reason:
            self._apply(record.entry)
            told = RecordedEntry(len(self._recorded), record.time_s, author, record.entry)
            self._recorded.append(told)
            for follower in self._followers:
                follower.tell(self._recorded)
        if author == self.account and index in self._answers:
            position = len(self._recorded) - 1
            made = Refused(reason) if reason else Confirmed(position, record.time_s)
            self._answers.pop(index)(made)
        return True

    def _counts(self, account: Address) -> bool:
        return account in self._agents or account == self._node.operator

    def _forbidden(self, author: Address, entry: Entry) -> str:
        """Return why an author may not record an entry; empty: it may."""
        own = self._agents.get(author)
        operates = author == self._node.operator or (own is not None and own.role == OPERATOR)
        if isinstance(entry, _OPERATORS_ONLY):
            return "" if operates else "only an operator may do this"
        if own is None:
            return "the account is not registered"
        match entry:
            case kinds.Attested(result):
                speaker = result.verifier
            case kinds.KeyHandedOut():
                speaker = entry.by
            case kinds.AgentRetired() if operates:
                speaker = own.agent
            case kinds.Drawn() | kinds.Revealed() | kinds.AgentRetired() | kinds.AuditAnchored():
                speaker = entry.agent
            case _:
                speaker = own.agent
        return "" if speaker == own.agent else "the account is another agent's"

    def _apply(self, entry: Entry) -> None:
        match entry:
            case kinds.Enrolled():
                self._agents[entry.account] = entry
            case kinds.AgentRetired() | kinds.Revoked():
                gone = {a for a, it in self._agents.items() if it.agent == entry.agent}
                for account in gone:
                    del self._agents[account]
                self._epoch += 1
            case kinds.Rotated():
                self._epoch = entry.epoch
            case kinds.RoundOpened():
                self._seed = entry.seed
        self._members = tuple(sorted(it.agent for it in self._agents.values()))

    def _operators_head(self) -> Head | None:
        log = self.logs[self._node.operator or ""].records
        return Head(len(log), log[-1].root) if log else None

    def _arm(self) -> None:
        if self._answers and not self._armed and not self._node.closed:
            self._armed = True
            self._node.clock.call_at(self._node.clock.now() + AGAIN_S, self._show_again)

    def _show_again(self) -> None:
        self._armed = False
        for record in self.logs[self.account].records[self._told[self.account] :]:
            self._say(replace(record, again=True))
        self._arm()


def open_witness(url: str, clock: Clock) -> WitnessNode:
    """Open a ledger without a chain: ``witness:``.

    Raises:
        LedgerError: if the URL is wrong.

    """
    bare, options = options_of(url, ("operator", "witnesses"))
    number = count_of(options, "witnesses", 1)
    if bare != "witness:":
        raise LedgerError("a ledger without a chain is witness:")
    return WitnessNode(bare, clock, options.get("operator"), number)
