"""The audit trail: a chain of hashes over all that is recorded, and its check without the agents.

The events of each recorder are chained in the order of their numbers: ``head = SHA-256(head before,
event)``. From time to time an event ``audit.sealed`` states how many events of each recorder there
are, and their heads. It is chained itself, so the head of the seals' own recorder stands for all
that was sealed: where a ledger is configured that head is recorded there (``AuditAnchored``).

Who can write a log can also write its seals anew, so a chain alone only shows accidents, and
changes by those who do not know of it. A head that was noted elsewhere, such as on a ledger, shows
every change of what it covers.

Source: seed 004, 3.2: "logging all verification and enforcement actions along with their
corresponding explanations", as "an auditable trail of decisions and responses".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.clock import Clock
from phalanx.domain.events import Event, Recorder, Sink, numbered

KIND = "audit.sealed"
SEAL_EVENTS = 500
"""After so many events a seal is recorded."""
SEAL_S = 10.0
"""And after so many seconds, if anything was recorded."""
START = "0" * 64
"""Head of a recorder that has recorded nothing."""
DISORDER = 10_000
"""So many events of a recorder may be read before an earlier one, or before their seal."""


def digest(event: Event) -> bytes:
    """Return the SHA-256 of an event: of its fields as JSON, keys in order, numbers shortest."""
    return sha256(msgspec.json.encode(event, order="sorted")).digest()


def chained(head: str, event: Event) -> str:
    """Return the head of a chain after one more event, in hexadecimal."""
    return sha256(bytes.fromhex(head) + digest(event)).hexdigest()


class AuditTrail:
    """Seals what is recorded: a listener of a log, to be told of events after all others.

    Args:
        recorder: records the seals, into the log that is listened to.
        seal_events: after so many events there is a seal.
        sealed: told the number and the head of the seals' recorder after each of them.

    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        seal_events: int = SEAL_EVENTS,
        sealed: Callable[[int, str], None] = lambda _number, _head: None,
    ) -> None:
        self._recorder = recorder
        self._seal_events = seal_events
        self._sealed = sealed
        self._heads: dict[str, tuple[int, str]] = {}
        self._fresh: set[str] = set()
        self._waiting = 0
        self._last = ""

    def __call__(self, event: Event) -> None:
        """Chain an event, and seal what was chained if there is enough of it."""
        recorder, number = numbered(event.id)
        _, head = self._heads.get(recorder, (0, START))
        self._heads[recorder] = number, chained(head, event)
        if recorder == self._recorder.prefix:
            self._sealed(*self._heads[recorder])
            return
        self._fresh.add(recorder)
        self._waiting += 1
        self._last = event.id
        if self._waiting >= self._seal_events:
            self.seal()

    def seal(self) -> None:
        """Seal what was recorded since the last seal, if anything was."""
        if not self._fresh:
            return
        heads = {name: list(self._heads[name]) for name in sorted(self._fresh)}
        self._fresh.clear()
        self._waiting = 0
        self._recorder.record(KIND, self._last, heads=heads)

    def seal_often(self, clock: Clock) -> None:
        """Seal now, and every ``SEAL_S`` seconds."""
        self.seal()
        clock.call_at(clock.now() + SEAL_S, lambda: self.seal_often(clock))


def audited(
    sink: Sink, clock: Clock, agent: str, prefix: str, sealed: Callable[[int, str], None]
) -> tuple[Sink, Callable[[], None]]:
    """Return a sink for all that one process records, which seals it, and what seals it now.

    Args:
        sink: takes the events and the seals.
        clock: of the process; makes the calls to seal.
        agent: records the seals.
        prefix: of their ids.
        sealed: as for ``AuditTrail``.

    """

    def take(event: Event) -> None:
        sink(event)
        trail(event)

    trail = AuditTrail(Recorder(agent, take, clock.now, prefix), sealed=sealed)
    trail.seal_often(clock)
    return take, trail.seal


class AuditBreak(Struct, frozen=True):
    """Something in a log is not what was sealed."""

    recorder: str
    first: int
    """Number of the first event, of this recorder, that may be concerned."""
    last: int
    """And of the last one."""
    reason: str


class AuditReading:
    """Holds a log against its own seals, event by event; ``end`` tells what was found.

    Events of a recorder may come in another order than they were recorded, as in a log that was
    merged from several processes. What is kept in memory is bounded by that disorder.
    """

    def __init__(self) -> None:
        self.events = 0
        self.seals = 0
        self.breaks: list[AuditBreak] = []
        self.heads: dict[str, dict[int, str]] = {}
        """Heads of the recorders of seals, by how many of their events they cover."""
        self._chains: dict[str, _Chain] = {}

    def see(self, event: Event) -> None:
        """Take the next event of the log."""
        self.events += 1
        recorder, number = numbered(event.id)
        chain = self._chains.setdefault(recorder, _Chain(recorder, self._break))
        if event.kind == KIND:
            self.seals += 1
            chain.seals = True
            for name, stated in _stated(event.data):
                self._chains.setdefault(name, _Chain(name, self._break)).expect(*stated)
        chain.add(number, event)

    def end(self) -> dict[str, int]:
        """End the reading; return how many events of each recorder no seal covers."""
        loose = {}
        for name, chain in self._chains.items():
            chain.end()
            if chain.seals:
                self.heads[name] = chain.known
            elif chain.number > chain.sealed:
                loose[name] = chain.number - chain.sealed
        return loose

    def holds(self, recorder: str, number: int, head: str) -> bool:
        """Whether a head that was noted elsewhere is the one that the log gives."""
        return self.heads.get(recorder, {}).get(number) == head

    def _break(self, found: AuditBreak) -> None:
        self.breaks.append(found)


class _Chain:
    """The events of one recorder, and what seals say of them."""

    def __init__(self, name: str, found: Callable[[AuditBreak], None]) -> None:
        self.number = 0
        self.sealed = 0
        self.seals = False
        """Whether it is that of a recorder of seals."""
        self.known: dict[int, str] = {0: START}
        """Heads by how many events they cover: the last ``DISORDER`` of them; of seals all."""
        self._name = name
        self._found = found
        self._early: dict[int, Event] = {}
        self._expected: dict[int, str] = {}
        self._broken = False

    def add(self, number: int, event: Event) -> None:
        """Take an event with its number."""
        if self._broken:
            return
        if number <= self.number or number in self._early:
            self._fail(number, number, f"{event.id} is there twice, or has no number")
            return
        self._early[number] = event
        while (turn := self._early.pop(self.number + 1, None)) is not None:
            self.number += 1
            self.known[self.number] = chained(self.known[self.number - 1], turn)
            self._compare(self.number)
        if len(self._early) > DISORDER:
            self._fail(self.number + 1, self.number + 1, self._missing())
        if len(self.known) > DISORDER and not self.seals:
            del self.known[next(iter(self.known))]

    def expect(self, number: int, head: str) -> None:
        """Take what a seal states."""
        if not self._broken and self._expected.setdefault(number, head) == head:
            self._compare(number)
        elif not self._broken:
            self._fail(number, number, "two seals contradict each other")

    def end(self) -> None:
        """Report what seals cover and the log does not have."""
        if not self._broken and (self._early or self._expected):
            last = max((*self._expected, *(first - 1 for first in self._early)))
            self._fail(self.number + 1, last, self._missing())

    def _missing(self) -> str:
        return f"{self._name}-{self.number + 1} is missing"

    def _compare(self, number: int) -> None:
        if number > self.number or number not in self._expected:
            return
        head = self.known.get(number)
        if self._expected.pop(number) != head:
            late = "its seal comes too late to be compared"
            why = "an event was changed since it was sealed" if head else late
            self._fail(min(self.sealed + 1, number), number, why)
        self.sealed = max(self.sealed, number)

    def _fail(self, first: int, last: int, reason: str) -> None:
        """Report the first break of a chain: what comes after it cannot be judged."""
        self._broken = True
        self._early.clear()
        self._expected.clear()
        self._found(AuditBreak(self._name, first, max(first, last), reason))


def _stated(data: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, str]]]:
    heads = data.get("heads")
    if not isinstance(heads, dict):
        return
    for name, stated in heads.items():
        match stated:
            case [int(number), str(head)] if number > 0:
                yield str(name), (number, head)
