"""The report: the page with the log inside; whole, closed to the outside, thin in samples alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.console.report import Report, asset, read_report, render_report, write_report
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.reporting.event_text import KINDS
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from tests.nightly import examples

SCENARIOS = Path(__file__).parents[2] / "scenarios"
EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture(scope="module")
def ring() -> list[Event]:
    return run_scenario(load_scenario(SCENARIOS / "quickstart-ring.yaml")).events


def lines_of(page: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_report(page).splitlines()]


def test_the_page_holds_every_event_with_its_text(ring: list[Event]) -> None:
    lines = lines_of(render_report(ring))
    assert [line["id"] for line in lines] == [event.id for event in ring]
    assert [line["cause"] for line in lines] == [event.cause for event in ring]
    assert all(line["text"] for line in lines)


def test_equal_logs_give_equal_bytes(ring: list[Event]) -> None:
    assert render_report(ring) == render_report(list(ring))


def test_the_page_asks_no_host_and_runs_no_other_script(ring: list[Event]) -> None:
    page = render_report(ring)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy[1]
    assert not re.search(r"<(?:link|img|iframe|script)[^>]*(?:src|href)=.(?!data:)", page)


def test_names_of_others_are_no_markup() -> None:
    events = [
        Event("r", 0.0, "run", "run.started", None, {"scenario": EVIL, "pops": [{"name": EVIL}]}),
        Event(EVIL, 1.0, EVIL, "measure.applied", "r", {"effect": EVIL, "pop": "\u202eevil"}),
    ]
    page = render_report(events)
    assert "alert(" not in page.replace(asset("page.js").replace("</script", "<\\/script"), "")
    assert lines_of(page)[1]["id"] == EVIL


def test_a_large_log_loses_samples_and_never_a_cause() -> None:
    events = [Event("r", 0.0, "run", "run.started", None, {})]
    for at in range(300):
        events.append(Event(f"s{at}", at, "network", "network.sample", "r", {"x": "y" * 100}))
        if at % 10 == 0:
            events.append(Event(f"b{at}", at, "p", "belief.changed", f"s{at}", {"belief": "b"}))
    report = Report(most=20_000)
    for event in events:
        report.add(event)
    page = report.render()
    kept = {line["id"] for line in lines_of(page)}
    named = {event.cause for event in events if event.cause}
    assert kept >= named | {e.id for e in events if e.kind != "network.sample"}
    assert len(kept) < len(events)
    left_out = re.search(r'data-thinned="[^"]*\((\d+) are left out', page)
    assert left_out is not None
    assert int(left_out[1]) == len(events) - len(kept)
    assert 'data-thinned=""' in render_report(events)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hosts", "pops", "bids", "name", "evidence", "sources"]), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=examples(24), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*KINDS, "a.kind.of.its.own"]),
            st.none() | st.integers(0, 9),
            st.dictionaries(
                st.sampled_from(
                    ["pops", "hosts", "belief", "value", "measure", "agent", "malicious"]
                ),
                VALUES,
            ),
        ),
        max_size=10,
    )
)
def test_no_log_breaks_the_report(rows: list[tuple[str, int | None, dict[str, Any]]]) -> None:
    events = [
        Event(f"e{at}", float(at), "pop1", kind, None if cause is None else f"e{cause}", data)
        for at, (kind, cause, data) in enumerate(rows)
    ]
    assert len(lines_of(render_report(events))) == len(events)


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PhalanxError, match="cannot be written"):
        write_report([], tmp_path / "missing" / "page.html")
