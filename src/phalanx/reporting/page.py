"""The page: all sections put together, self-contained, without a single outside address."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.reporting.auctions import auctions_of
from phalanx.reporting.causes import causes_of, story_of
from phalanx.reporting.closing import closing_of
from phalanx.reporting.log import Log, number, rows, text
from phalanx.reporting.map_cards import on_at
from phalanx.reporting.network_map import map_of
from phalanx.reporting.outcome import hosts_of, judge, milestones, sent_peak
from phalanx.reporting.placement import placement_of
from phalanx.reporting.resources import resources_of
from phalanx.reporting.summary import QUIET_SHARE, SERVED_SHARE, SETTLED_S
from phalanx.reporting.svg import clock, counted, figure
from phalanx.reporting.traffic_chart import charts


def render_report(events: Sequence[Event]) -> str:
    """Return the report on a run as one HTML page, made from its events alone.

    The page needs no network and no script; equal events give equal bytes. Events that are
    missing (no attack, no ``run.ended``, no samples) make sections shorter, never fail.
    """
    log = Log(events)
    hosts = hosts_of(log)
    auctions = auctions_of(log)
    placement = placement_of(log, auctions)
    outcome = judge(log, hosts)
    drawn = charts(log, hosts)
    resources, untouched = resources_of(log)
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            style=style,
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
            milestones=milestones(log, outcome),
            sent_peak=sent_peak(log),
            rules={"quiet": QUIET_SHARE, "served": SERVED_SHARE, "window": SETTLED_S},
            charts=drawn,
            map=map_of(log, placement),
            placement=placement,
            auctions=auctions,
            resources=resources,
            untouched=untouched,
            story=story_of(log),
            causes=causes_of(log),
            closing=closing_of(log),
        )
    )


def write_report(events: Sequence[Event], path: Path) -> None:
    """Write the report to ``path``, whole or not at all.

    Raises:
        PhalanxError: if the file cannot be written.

    """
    page = render_report(events).encode("utf-8", "replace")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(page)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise PhalanxError(f"{path}: the report cannot be written: {error.strerror}") from error


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
    environment.filters |= {"clock": clock, "figure": figure, "on_at": on_at}
    environment.globals |= {"counted": counted}
    return environment
