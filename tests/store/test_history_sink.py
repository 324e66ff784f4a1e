"""What a sink keeps where its process is killed, or its disk is slow, full, or free again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Signal

import pytest
from small_disk import fill, small_disk
from store_events import ROOT, chain

from phalanx import store as store_module
from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.store import GAP, HistorySink
from phalanx.store.jsonl import JsonlSink, decode_line, read_jsonl, read_log
from phalanx.store.sql import SqlEventStore

WRITER = """
import sys, time
from pathlib import Path
from phalanx.domain.events import Recorder
from phalanx.store import HistorySink
from phalanx.store.jsonl import JsonlSink, decode_line
from phalanx.store.sql import SqlEventStore
where, pause = sys.argv[1], float(sys.argv[2])
if where.startswith("sqlite"):
    store = SqlEventStore(where)
    keep = lambda lines: store.append("r", map(decode_line, lines))
else:
    keep = JsonlSink(Path(where)).write
cause = None
recorder = Recorder("pop1", HistorySink(keep, patient=not pause), time.time)
for number in range(10_000_000):
    cause = recorder.record("goal.adopted", cause, number=number)
    if number % 1_000 == 0 or pause:
        print(number, flush=True)
    if pause:
        time.sleep(pause)
"""


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def kept_in(where: str, folder: Path) -> list[Event]:
    if where.startswith("sqlite"):
        with SqlEventStore(where) as store:
            return list(store.events("r"))
    parts = list(folder.glob("*.part-*"))
    return read_log(parts[0]).events if parts else []


def count_in(where: str, folder: Path) -> int:
    """Return how many are kept; read fast, for the log grows meanwhile."""
    if where.startswith("sqlite"):
        return len(kept_in(where, folder))
    return sum(part.read_bytes().count(b"\n") for part in folder.glob("*.part-*"))


@pytest.mark.processes
@pytest.mark.parametrize("pause_s", [0.0, 0.02, 60.0], ids=["many", "some", "one"])
@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_process_that_is_killed_loses_a_second_at_most(
    tmp_path: Path, kind: str, pause_s: float
) -> None:
    where = f"sqlite:///{tmp_path / 'h.db'}" if kind == "sqlite" else str(tmp_path / "h.jsonl")
    command = [sys.executable, "-c", WRITER, where, str(pause_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(1 if pause_s == 60.0 else 20):
            recorded = int(writer.stdout.readline())
        time.sleep(1.0)  # by then; a busy machine may take longer
        wait_until(lambda: count_in(where, tmp_path) > recorded)
        writer.kill()
    events = kept_in(where, tmp_path)
    assert [event.data["number"] for event in events] == list(range(len(events)))


def test_a_slow_disk_holds_nothing_up_and_loses_nothing() -> None:
    free, kept = Signal(), []

    def keep(lines: list[bytes]) -> None:
        assert free.wait(60)
        kept.extend(lines)

    with HistorySink(keep) as sink:
        for event in chain(3_000):
            sink(event)
        assert sink.missing == 3_001
        assert kept == []
        free.set()
    assert list(map(decode_line, kept)) == chain(3_000)
    assert (sink.missing, sink.gaps, sink.trouble) == (0, 0, None)


def test_what_finds_no_room_is_shed_and_its_place_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ROOM", 15_000)
    monkeypatch.setattr(store_module, "BATCH", 4)
    monkeypatch.setattr(store_module, "AGAIN_S", 0.01)
    kept: list[Event] = []
    said: list[str] = []
    full = Signal()

    def keep(lines: list[bytes]) -> None:
        if full.is_set():
            raise LogError("disk: full")
        kept.extend(map(decode_line, lines))

    events = chain(300)
    with HistorySink(keep, patient=True, say=said.append) as sink:
        for event in events[:50]:
            sink(event)
        wait_until(lambda: len(kept) == 50)
        full.set()
        for event in events[50:]:
            sink(event)
        wait_until(lambda: sink.trouble is not None and sink.missing == 251)
        full.clear()
    gap = next(event for event in kept if event.kind == GAP)
    at = kept.index(gap)
    told = gap.data
    lost = [event.id for event in events if event not in kept]
    assert [event for event in kept if event is not gap] == [e for e in events if e.id not in lost]
    assert (told["count"], told["first"], told["last"]) == (len(lost), lost[0], lost[-1])
    assert told["why"] == "disk: full"
    assert kept[at - 1].id == f"pop1-{int(lost[0].partition('-')[2]) - 1}"
    assert gap.cause == ROOT.id
    assert sink.missing == len(lost)
    assert len(said) == 2, "once when it fails, once when it is well again"


def test_a_run_on_virtual_time_waits_for_a_slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH", 4)
    monkeypatch.setattr(store_module, "ROOM", 20_000)
    kept: list[bytes] = []

    def keep(lines: list[bytes]) -> None:
        time.sleep(0.001)
        kept.extend(lines)

    with HistorySink(keep, patient=True) as sink:
        for event in chain(1_000):
            sink(event)
    assert list(map(decode_line, kept)) == chain(1_000)


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_on_a_full_disk_what_was_written_stays_and_goes_on_when_there_is_room(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "AGAIN_S", 0.05)
    events = chain(4_000)
    with small_disk(tmp_path, 16 << 20) as disk:
        url = f"sqlite:///{disk / 'h.db'}"
        path = disk / "h.jsonl"
        store = SqlEventStore(url) if kind == "sqlite" else None
        log = None if store else JsonlSink(path)

        def keep(lines: list[bytes]) -> None:
            if store is not None:
                store.append("r", map(decode_line, lines))
            elif log is not None:
                log.write(lines)

        with HistorySink(keep) as sink:
            for event in events[:1_000]:
                sink(event)
            wait_until(lambda: sink.missing == 0)
            filler = fill(disk)
            for event in events[1_000:]:
                sink(event)
            wait_until(lambda: sink.trouble is not None)
            so_far = kept_in(url if store else str(path), disk)
            assert so_far == events[: len(so_far)]
            assert len(so_far) >= 1_000
            filler.unlink()
        assert (sink.missing, sink.gaps, sink.trouble) == (0, 0, None)
        if store is not None:
            assert list(store.events("r")) == events
            store.close()
        elif log is not None:
            log.close()
            assert read_jsonl(path) == events
