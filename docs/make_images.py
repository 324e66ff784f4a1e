"""Draws the picture of a run over real packets from its log."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from make_runs import real_events
from msgspec import Struct

from phalanx.domain.events import Event

WIDTH, LEFT, RIGHT = 960.0, 62.0, 940.0
TOP, BOTTOM = 132.0, 372.0
USERS, ATTACK, LINE, TEXT, FAINT = "#0072b2", "#d55e00", "#555555", "#222222", "#e4e4e4"
STYLE = "font-family='system-ui, sans-serif' font-size='13'"


class Axes(Struct, frozen=True):
    """What the picture of a run says and measures by."""

    title: str
    key_x: float
    """Where its key begins."""
    most: float
    """Largest figure drawn, in MB/s."""
    step: float
    every_s: int
    digits: int
    """Decimals of times."""


def real_svg() -> str:
    """Return the traffic at the server of a run over real packets."""
    title = "What users receive, and what of the attack arrives, in MB/s"
    return _traffic_svg(real_events(), Axes(title, 640, 0.5, 0.1, 5, 1))


def _traffic_svg(events: Sequence[Event], axes: Axes) -> str:
    """Return the traffic at the server, with what the agents did about it."""
    end = events[-1].time
    samples = [
        (e.time, rates["legitimate_mb_s"], rates["malicious_mb_s"])
        for e in events
        if e.kind == "network.sample"
        for rates in (e.data["hosts"]["server"],)
    ]
    most = axes.most
    body = [
        f"<rect width='{WIDTH:g}' height='430' fill='white'/>",
        _text(LEFT, 24, axes.title, size=16, weight="600"),
        _box(LEFT + axes.key_x, 14, USERS),
        _text(LEFT + axes.key_x + 18, 24, "users"),
        _box(LEFT + axes.key_x + 70, 14, ATTACK),
        _text(LEFT + axes.key_x + 88, 24, "attack, on top of it"),
    ]
    for n in range(round(most / axes.step) + 1):
        y = _y(n * axes.step, most)
        body.append(f"<path d='M{LEFT} {y:.1f}H{RIGHT}' stroke='{FAINT}'/>")
        body.append(_text(LEFT - 8, y + 4, f"{n * axes.step:g}", anchor="end"))
    for second in range(0, int(end) + 1, axes.every_s):
        x = _x(second, end)
        body.append(f"<path d='M{x:.1f} {BOTTOM}v5' stroke='{LINE}'/>")
        body.append(_text(x, BOTTOM + 22, f"{second} s", anchor="middle"))
    users = [(_x(t, end), _y(good, most)) for t, good, _ in samples]
    total = [(_x(t, end), _y(good + bad, most)) for t, good, bad in samples]
    zero = [(users[-1][0], BOTTOM), (users[0][0], BOTTOM)]
    body.append(f"<path d='{_path(total + users[::-1])}Z' fill='{ATTACK}' fill-opacity='.75'/>")
    body.append(f"<path d='{_path(users + zero)}Z' fill='{USERS}' fill-opacity='.85'/>")
    body.append(f"<path d='M{LEFT} {BOTTOM}H{RIGHT}' stroke='{LINE}'/>")
    for row, (time, words) in enumerate(_marks(events)):
        x, y = _x(time, end), 50.0 + 18 * row
        body.append(
            f"<path d='M{x:.1f} {y - 9:g}V{BOTTOM}' stroke='{LINE}' stroke-dasharray='2 3'/>"
        )
        body.append(_text(x + 5, y, f"{time:.{axes.digits}f} s: {words}"))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH:g} 410' {STYLE} role='img' "
        "aria-label='Traffic towards the server during an attack'>\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _marks(events: Sequence[Event]) -> list[tuple[float, str]]:
    """Return the moments that matter: the attack, each kind of limit, the end of the attack."""
    marks: list[tuple[float, str]] = []
    limits: dict[str, list[tuple[float, str, float]]] = {}
    attacks = [e for e in events if e.kind == "traffic.changed" and e.data["malicious"]]
    senders = max(e.data["count"] for e in attacks)
    begins = min(e.time for e in attacks if e.data["active"])
    marks.append((begins, f"{senders} attackers begin"))
    marks += [(e.time, "the attack ends") for e in attacks if not e.data["active"]]
    for event in events:
        data = event.data
        if event.kind == "measure.applied" and "RateLimited" in data["effect"]:
            kind = data["effect"].partition("RateLimited")[0]
            limits.setdefault(kind, []).append((event.time, data["pop"], data["rate_mb_s"]))
    filters = [e for e in events if e.kind == "measure.applied" and "entry" in e.data]
    if filters:
        alarm = next(e for e in events if str(e.data.get("belief")).startswith("underAttack("))
        pops, last = len({e.data["pop"] for e in filters}), filters[-1].time
        marks.append((alarm.time, f"{alarm.agent} tells who attacks the server"))
        marks.append((last, f"{pops} PoPs drop what enters there of the attack"))
        return sorted(marks)
    for kind, words in (("link", "the link"), ("ip", "the server's address")):
        time, pop, rate = limits[kind][0]
        marks.append((time, f"{pop} limits {words} to {rate:g} MB/s"))
    time, pop, _ = limits["flow"][-1]
    marks.append((time, f"{pop} blocks the last of {len(limits['flow'])} attackers"))
    return sorted(marks)


def _x(time: float, end: float) -> float:
    return LEFT + time / end * (RIGHT - LEFT)


def _y(mb_s: float, most: float) -> float:
    return BOTTOM - mb_s / most * (BOTTOM - TOP)


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _box(x: float, y: float, fill: str) -> str:
    return f"<rect x='{x:g}' y='{y:g}' width='12' height='12' fill='{fill}'/>"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 13, weight: str = "400"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' "
        f"font-weight='{weight}' fill='{TEXT}'>{escape(words)}</text>"
    )
