"""The page: all sections put together, self-contained, without a single outside address."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.identity.files import write
from phalanx.reporting.auctions import AuctionsView, PlacedView, natural
from phalanx.reporting.explanation import CauseTree
from phalanx.reporting.log import Log, finite, names, number, rows, table, text
from phalanx.reporting.loops import LoopsView
from phalanx.reporting.network_map import map_of, on_at
from phalanx.reporting.resources import ResourcesView
from phalanx.reporting.response import ResponseView
from phalanx.reporting.svg import (
    axis_clock,
    clock,
    coordinate,
    counted,
    figure,
    line_path,
    step_path,
    time_ticks,
)
from phalanx.reporting.traffic import QUIET_SHARE, SERVED_SHARE, SETTLED_S, outcomes
from phalanx.reporting.traffic_chart import traffic_charts
from phalanx.reporting.trust import TrustView


class Look(Struct, frozen=True):
    """One analysis: who looked at what, and whom it found."""

    time: float
    agent: str
    goal: str
    flows: int
    found: tuple[str, ...]
    forged: tuple[str, ...]


class Report:
    """The report on a run, which takes its events one by one and renders what there is so far.

    The page needs no network and no script; equal events give equal bytes. Events that are
    missing (no attack, no ``run.ended``, no samples) make sections shorter, never fail.
    """

    def __init__(self) -> None:
        self._log = Log()
        self._response = ResponseView()
        self._auctions = AuctionsView(self._log)
        self._placed = PlacedView(self._log, self._response.measures)
        self._resources = ResourcesView()
        self._tree = CauseTree(self._log)
        self._trust = TrustView()
        self._loops = LoopsView()

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._log.add(event)
        for view in (
            self._response,
            self._auctions,
            self._placed,
            self._resources,
            self._tree,
            self._trust,
            self._loops,
        ):
            view.add(event)

    def render(self) -> str:
        """Return the page as HTML."""
        log, traffic = self._log, self._response.traffic
        judged = outcomes(traffic, log.end_s)
        outcome = judged[0]
        auctions = self._auctions.result()
        placed = self._placed.result(auctions)
        charts, markers = traffic_charts(log, traffic.hosts(), self._response.measures)
        resources, untouched = self._resources.result(log.end_s)
        script = _asset("script.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                style=_asset("style.css"),
                script=script,
                script_hash=digest,
                log=log,
                scenario=text(log.setting, "scenario"),
                seed=text(log.setting, "seed"),
                version=text(log.setting, "version"),
                duration_s=number(log.setting, "duration_s"),
                pops=len(rows(log.setting, "pops")),
                links=len(rows(log.setting, "links")),
                outcome=outcome,
                outcomes=judged,
                why={each.host: self._response.causes(each) for each in judged},
                milestones=self._response.milestones(outcome.began_s or 0.0),
                sent_peak=traffic.sent_peak,
                rules={"quiet": QUIET_SHARE, "served": SERVED_SHARE, "window": SETTLED_S},
                charts=charts,
                markers=markers,
                map=map_of(log, placed),
                placed=placed,
                looks=[_look(event) for event in log.of("analysis.done")],
                auctions=auctions,
                resources=resources,
                untouched=untouched,
                causes=self._tree.result(),
                trust=self._trust.result(),
                loops=self._loops.levels(),
                closing=closing_of(log),
            )
        )


def render_report(events: Iterable[Event]) -> str:
    """Return the report on a run as one HTML page, made from its events alone."""
    report = Report()
    for event in events:
        report.add(event)
    return report.render()


def _look(event: Event) -> Look:
    found, forged = (names(event.data, key) for key in ("found", "forged"))
    flows = int(number(event.data, "flows"))
    return Look(event.time, event.agent, text(event.data, "goal"), flows, found, forged)


def write_report(events: Iterable[Event], path: Path) -> None:
    """Write the report to ``path``, whole or not at all.

    Raises:
        PhalanxError: if the file cannot be written.

    """
    page = render_report(events).encode("utf-8", "replace")
    write(Path(os.path.realpath(path)), page)


class Bar(Struct, frozen=True):
    """A count with its share of the largest, for a bar."""

    name: str
    count: int
    share: float


class Closing(Struct, frozen=True):
    """The counters at the end of a run; None where the log does not say."""

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


def _asset(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("phalanx.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "axis_clock": axis_clock,
        "clock": clock,
        "figure": figure,
        "line_path": line_path,
        "on_at": on_at,
        "px": coordinate,
        "step_path": step_path,
        "time_ticks": time_ticks,
    }
    environment.globals |= {"counted": counted}
    return environment
