"""What an agent remembers of its life, so that it can go on with it after kill -9.

A memory holds what cannot be found out again: beliefs, the agent's own goals, and what its
capabilities add (a VNF's instance, a contract). What a plan was just doing is not in it: a plan
begins anew. Times are those of the agent's clock; whoever restores a memory shifts them to its
own, so the clocks of two lives need not agree.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from phalanx.bdi.library import Library
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.goals import Goal, Predicate
from phalanx.domain.network import PopId
from phalanx.domain.tagged import UNREADABLE, reader
from phalanx.domain.vnf import InstanceId

VERSION = 1
"""Of the form; raised when an older reader would misread a memory."""

FLEETING = frozenset(
    {
        "action.failed",
        "analysis.done",
        "auction.bid",
        "auction.refused",
        "plan.ended",
        "plan.started",
    }
)
"""Kinds of events after which an agent remembers nothing more than before."""


class MemoryUnusable(PhalanxError):  # noqa: N818  # as ``MemoryError`` is taken
    """Octets are no memory of this agent; the text is one line."""


class BeliefMemory(Struct, frozen=True):
    """A belief; see ``bdi.beliefs.Belief``."""

    predicate: Predicate
    value: bool
    holder: AgentId | None
    event: str
    since: float


class GoalMemory(Struct, frozen=True):
    """An own goal that is open; see ``bdi.goals.GoalInstance``."""

    id: str
    """Its id; empty: its end was told already, and it is adopted anew."""
    goal: Goal
    cause: str
    priority: int
    scope: str | None
    traffic_mb_s: float
    tap: PopId
    instance: InstanceId | None
    standing: bool
    stand_in: Goal | None = None
    """The goal that was adopted in its place when its plans had failed."""


class FallenGoal(Struct, frozen=True):
    """An open goal that does not survive: the part of a plan, or of work for somebody else."""

    id: str
    goal: str


class _Core(Struct, frozen=True, kw_only=True):
    version: int = VERSION
    agent: AgentId
    incarnation: int
    """The life that remembers."""
    remembers: int
    """The earliest life of which it knows all doings."""
    time: float
    """When this was, in seconds of the agent's clock."""
    beliefs: tuple[BeliefMemory, ...] = ()
    goals: tuple[GoalMemory, ...] = ()
    fallen: tuple[FallenGoal, ...] = ()


class Memory(_Core, frozen=True, kw_only=True):
    """All that an agent remembers at one moment."""

    parts: dict[str, Struct] = {}
    """What capabilities remember, by their names."""


class _Written(_Core, frozen=True, kw_only=True):
    parts: dict[str, Raw] = {}


def encode(memory: Memory) -> bytes:
    """Return ``memory`` as JSON."""
    return msgspec.json.encode(memory)


def decode(octets: bytes, library: Library) -> Memory:
    """Return the memory that ``octets`` are.

    What belongs to a capability that is not in ``library`` any more is passed over.

    Raises:
        MemoryUnusable: if they are none, or of another version, or hold what is not known here.

    """
    try:
        written: _Written = reader(_Written)(octets)
        if written.version != VERSION:
            raise MemoryUnusable(f"a memory of version {written.version}, not {VERSION}")
        parts: dict[str, Struct] = {}
        for name, raw in written.parts.items():
            capability = library.capabilities.get(name)
            if capability is not None and capability.memory is not None:
                parts[name] = reader(capability.memory)(raw)
    except UNREADABLE as error:
        raise MemoryUnusable(f"no memory of an agent: {' '.join(str(error).split())}") from error
    core: dict[str, Any] = {name: getattr(written, name) for name in _Core.__struct_fields__}
    return Memory(**core, parts=parts)


def contents(part: Struct) -> dict[str, int]:
    """Return how many of what a capability remembers, for the log."""
    fields = ((name, getattr(part, name)) for name in part.__struct_fields__)
    return {name: len(value) for name, value in fields if isinstance(value, tuple) and value}
