"""A group of agents on a ledger, on virtual time, for tests."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Any

from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.domain.trust import AttestationResult, Deviation, TrustTier
from phalanx.ledger import Confirmed, Ledger, LedgerNode, RecordedEntry, Refused, open_ledger
from phalanx.ledger.abi import decode, encode
from phalanx.ledger.election import agent_key, assigned, commitment
from phalanx.ledger.entries import (
    Attested,
    Drawn,
    Enrolled,
    Entry,
    Planned,
    Revealed,
    RoundOpened,
)
from phalanx.ledger.ethereum import keccak


def secret(name: str, salt: str = "") -> bytes:
    """Return the private key of an agent's account."""
    return sha256((name + salt).encode()).digest()


def digest(text: str) -> str:
    """Return some digest in hexadecimal."""
    return sha256(text.encode()).hexdigest()


def result(
    attester: str,
    verifier: str,
    number: int = 0,
    tier: TrustTier = TrustTier.AFFIRMING,
    root: str = "secaas",
    **others: Any,
) -> Attested:
    """Return a verifier's result."""
    fields = {"at_s": 12.5, "evidence": digest(f"{attester} {verifier} {number}")} | others
    return Attested(AttestationResult(attester, verifier, tier, number, root=root, **fields))


DEVIATION = Deviation("text-altered", "agent.so .text", "page 7: other octets")


class Group:
    """Agents ``a0``, ``a1``, … and the operator ``secaas``, with what each was answered."""

    period_s = 10.0
    """Of a round."""

    def __init__(
        self,
        count: int = 5,
        url: str = "memory:",
        clock: VirtualClock | WallClock | None = None,
        node: LedgerNode | None = None,
        salt: str = "",
    ) -> None:
        """Found a ledger and join it.

        Args:
            count: of agents.
            url: of the ledger.
            clock: virtual time by default.
            node: the ledger, if it is open.
            salt: makes other accounts of the same names, for nodes that remember the last test.

        """
        self.clock = clock or VirtualClock()
        self.node = node or open_ledger(url, self.clock)
        self.salt = salt
        self.node.found(secret("secaas", salt), "secaas")
        self.names = [f"a{n}" for n in range(count)]
        self.ledgers: dict[str, Ledger] = {
            name: self.node.join(secret(name, salt)) for name in ["secaas", *self.names]
        }
        self.seen: list[RecordedEntry] = []
        self.gone: list[RecordedEntry] = []
        self.ledgers["secaas"].follow(self.seen.append, gone=self.gone.append)

    def secret(self, name: str) -> bytes:
        """Return the private key of an agent's account."""
        return secret(name, self.salt)

    def wait(self, seconds: float = 3.0) -> None:
        """Let time pass."""
        self.clock.run(until=self.clock.now() + seconds)

    def submit(self, author: str, *entries: Entry) -> list[Confirmed | Refused]:
        """Submit entries and wait for their answers."""
        answers: dict[int, Confirmed | Refused] = {}
        for n, entry in enumerate(entries):
            self.ledgers[author].submit(entry, partial(answers.__setitem__, n))
        end = self.clock.now() + 100.0
        self.clock.run(end, stop=lambda: len(answers) == len(entries))
        assert len(answers) == len(entries), self.ledgers[author].status()
        return [answers[n] for n in range(len(entries))]

    def accept(self, author: str, *entries: Entry) -> list[Confirmed]:
        """Submit entries that the rules allow."""
        answers = self.submit(author, *entries)
        assert all(isinstance(answer, Confirmed) for answer in answers), answers
        return answers  # type: ignore[return-value]

    def refuse(self, author: str, entry: Entry) -> str:
        """Submit an entry that the rules forbid; return why."""
        before = len(self.seen)
        (answer,) = self.submit(author, entry)
        assert isinstance(answer, Refused), answer
        assert len(self.seen) == before
        return answer.reason

    def enrolment(self, name: str, role: str = "agent") -> Enrolled:
        account = self.node.join(secret(name, self.salt)).account
        return Enrolled(
            name, account, role, "agent 1.0", digest("reference"), digest(f"key {name}")
        )

    def verified(self, verifiers: int = 3, misses: int = 0) -> Group:
        """Enrol all, verify them in a chain, and set the plan."""
        self.accept("secaas", *(self.enrolment(name) for name in self.names))
        root = "secaas"
        for name in self.names:
            self.accept(root, result(name, root, root=root))
            root = name
        self.accept("secaas", Planned(self.period_s, verifiers, misses))
        return self

    @property
    def entries(self) -> list[Entry]:
        """What is recorded."""
        return [recorded.entry for recorded in self.seen]

    def last(self, kind: type) -> Any:
        """Return the latest entry of a kind."""
        return next(entry for entry in reversed(self.entries) if isinstance(entry, kind))

    def draw(self, number: int, *names: str) -> None:
        """Commit to shares of a round's seed and reveal them."""
        for name in names:
            share = digest(f"{name} {number}")
            self.accept(name, Drawn(number, name, commitment(name, number, share)))
        self.wait(self.period_s / 2)
        for name in names:
            self.accept(name, Revealed(number, name, digest(f"{name} {number}")))

    def open(self, number: int, by: str = "a0") -> str:
        """Open a round; return its seed."""
        self.wait(self.period_s)
        self.accept(by, RoundOpened(number))
        seed: str = self.last(RoundOpened).seed
        return seed

    def elected(self, attester: str, verifiers: int = 3) -> tuple[str, ...]:
        """Return who verifies an attester in the present round."""
        return assigned(self.last(RoundOpened).seed, attester, self.names, verifiers)

    def ask(self, function: str, kinds: list[str], *values: object) -> bytes:
        """Ask the attestation contract on the embedded chain, as any node may."""
        data = keccak(f"{function}({','.join(kinds)})".encode())[:4] + encode(kinds, values)
        call = {"to": self.node.address(of_keys=False), "data": "0x" + data.hex()}
        return bytes.fromhex(self.node.carrier.chain.ask("eth_call", [call, "latest"])[2:])

    def is_elected(self, number: int, attester: str, verifier: str) -> bool:
        """Return whether the contract has elected a verifier."""
        kinds = ["uint64", "bytes20", "bytes20"]
        octets = self.ask("elected", kinds, number, agent_key(attester), agent_key(verifier))
        return bool(decode(["bool"], octets)[0])

    def last_verified(self) -> bytes:
        """Return the key of the root of trust."""
        found: bytes = decode(["bytes20"], self.ask("lastVerified", []))[0]
        return found
