"""Free resources of each PoP over time, as small step charts with axes of their own."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.auctions import natural
from phalanx.reporting.log import Data, number, rows, table, text
from phalanx.reporting.svg import LinearScale, Point

KINDS = (("cores", "cores", ""), ("memory_gb", "memory", "GB"), ("disk_gb", "disk", "GB"))
_LEFT, _RIGHT = 42.0, 308.0
_HIGH, _GAP = 44.0, 22.0


class ResourceCourse(Struct, frozen=True):
    """How much of one resource was free over time."""

    name: str
    unit: str
    total: float
    least: float
    y: LinearScale
    line: list[Point]
    """In pixels."""


class PopResources(Struct, frozen=True):
    """One PoP's chart."""

    pop: str
    changes: int
    x: LinearScale
    courses: list[ResourceCourse]


class ResourcesView:
    """What was free at each PoP, event by event."""

    def __init__(self) -> None:
        self._totals: dict[str, Data] = {}
        self._seen: dict[str, list[tuple[float, Data]]] = {}

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        if event.kind == "run.started":
            for row in rows(event.data, "pops"):
                self._totals.setdefault(text(row, "name"), row)
                self._seen.setdefault(text(row, "name"), [])
        elif event.kind == "resources.changed":
            pop = text(event.data, "pop")
            self._totals[pop] = table(event.data, "total") or self._totals.get(pop, {})
            self._seen.setdefault(pop, []).append((event.time, table(event.data, "free")))

    def result(self, end_s: float) -> tuple[list[PopResources], int]:
        """Return a chart for every PoP whose resources changed, and how many never did."""
        charts = []
        x = LinearScale(0.0, end_s, _LEFT, _RIGHT)
        for pop in sorted(self._seen, key=natural):
            seen, total = self._seen[pop], self._totals[pop]
            points = [_points(total, seen, key, end_s) for key, _, _ in KINDS]
            if all(value == line[0][1] for line in points for _, value in line):
                continue
            courses = []
            for row, ((_, name, unit), line) in enumerate(zip(KINDS, points, strict=True)):
                values = [value for _, value in line]
                top = 18.0 + row * (_HIGH + _GAP)
                y = LinearScale(0.0, max(values) or 1.0, top + _HIGH, top)
                drawn = [(x(time), y(value)) for time, value in line]
                courses.append(ResourceCourse(name, unit, values[0], min(values), y, drawn))
            charts.append(PopResources(pop, len(seen), x, courses))
        return charts, len(self._seen) - len(charts)


class EnergyMeter:
    """The energy of the PoPs whose power the run tells: P = idle + (busy - idle) * use of cores.

    A PoP in which nothing runs is taken to be asleep (Fan, Weber and Barroso, ISCA 2007).
    """

    def __init__(self) -> None:
        self._pops: dict[str, Data] = {}
        self._power_w: dict[str, float] = {}
        self._joules = self._now = 0.0

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._joules += sum(self._power_w.values()) * (event.time - self._now)
        self._now = event.time
        if event.kind == "run.started":
            self._pops |= {text(r, "name"): r for r in rows(event.data, "pops") if "idle_w" in r}
        elif event.kind == "resources.changed" and text(event.data, "pop") in self._pops:
            pop, free = text(event.data, "pop"), table(event.data, "free")
            total, idle_w = self._pops[pop], number(self._pops[pop], "idle_w")
            awake = any(number(free, key) < number(total, key) for key, _, _ in KINDS)
            cores = number(total, "cores")
            use = 1.0 - number(free, "cores") / cores if cores > 0 else 0.0
            more_w = (number(total, "busy_w", idle_w) - idle_w) * use
            self._power_w[pop] = idle_w + more_w if awake else 0.0

    def result(self) -> float | None:
        """Return the energy until now, in Wh; None: the run tells no PoP's power."""
        return self._joules / 3600.0 if self._pops else None


def _points(total: Data, seen: list[tuple[float, Data]], key: str, end: float) -> list[Point]:
    """Return what was free, as (time, amount), from the whole at the start on."""
    points = [(0.0, number(total, key))]
    for time, free in seen:
        value = number(free, key, points[-1][1])
        if time == points[-1][0] and len(points) > 1:
            points.pop()
        points.append((time, value))
    return [*points, (end, points[-1][1])]
