"""The chain of causes: a flat story of the main steps, and the whole tree behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, is_alarm
from phalanx.reporting.log import Log, predicate_of, text
from phalanx.reporting.markers import alike, told
from phalanx.reporting.svg import counted

MOST_ROWS = 4000
"""Rows of the tree on one page; further events are counted, never left out unsaid."""
_DEEPEST = 16
_TOGETHER_S = 20.0

_SETTING = {"run.started", "run.ended", "network.sample", "agent.started", "traffic.changed"}
_LEAVES = {
    "auction.bid": ("bid", "bids"),
    "auction.refused": ("refusal", "refusals"),
    "resources.changed": ("change of free resources", "changes of free resources"),
    "message.shed": ("shed message", "shed messages"),
}
"""Events told as a count beside their cause; the tables above show each of them."""
_STORY = {
    "traffic.changed",
    "fault.injected",
    "link.changed",
    "agent.crashed",
    "agent.gone",
    "agent.returned",
    "lease.expired",
    "analysis.done",
    "auction.awarded",
    "auction.failed",
    "instance.started",
    "instance.scaled",
    "instance.replaced",
    "instance.stopped",
    "measure.applied",
    "measure.lifted",
    "run.ended",
}
_TOLD_BELIEFS = {"overUsage", "anomalous", "anomalousUsage"}


class Step(Struct, frozen=True):
    """A step of the story: one event, or several alike within a short time."""

    event: str
    kind: str
    agent: str
    time: float
    until: float
    words: str
    more: int
    hostile: bool
    """Whether it is attack traffic."""


class Token(Struct, frozen=True):
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


class Causes(Struct, frozen=True):
    """The tree as tokens, and what it does not show."""

    tokens: tuple[Token, ...]
    shown: int
    aside: str
    """What stands outside the tree, in words."""
    left_out: int
    """Events that no longer had room."""


def story_of(log: Log) -> list[Step]:
    """Return the main steps in order of time; events alike within 20 s are one step.

    What several agents come to believe is told of the first.
    """
    groups: list[list[Event]] = []
    open_: dict[tuple[str, ...], list[Event]] = {}
    believed: dict[str, object] = {}
    for event in log.events:
        if not _told(event):
            continue
        if event.kind == "belief.changed":
            belief, value = text(event.data, "belief"), event.data["value"]
            if believed.get(belief) == value:
                continue
            believed[belief] = value
        key = (event.agent, *alike(event))
        group = open_.get(key)
        if group is None or event.time - group[-1].time > _TOGETHER_S:
            group = open_[key] = []
            groups.append(group)
        group.append(event)
    return [
        Step(
            group[0].id,
            group[0].kind,
            group[0].agent,
            group[0].time,
            group[-1].time,
            words,
            more,
            group[0].data.get("malicious") is True,
        )
        for group in groups
        for words, more in told(group)
    ]


def _told(event: Event) -> bool:
    if event.kind == "belief.changed":
        known = predicate_of(text(event.data, "belief")) in _TOLD_BELIEFS
        return known and isinstance(event.data.get("value"), bool)
    return event.kind in _STORY


def causes_of(log: Log) -> Causes:
    """Return the tree of everything since the first alarm or fault, roots in order of time.

    A root is the first alarm of its chain, or an event that only the setting of the run
    caused. What happened before the first alarm, samples and the like are counted.
    """
    roots = {event.id: event for event in _roots(log)}
    start = next(
        (e for e in log.events if is_alarm(e) or e.kind in {"fault.injected", "agent.crashed"}),
        None,
    )
    since = log.index[start.id] if start else 0
    chosen = [event for event in roots.values() if log.index[event.id] >= since]
    tokens: list[Token] = []
    covered: set[str] = set()
    full = 0
    stack: list[tuple[Event | None, int, bool]] = [(event, 0, True) for event in chosen[::-1]]
    while stack:
        event, depth, branch = stack.pop()
        if event is None:
            tokens.append(Token("close"))
            continue
        effects = [e for e in log.effects(event) if e.id not in roots and e.kind not in _SETTING]
        leaves = [e for e in effects if e.kind in _LEAVES and not log.effects(e)]
        counted_ids = {leaf.id for leaf in leaves}
        kids = [e for e in effects if e.id not in counted_ids]
        covered.add(event.id)
        covered |= counted_ids
        if len(covered) > MOST_ROWS:
            full += 1 + len(leaves)
            stack += [(kid, depth, False) for kid in kids]
            continue
        forks = len(kids) > 1 and depth < _DEEPEST
        tokens.append(
            Token(
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
        deeper = depth + 1 if forks else depth
        stack += [(kid, deeper, len(kids) > 1) for kid in kids[::-1]]
    outside = Counter(event.kind for event in log.events if event.id not in covered)
    aside = ", ".join(f"{count} × {kind}" for kind, count in sorted(outside.items()))
    return Causes(tuple(tokens), len(covered) - full, aside, full)


def _roots(log: Log) -> Iterable[Event]:
    """Yield the events at which trees begin."""
    under_alarm: set[str] = set()
    for event in log.events:
        cause = log.cause(event)
        inside = cause is not None and cause.id in under_alarm
        if is_alarm(event) or inside:
            under_alarm.add(event.id)
        if event.kind in _SETTING or event.kind in _LEAVES:
            continue
        if (is_alarm(event) and not inside) or cause is None or cause.kind in _SETTING:
            yield event


def _counts(kinds: Iterable[str]) -> str:
    return ", ".join(
        counted(count, *_LEAVES[kind]) for kind, count in sorted(Counter(kinds).items())
    )
