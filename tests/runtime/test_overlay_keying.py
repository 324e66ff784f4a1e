"""The ledger's keys for the overlay, on virtual time: channels, daemons and kernels are models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("vici", reason="vici is not installed")

from tests.nightly import examples

from phalanx.clock.virtual import VirtualClock
from phalanx.domain.trust import GroupKeys
from phalanx.infrastructure.linux import overlay as real
from phalanx.infrastructure.linux.overlay import PairKey
from phalanx.infrastructure.linux.overlay_node import OverlayError
from phalanx.runtime.linux_environment import GRACE_S, RETRY_S, LedgerKeys, OverlayKeying
from phalanx.trust.keys import pair_secret

POPS = ("a", "b", "c", "d")
FIRST, SECOND, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))
TAKES_S = 0.4
"""How long a rotation or a revocation takes here, unless a daemon hangs."""


class Wire(real.Channel):
    """A channel of which only its secret is there."""

    secret = b""

    def renew(self, key: PairKey) -> None:
        for node in self.ends:
            if node.hangs:  # type: ignore[attr-defined]
                raise OverlayError(f"charon in {node.site.pop} does not answer")
        if not self.ended:
            self.generation, self.secret = key.generation, key.secret

    def suspend(self) -> None:
        self.generation, self.secret = -1, b""

    def cut(self, revoked: Any) -> None:
        self._ended, self.secret = True, b""


def node(pop: str) -> Any:
    started = SimpleNamespace(stop=lambda: None, start=lambda _: None)
    site = SimpleNamespace(pop=pop)
    return SimpleNamespace(site=site, daemon=started, hangs=False, shut_out=lambda *_, **__: None)


class Lab:
    def __init__(self, agents: dict[str, str] | None = None) -> None:
        self.clock = VirtualClock()
        self.keys = LedgerKeys(agents or {pop: pop for pop in POPS})
        self.overlay = real.Overlay(Path(), 7, [], self.keys)
        self.nodes = self.overlay._nodes = {pop: node(pop) for pop in POPS}
        self.takes_s = TAKES_S
        self.sees_first = False
        """Whether work sees what is wanted when it begins, not when it ends."""
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        serials = self.overlay._serials
        pairs = combinations(self.nodes.values(), 2)
        self.overlay._channels = [Wire(a, b, serials) for a, b in pairs]
        self.overlay.rotate()
        self.keying = OverlayKeying(self.overlay, self.keys, self.clock, self._aside, self._record)

    def _aside(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        early = work() if self.sees_first else None
        due = self.clock.now() + self.takes_s
        self.clock.call_at(due, lambda: done(work() if early is None else early))

    def _record(self, kind: str, cause: str, **data: Any) -> str:
        self.events.append((self.clock.now(), kind, data))
        return ""

    def take(
        self, *held: str, epoch: int = 1, secret: bytes = FIRST, **out: frozenset[str]
    ) -> None:
        self.keying.take(GroupKeys(epoch, secrets=dict.fromkeys(held, secret), **out), "")

    def later(self, seconds: float) -> None:
        self.clock.run(self.clock.now() + seconds)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, what, data in self.events if what == kind]

    def protects(self, *pair: str) -> bytes:
        """Return the secret under which a pair speaks; none: nothing passes."""
        found = [
            channel.secret
            for channel in self.overlay._channels
            if not channel.ended and {n.site.pop for n in channel.ends} == {*pair}
        ]
        assert len(found) <= 1
        return found[0] if found else b""


def of_ledger(secret: bytes, a: str, b: str) -> bytes:
    return pair_secret(secret, f"overlay {a}", f"overlay {b}")


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(real, "Channel", Wire)
    made = Lab()
    made.take(*POPS)
    made.later(1)
    return made


def out(*agents: str) -> frozenset[str]:
    return frozenset(agents)


def test_a_pair_has_a_local_secret_until_both_ends_hold_the_epochs(lab: Lab) -> None:
    lab = Lab()
    local = lab.protects("a", "b")
    assert local
    lab.take("a")
    lab.later(1)
    assert lab.protects("a", "b") == local
    lab.take("a", "b")
    lab.later(1)
    assert lab.protects("a", "b") == of_ledger(FIRST, "a", "b")
    assert lab.protects("a", "c") not in (local, of_ledger(FIRST, "a", "c"), b"")
    assert lab.told("overlay.keyed") == [{"epoch": 1, "pairs": 1}]


def test_an_epoch_turns_for_each_pair_as_soon_as_both_ends_hold_its_key(lab: Lab) -> None:
    lab.take("a", "b", epoch=2, secret=SECOND)
    lab.later(1)
    assert lab.protects("a", "b") == of_ledger(SECOND, "a", "b")
    assert lab.protects("a", "c") == of_ledger(FIRST, "a", "c")  # late, but not out of time
    lab.take(*POPS, epoch=2, secret=SECOND)
    lab.later(1)
    assert lab.protects("a", "c") == of_ledger(SECOND, "a", "c")


def test_a_key_that_does_not_come_leaves_no_old_one_in_use_after_the_grace(lab: Lab) -> None:
    lab.take("a", "b", "c", epoch=2, secret=SECOND)
    lab.later(GRACE_S - TAKES_S)
    assert lab.protects("a", "d") == of_ledger(FIRST, "a", "d")
    lab.later(3 * TAKES_S)
    local = lab.protects("a", "d")
    assert local
    assert local not in (of_ledger(FIRST, "a", "d"), of_ledger(SECOND, "a", "d"))
    lab.take("a", "b", "c", epoch=3, secret=THIRD)
    lab.later(GRACE_S + 1)
    assert lab.protects("a", "d") not in (local, b"")  # of each epoch its own
    lab.take(*POPS, epoch=3, secret=THIRD)
    lab.later(1)
    assert lab.protects("a", "d") == of_ledger(THIRD, "a", "d")


def test_an_expelled_agents_pop_is_out_at_once_also_while_a_daemon_hangs(lab: Lab) -> None:
    lab.nodes["c"].hangs, lab.takes_s = True, 60.0
    lab.take(*POPS, epoch=2, secret=SECOND)  # the rotation takes a minute
    lab.later(1)
    lab.takes_s = TAKES_S
    lab.take("a", "b", "c", epoch=3, secret=THIRD, expelled=out("d"))
    lab.later(1)
    assert lab.overlay.revoked == {"d"}
    assert lab.told("overlay.revoked") == [{"pop": "d"}]
    assert not any(lab.protects(pop, "d") for pop in "abc")


def test_an_epoch_that_ends_while_a_rotation_runs_is_passed_over(lab: Lab) -> None:
    lab.takes_s, lab.sees_first = 4.0, True
    lab.take(*POPS, epoch=2, secret=SECOND)
    lab.later(1)
    lab.take(*POPS, epoch=3, secret=THIRD)
    assert lab.protects("a", "b") == of_ledger(SECOND, "a", "b")
    lab.later(8)
    for pair in combinations(POPS, 2):
        assert lab.protects(*pair) == of_ledger(THIRD, *pair)


def test_where_a_daemon_hangs_the_old_key_goes_on_for_the_grace_and_then_nothing_passes(
    lab: Lab,
) -> None:
    lab.nodes["d"].hangs = True
    lab.take(*POPS, epoch=2, secret=SECOND)
    lab.later(GRACE_S - 1)
    assert lab.protects("a", "b") == of_ledger(SECOND, "a", "b")
    assert lab.protects("a", "d") == of_ledger(FIRST, "a", "d")
    lab.later(1 + RETRY_S + 2 * TAKES_S)
    assert lab.protects("a", "d") == b""
    assert len(lab.told("overlay.failed")) == 1  # what lasts is told once
    lab.nodes["d"].hangs = False
    lab.later(RETRY_S + 2 * TAKES_S)
    assert lab.protects("a", "d") == of_ledger(SECOND, "a", "d")


def test_deployed_anew_it_speaks_under_a_local_secret_and_verified_under_the_epochs(
    lab: Lab,
) -> None:
    before = lab.protects("a", "d")
    lab.take("a", "b", "c", epoch=2, secret=SECOND, expelled=out("d"))
    lab.later(20)
    lab.take("a", "b", "c", epoch=2, secret=SECOND)  # enrolled anew: it is no more among them
    lab.later(1)
    bootstrap = lab.protects("a", "d")
    assert bootstrap not in (b"", before, of_ledger(SECOND, "a", "d"))
    assert lab.told("overlay.readmitted") == [{"pop": "d"}]
    lab.take(*POPS, epoch=2, secret=SECOND)
    lab.later(1)
    assert lab.protects("a", "d") == of_ledger(SECOND, "a", "d")


def test_a_pop_stays_while_one_of_its_agents_is_neither_expelled_nor_retired() -> None:
    lab = Lab({"a": "a", "b": "b", "c": "c", "d": "d", "d2": "d"})
    lab.take("a", "b", "c", "d2", epoch=2, secret=SECOND, expelled=out("d"))
    lab.later(1)
    assert lab.protects("a", "d") == of_ledger(SECOND, "a", "d")
    lab.take("a", "b", "c", epoch=3, secret=THIRD, expelled=out("d", "d2"))
    lab.later(1)
    assert lab.overlay.revoked == {"d"}


def test_who_leaves_in_order_may_hand_over_before_it_is_out(lab: Lab) -> None:
    lab.take("a", "b", "c", epoch=2, secret=SECOND, retired=out("d"))
    lab.later(GRACE_S - TAKES_S)
    assert lab.protects("a", "d") == of_ledger(FIRST, "a", "d")
    lab.later(3 * TAKES_S)
    assert lab.overlay.revoked == {"d"}


def test_a_keeper_that_hands_out_different_keys_leaves_pairs_with_local_ones(lab: Lab) -> None:
    keys = {"a": SECOND, "b": SECOND, "c": THIRD, "d": THIRD}
    lab.keying.take(GroupKeys(2, secrets=keys), "")
    lab.later(GRACE_S + 1)
    assert lab.protects("a", "b") == of_ledger(SECOND, "a", "b")
    assert lab.protects("c", "d") == of_ledger(THIRD, "c", "d")
    for secret in (SECOND, THIRD):
        assert lab.protects("a", "c") not in (b"", of_ledger(secret, "a", "c"))


def test_no_secret_shows_where_keys_are_printed() -> None:
    shown = [repr(GroupKeys(1, secrets={"a": FIRST})), repr(PairKey(1, FIRST))]
    assert not any(repr(FIRST)[2:-1] in text or FIRST.hex() in text for text in shown)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["holds", "expelled", "enrolled", "retired", "hangs", "turns"]),
            st.sampled_from(POPS),
            st.sampled_from([0.0, 0.1, 1.0, 5.0, 12.0]),
        ),
        max_size=30,
    ),
    st.sampled_from([0.05, 1.0, 7.0]),
    st.booleans(),
)
@settings(max_examples=examples(24), deadline=None)
def test_whatever_happens_it_comes_to_what_the_ledger_says(
    doings: list[tuple[str, str, float]], takes_s: float, sees_first: bool
) -> None:
    before, real.Channel = real.Channel, Wire  # type: ignore[misc]
    try:
        lab = Lab()
        lab.takes_s, lab.sees_first = takes_s, sees_first
        epoch, gone, left, held = 1, set[str](), set[str](), set[str]()
        for doing, pop, pause_s in doings:
            match doing:
                case "holds" if pop not in gone | left:
                    held.add(pop)
                case "expelled" | "retired" if pop not in gone | left:
                    (gone if doing == "expelled" else left).add(pop)
                    epoch += 1
                    held.clear()
                case "enrolled":
                    gone.discard(pop)
                    left.discard(pop)
                case "turns":
                    epoch += 1
                    held.clear()
                case "hangs":
                    lab.nodes[pop].hangs ^= True
            secret = bytes([epoch]) * 32
            outs = {"expelled": frozenset(gone), "retired": frozenset(left)}
            lab.take(*held, epoch=epoch, secret=secret, **outs)
            lab.later(pause_s)
        for each in lab.nodes.values():
            each.hangs = False
        lab.later(GRACE_S + 10 * takes_s + 5 * RETRY_S)
        assert lab.overlay.revoked == gone | left
        for a, b in combinations(POPS, 2):
            used = lab.protects(a, b)
            olds = {of_ledger(bytes([n]) * 32, a, b) for n in range(1, epoch + 1)}
            if {a, b} & (gone | left):
                assert used == b""
            elif {a, b} <= held:
                assert used == of_ledger(bytes([epoch]) * 32, a, b)
            else:
                assert used not in olds | {b""}
    finally:
        real.Channel = before  # type: ignore[misc]
