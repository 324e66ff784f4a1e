"""What the stream of events tells of a domain of processes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.events import Event, numbered

_MEASURE = re.compile(r"(?P<pop>[^.]+)\.\d+:(?P<effect>.*)")


class Heard(Struct, frozen=True):
    """An event, and when the broker took it."""

    event: Event
    at: float
    """In seconds since 1970 by the broker's clock."""
    sequence: int


def timeline(heard: Iterable[Heard]) -> list[Heard]:
    """Return events in the order in which they came about, and when, by the broker's clock.

    While brokers elect a leader nothing is stored; afterwards it comes all at once, and what is
    said again comes later still. Each life counts its events and has one clock, whatever it
    shows: its earliest event to arrive tells how far that is from the broker's.
    """
    known = [*heard]
    ahead: dict[str, float] = defaultdict(lambda: inf)
    for one in known:
        life = numbered(one.event.id)[0]
        ahead[life] = min(ahead[life], one.at - one.event.time)
    known = [replace(one, at=one.event.time + ahead[numbered(one.event.id)[0]]) for one in known]
    return sorted(known, key=lambda one: (one.at, numbered(one.event.id)))


def effect_of(measure: str) -> str:
    """Return what a measure makes true."""
    match = _MEASURE.fullmatch(measure)
    assert match is not None, measure
    return match["effect"]


def holds(effects: Iterable[str]) -> bool:
    """Whether effects hold the attack off: a limit for all, or a block for each attacker."""
    found = [*effects]
    coarse = [e for e in found if e.startswith(("linkRateLimited", "ipRateLimited"))]
    blocks = {e for e in found if e.startswith("flowRateLimited")}
    return bool(coarse) or len(blocks) >= 2


def unprotected(heard: Sequence[Heard], since: float, until: float) -> list[float]:
    """Return for how long, each time, nothing held the attack off, in seconds."""
    found = []
    in_force: dict[str, int] = defaultdict(int)
    bare: float | None = since
    for one in [h for h in heard if h.at <= until]:
        if not change(in_force, one.event):
            continue
        protected = holds(effect for effect, count in in_force.items() if count > 0)
        if protected and bare is not None:
            found.append(one.at - max(bare, since))
            bare = None
        elif not protected and bare is None:
            bare = one.at
    if bare is not None:
        found.append(until - max(bare, since))
    return [seconds for seconds in found if seconds > 0]


def enforced_twice(heard: Sequence[Heard]) -> list[tuple[str, float]]:
    """Return which effects were made by two at a time, and for how long, in seconds.

    Who died or is cut off has what it has until its lease runs out; that it overlaps by so much
    with what others made in its place is what a lease means.
    """
    found = []
    in_force: dict[str, int] = defaultdict(int)
    since: dict[str, float] = {}
    for one in heard:
        if not change(in_force, one.event):
            continue
        effect = one.event.data["effect"]
        if in_force[effect] > 1:
            since.setdefault(effect, one.at)
        elif effect in since:
            found.append((effect, one.at - since.pop(effect)))
    return found + [(effect, inf) for effect in since]


def change(in_force: dict[str, int], event: Event) -> bool:
    """Count what an event changes of the effects in force; whether it does."""
    if event.kind not in ("measure.applied", "measure.lifted"):
        return False
    in_force[event.data["effect"]] += 1 if event.kind == "measure.applied" else -1
    return True


def allocated_twice(heard: Sequence[Heard]) -> list[tuple[str, float]]:
    """Return the goals that two VNFs were at work for, and for how long, in seconds.

    A contract ends as its winner says, or with its instance, as the network says.
    """
    found = []
    at_work: dict[str, dict[str, str]] = defaultdict(dict)
    since: dict[str, float] = {}
    for one in heard:
        kind, data = one.event.kind, one.event.data
        if kind == "contract.accepted":
            at_work[data["goal"]][data["auction"]] = data["instance"]
        elif kind == "contract.ended":
            at_work[data["goal"]].pop(data["auction"], None)
        elif kind == "instance.stopped":
            for contracts in at_work.values():
                for auction in [a for a, i in contracts.items() if i == data["instance"]]:
                    del contracts[auction]
        else:
            continue
        for goal, contracts in at_work.items():
            if len({*contracts.values()}) > 1:
                since.setdefault(goal, one.at)
            elif goal in since:
                found.append((goal, one.at - since.pop(goal)))
    return found + [(goal, inf) for goal in since]
