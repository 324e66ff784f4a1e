"""The history of a domain, or of a run, as operations of the integration fabric.

Historical data and knowledge of the agents are provided on request (seed document 002, III.B.2).
An answer is bounded; a caller that wants more asks again, from the place where the last one ended.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Call, Provider
from phalanx.store.derived import Sample
from phalanx.store.history import DECISIONS, EventQuery, History, Knowledge, StoredEvent

MOST = 500
"""Rows of one answer: an event of a kilobyte each fits into a message twice over."""

Id = Annotated[str, Meta(min_length=1, max_length=300)]
Limit = Annotated[int, Meta(ge=1, le=MOST)]


class FindRequest(Struct, frozen=True):
    """Asks for events; all that is given must hold."""

    query: EventQuery = EventQuery()
    after: Annotated[int, Meta(ge=-1)] = -1
    """Only what the store got later than the entry with this ``seq``."""
    decisions: bool = False
    """Only events in which an agent chose."""
    limit: Limit = 100


class Entries(Struct, frozen=True):
    """Events in the order in which the store got them."""

    entries: tuple[StoredEvent, ...]
    more: bool = False
    """There are others: ask again, after the last of these."""


class CausesRequest(Struct, frozen=True):
    """Asks what led to an event, or followed from it."""

    event: Id
    limit: Limit = 100


class Causes(Struct, frozen=True):
    """What led to an event, from the first cause on; the last entry is the event itself."""

    entries: tuple[StoredEvent, ...]
    broken: str | None = None
    """Where the chain does not reach its root, in words."""


class FiguresRequest(Struct, frozen=True):
    """Asks for the figures of one name."""

    name: Id
    query: EventQuery = EventQuery()
    limit: Limit = 100


class Figures(Struct, frozen=True):
    """Figures by time."""

    samples: tuple[Sample, ...]
    more: bool = False


class KnowledgeRequest(Struct, frozen=True):
    """Asks what agents believe, as last heard of them."""

    agent: str | None = None
    scope: str | None = None
    limit: Limit = 100


class Beliefs(Struct, frozen=True):
    """Beliefs by agent and predicate."""

    beliefs: tuple[Knowledge, ...]
    more: bool = False


FIND = Operation("find", FindRequest, Entries, False, "events by slice, agent, time and kind")
CAUSES = Operation("causes", CausesRequest, Causes, False, "what led to an event")
EFFECTS = Operation("effects", CausesRequest, Entries, False, "what followed from an event")
FIGURES = Operation("figures", FiguresRequest, Figures, False, "metrics by name and time")
KNOWLEDGE = Operation("knowledge", KnowledgeRequest, Beliefs, False, "what agents believe")

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


def serve_history(provider: Provider, history: Callable[[], History], run: str) -> None:
    """Let ``provider`` answer questions to the history of ``run``, as ``history`` returns it.

    What the store cannot tell (it is down, or knows no such run yet) is answered ``Failed``.

    Raises:
        ValueError: if the provider serves one of the operations already.

    """

    def find(ask: FindRequest) -> Entries:
        query = ask.query
        if ask.decisions and not query.kinds:
            query = EventQuery(DECISIONS, *(getattr(query, f) for f in query.__struct_fields__[1:]))
        later = (entry for entry in history().entries(run, query) if entry.seq > ask.after)
        found = tuple(islice(later, ask.limit + 1))
        return Entries(found[: ask.limit], len(found) > ask.limit)

    def causes(ask: CausesRequest) -> Causes:
        chain = history().causes(run, ask.event, ask.limit)
        return Causes(chain.entries, None if chain.broken is None else str(chain.broken))

    def effects(ask: CausesRequest) -> Entries:
        found = history().effects(run, ask.event, ask.limit)
        return Entries(tuple(effect.entry for effect in found.effects), found.more)

    def figures(ask: FiguresRequest) -> Figures:
        found = tuple(islice(history().metrics(run, ask.name, ask.query), ask.limit + 1))
        samples = tuple(measurement.sample for measurement in found[: ask.limit])
        return Figures(samples, len(found) > ask.limit)

    def knowledge(ask: KnowledgeRequest) -> Beliefs:
        found = tuple(islice(history().knowledge(run, ask.agent, ask.scope), ask.limit + 1))
        return Beliefs(found[: ask.limit], len(found) > ask.limit)

    _serve(provider, FIND, find)
    _serve(provider, CAUSES, causes)
    _serve(provider, EFFECTS, effects)
    _serve(provider, FIGURES, figures)
    _serve(provider, KNOWLEDGE, knowledge)


def _serve(provider: Provider, operation: Operation[Q, A], answer: Callable[[Q], A]) -> None:
    def handle(call: Call[Q, A]) -> None:
        call.done(answer(call.request))

    provider.serve(operation, handle)
