"""The window that lets no number in twice (RFC 4303, 3.4.3)."""

from __future__ import annotations

WINDOW = 1024
"""By how many numbers one may be late."""
_ALL = (1 << WINDOW) - 1


class Window:
    """Which numbers came in already; those too old to tell count as such."""

    __slots__ = ("_highest", "_seen")

    def __init__(self, first: int = 0) -> None:
        """Begin with all numbers from ``first`` on."""
        self._highest = first - 1
        self._seen = _ALL  # bit n: whether the number n below the highest came in

    def fresh(self, number: int) -> bool:
        """Whether ``number`` did not come in yet."""
        below = self._highest - number
        return below < 0 or (below < WINDOW and not self._seen >> below & 1)

    def mark(self, number: int) -> None:
        """Note that ``number``, which is fresh, came in."""
        ahead = number - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & _ALL
            self._highest = number
        else:
            self._seen |= 1 << -ahead
