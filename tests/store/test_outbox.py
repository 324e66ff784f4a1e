"""The outbox: nothing that was flushed is lost before it is acknowledged, and all is bounded."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_disk import fill, small_disk
from store_events import ROOT, chain
from tests.nightly import examples

from phalanx.domain.errors import StoreError
from phalanx.domain.events import Event, Recorder
from phalanx.store.outbox import SHED, Outbox, Shed
from phalanx.store.state import FILE, StateFile


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Outbox]:
    with StateFile(folder) as state, Outbox(state, **options) as outbox:
        yield outbox


def event(number: int, size: int = 10) -> Event:
    return Event(f"pop1.1-{number}", 0.0, "pop1", "goal.adopted", None, {"x": "x" * size})


def waiting(outbox: Outbox, after: int = 0) -> list[Event]:
    return [item.event for item in outbox.pending(after)]


def test_what_waits_is_found_again_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        for each in chain(600):
            outbox(each)
        assert waiting(outbox) == chain(600), "on disk and in memory"
        assert len(outbox) == 601
    with opened(tmp_path) as outbox:
        assert waiting(outbox) == chain(600)
        outbox(event(1))
        assert waiting(outbox) == [*chain(600), event(1)]
        *_, last, _ = outbox.pending()
        assert waiting(outbox, after=last.seq) == [event(1)]


@settings(max_examples=examples(16), suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "flush", "acknowledge", "again"]), st.integers(0, 12)),
        max_size=60,
    )
)
def test_it_is_a_queue(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    path = tmp_path_factory.mktemp("outbox")
    state = StateFile(path)
    outbox, model, number = Outbox(state, batch=7), {}, 0
    for step, value in steps:
        if step == "add":
            number += 1
            model[f"pop1.1-{number}"] = event(number, value)
            outbox(event(number, value))
        elif step == "flush":
            assert outbox.flush()
        elif step == "acknowledge":
            ids = [f"pop1.1-{n}" for n in range(value, value + 3)]
            outbox.acknowledge(ids)
            for each in ids:
                model.pop(each, None)
        else:
            outbox.close()
            state.close()
            state = StateFile(path)
            outbox = Outbox(state, batch=7)
        assert waiting(outbox) == list(model.values())
        assert len(outbox) == len(model)
        assert model or outbox.octets == 0
    outbox.close()
    state.close()


def test_the_oldest_is_shed_and_an_event_says_so(tmp_path: Path) -> None:
    with opened(tmp_path, max_octets=20_000, batch=10) as outbox:
        recorder = Recorder("pop1", outbox, lambda: 7.0, "pop1.1")

        def say(shed: Shed) -> None:
            recorder.record(
                SHED, None, count=shed.count, octets=shed.octets, first=shed.first, last=shed.last
            )

        outbox.on_shed = say
        for _ in range(300):
            recorder.record("goal.adopted", None, x="x" * 100)
        outbox.flush()
        found = waiting(outbox)
        assert outbox.octets <= 20_000 + 400, "the last event of shedding may wait in memory"
        told = [e for e in found if e.kind == SHED]
        assert told
        numbers = [int(e.id.rpartition("-")[2]) for e in found]
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "what is kept has no holes"
        assert outbox.shed == numbers[0] - 1
        assert told[-1].data["last"] == f"pop1.1-{numbers[0] - 1}"


def test_a_batch_that_is_larger_than_the_outbox(tmp_path: Path) -> None:
    told: list[Shed] = []
    with opened(tmp_path, max_octets=5_000, batch=1_000, on_shed=told.append) as outbox:
        for number in range(1, 101):
            outbox(event(number, 100))
        outbox.flush()
        kept = len(outbox)
        assert waiting(outbox) == [event(n, 100) for n in range(101 - kept, 101)]
        assert outbox.octets <= 5_000
        assert [(s.count, s.first, s.last, s.why) for s in told] == [
            (100 - kept, "pop1.1-1", f"pop1.1-{100 - kept}", "full")
        ]


def test_a_full_disk_is_waited_for_and_memory_is_bounded(tmp_path: Path) -> None:
    told: list[Shed] = []
    with small_disk(tmp_path, 1 << 20) as disk:
        state = StateFile(disk)
        outbox = Outbox(state, max_memory=20_000, batch=20, on_shed=told.append)
        for number in range(1, 51):
            outbox(event(number, 100))
        outbox.flush()
        filler = fill(disk)
        number = 50
        while not told:
            number += 1
            outbox(event(number, 100))
        assert outbox.failures > 0
        assert outbox.last_failure is not None
        assert outbox.last_failure.endswith("database or disk is full")
        assert {shed.why for shed in told} == {"memory"}
        assert outbox.shed == sum(shed.count for shed in told)
        outbox.acknowledge([f"pop1.1-{n}" for n in range(1, 11)])
        assert len(outbox) == number - 10 - outbox.shed
        filler.unlink()
        assert outbox.flush()
        assert outbox.last_failure is None
        left = waiting(outbox)
        outbox.close()
        state.close()
        assert left[0] == event(11, 100)
        assert left[-1] == event(number, 100)
        with opened(disk) as again:
            assert waiting(again) == left


WRITER = """
import sys
from pathlib import Path
from phalanx.domain.events import Recorder
from phalanx.store.outbox import Outbox
from phalanx.store.state import StateFile
outbox = Outbox(StateFile(Path(sys.argv[1])))
recorder = Recorder("pop1", outbox, lambda: 0.0)
while True:
    for _ in range(7):
        last = recorder.record("goal.adopted", None)
    outbox.flush()
    print(last, flush=True)
"""


@settings(max_examples=examples(3), suppress_health_check=list(HealthCheck))
@given(pause=st.floats(0, 0.1))
def test_a_writer_that_is_killed_loses_nothing_that_was_flushed(
    tmp_path_factory: pytest.TempPathFactory, pause: float
) -> None:
    path = tmp_path_factory.mktemp("outbox")
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        time.sleep(pause)
        writer.kill()
        said += writer.stdout.readlines()
    last = max(int(line.rpartition(b"-")[2]) for line in said if line.endswith(b"\n"))
    with opened(path) as outbox:
        ids = [e.id for e in waiting(outbox)]
    assert ids == [f"pop1-{n}" for n in range(1, len(ids) + 1)]
    assert len(ids) >= last
    assert len(ids) % 7 == 0


@pytest.mark.parametrize("at", [0, 5_000])
def test_a_damaged_file_is_put_aside(tmp_path: Path, at: int) -> None:
    with opened(tmp_path) as outbox:
        for each in chain(200):
            outbox(each)
    octets = bytearray((tmp_path / FILE).read_bytes())
    octets[at : at + 9_000] = b"\xff" * 9_000
    (tmp_path / FILE).write_bytes(octets)
    with StateFile(tmp_path) as state, Outbox(state) as outbox:
        assert state.set_aside == tmp_path / f"{FILE}.damaged-1"
        assert state.set_aside.read_bytes() == octets
        outbox(ROOT)
        assert waiting(outbox) == [ROOT]
    with StateFile(tmp_path) as state, Outbox(state) as outbox:
        assert state.set_aside is None
        assert waiting(outbox) == [ROOT]


def test_a_line_that_is_no_event_is_shed(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        for each in chain(2):
            outbox(each)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("UPDATE outbox SET event = x'ff' WHERE id = 'pop1-1'")
    connection.commit()
    connection.close()
    told: list[Shed] = []
    with opened(tmp_path, on_shed=told.append) as outbox:
        assert waiting(outbox) == [chain(2)[0], chain(2)[2]]
        outbox.flush()
        assert [(s.count, s.first, s.why) for s in told] == [(1, "pop1-1", "damaged")]
        assert len(outbox) == 2


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, max_memory=1_000) as outbox:
        with pytest.raises(StoreError, match="event 'x': cannot be written as JSON"):
            outbox(Event("x", 0.0, "a", "k", None, {"o": object()}))
        with pytest.raises(StoreError, match=r"event 'pop1\.1-1' is too large"):
            outbox(event(1, 1_000))
        assert len(outbox) == 0


def test_the_import_is_small() -> None:
    program = "import sys; import phalanx.store.outbox; print('sqlalchemy' in sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
