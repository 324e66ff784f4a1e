"""What events say beside themselves: figures over time, and what an agent believes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from phalanx.domain.events import Event

MEASURED = ("network.sample", "measures.counted", "resources.changed", "run.ended")
"""Kinds of events that tell of figures."""
BELIEVED = ("belief.changed",)
"""Kinds of events that say what an agent believes."""

_UNITS = {"_mb_s": "MB/s", "_ms": "ms", "_s": "s", "_gb": "GB", "_cores": "cores"}
_ID = re.compile(r"(?:.*?\.(\d{1,9}))?-(\d{1,15})")


class Sample(Struct, frozen=True):
    """One figure of one series."""

    agent: str
    """Who measured it."""
    name: str
    """What it is a figure of, such as ``host.legitimate_mb_s``."""
    time: float
    """Seconds of that agent's clock."""
    value: float
    unit: str = "1"
    """``MB/s``, ``ms``, ``s``, ``GB``, ``cores``, or ``1`` for a bare number."""
    labels: dict[str, str] = {}
    """What else tells its series from others of that name, such as the host."""
    scope: str | None = None
    """The slice or service it belongs to."""


class Revision(Struct, frozen=True):
    """A belief as an event revised it."""

    predicate: str
    value: bool | None
    """None: the agent knows nothing of it any more."""
    holder: str | None
    incarnation: int
    number: int

    @property
    def place(self) -> tuple[int, int]:
        """Place of the event among those of its agent: it grows."""
        return self.incarnation, self.number


def samples(event: Event, scope: str | None = None) -> Iterator[Sample]:
    """Yield the figures that ``event`` tells of; what is no finite number is passed over."""
    data = event.data
    found: list[tuple[str, dict[str, str], Mapping[str, Any]]] = []
    match event.kind:
        case "network.sample":
            for label, group in (("host", data.get("hosts")), ("link", data.get("links"))):
                found += [(label, {label: at}, figures) for at, figures in _groups(group)]
            found.append(("network", {}, {"downloads": data.get("downloads")}))
        case "resources.changed":
            for at in ("free", "total"):
                found += [(f"pop.{at}", {"pop": str(data.get("pop"))}, f) for f in _one(data, at)]
        case "run.ended":
            for performative, count in _items(data.get("messages")):
                found.append(("run", {"performative": performative}, {"messages": count}))
            found.append(("run", {}, {n: data.get(n) for n in ("shed", "reserved_mb_s")}))
    for prefix, labels, figures in found:
        for name, value in _items(figures):
            if type(value) in (int, float) and abs(value) <= 1e300:
                yield Sample(
                    event.agent,
                    f"{prefix}.{name}",
                    event.time,
                    float(value),
                    _unit(f".{name}"),
                    labels,
                    scope,
                )


def revision(event: Event) -> Revision | None:
    """Return how ``event`` changed what its agent believes; None if it did not."""
    belief, value = event.data.get("belief"), event.data.get("value")
    if event.kind != "belief.changed" or not isinstance(belief, str):
        return None
    holder = event.data.get("holder")
    place = _ID.fullmatch(event.id)
    return Revision(
        belief,
        value if isinstance(value, bool) else None,
        holder if isinstance(holder, str) else None,
        int(place[1] or 0) if place else 0,
        int(place[2]) if place else 0,
    )


def _items(found: object) -> list[tuple[str, Any]]:
    return list(found.items()) if isinstance(found, dict) else []


def _groups(found: object) -> list[tuple[str, dict[str, Any]]]:
    return [(name, item) for name, item in _items(found) if isinstance(item, dict)]


def _one(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = data.get(name)
    return [found] if isinstance(found, dict) else []


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.replace(".", "_").endswith(end)), "1")
