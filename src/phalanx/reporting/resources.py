"""Free resources of each PoP over time, as small step charts with axes of their own."""

from __future__ import annotations

from markupsafe import Markup
from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.auctions import natural
from phalanx.reporting.log import Data, number, rows, table, text
from phalanx.reporting.svg import (
    LinearScale,
    axis_clock,
    element,
    figure,
    step_path,
    time_ticks,
)

KINDS = (("cores", "cores", ""), ("memory_gb", "memory", "GB"), ("disk_gb", "disk", "GB"))
_WIDTH, _LEFT, _RIGHT = 320.0, 42.0, 308.0
_HIGH, _GAP = 44.0, 22.0


class PopResources(Struct, frozen=True):
    """One PoP's chart."""

    pop: str
    changes: int
    drawing: Markup


class _Course(Struct, frozen=True):
    total: float
    points: tuple[tuple[float, float], ...]


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
        for pop in sorted(self._seen, key=natural):
            seen = self._seen[pop]
            courses = [_course(self._totals[pop], seen, key, end_s) for key, _, _ in KINDS]
            if any(value != course.total for course in courses for _, value in course.points):
                charts.append(PopResources(pop, len(seen), _draw(pop, courses, end_s)))
        return charts, len(self._seen) - len(charts)


def _course(total: Data, seen: list[tuple[float, Data]], key: str, end: float) -> _Course:
    most = number(total, key)
    points = [(0.0, most)]
    for time, free in seen:
        value = number(free, key, points[-1][1])
        if time == points[-1][0]:
            points.pop()
        points.append((time, value))
    return _Course(most, (*points, (end, points[-1][1])))


def _draw(pop: str, courses: list[_Course], end: float) -> Markup:
    x = LinearScale(0.0, end, _LEFT, _RIGHT)
    body: list[Markup] = []
    for row, (course, (_, name, unit)) in enumerate(zip(courses, KINDS, strict=True)):
        top = 18.0 + row * (_HIGH + _GAP)
        bottom = top + _HIGH
        most = max(course.total, *(value for _, value in course.points)) or 1.0
        y = LinearScale(0.0, most, bottom, top)
        line = [(x(time), y(value)) for time, value in course.points]
        least = min(value for _, value in course.points)
        unit_of = f" {unit}" if unit else ""
        body += [
            element(
                "text",
                f"{name} free, least {figure(least)} of {figure(course.total)}{unit_of}",
                class_="caption" + (" spent" if least <= 0 else ""),
                x=_LEFT,
                y=top - 5,
            ),
            element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=top, y2=top),
            element("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=bottom, y2=bottom),
            element("text", figure(most, 1), class_="tick end", x=_LEFT - 6, y=top + 4),
            element("text", "0", class_="tick end", x=_LEFT - 6, y=bottom + 4),
            element(
                "path",
                class_="area free",
                d=f"{step_path(line)}V{bottom:g}H{line[0][0]:.1f}Z",
            ),
            element("path", class_="edge free", d=step_path(line)),
        ]
    bottom = 18.0 + len(courses) * (_HIGH + _GAP) - _GAP
    for time in time_ticks(end, 5):
        body.append(
            element("line", class_="tickmark", x1=x(time), x2=x(time), y1=bottom, y2=bottom + 4)
        )
        body.append(
            element("text", axis_clock(time, end), class_="tick mid", x=x(time), y=bottom + 16)
        )
    return element(
        "svg",
        *body,
        viewBox=f"0 0 {_WIDTH:g} {bottom + 22:g}",
        class_="resources",
        role="img",
        aria_label=f"Free cores, memory and disk of {pop} over time",
    )
