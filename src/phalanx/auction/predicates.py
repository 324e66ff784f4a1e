"""What agents believe about each other and about their contracts."""

from __future__ import annotations

from phalanx.domain.goals import Predicate
from phalanx.domain.network import PopId


class Gone(Predicate, frozen=True):
    """The agent of ``pop`` does not live."""

    pop: PopId


class Left(Predicate, frozen=True):
    """The agent of ``pop`` has left in order."""

    pop: PopId


class Kept(Predicate, frozen=True):
    """The contract of ``conversation`` is kept: the goal it is about was achieved."""

    conversation: str
