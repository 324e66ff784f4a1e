"""Answers to why something happened, from the log of causes alone.

``explain`` answers one question; ``CauseTree`` follows a whole run: everything that its alarms
and faults led to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, describe_whole, is_alarm, is_important
from phalanx.reporting.log import Log, whole_word
from phalanx.reporting.trust import OUT, TrustView
from phalanx.reporting.why_not import (
    Answer,
    about_address,
    about_auction,
    auctions_of,
    why_not_agent,
)

_ANSWERS = (
    "measure.applied",
    "measure.withheld",
    "auction.awarded",
    "auction.failed",
    "instance.started",
    "measure.lifted",
    "goal.ended",
)
"""Of several events that match a fragment, one of these kinds is explained, if there is one."""
_NOT_LAST = {"network.sample", "measures.counted", "resources.changed", "run.ended"}


class ExplanationLine(Struct, frozen=True):
    """One event of an explanation; where it has branches, ``depth`` of them down."""

    depth: int
    event: Event


class Explanation(Struct, frozen=True):
    """The answer: causes before effects."""

    title: str
    lines: tuple[ExplanationLine, ...]
    others: tuple[str, ...] = ()
    """Ids of events that match as well, latest first."""
    words: tuple[str, ...] = ()
    """The answer in sentences, where there is more to say than the causes."""
    table: tuple[tuple[str, ...], ...] = ()
    """Utilities taken apart: rows of cells, the head first."""


def explain(events: Iterable[Event] | Log, what: str, why_not: str = "") -> Explanation:
    """Explain ``what``: an event's id, an address, an auction, ``last``, ``attack``, or a name.

    An address of a source is answered with why it is blocked, or is not; an auction with its
    bids taken apart; ``attack`` with what the first malicious traffic, or else the first alarm,
    led to; all others with the chain of causes from the root to the event.

    Args:
        events: a log, or its index where one grows with it.
        what: the question. A name (of a goal, measure, instance or agent) counts as a whole word.
        why_not: an agent; the answer then says why it did not win the auction ``what``.

    Raises:
        LogError: if nothing in the log matches.

    """
    log = events if isinstance(events, Log) else Log(events)
    if why_not:
        return _answered(log, why_not_agent(log, what, why_not))
    known = log.get(what)
    if known is not None:
        return _chain(log, known)
    answer = about_address(log, what)
    if answer is not None:
        return _answered(log, answer)
    auction = next((a for a in auctions_of(log)[::-1] if a.auction == what), None)
    if auction is not None:
        return _answered(log, about_auction(auction))
    if what == "attack":
        return _attack(log)
    if what == "last":
        chosen = [event for event in log.events if event.kind not in _NOT_LAST][-1:]
        if not chosen:
            raise LogError("the log has no event to explain")
        return _chain(log, chosen[0])
    word = whole_word(what)
    matches = [event for event in log.events if _matches(event, word)]
    if not matches:
        raise LogError(
            f"no event matches {what!r}; give an event's id, an address, 'last', 'attack', or a "
            "whole word of a goal, measure, instance, agent or auction"
        )
    trust = _trust(log, what)
    if trust is not None:
        return trust
    ranked = ([event for event in matches if event.kind == kind] for kind in _ANSWERS)
    last = next(filter(None, ranked), matches)[-1]
    return _chain(log, last, tuple(event.id for event in reversed(matches) if event is not last))


def _matches(event: Event, word: re.Pattern[str]) -> bool:
    if event.kind in _NOT_LAST:
        return False
    return word.search(event.agent) is not None or _holds(event.data, word)


def _holds(value: Any, word: re.Pattern[str]) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, word) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, word) for item in value)
    return isinstance(value, str) and word.search(value) is not None


def _answered(log: Log, answer: Answer) -> Explanation:
    event = log.get(answer.event)
    lines = () if event is None else _chain(log, event).lines
    return Explanation(answer.title, lines, (), answer.words, answer.table)


def _chain(log: Log, last: Event, others: tuple[str, ...] = ()) -> Explanation:
    chain = [last, *log.causes(last)]
    lines = tuple(ExplanationLine(0, event) for event in reversed(chain))
    return Explanation(f"Why {last.id}: {describe_whole(last)}", lines, others)


def _trust(log: Log, what: str) -> Explanation | None:
    """Tell why an agent of this name was expelled or silent; None: it never was."""
    view = TrustView()
    for event in log.of("attestation.result", "trust.changed"):
        view.add(event)
    story = view.result()
    agent = next((a for a in story.agents if a.agent == what and a.story), None) if story else None
    out = next((step.event for step in agent.steps if step.standing in OUT), "") if agent else ""
    last = log.get(out)
    if agent is None or last is None:
        return None
    return replace(_chain(log, last), words=(f"{what} is {agent.story}",))


def _attack(log: Log) -> Explanation:
    starts = [e for e in log.events if e.kind == "traffic.changed" and e.data.get("malicious")]
    alarms = [event for event in log.events if is_alarm(event)]
    roots = [e for e in (*starts, *alarms) if log.effects(e.id)] or starts or alarms
    if not roots:
        raise LogError("the log tells of no attack and no alarm")
    root = roots[0]
    lines = [ExplanationLine(0, root)]
    depths = {root.id: 1}
    for _, event in log.below(root.id):
        depth = depths[event.cause or ""]
        shown = is_important(event) or event.kind == "goal.adopted"
        depths[event.id] = depth + shown
        if shown:
            lines.append(ExplanationLine(depth, event))
    return Explanation(f"What came of {root.id}: {describe(root)}", tuple(lines))
