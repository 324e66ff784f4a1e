"""A process that starts again reads on where it was, and is not deceived about what came before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ledger_group import Group, result, secret

from phalanx.clock.virtual import VirtualClock
from phalanx.ledger import Checkpoint, LedgerError, RecordedEntry, open_ledger
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.entries import Enrolled, Planned, Revoked, RoundOpened
from phalanx.ledger.node import EmbeddedCarrier, EthereumNode
from phalanx.runtime.processes.spec import TrustFiles
from phalanx.runtime.processes.trusting import ProcessTrust
from phalanx.store.state import StateFile
from phalanx.trust.register import TrustRegister, TrustStanding


class Asked(EmbeddedCarrier):
    """A node that remembers from which block on entries were asked for."""

    def __init__(self, chain: EmbeddedChain, clock: VirtualClock) -> None:
        super().__init__(chain, clock)
        self.first: list[int] = []

    def ask(self, method: str, params: list[Any], answered: Any) -> None:
        if method == "eth_getLogs":
            self.first.append(int(params[0]["fromBlock"], 16))
        super().ask(method, params, answered)


class Reader:
    """Reads the ledger of a file from a checkpoint on."""

    def __init__(self, path: Path, since: Checkpoint) -> None:
        self.clock = VirtualClock()
        self.carrier = Asked(EmbeddedChain(self.clock, str(path)), self.clock)
        operator = {"operator": since.ledger}
        self.node = EthereumNode("evm:", self.clock, self.carrier, operator)
        self.node.resume(since)
        self.ledger = self.node.join(secret("reader"))
        self.told: list[Any] = []
        self.ledger.follow(self.told.append, since=since, begins=self.told.append)
        self.clock.run(20.0)

    def replaced(self, path: Path) -> None:
        """Let the node serve another chain."""
        self.carrier.chain.close()
        self.carrier.chain = EmbeddedChain(self.clock, str(path))
        self.node.poll()
        self.clock.run(self.clock.now() + 20.0)

    @property
    def entries(self) -> list[Any]:
        return [it.entry for it in self.told if isinstance(it, RecordedEntry)]


class Kept:
    """A ledger in files: ``old`` as it was at a checkpoint, ``now`` with a revocation after."""

    def __init__(self, folder: Path) -> None:
        self.old, self.now, self.other = (folder / f"{n}.db" for n in ("old", "now", "other"))
        group = Group(url=f"evm:{self.now}").verified()
        shutil.copy(self.now, self.old)
        since = group.ledgers["a0"].checkpoint()
        assert since is not None
        self.since, self.before = since, len(group.seen)
        group.accept("secaas", Revoked("a1", "infected"))
        last = group.ledgers["a0"].checkpoint()
        assert last is not None
        self.last, self.entries = last, group.entries
        group.node.close()
        # The same founder's, and of the same height: but for one entry.
        other = Group(url=f"evm:{self.other}")
        other.accept("secaas", Planned(77.0, 1))
        other.verified()
        self.others = other.entries
        other.node.close()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_what_stands_up_to_the_checkpoint_is_not_read_again(kept: Kept) -> None:
    reader = Reader(kept.now, kept.since)
    assert reader.told[0] is True
    assert reader.entries == kept.entries[kept.before :] == [Revoked("a1", "infected", 2)]
    assert min(reader.carrier.first) == kept.since.head.height + 1
    assert reader.ledger.checkpoint() == kept.last


def test_a_checkpoint_of_another_ledger_is_not_used(kept: Kept) -> None:
    reader = Reader(kept.other, kept.since)
    assert reader.told[0] is False
    assert reader.entries == kept.others


def test_of_another_founder_of_the_same_chain_either(kept: Kept) -> None:
    clock = VirtualClock()
    node = open_ledger(f"evm:{kept.now}", clock)
    alien = Checkpoint("0x" + "77" * 20, kept.since.head, kept.since.position)
    node.resume(alien)
    told: list[Any] = []
    node.join(secret("reader")).follow(told.append, since=alien, begins=told.append)
    clock.run(20.0)
    node.close()
    assert told[0] is False
    assert [it.entry for it in told[1:]] == kept.entries


def test_nothing_is_told_while_the_ledger_is_older_than_the_checkpoint(kept: Kept) -> None:
    reader = Reader(kept.old, kept.last)
    assert reader.told == []
    assert "older than it was" in reader.ledger.status().reason
    assert reader.ledger.checkpoint() is None
    reader.replaced(kept.now)  # the right one is back
    assert reader.told == [True]


def test_a_ledger_that_is_rewritten_later_is_told_from_its_beginning(kept: Kept) -> None:
    reader = Reader(kept.now, kept.since)
    account = kept.since.ledger
    assert reader.node.operator == account
    before = len(reader.told)
    reader.replaced(kept.other)
    reader.carrier.chain._make()  # it grows beyond what was seen
    for _ in range(3):
        reader.carrier.chain._make()
    reader.node.poll()
    reader.clock.run(reader.clock.now() + 20.0)
    assert reader.told[before] is False
    assert [it.entry for it in reader.told[before + 1 :]] == kept.others


def test_nobody_can_follow_from_the_beginning_what_was_not_read(kept: Kept) -> None:
    reader = Reader(kept.now, kept.since)
    with pytest.raises(LedgerError, match="from a later entry on"):
        reader.ledger.follow(reader.told.append)


# -- a process -----------------------------------------------------------------------------------


class Life:
    """One life of a process that follows a ledger."""

    def __init__(self, folder: Path, ledger: Path) -> None:
        (folder / "trust.secret").touch(mode=0o600)
        (folder / "trust.secret").write_text("11" * 32)
        files = TrustFiles(f"evm:{ledger}", str(folder / "trust.secret"), str(folder), "socket")
        self.clock, self.register = VirtualClock(), TrustRegister()
        self.seen: list[RecordedEntry] = []
        self.resumed: list[TrustRegister] = []
        self.unusable: list[str] = []
        self.state = StateFile(folder / "state")
        self.trust = ProcessTrust(files, self.clock, self.state, self.unusable.append)  # type: ignore[arg-type]

    def begin(self) -> Life:
        self.trust.follow(self._read, self._resume, lambda: self.register)
        self.clock.run(self.clock.now() + 20.0)
        return self

    def end(self) -> Life:
        self.trust.close()
        self.state.close()
        return self

    def _read(self, recorded: RecordedEntry) -> None:
        self.seen.append(recorded)
        self.register.apply(recorded)

    def _resume(self, register: TrustRegister) -> None:
        self.resumed.append(register)
        self.register = register


@pytest.fixture
def lived(tmp_path: Path) -> tuple[Path, Path, TrustRegister]:
    """Return folder and ledger of a process that has kept what it read, and what that was."""
    ledger = tmp_path / "chain.db"
    life = Life(tmp_path, ledger)
    group = Group(clock=life.clock, node=life.trust._node)
    life.begin()
    group.verified()
    for number in (1, 2):
        group.open(number, "secaas")
        for attester in group.names:
            for verifier in group.elected(attester)[:2]:
                group.accept(verifier, result(attester, verifier, number))
    shutil.copy(ledger, tmp_path / "older.db")
    group.open(3, "secaas")
    group.accept("secaas", Revoked("a2", "infected"))
    life.end()
    return tmp_path, ledger, life.register


def test_a_process_goes_on_with_what_it_has_read(lived: tuple[Path, Path, TrustRegister]) -> None:
    folder, ledger, register = lived
    again = Life(folder, ledger).begin().end()
    assert again.register == register
    assert again.register.standing("a2") is TrustStanding.QUARANTINED
    assert [it.entry for it in again.seen] == [Revoked("a2", "infected", 2)]
    assert again.unusable == []


def test_one_that_was_altered_is_not_used(lived: tuple[Path, Path, TrustRegister]) -> None:
    folder, ledger, register = lived
    with StateFile(folder / "state") as state:
        octets = state.get("register")
    assert octets is not None
    for place in range(0, len(octets), 997):
        altered = bytearray(octets)
        altered[place] ^= 1
        with StateFile(folder / "state") as state:
            state.put("register", bytes(altered))
        again = Life(folder, ledger).begin().end()
        assert len(again.unusable) == 1
        assert "altered" in again.unusable[0]
        assert again.resumed == []
        assert isinstance(again.seen[0].entry, Enrolled)
        assert again.register == register


def test_another_ledger_in_its_place_is_told_and_read_anew(
    lived: tuple[Path, Path, TrustRegister],
) -> None:
    folder, _, register = lived
    other = Group(url=f"evm:{folder / 'other.db'}")
    other.accept("secaas", Planned(77.0, 1))
    other.verified()
    for number in range(1, 9):
        other.open(number, "secaas")
    for _ in range(40):
        other.accept("secaas", Planned(77.0, 1))
    other.node.close()
    again = Life(folder, folder / "other.db").begin().end()
    assert "not the one that was read before" in again.unusable[0]
    assert len(again.resumed) == 1
    assert [it.entry for it in again.seen] == other.entries
    assert again.register != register


def test_a_ledger_that_is_older_than_what_was_read_is_not_believed(
    lived: tuple[Path, Path, TrustRegister],
) -> None:
    folder, _, _ = lived
    again = Life(folder, folder / "older.db").begin()
    assert (again.seen, again.resumed) == ([], [])
    assert "older than it was" in again.trust._ledger.status().reason
    again.end()


def test_a_round_is_kept_with_all_that_was_told_with_it(
    lived: tuple[Path, Path, TrustRegister],
) -> None:
    folder, ledger, _ = lived
    for path in (folder / "state").iterdir():
        path.unlink()
    first = Life(folder, ledger).begin().end()  # reads all of it at once
    assert len([it for it in first.seen if isinstance(it.entry, RoundOpened)]) == 3
    again = Life(folder, ledger).begin().end()
    assert again.seen == []
    assert again.register == first.register
