"""When a process that has died is started again, and when not any more. No I/O, no clock."""

from __future__ import annotations

from msgspec import Struct


class Endurance(Struct, frozen=True):
    """How long, and how often, processes that die are started again."""

    look_s: float = 1.0
    """Between two looks at them."""
    pause_s: float = 1.0
    """Before a process is started again; twice as long before each further time in a row."""
    most_pause_s: float = 60.0
    attempts: int = 6
    """A process that dies after so many starts in a row is left alone."""
    steady_s: float = 60.0
    """One that lives for so long has ended the row."""


class Fate:
    """The fate of one process as its watcher sees it, at times of any clock, in seconds."""

    def __init__(self, endurance: Endurance) -> None:
        self.deaths = 0
        """In a row."""
        self.due: float | None = None
        """When it is to be started; None: it lives, as far as is known, or is left alone."""
        self.left_alone = False
        self._endurance = endurance
        self._since: float | None = None

    def lives(self, now: float) -> None:
        """Note that it was seen alive."""
        if self._since is None or self.due is not None or self.left_alone:
            self._since, self.due = now, None
        if self.left_alone or now - self._since >= self._endurance.steady_s:
            self.deaths, self.left_alone = 0, False

    def dead(self, now: float) -> bool:
        """Note that it was seen dead, and return whether that is news."""
        if self.due is not None or self.left_alone:
            return False
        lived_s = 0.0 if self._since is None else now - self._since
        self.deaths = 1 if lived_s >= self._endurance.steady_s else self.deaths + 1
        if self.deaths > self._endurance.attempts:
            self.left_alone = True
        else:
            pause_s = self._endurance.pause_s * 2.0 ** (self.deaths - 1)
            self.due = now + min(pause_s, self._endurance.most_pause_s)
        return True

    def started(self, now: float) -> None:
        """Note that it was started; whether it lives is seen at the next look."""
        self._since, self.due = now, None
