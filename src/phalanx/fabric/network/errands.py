"""What an agent has asked of the infrastructure and not been answered: a book without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from phalanx.fabric.network.codec import Packed
from phalanx.infrastructure import Answer


class Errand:
    """An action, from ``perform`` to its answer."""

    __slots__ = ("action", "answer", "cause", "on_its_way", "since", "token")

    def __init__(self, action: Packed, cause: str, answer: Answer, since: float) -> None:
        self.action = action
        self.cause = cause
        self.answer = answer
        self.since = since
        """When it was wanted, in seconds of the agent's clock."""
        self.token = 0
        """Its place among all that were asked for; 0 before."""
        self.on_its_way = False
        """Whether a request for it waits for a reply."""


class Errands:
    """Errands that wait for their turn, are asked for, or are under way at the service."""

    def __init__(self, window: int) -> None:
        """Make the book.

        Args:
            window: errands that may be asked for at a time.

        """
        self._window = window
        self._next = 1
        self._waiting: deque[Errand] = deque()
        self._asked: dict[int, Errand] = {}
        self._under_way: dict[int, Errand] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asked) + len(self._under_way)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def floor(self) -> int:
        """The lowest token of which the service's reply is not known."""
        return next(iter(self._asked), self._next)

    @property
    def unheard(self) -> list[Errand]:
        """Those asked for in vain, to be asked for again."""
        return [errand for errand in self._asked.values() if not errand.on_its_way]

    def doubt(self) -> None:
        """Take every question that is on its way for lost."""
        for errand in self._asked.values():
            errand.on_its_way = False

    def add(self, errand: Errand) -> None:
        """Let an errand wait for its turn."""
        self._waiting.append(errand)

    def turns(self) -> Iterator[Errand]:
        """Yield the errands whose turn has come, each with a token from now on."""
        while self._waiting and len(self._asked) < self._window:
            errand = self._waiting.popleft()
            errand.token = self._next
            self._asked[errand.token] = errand
            self._next += 1
            yield errand

    def is_asked(self, errand: Errand) -> bool:
        """Whether the service's reply to an errand is not known."""
        return self._asked.get(errand.token) is errand

    def begin(self, errand: Errand) -> None:
        """Note that an errand is under way."""
        self._under_way[errand.token] = self._asked.pop(errand.token)

    def end(self, token: int) -> Errand | None:
        """Take an errand out that has come to its end; None if it was given up."""
        return self._under_way.pop(token, None) or self._asked.pop(token, None)

    def give_up(self, since: float, *, under_way: bool) -> list[Errand]:
        """Take out what was wanted at ``since`` or before, what is under way only if told so."""
        books = [self._asked, self._under_way] if under_way else [self._asked]
        given_up = [one for book in books for one in book.values() if one.since <= since]
        for errand in given_up:
            self.end(errand.token)
        while self._waiting and self._waiting[0].since <= since:
            given_up.append(self._waiting.popleft())
        return given_up

    def abandon(self) -> list[Errand]:
        """Take out all that were asked for; the service knows of them, or may."""
        abandoned = [*self._asked.values(), *self._under_way.values()]
        self._asked.clear()
        self._under_way.clear()
        return abandoned

    def clear(self) -> list[Errand]:
        """Take out all."""
        everything = [*self.abandon(), *self._waiting]
        self._waiting.clear()
        return everything
