"""Whatever is submitted in whatever order: what is recorded keeps the rules."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_group import Group, digest, result
from tests.nightly import examples

from phalanx.domain.trust import TrustTier
from phalanx.ledger.election import assigned, commitment
from phalanx.ledger.entries import (
    AgentRetired,
    Attested,
    AuditAnchored,
    Drawn,
    Enrolled,
    Entry,
    Faulted,
    KeyHandedOut,
    Planned,
    Revealed,
    Revoked,
    Rotated,
    RoundOpened,
)

NAMES = ["a0", "a1", "a2", "a3", "a4", "outsider", "secaas"]
VERIFIERS = 3
RECORDED: Counter[str] = Counter()


class Judge:
    """Reads the log of entries and says which rule one breaks; knows nothing of the contracts."""

    def __init__(self, accounts: dict[str, str]) -> None:
        self.names = {account: name for name, account in accounts.items()}
        self.enrolled = {"secaas"}
        self.verified = {"secaas"}
        self.root = "secaas"
        self.members: list[str] = []
        self.round = 0
        self.seed = ""
        self.results: dict[tuple[str, str], TrustTier] = {}
        self.before: tuple[str, list[str], dict[tuple[str, str], TrustTier]] = ("", [], {})
        self.epoch = 1
        self.keepers: dict[int, str] = {}
        self.anchored: dict[str, int] = {}
        self.drawn: dict[tuple[int, str], str] = {}

    def elected(self, attester: str) -> tuple[str, ...]:
        return assigned(self.seed, attester, self.members, VERIFIERS)

    def read(self, author: str, entry: Entry) -> None:  # noqa: PLR0912 - a branch an entry
        who = self.names[author]
        operator = who == "secaas"
        match entry:
            case Enrolled(agent="secaas"):
                assert operator
            case Enrolled(agent=agent):
                assert operator
                assert agent not in self.enrolled
                self.enrolled.add(agent)
            case Planned():
                assert operator
            case Revoked(agent=agent, epoch=epoch):
                accusers = sum(
                    attester == agent and tier is TrustTier.CONTRAINDICATED
                    for (attester, _), tier in self.results.items()
                )
                assert operator or accusers >= 2
                self.leave(agent)
                assert epoch == self.epoch
            case AgentRetired(agent=agent):
                assert operator or who == agent
                self.leave(agent)
            case RoundOpened(round=number, seed=seed):
                assert operator or who in self.verified
                assert number == self.round + 1
                assert seed not in ("", self.seed)
                self.before = self.seed, self.members, self.results
                self.round, self.seed, self.results = number, seed, {}
                self.members = sorted(self.verified - {"secaas"})
            case Drawn(round=number, agent=agent, commitment=held):
                assert who == agent
                assert who in self.verified or operator
                assert (number, agent) not in self.drawn
                self.drawn[number, agent] = held
            case Revealed(round=number, agent=agent, share=share):
                assert who == agent
                assert self.drawn.pop((number, agent)) == commitment(agent, number, share)
            case Attested(result=it) if it.round == 0:
                assert who == it.verifier
                assert operator or who == self.root
                assert it.root == self.root
                assert it.attester in self.enrolled - self.verified
                if it.tier is TrustTier.AFFIRMING:
                    self.verified.add(it.attester)
                    self.root = it.attester
            case Attested(result=it):
                assert who == it.verifier
                assert it.round == self.round
                assert it.verifier in self.verified
                assert it.attester in self.enrolled
                assert it.verifier in self.elected(it.attester)
                bad, before = (
                    TrustTier.CONTRAINDICATED,
                    self.results.get((it.attester, it.verifier)),
                )
                assert before is None or (it.tier is bad and before is not bad)
                self.results[it.attester, it.verifier] = it.tier
            case Faulted(attester=attester, verifier=verifier, fault="silent"):
                seed, members, results = self.before
                assert entry.round == self.round - 1
                assert verifier in assigned(seed, attester, members, VERIFIERS)
                assert (attester, verifier) not in results
            case KeyHandedOut(agent=agent, epoch=epoch):
                assert who == entry.by
                assert operator or who in self.verified
                assert agent in self.verified or agent == "secaas"
                assert epoch == self.epoch
                if operator:
                    self.keepers[epoch] = who
                assert self.keepers.setdefault(epoch, who) == who
            case Rotated(epoch=epoch):
                assert operator or self.keepers[self.epoch] == who
                assert epoch == self.epoch + 1
                self.epoch = epoch

            case AuditAnchored(agent=agent, events=events):
                assert who == agent
                assert operator or who in self.verified
                assert events > self.anchored.get(agent, 0)
                self.anchored[agent] = events

    def leave(self, agent: str) -> None:
        assert agent in self.enrolled
        self.enrolled.remove(agent)
        self.verified.discard(agent)
        self.epoch += 1
        if self.root == agent:
            self.root = "secaas"


KINDS = ["enrol", "attest0", "draw", "reveal", "open", "key", "rotate", "silent", "anchor"] * 2
KINDS += ["attest"] * 12 + ["revoke", "retire", "plan"]
TIERS = [TrustTier.AFFIRMING] * 3 + list(TrustTier)


def entry_of(group: Group, judge: Judge, draw: Random) -> tuple[str, Entry]:
    """Return an author and an entry, most of them nearly right."""
    author, name, tier = draw.choice(NAMES), draw.choice(NAMES), draw.choice(TIERS)
    near = max(0, judge.round + draw.choice([0, 0, 0, 0, 1, -1]))
    after = near + 1
    share = digest(author)
    match draw.choice(KINDS):
        case "enrol":
            return draw.choice(["secaas", "secaas", author]), group.enrolment(name)
        case "attest0":
            author = draw.choice([judge.root, "secaas", author])
            return author, result(name, author, 0, tier, draw.choice([judge.root, name]))
        case "attest":
            author = draw.choice([*judge.elected(name), author]) if judge.seed else author
            return author, result(name, author, near, tier)
        case "open":
            return author, RoundOpened(after)
        case "revoke":
            return draw.choice(["secaas", author]), Revoked(name, "drawn")
        case "retire":
            return author, AgentRetired(draw.choice([name, author]), "drawn")
        case "draw":
            return author, Drawn(after, author, commitment(author, after, share))
        case "reveal":
            author = draw.choice([*[agent for _, agent in judge.drawn], author])
            return author, Revealed(after, author, digest(author))
        case "key":
            epoch = max(1, judge.epoch + draw.choice([0, 0, 0, 1, -1]))
            return author, KeyHandedOut(name, epoch, bytes(64), author)
        case "rotate":
            return author, Rotated(judge.epoch + draw.choice([0, 1, 1]), "drawn")
        case "anchor":
            events = judge.anchored.get(author, 0) + draw.choice([0, 1, 1, 2])
            return author, AuditAnchored(draw.choice([author, name]), "audit", events, share)
        case "silent":
            seed, members, _ = judge.before
            chosen = assigned(seed, name, members, VERIFIERS) if seed else ()
            return author, Faulted(max(0, near - 1), name, draw.choice([*chosen, name]), "silent")
    return draw.choice(["secaas", author]), Planned(8.0, VERIFIERS)


@settings(max_examples=examples(7))
@given(st.integers(0, 2**32))
def test_whatever_is_submitted_what_is_recorded_keeps_the_rules(seed):
    draw = Random(seed)
    group = Group(5, "memory:?interval=0.2")
    group.period_s = 8.0
    for name in ("outsider", "secaas"):
        group.ledgers[name] = group.node.join(group.secret(name))
    judge = Judge({name: ledger.account for name, ledger in group.ledgers.items()})
    group.ledgers["a0"].follow(lambda it: judge.read(it.author, it.entry))
    if draw.random() < 0.9:
        group.verified(VERIFIERS)
    for _ in range(250):
        group.submit(*entry_of(group, judge, draw))
    RECORDED.update(type(entry).__name__ for entry in group.entries)


def test_every_kind_of_entry_was_recorded_by_that():
    """Else the rules were kept because nothing happened. Runs after the test above."""
    if RECORDED:
        assert len(RECORDED) == 11, RECORDED
