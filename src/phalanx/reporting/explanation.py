"""Answers to why something happened, from the log of causes alone.

``explain`` answers one question; ``CauseTree`` follows a whole run: everything that its alarms
and faults led to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, describe_whole, is_alarm, is_important
from phalanx.reporting.log import Log, predicate_of, text, whole_word
from phalanx.reporting.svg import counted
from phalanx.reporting.trust import OUT, TrustView
from phalanx.reporting.why_not import (
    Answer,
    about_address,
    about_auction,
    auctions_of,
    why_not_agent,
)
from phalanx.store.causes import CauseIndex

MOST_ROWS = 4000
"""Rows of the tree on one page; further events are counted, never left out unsaid."""
_DEEPEST = 16
_ABOUT = ("effect", "goal", "group", "belief", "vnf", "pop", "winner", "reason")

_ANSWERS = (
    "measure.applied",
    "auction.awarded",
    "auction.failed",
    "instance.started",
    "measure.lifted",
    "goal.ended",
)
"""Of several events that match a fragment, one of these kinds is explained, if there is one."""
_NOT_LAST = {"network.sample", "resources.changed", "run.ended"}
_SETTING = {"run.started", "run.ended", "network.sample", "agent.started", "traffic.changed"}
_LEAVES = {
    "auction.bid": ("bid", "bids"),
    "auction.refused": ("refusal", "refusals"),
    "resources.changed": ("change of free resources", "changes of free resources"),
    "message.shed": ("shed message", "shed messages"),
}
"""Events that are counted beside their cause; the tables of the report show each of them."""


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


def summed_up(events: Sequence[Event]) -> tuple[tuple[str, int], ...]:
    """Return ``events`` in words, those alike as one with the number of the others.

    Of a traffic group the last stands for all, since its figures include those before.
    """
    groups: dict[tuple[str, ...], list[Event]] = {}
    for event in events:
        groups.setdefault(_alike(event), []).append(event)
    return tuple(
        (describe(group[-1]), 0)
        if group[0].kind == "traffic.changed"
        else (describe(group[0]), len(group) - 1)
        for group in groups.values()
    )


def _alike(event: Event) -> tuple[str, ...]:
    """Return what two events have in common that can be told as one."""
    return (event.kind, *(predicate_of(text(event.data, name)) for name in _ABOUT))


class TreeToken(Struct, frozen=True):
    """A piece of the tree in writing order: a row, the opening of a branch, or its end."""

    piece: str
    """``row``, ``open`` or ``close``."""
    event: str = ""
    kind: str = ""
    agent: str = ""
    time: float = 0.0
    words: str = ""
    aside: str = ""
    """Effects that are only counted."""
    branch: bool = False
    """Whether it is the first row of its branch."""
    open: bool = False


class DrawnTree(Struct, frozen=True):
    """The tree as tokens, and what it does not show."""

    tokens: tuple[TreeToken, ...]
    shown: int
    aside: str
    """What stands outside the tree, in words."""
    left_out: int
    """Events that no longer had room."""


class CauseTree:
    """Everything since the first alarm or fault, below what caused it, event by event.

    A root is the first alarm of its chain, or an event that only the setting of the run
    caused. What happened before the first alarm, samples and the like are counted.

    Args:
        log: the same events, each added there before it is added here.

    """

    def __init__(self, log: CauseIndex) -> None:
        self._log = log
        self._roots: dict[str, Event] = {}
        self._under_alarm: set[str] = set()
        self._start: Event | None = None

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        cause = self._log.cause(event)
        inside = cause is not None and cause.id in self._under_alarm
        # What a diagnosis leads to beside a belief: other loops hear of it, too.
        alarm = is_alarm(event) or event.kind == "trouble.diagnosed"
        if alarm or inside:
            self._under_alarm.add(event.id)
        if self._start is None and (alarm or event.kind in {"fault.injected", "agent.crashed"}):
            self._start = event
        if event.kind in _SETTING or event.kind in _LEAVES:
            return
        if (alarm and not inside) or cause is None or cause.kind in _SETTING:
            self._roots[event.id] = event

    def result(self) -> DrawnTree:
        """Return the tree so far, roots in order of time."""
        log, place = self._log, self._log.place
        since = place(self._start) if self._start else 0
        chosen = [event for event in self._roots.values() if place(event) >= since]
        tokens: list[TreeToken] = []
        covered: set[str] = set()
        full = 0
        stack: list[tuple[Event | None, int, bool]] = [(event, 0, True) for event in chosen[::-1]]
        while stack:
            event, depth, branch = stack.pop()
            if event is None:
                tokens.append(TreeToken("close"))
                continue
            effects = [
                effect
                for effect in log.effects(event.id)
                if effect.id not in self._roots and effect.kind not in _SETTING
            ]
            leaves = [e for e in effects if e.kind in _LEAVES and not log.effects(e.id)]
            aside = {leaf.id for leaf in leaves}
            kids = [effect for effect in effects if effect.id not in aside]
            covered |= {event.id, *aside}
            if len(covered) > MOST_ROWS:
                full += 1 + len(leaves)
                stack += [(kid, depth, False) for kid in kids]
                continue
            forks = len(kids) > 1 and depth < _DEEPEST
            tokens.append(
                TreeToken(
                    "open" if forks else "row",
                    event.id,
                    event.kind,
                    event.agent,
                    event.time,
                    describe(event),
                    _counts(leaf.kind for leaf in leaves),
                    branch,
                    depth < 8,
                )
            )
            if forks:
                stack.append((None, depth, False))
            stack += [(kid, depth + forks, len(kids) > 1) for kid in kids[::-1]]
        outside = Counter(event.kind for event in log.events if event.id not in covered)
        words = ", ".join(f"{count} × {kind}" for kind, count in sorted(outside.items()))
        return DrawnTree(tuple(tokens), len(covered) - full, words, full)


def _counts(kinds: Iterable[str]) -> str:
    return ", ".join(
        counted(count, *_LEAVES[kind]) for kind, count in sorted(Counter(kinds).items())
    )
