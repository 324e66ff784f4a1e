"""What the service keeps of one life of one agent, so that nothing is done or missed twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from phalanx.bus.wire import MAX_OCTETS
from phalanx.domain.actions import InstanceLost, SiteState
from phalanx.fabric.network.codec import Answered, Do, Packed, Synced

AHEAD = 256
"""Actions above the floor that are listened to."""
UNDER_WAY = 1_000
"""Actions that may be under way, or whose late outcome was not heard, at a time."""
LOSSES = 10_000
"""News of lost instances that are kept for an agent that does not hear them."""

_ROOM = MAX_OCTETS // 2
_SITE, _LOSS = SiteState.__name__, InstanceLost.__name__
R = TypeVar("R")


class Session(Generic[R]):
    """One agent's life: what it asked, what that came to, and what it was told.

    Actions are carried out in the order of their tokens, each once. ``R`` is whatever answers a
    request. A request that came before its turn waits here, the latest one for each token.
    """

    def __init__(self, pop: str, incarnation: int) -> None:
        self.pop = pop
        self.incarnation = incarnation
        self.perceives = False
        self.under_way: set[int] = set()
        self.shed = 0
        """News of losses that had to go."""
        self._floor = 0
        self._next: int | None = None
        self._early: dict[int, tuple[Do, R]] = {}
        self._replies: dict[int, Answered] = {}
        """What was replied to each token from the floor on."""
        self._news: dict[int, Packed] = {}
        self._late = 0
        self._losses = 0
        self.last = 0
        """Number of the last news."""

    @property
    def full(self) -> bool:
        """Whether too much is under way."""
        return len(self.under_way) + self._late >= UNDER_WAY

    # -- actions ------------------------------------------------------------------------------

    def settle(self, floor: int) -> None:
        """Forget what is below the floor; it is not carried out any more either."""
        if floor <= self._floor:
            return
        self._floor = floor
        self._replies = {token: was for token, was in self._replies.items() if token >= floor}
        self._early = {token: was for token, was in self._early.items() if token >= floor}

    def settled(self, token: int) -> bool:
        """Whether a token is below the floor."""
        return token < self._floor

    def too_far(self, token: int) -> bool:
        """Whether a token is so far ahead that it is not listened to."""
        return token >= self._floor + AHEAD

    def reply(self, token: int) -> Answered | None:
        """Return what was replied to a token, None if its action was not begun."""
        return self._replies.get(token)

    def expect(self, do: Do, request: R) -> None:
        """Keep an action until its turn comes."""
        self._early[do.token] = do, request

    def turns(self) -> Iterator[tuple[Do, R]]:
        """Yield the actions whose turn it is; each counts as begun."""
        while True:
            turn = self._floor if self._next is None else max(self._next, self._floor)
            if turn not in self._early:
                return
            self._next = turn + 1
            yield self._early.pop(turn)

    def begun(self, token: int, reply: Answered) -> None:
        """Note what is replied to a token, as often as it is asked."""
        self._replies[token] = reply

    # -- news -----------------------------------------------------------------------------------

    def tell(self, item: Packed) -> int:
        """Keep a piece of news until it is heard; return its number."""
        self.last += 1
        name = item[0]
        if name == _SITE:
            for number in [n for n, (known, _) in self._news.items() if known == _SITE]:
                del self._news[number]
        elif name == _LOSS:
            self._losses += 1
            if self._losses > LOSSES:
                self._forget(next(n for n, (known, _) in self._news.items() if known == _LOSS))
                self.shed += 1
        else:
            self._late += 1
        self._news[self.last] = item
        return self.last

    def heard(self, upto: int) -> None:
        """Forget news that was heard."""
        for number in [number for number in self._news if number <= upto]:
            self._forget(number)

    def synced(self, service: int) -> Synced:
        """Return what was not heard yet, as much as fits."""
        room, upto = _ROOM, self.last
        news: list[tuple[int, Packed]] = []
        for number, item in self._news.items():
            room -= len(bytes(item[1]))
            if news and room < 0:
                upto = news[-1][0]
                break
            news.append((number, item))
        return Synced(service, tuple(news), upto, self.last)

    def _forget(self, number: int) -> None:
        name, _ = self._news.pop(number)
        if name == _LOSS:
            self._losses -= 1
        elif name != _SITE:
            self._late -= 1
