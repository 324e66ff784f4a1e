"""A bus that misbehaves on purpose: it loses, doubles, delays and reorders messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Literal, get_args

from msgspec import Struct

from phalanx.bus import Bus, Handler
from phalanx.clock import Clock, Timer
from phalanx.domain.messages import Message

FaultKind = Literal["lose", "duplicate", "delay", "reorder"]


class FaultRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to a share of the messages for a while.

    Raises:
        ValueError: if a field is out of its range; the text names it and what is allowed.

    """

    kind: FaultKind
    """``lose``: it never arrives; ``duplicate``: it arrives twice; ``delay``: it arrives
    ``delay_s`` late; ``reorder``: the next message to its receiver overtakes it, or
    ``delay_s`` passes."""
    share: float
    """Share of the messages that it happens to, 0 to 1."""
    start_s: float = 0.0
    end_s: float | None = None
    """The first moment at which it no longer happens; None: never."""
    agent: str | None = None
    """Only messages from or to this agent; None: all."""
    delay_s: float = 1.0
    """Seconds, above 0; used by ``delay`` and ``reorder``."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Of a partition: only messages from one group to another; all agents that are in none are
    one more group."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind is {self.kind!r}, allowed are {get_args(FaultKind)}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, allowed is 0 to 1")
        if not (self.start_s >= 0.0 and math.isfinite(self.start_s)):
            raise ValueError(f"start_s is {self.start_s}, allowed is 0 or more")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"end_s is {self.end_s}, allowed is more than start_s")
        if not (self.delay_s > 0.0 and math.isfinite(self.delay_s)):
            raise ValueError(f"delay_s is {self.delay_s}, allowed is more than 0")

    def concerns(self, message: Message, now: float) -> bool:
        """Whether ``message``, sent at ``now``, is one of those that a share is taken of."""
        return (
            self.start_s <= now
            and (self.end_s is None or now < self.end_s)
            and (self.agent is None or self.agent in (message.sender, message.receiver))
            and (not self.groups or self._group(message.sender) != self._group(message.receiver))
        )

    def _group(self, agent: str) -> int:
        return next((n for n, group in enumerate(self.groups) if agent in group), -1)


class _Held:
    """A message that waits to be overtaken, and the rule it goes on with."""

    __slots__ = ("message", "rule", "timer")

    def __init__(self, message: Message, rule: int) -> None:
        self.message = message
        self.rule = rule
        self.timer: Timer | None = None


class FaultyBus:
    """Wraps a bus and applies rules, in their order, to each message that is sent.

    Each copy of a message goes through the rules behind the one that made it, and a late
    one goes on when its delay is over. A rule draws from the generator once for each
    message that it concerns: the same seed gives the same faults. What is late enters the
    wrapped bus late even if its sender or receiver was restarted meanwhile, as a packet in
    a network does.

    Sent messages + ``counts["duplicate"]`` equals those given to the wrapped bus +
    ``counts["lose"]`` + ``held``.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        rng: Random,
        plan: Sequence[FaultRule],
        *,
        capacity: int = 10_000,
    ) -> None:
        """Wrap ``bus``.

        Args:
            bus: carries what is left.
            clock: the time that the rules go by.
            rng: decides; belongs to this bus alone.
            plan: the rules.
            capacity: messages that may be late at a time; with so many, others are on time.

        """
        self.counts: dict[FaultKind, int] = {"lose": 0, "duplicate": 0, "delay": 0, "reorder": 0}
        """How often each fault happened."""
        self.held = 0
        """Messages that are late now and will yet be given to the wrapped bus."""
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._plan = tuple(plan)
        self._capacity = capacity
        self._overtaken: dict[str, list[_Held]] = {}

    def attach(self, address: str, handler: Handler) -> None:
        """Deliver messages for ``address`` to ``handler`` from now on."""
        self._bus.attach(address, handler)

    def detach(self, address: str) -> None:
        """Stop delivering, as the wrapped bus does."""
        self._bus.detach(address)

    def peers(self) -> tuple[str, ...]:
        """Return the addresses of the wrapped bus."""
        return self._bus.peers()

    def send(self, message: Message) -> None:
        """Send what the rules make of ``message``: nothing, one or more copies, now or late."""
        self._go_on(message, 0)

    def _go_on(self, message: Message, first: int) -> None:
        """Apply the rules from number ``first`` on, then give what is left to the bus."""
        now = self._clock.now()
        for number in range(first, len(self._plan)):
            rule = self._plan[number]
            if not rule.concerns(message, now) or self._rng.random() >= rule.share:
                continue
            if rule.kind in ("delay", "reorder") and self.held >= self._capacity:
                continue
            self.counts[rule.kind] += 1
            match rule.kind:
                case "lose":
                    return
                case "duplicate":
                    self._go_on(message, number + 1)
                case "delay":
                    self.held += 1
                    late = partial(self._late, message, number + 1)
                    self._clock.call_at(now + rule.delay_s, late)
                    return
                case "reorder":
                    self.held += 1
                    held = _Held(message, number + 1)
                    self._overtaken.setdefault(message.receiver, []).append(held)
                    late = partial(self._give_up, held)
                    held.timer = self._clock.call_at(now + rule.delay_s, late)
                    return
        self._bus.send(message)
        for held in self._overtaken.pop(message.receiver, ()):
            if held.timer is not None:
                held.timer.cancel()
            self._late(held.message, held.rule)

    def _late(self, message: Message, rule: int) -> None:
        self.held -= 1
        self._go_on(message, rule)

    def _give_up(self, held: _Held) -> None:
        """Nothing overtook the message in time."""
        self._overtaken[held.message.receiver].remove(held)
        self._late(held.message, held.rule)
