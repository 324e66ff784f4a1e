"""Frames hold what the log holds, which is read here by nothing but the standard library."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.nightly import NIGHTLY, examples, sample
from tests.published import load_published

from phalanx import FaultSpec, LogError, PhalanxError, RunLog, load_scenario, read_log, run_scenario
from phalanx.store.jsonl import write_jsonl

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parents[2]
FRAMES = ("events", "auctions", "bids", "measures", "traffic")
FAULTS = (
    FaultSpec(18, "crash", agent="north", for_s=30),
    FaultSpec(40, "crash", agent="east", for_s=3),
    FaultSpec(70, "lose", share=0.3, for_s=5),
)

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("logs")
    ring = ROOT / "scenarios" / "quickstart-ring.yaml"
    runs = {
        "filtered": run_scenario(load_scenario(ring), until=60),
        "broken": run_scenario(replace(load_published(ring), faults=FAULTS), until=120),
    }
    if NIGHTLY:
        ddos, infected = (f"{name}.yaml" for name in ("ddos-resilience", "infected-agent"))
        runs["ddos"] = run_scenario(load_published(ROOT / "scenarios" / ddos), until=460)
        runs["infected"] = run_scenario(load_scenario(ROOT / "scenarios" / infected), until=60)
    for name, run in runs.items():
        write_jsonl(run.events, folder / name)
    kept = ROOT / "docs" / "images" / "ddos-linux.jsonl"
    return {**{name: folder / name for name in runs}, "real packets": kept}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "log.jsonl"


def parsed(octets: bytes) -> Events:
    """Return the events of the whole lines."""
    found = []
    for line in octets.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            assert line == octets.splitlines()[-1]
    return found


def of(events: Events, kind: str) -> Events:
    return [event for event in events if event["kind"] == kind]


def check_frames(log: RunLog, events: Events) -> None:
    check_events(log.events, events)
    check_auctions(log, events)
    check_measures(log.measures, events)
    check_traffic(log.traffic, events)


def check_events(frame: pd.DataFrame, events: Events) -> None:
    rows = frame.reset_index().astype(object).replace({float("nan"): None}).to_dict("records")
    assert rows == events
    counts = {kind: len(of(events, kind)) for kind in {event["kind"] for event in events}}
    assert frame.kind.value_counts().to_dict() == counts


def check_auctions(log: RunLog, events: Events) -> None:
    calls = of(events, "auction.called")
    fields = "vnf", "units", "T", "C", "D"
    made = [
        (event["data"]["auction"], event["agent"], *(row[field] for field in fields))
        for event in of(events, "auction.bid")
        for row in event["data"]["bids"]
    ]
    columns = ["auction", "agent", "vnf", "units", "time_s", "cost", "latency_ms"]
    bids = log.bids.reset_index()
    assert sorted(bids[columns].itertuples(index=False, name=None)) == sorted(made)
    assert list(log.auctions.index) == [call["data"]["auction"] for call in calls]
    assert set(log.bids.index) <= set(log.auctions.index)
    for call in calls:
        name = call["data"]["auction"]
        row = log.auctions.loc[name]
        assert (row.goal, row["round"]) == (call["data"]["goal"], call["data"]["round"])
        assert (row.auctioneer, row.called_s) == (call["agent"], call["time"])
        assert row.bids == sum(bid[0] == name for bid in made)
        closing = [
            event
            for event in events
            if event["kind"] in ("auction.awarded", "auction.failed")
            and event["data"]["auction"] == name
        ]
        own = bids[bids.auction == name]
        if not closing:
            assert row.outcome == "open"
            assert math.isnan(row.closed_s)
            assert not own.won.any()
            continue
        data = closing[-1]["data"]
        assert row.outcome == closing[-1]["kind"].removeprefix("auction.")
        assert (row.closed_s, row.event) == (closing[-1]["time"], closing[-1]["id"])
        ranking = data.get("ranking", [])
        ranked = [(b["agent"], b["vnf"], b["units"], b["utility"]) for b in ranking]
        judged = own[own.utility.notna()][["agent", "vnf", "units", "utility"]]
        assert list(judged.itertuples(index=False, name=None)) == ranked
        winners = own[own.won]
        assert len(winners) == bool(ranked)
        if ranked:
            assert winners.iloc[0].agent == row.winner == data["winner"]
            assert winners.iloc[0].utility == row.utility
        else:
            assert import_module("pandas").isna(row.winner)


def check_measures(frame: pd.DataFrame, events: Events) -> None:
    applied = of(events, "measure.applied")
    assert list(frame.index) == [event["data"]["measure"] for event in applied]
    assert list(frame.applied) == [event["id"] for event in applied]
    for event, row in zip(applied, frame.itertuples(), strict=True):
        later = events[events.index(event) :]
        lifted = [e for e in of(later, "measure.lifted") if e["data"]["measure"] == row.Index]
        assert row.applied_s == event["time"]
        assert (row.effect, row.pop) == (event["data"]["effect"], event["data"]["pop"])
        assert row.predicate == row.effect.partition("(")[0]
        assert row.rate_mb_s == event["data"]["rate_mb_s"]
        if lifted:
            assert (row.lifted_s, row.lifted) == (lifted[0]["time"], lifted[0]["id"])
            assert row.reason == lifted[0]["data"]["reason"]
        else:
            assert math.isnan(row.lifted_s)


def check_traffic(frame: pd.DataFrame, events: Events) -> None:
    told: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in of(events, "network.sample"):
        data = event["data"]
        for what in ("host", "link"):
            for subject, figures in data.get(f"{what}s", {}).items():
                for name, value in figures.items():
                    key = subject, f"{what}.{name}"
                    told.setdefault(key, []).append((event["time"], value))
        if "downloads" in data:
            key = "network", "network.downloads"
            told.setdefault(key, []).append((event["time"], data["downloads"]))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in frame.reset_index().itertuples():
        found.setdefault((row.subject, row.series), []).append((row.time, row.value))
    assert found == told
    units = dict(zip(frame.series, frame.unit, strict=True))
    assert all(unit == "MB/s" for series, unit in units.items() if series.endswith("_mb_s"))


@pytest.mark.parametrize(
    "name", sample(["broken", "ddos", "infected", "real packets", "filtered"], 3)
)
def test_frames_hold_what_the_log_holds(logs: dict[str, Path], name: str) -> None:
    check_frames(read_log(logs[name]), parsed(logs[name].read_bytes()))


@settings(max_examples=examples(10))
@given(data=st.data())
def test_frames_of_a_log_that_was_cut_at_any_octet(
    data: st.DataObject, logs: dict[str, Path], scratch: Path
) -> None:
    octets = logs[data.draw(st.sampled_from(["filtered", "broken"]))].read_bytes()
    size = data.draw(st.integers(octets.index(b"\n"), len(octets)))
    scratch.write_bytes(octets[:size])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        log = read_log(scratch)
    events = parsed(octets[:size])
    whole = len(b"".join(octets.splitlines(keepends=True)[: len(events)]))
    assert len(told) == (size > whole), "what is left out is said, once"
    for warning in told:
        assert str(warning.message).startswith(f"{scratch}: 1 line was left out ({size - whole} ")
        assert warning.filename == __file__
    check_frames(log, events)


def types(log: RunLog) -> dict[str, list[str]]:
    found = {}
    for name in FRAMES:
        frame = getattr(log, name)
        index = f"{frame.index.name}: {frame.index.dtype}"
        found[name] = [index, *(f"{column}: {kind}" for column, kind in frame.dtypes.items())]
    return found


def test_types_are_the_same_in_every_log(logs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    empty = read_log(tmp_path / "empty.jsonl")
    assert all(getattr(empty, name).empty for name in FRAMES)
    for path in logs.values():
        log = read_log(str(path))
        assert types(log) == types(empty)
        assert log.events is log.events


def test_a_frame_is_made_of_a_run_without_a_file(logs: dict[str, Path]) -> None:
    run = run_scenario(load_scenario(ROOT / "scenarios" / "quickstart-ring.yaml"), until=60)
    log, of_file = RunLog(run.events), read_log(logs["filtered"])
    same = import_module("pandas").testing.assert_frame_equal
    for name in FRAMES:
        same(getattr(log, name), getattr(of_file, name))


def test_an_id_that_comes_again_is_left_out_and_said(logs: dict[str, Path], tmp_path: Path) -> None:
    octets = logs["filtered"].read_bytes()
    path = tmp_path / "twice.jsonl"
    path.write_bytes(octets + octets.splitlines(keepends=True)[3])
    with pytest.warns(UserWarning, match="1 line was left out .* is taken by a line above"):
        log = read_log(path)
    check_frames(log, parsed(octets))


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    for path, why in ((tmp_path / "text", "line 1: not JSON"), (tmp_path / "none", "No such file")):
        with pytest.raises(LogError, match=why):
            read_log(path)


def test_without_pandas_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, logs: dict[str, Path]
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        PhalanxError, match=r"^frames need pandas: pip install 'phalanx\[research\]'$"
    ):
        read_log(logs["filtered"])


def test_pandas_is_imported_by_the_first_log_that_is_read() -> None:
    code = "import sys, phalanx; phalanx.read_log, phalanx.RunLog; print('pandas' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
