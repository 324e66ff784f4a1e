"""Whether the other side has fallen silent, judged by the turns of our own loop.

A process that was stopped, or had no processor for seconds, finds all its timers late at once;
what came in meanwhile waits in its socket. So time is not measured but counted: each turn is
asked for a fraction of the patience after the last one was taken, and the loop reads its sockets
before it. A turn counts once, however late it is.
"""

from __future__ import annotations

from math import isfinite

from phalanx.bus.client import BrokerError

DEAF_S = 5.0
"""How long a server may say nothing, though it was asked, unless told otherwise."""
_TURNS = 6


class LivenessCheck:
    """Counts the turns in which nothing was heard."""

    def __init__(self, deaf_s: float) -> None:
        """Begin with a side that was just heard.

        Args:
            deaf_s: most seconds until it is ``over``, beginning with the last that was heard, if
                every turn is taken in time; the least is five sixths of it.

        Raises:
            BrokerError: if that is no time.

        """
        if not (isfinite(deaf_s) and deaf_s > 0):
            raise BrokerError(f"a server is silent after a positive time, not {deaf_s} s")
        self.turn_s = deaf_s / _TURNS
        """How long after one turn the next is to be taken."""
        self.quiet = 0
        """How many turns in a row nothing was heard."""

    @property
    def over(self) -> bool:
        """Whether the other side is to be given up."""
        return self.quiet >= _TURNS - 1

    def turn(self, heard: bool) -> None:
        """Take a turn, with whether anything was heard since the last one."""
        self.quiet = 0 if heard else self.quiet + 1
