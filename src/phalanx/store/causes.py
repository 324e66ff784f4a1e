"""The one walker of the log of causes: what led to an event, and what followed from it.

It has no I/O of its own. ``climb`` and ``unfold`` ask the caller for events, wherever they are
kept; ``CauseIndex`` is a log in memory that both walk, and that grows event by event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from phalanx.domain.events import Event

LONGEST = 10_000
"""Events that a chain of causes has at most."""


class Linked(Protocol):
    """An event, or a record of one, that names its cause."""

    @property
    def id(self) -> str:
        """Its id, unique in the run."""

    @property
    def cause(self) -> str | None:
        """Id of its cause; None for a root."""


E = TypeVar("E", bound=Linked)


class CauseBreak(Struct, frozen=True):
    """Where a chain of causes does not reach its root."""

    effect: str
    """Id of the first event that was found."""
    cause: str
    """Id of the cause that it names."""
    why: str
    """``missing``: it has not come, or came and went before its effect; ``retired``: it was
    here; ``circle``: it is an effect of its own effect; ``length``: the chain is too long."""

    def __str__(self) -> str:
        words = {
            "missing": "is not in the store",
            "retired": "has been retired",
            "circle": "is an effect of its own effect",
            "length": "is further back than chains are followed",
        }
        return f"{self.cause}, the cause of {self.effect}, {words[self.why]}"


class CauseChain(Struct, Generic[E], frozen=True):
    """Causes before effects, each the cause of the next."""

    entries: tuple[E, ...]
    """Empty if the event is unknown."""
    broken: CauseBreak | None = None
    """None: it begins at a root, an event without a cause."""


def climb(
    event_id: str, read: Callable[[str], Iterable[E]], longest: int = LONGEST
) -> CauseChain[E]:
    """Return what led to an event, from the root cause to the event itself.

    Args:
        event_id: of the event.
        read: returns the event of an id, followed by as many of its causes as it has at hand,
            the nearest first; nothing if the id is unknown.
        longest: events to follow back at most.

    """
    chain: dict[str, E] = {}
    wanted: str | None = event_id
    why = ""
    while wanted is not None and not why:
        why = "missing"
        for event in read(wanted):
            if event.id in chain or len(chain) == longest:
                why = "circle" if event.id in chain else "length"
                break
            chain[event.id] = event
            wanted, why = event.cause, ""
    entries = tuple(reversed(chain.values()))
    if not entries or wanted is None:
        return CauseChain(entries)
    return CauseChain(entries, CauseBreak(entries[0].id, wanted, why))


def unfold(event_id: str, effects: Callable[[str], Sequence[E]]) -> Iterator[tuple[int, E]]:
    """Yield what followed from an event, each event once and below its cause.

    Args:
        event_id: of the event, which is not yielded itself.
        effects: returns what an event caused directly, in order.

    Yields:
        the steps from the event (1 for what it caused directly), and the effect.

    """
    seen = {event_id}
    waiting = [(1, effect) for effect in reversed(effects(event_id))]
    while waiting:
        depth, event = waiting.pop()
        if event.id not in seen:
            seen.add(event.id)
            yield depth, event
            waiting += [(depth + 1, effect) for effect in reversed(effects(event.id))]


class CauseIndex:
    """Events in the order of a log, with the ways from each to its cause and its effects.

    Of two events of one id the first counts. A cause counts only if it stands before its
    effect, so that no chain is a circle.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        self._places: dict[str, int] = {}
        self._effects: dict[str, list[Event]] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._places.setdefault(event.id, len(self.events))
        self.events.append(event)
        cause = self.cause(event)
        if cause is not None:
            self._effects.setdefault(cause.id, []).append(event)

    def get(self, event_id: str) -> Event | None:
        """Return the event of an id; None if there is none."""
        place = self._places.get(event_id)
        return None if place is None else self.events[place]

    def place(self, event: Event) -> int:
        """Return the place of an event in the log, from 0."""
        return self._places[event.id]

    def cause(self, event: Event) -> Event | None:
        """Return what caused ``event``; None for a root, or if it does not stand before it."""
        place = None if event.cause is None else self._places.get(event.cause)
        return self.events[place] if place is not None and place < self.place(event) else None

    def causes(self, event: Event) -> Iterator[Event]:
        """Yield the chain of causes, from the nearest to the root."""
        cause = self.cause(event)
        while cause is not None:
            yield cause
            cause = self.cause(cause)

    def effects(self, event_id: str) -> Sequence[Event]:
        """Return what an event caused directly, in the order of the log."""
        return self._effects.get(event_id, ())

    def below(self, event_id: str) -> Iterator[tuple[int, Event]]:
        """Yield all that followed from an event, as ``unfold`` does."""
        return unfold(event_id, self.effects)
