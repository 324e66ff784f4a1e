"""An agent that starts again with what it had read knows what one knows that reads everything."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from test_register import AGENTS, BAD, NONE, Ledger

from phalanx.bdi.agent import Agent, Instruction, Perform
from phalanx.bdi.capability import Library
from phalanx.domain.messages import Message
from phalanx.domain.trust import Challenge, Distrusted, UseKey
from phalanx.ledger import RecordedEntry
from phalanx.ledger.entries import Entry, KeyHandedOut
from phalanx.trust.attestation import Attestation, TrustTerms
from phalanx.trust.evidence import RepositoryFolder
from phalanx.trust.keys import KeyKeeping, exchange_of, seal_key
from phalanx.trust.register import TrustRegister

OWN = X25519PrivateKey.from_private_bytes(bytes(range(32)))


class Told(Ledger):
    """A ledger that remembers its entries."""

    def __init__(self) -> None:
        self.entries: list[RecordedEntry] = []
        super().__init__()

    def add(self, entry: Entry) -> None:
        super().add(entry)
        self.entries.append(RecordedEntry(self.position, float(self.position), "0x", entry))


class Life:
    """One life of an agent, told of the ledger at one time."""

    def __init__(
        self,
        entries: list[RecordedEntry],
        before: TrustRegister | None = None,
        incarnation: int = 1,
    ) -> None:
        library = Library([Attestation, KeyKeeping])
        self.agent = Agent("a0", library, lambda _: None, incarnation=incarnation)
        terms = TrustTerms(RepositoryFolder(Path("nowhere")), bytes(32), exchange=OWN)
        self.agent.capability(Attestation).terms = terms
        self.agent.capability(KeyKeeping).exchange = OWN
        self.done: list[Instruction] = [*self.agent.start(100.0, "begin")]
        if before is not None:
            self.done += self.agent.perceive(before, 100.0, "begin")
        for recorded in entries:
            self.done += self.agent.perceive(recorded, 100.0, "begin")
        self.done += self.agent.tick(100.0)
        self.planned = self.agent.next_timer()
        self.done += self.agent.tick(109.0)

    @property
    def keys(self) -> list[UseKey]:
        done = (it.action for it in self.done if isinstance(it, Perform))
        return [action for action in done if isinstance(action, UseKey)]

    @property
    def challenges(self) -> list[tuple[str, str]]:
        said = (it for it in self.done if isinstance(it, Message))
        return [(m.receiver, m.content.nonce) for m in said if isinstance(m.content, Challenge)]


def ledger() -> Told:
    told = Told()
    told.chain()
    told.round(1, "a3", BAD, BAD, BAD)
    told.round(2, "a4", NONE, NONE, NONE)
    sealed = seal_key(bytes(32), exchange_of(OWN), "a0", 1, bytes([7] * 32))
    told.add(KeyHandedOut("a0", 1, sealed, "a1"))
    told.open(3)
    return told


def test_an_agent_that_goes_on_knows_what_one_knows_that_reads_everything() -> None:
    told = ledger()
    whole = Life(told.entries)
    for stop in (1, len(told.entries) // 2, len(told.entries) - 2, len(told.entries)):
        before = TrustRegister()
        for recorded in told.entries[:stop]:
            before.apply(recorded)
        again = Life(told.entries[stop:], before.copied())
        assert again.agent.capability(Attestation).register == told.register
        for name in AGENTS:
            known = [life.agent.beliefs.holds(Distrusted(name)) for life in (whole, again)]
            assert known == [name in ("a3", "a4")] * 2
        assert again.keys == whole.keys == [UseKey(1, bytes(32))]
        assert {name for name, _ in again.challenges} == {name for name, _ in whole.challenges}
        scores = [life.agent.capability(Attestation)._scores for life in (whole, again)]
        assert scores[0] == scores[1]
        assert len(scores[0]) == len(AGENTS)


def test_it_plans_the_looks_of_the_open_round_once_however_many_it_reads() -> None:
    told = ledger()
    for number in range(4, 30):
        told.open(number)
    mine = [name for name in AGENTS if "a0" in told.register.verifiers_of(name)]
    life = Life(told.entries)
    attestation = life.agent.capability(Attestation)
    assert mine
    # A time for each look and two for each nonce, and nothing for rounds that are over.
    assert attestation._drawn == len(mine) + 2 * len(life.challenges)


def test_each_life_asks_with_nonces_of_its_own() -> None:
    # Else evidence that was recorded answered the challenges of the next life, too.
    told = ledger()
    first, second = (Life(told.entries, incarnation=number) for number in (1, 2))
    assert first.challenges
    assert second.challenges
    assert not {n for _, n in first.challenges} & {n for _, n in second.challenges}
