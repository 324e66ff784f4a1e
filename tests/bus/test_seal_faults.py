"""Seals over a network that loses, doubles, reorders, alters and replays, and restarts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from seal_lab import seal
from tests.nightly import examples

from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import OpenedFrame, RefusedFrame, SealLimits

NAMES = ("alice", "bob", "carol")
LIMITS = SealLimits(rekey_s=40.0, overlap_s=20.0, rekey_messages=6, hello_s=5.0)
name = st.sampled_from(NAMES)


class Network(RuleBasedStateMachine):
    """Three agents; a frame is (sender, receiver, octets)."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.lives = dict.fromkeys(NAMES, 1)
        self.seals: dict[str, Seal] = {own: seal(own, 1, LIMITS) for own in NAMES}
        self.under_way: list[tuple[str, str, bytes]] = []
        self.history: list[tuple[str, str, bytes]] = []
        self.payloads: dict[bytes, tuple[str, str]] = {}
        self.opened: set[bytes] = set()

    def post(self, sender: str, receiver: str, frames: list[bytes] | tuple[bytes, ...]) -> None:
        for frame in frames:
            self.under_way.append((sender, receiver, frame))
            self.history.append((sender, receiver, frame))

    def arrive(self, sender: str, receiver: str, frame: bytes) -> OpenedFrame | RefusedFrame:
        outcome = self.seals[receiver].open(sender, frame, self.now)
        self.post(receiver, sender, outcome.replies)
        payload = outcome.payload if isinstance(outcome, OpenedFrame) else None
        if payload is not None:
            assert self.payloads[payload] == (sender, receiver)
            assert payload not in self.opened, "opened twice"
            self.opened.add(payload)
        return outcome

    def wrap(self, sender: str, receiver: str) -> bytes:
        payload = b"%d" % len(self.payloads)
        self.payloads[payload] = (sender, receiver)
        self.post(sender, receiver, self.seals[sender].wrap(receiver, payload, self.now))
        return payload

    @rule(sender=name, receiver=name, count=st.integers(1, 8))
    def send(self, sender: str, receiver: str, count: int) -> None:
        for _ in range(count if sender != receiver else 0):
            self.wrap(sender, receiver)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), count=st.integers(1, 10))
    def deliver(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.under_way))):
            place = data.draw(st.integers(0, len(self.under_way) - 1))
            self.arrive(*self.under_way.pop(place))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))

    @precondition(lambda self: self.under_way)
    @rule()
    def lose_all(self) -> None:
        self.under_way.clear()

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self.arrive(*data.draw(st.sampled_from(self.history)))

    @precondition(lambda self: self.history)
    @rule(data=st.data(), place=st.integers(0, 100) | st.integers(0, 9999), bit=st.integers(0, 7))
    def alter(self, data: st.DataObject, place: int, bit: int) -> None:
        sender, receiver, frame = data.draw(st.sampled_from(self.history))
        place %= len(frame)  # signatures differ in length from run to run
        altered = bytearray(frame)
        altered[place] ^= 1 << bit
        outcome = self.seals[receiver].open(sender, bytes(altered), self.now)
        assert isinstance(outcome, RefusedFrame) or outcome.payload is None

    @precondition(lambda self: self.history)
    @rule(data=st.data(), sender=name, receiver=name)
    def misdirect(self, data: st.DataObject, sender: str, receiver: str) -> None:
        real_sender, real_receiver, frame = data.draw(st.sampled_from(self.history))
        if (sender, receiver) != (real_sender, real_receiver) and sender != receiver:
            outcome = self.seals[receiver].open(sender, frame, self.now)
            assert isinstance(outcome, RefusedFrame)

    @rule(who=name)
    def restart(self, who: str) -> None:
        self.lives[who] += 1
        self.seals[who] = seal(who, self.lives[who], LIMITS)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 45.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for own, machine in self.seals.items():
            for peer, frame in machine.tick(self.now):
                self.post(own, peer, [frame])

    @rule()
    def heal(self) -> None:
        """Lose nothing from here on: within seconds everybody hears everybody."""
        pairs = [(a, b) for a in NAMES for b in NAMES if a != b]
        for _ in range(8):
            self.wait(1.0)
            self.deliver_all()
            last = [self.wrap(*pair) for pair in pairs]
            self.deliver_all()
        assert self.opened.issuperset(last)
        for machine in self.seals.values():
            counters = machine.counters
            assert counters.waiting == 0

    def deliver_all(self) -> None:
        for _ in range(500):
            if not self.under_way:
                return
            self.arrive(*self.under_way.pop(0))
        raise AssertionError("frames beget frames without end")

    def teardown(self) -> None:
        if hasattr(self, "seals"):
            self.heal()


TestNetwork = Network.TestCase
TestNetwork.settings = settings(
    max_examples=examples(16),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
