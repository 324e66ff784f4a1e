"""What agents believe about each other and about their contracts."""

from __future__ import annotations

from phalanx.domain.agents import AgentId
from phalanx.domain.goals import Predicate


class Gone(Predicate, frozen=True):
    """The agent does not live."""

    agent: AgentId


class Left(Predicate, frozen=True):
    """The agent has left in order."""

    agent: AgentId


class Kept(Predicate, frozen=True):
    """The contract of ``conversation`` is kept: the goal it is about was achieved."""

    conversation: str
