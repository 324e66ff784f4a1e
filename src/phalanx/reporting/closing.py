"""What was left at the end: messages, leases, resources, goals."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from phalanx.reporting.auctions import natural
from phalanx.reporting.log import Log, finite, names, number, rows, table, text
from phalanx.reporting.svg import figure


class Bar(Struct, frozen=True):
    """A count with its share of the largest, for a bar."""

    name: str
    count: int
    share: float


class Closing(Struct, frozen=True):
    """The counters of the run; None where the log does not say."""

    ended: str
    """``finished``, ``interrupted``, or empty if the log just stops."""
    messages: tuple[Bar, ...]
    sent: int
    shed: int
    octets: int | None
    leases: int | None
    held: tuple[str, ...]
    """What is held under those leases, where the log names it."""
    goals: tuple[Bar, ...]
    kept: tuple[tuple[str, str], ...]
    """PoPs that do not have everything back, and what is still taken."""
    pops: int
    """PoPs whose resources at the end are known."""


def closing_of(log: Log) -> Closing:
    """Read the end of the run; without ``run.ended``, count what the events tell."""
    ending = log.ending or {}
    messages = _bars({k: int(finite(v)) for k, v in table(ending, "messages").items()})
    told = {k: int(finite(v)) for k, v in table(ending, "goals").items()}
    outcomes = told or Counter(text(e.data, "outcome", "ended") for e in log.of("goal.ended"))
    if log.ending is None:
        free = {text(e.data, "pop"): table(e.data, "free") for e in log.of("resources.changed")}
    else:
        free = {pop: table(table(ending, "free"), pop) for pop in table(ending, "free")}
    kept = []
    held = names(ending, "leases")
    totals = {text(row, "name"): row for row in rows(log.setting, "pops")}
    for pop in sorted(free, key=natural):
        taken = [
            f"{figure(missing)} {unit}"
            for key, unit in (("cores", "cores"), ("memory_gb", "GB RAM"), ("disk_gb", "GB disk"))
            if (missing := number(totals.get(pop, {}), key) - number(free[pop], key)) > 1e-9
        ]
        if taken:
            kept.append((pop, ", ".join(taken)))
    return Closing(
        text(ending, "reason"),
        messages,
        sum(bar.count for bar in messages),
        int(number(ending, "shed", len(log.of("message.shed")))),
        int(number(ending, "bytes")) if "bytes" in ending else None,
        (len(held) or int(number(ending, "leases"))) if "leases" in ending else None,
        held,
        _bars(dict(outcomes)),
        tuple(kept),
        len(free),
    )


def _bars(counts: dict[str, int]) -> tuple[Bar, ...]:
    most = max(counts.values(), default=0)
    return tuple(
        Bar(name, count, count / most if most > 0 else 0.0)
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
