"""One alarm of a service as a picture: the metrics that speak for it, and what they usually are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from msgspec import Struct

from phalanx.analytics.explanations import sentence
from phalanx.analytics.metrics import MetricTable
from phalanx.analytics.service_models import ServiceVerdict
from phalanx.reporting.figures import figure

_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 960, 300.0, 940.0, 56.0, 64.0
_ODD, _LINE, _TEXT, _BACK = "#d55e00", "#0072b2", "#222222", "#fbe3d6"


def coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0.0:.10g}"


def line_path(points: Sequence[tuple[float, float]]) -> str:
    """Return path data through ``points``."""
    return "M" + "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points) if points else ""


class LinearScale(Struct, frozen=True):
    """Maps a domain of values to a range of pixels, linearly."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the pixel of ``value``."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.0
        return self.start + share * (self.stop - self.start)


def alarm_svg(verdict: ServiceVerdict, table: MetricTable) -> str:
    """Return an SVG: each metric that speaks for a verdict over time, its usual value dashed.

    Where it was unusual is shaded; beside it stands how much of the verdict it explains.

    Args:
        verdict: with its causes.
        table: the rows that were judged, and some before them to see the change by.

    """
    height = _TOP + _LANE * len(verdict.causes) + 8
    x = LinearScale(0, max(len(table) - 1, 1), _LEFT, _RIGHT)
    title = f"{verdict.service}: {sentence(verdict.kind, verdict.causes)}"
    body = [
        f"<title>{escape(title)}</title>",
        f"<rect width='{_WIDTH}' height='{height:g}' fill='white'/>",
        _text(16, 28, f"{verdict.service}: {verdict.kind}", "font-size='16' font-weight='600'"),
    ]
    for number, cause in enumerate(verdict.causes):
        values = table.columns((cause.metric,)).values[:, 0]
        known = [at for at, value in enumerate(values) if np.isfinite(value)]
        top = _TOP + _LANE * number
        ends = [cause.usual, *values[known]]
        y = LinearScale(min(ends), max(ends), top + _LANE - 10, top + 6)
        begin = x(max(len(table) - 1 - cause.since, 0) - 0.5)
        wide = f"width='{coordinate(_RIGHT - begin)}' height='{_LANE - 4:g}' fill='{_BACK}'"
        body += [
            f"<rect x='{coordinate(begin)}' y='{top:g}' {wide}/>",
            f"<path d='M{_LEFT:g} {coordinate(y(cause.usual))}H{_RIGHT:g}' stroke='{_TEXT}' "
            "stroke-dasharray='4 4' stroke-opacity='.5'/>",
            f"<path d='{line_path([(x(at), y(values[at])) for at in known])}' fill='none' "
            f"stroke='{_LINE}' stroke-width='2'/>",
            f"<rect x='16' y='{top + 40:g}' width='{coordinate(260 * cause.share)}' height='6' "
            f"fill='{_ODD}'/>",
            _text(16, top + 16, f"{cause.metric}, {cause.share:.0%}", "font-weight='600'"),
            _text(16, top + 32, f"{_short(cause.value)}, usually {_short(cause.usual)}"),
        ]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:g}' "
        f"font-family='system-ui, sans-serif' font-size='13'>\n{chr(10).join(body)}\n</svg>\n"
    )


def _short(value: float) -> str:
    return figure(value) if 0.1 <= abs(value) < 1e6 else f"{value:.3g}"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f"<text x='{x:g}' y='{y:g}' fill='{_TEXT}' {style}>{escape(text)}</text>"
