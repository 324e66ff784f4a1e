from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_events import ROOT, chain, logs
from tests.nightly import examples

from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.store import jsonl
from phalanx.store.jsonl import JsonlSink, read_jsonl, read_log, write_jsonl


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a path that the examples of a property may write over and over."""
    return tmp_path_factory.mktemp("jsonl") / "log.jsonl"


@settings(max_examples=examples(20))
@given(events=logs())
def test_round_trip(events: list[Event], scratch: Path) -> None:
    write_jsonl(events, scratch)
    assert read_jsonl(scratch) == events


def test_one_object_a_line_with_fields_in_order(path: Path) -> None:
    write_jsonl([Event("a", 1.5, "pop1", "goal.adopted", None, {"z": "¬b", "a": [1]})], path)
    assert (
        path.read_bytes()
        == (
            '{"id":"a","time":1.5,"agent":"pop1","kind":"goal.adopted","cause":null,'
            '"data":{"z":"¬b","a":[1]}}\n'
        ).encode()
    )


def test_the_last_line_may_lack_its_end(path: Path) -> None:
    write_jsonl(chain(2), path)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert read_jsonl(path) == chain(2)


def encoded(**changes: Any) -> bytes:
    fields = {**msgspec.to_builtins(ROOT), "cause": "run-1", **changes}
    return msgspec.json.encode(fields) + b"\n"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"\n", "not JSON"),
        (b"not json\n", "not JSON"),
        (encoded(id="x")[:-5], "not JSON: Input data was truncated"),
        (b"\x00\x01\x02\n", "not JSON"),
        (b'{"id":"\xff"}\n', "not UTF-8 at byte 8"),
        (b"\x1f\x8b\x08\x00", "not UTF-8 at byte 2"),
        (encoded(id="x").replace(b"1}", b"[" * 100_000), "nested too deeply"),
        (b"[]\n", "not an event: Expected `object`, got `array`"),
        (b"{}\n", "not an event: Object missing required field `id`"),
        (encoded(id=7), r"not an event: Expected `str`, got `int` - at `\$.id`"),
        (encoded(id="x", time=None), "not an event: Expected `float`"),
        (encoded(id="x", data=[]), "not an event: Expected `object`"),
        (encoded(id="x").replace(b"0.0", b"1e999"), "not an event: Number out of range"),
        (encoded(), "the id 'run-1' is taken by a line above"),
        (encoded(id="x", cause="y"), "the cause 'y' is no line above"),
        (encoded(id="x", cause="x"), "the cause 'x' is no line above"),
        (encoded(id="x")[:-1] + encoded(id="y"), "not JSON"),
    ],
)
def test_what_is_no_log_is_refused_with_its_line(path: Path, line: bytes, what: str) -> None:
    write_jsonl([ROOT], path)
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(LogError, match=f"^{path}: line 2: {what}") as caught:
        read_jsonl(path)
    assert "\n" not in str(caught.value)


def test_a_huge_line_is_refused_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Event("big", 0.0, "a", "k", None, {"x": "y" * 1_000})
    write_jsonl([fits], path)
    size = path.stat().st_size
    monkeypatch.setattr(jsonl, "LONGEST_LINE", size)
    assert read_jsonl(path) == [fits]
    monkeypatch.setattr(jsonl, "LONGEST_LINE", size - 1)
    with pytest.raises(LogError, match=f"line 1: longer than {size - 1} bytes"):
        read_jsonl(path)


def test_a_log_cut_at_any_byte_is_read_up_to_a_line_or_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "log.jsonl", tmp_path / "cut.jsonl"
    events = chain(3)
    write_jsonl(events, whole)
    data = whole.read_bytes()
    readable = 0
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        try:
            got = read_jsonl(cut)
        except LogError as error:
            said = str(error)
            assert said.startswith(f"{cut}: line {len(data[:size].splitlines())}: ")
        else:
            assert got == events[: len(got)]
            readable += 1
    assert readable == 8, "at both sides of each line end, but the last"


@given(data=st.data())
def test_a_damaged_log_is_a_log_or_refused_in_one_line(data: st.DataObject, scratch: Path) -> None:
    damaged = bytearray(b"".join(map(jsonl.encode_line, chain(4))))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    scratch.write_bytes(damaged)
    check_read(scratch)


def test_a_log_cut_anywhere_is_read_up_to_its_last_whole_line(path: Path) -> None:
    events = chain(3)
    lines = [jsonl.encode_line(event) for event in events]
    data = b"".join(lines)
    for size in range(len(lines[0]), len(data)):
        path.write_bytes(data[:size])
        reading = read_log(path)
        whole = data[: size + 1].count(b"\n")  # the line end itself may be missing
        assert reading.events == events[:whole]
        rest = size - len(b"".join(lines[:whole]))
        note = reading.note(path)
        if rest > 0:
            assert reading.octets == rest
            assert note is not None
            assert note.startswith(
                f"{path}: 1 line was left out ({rest} octets): line {whole + 1}: not "
            )
        else:
            assert note is None


def test_what_follows_a_damaged_line_is_read(path: Path) -> None:
    lines = [jsonl.encode_line(event) for event in chain(4)]
    lines[1] = lines[1][:20] + b"\0\0\0\n"
    lines[3] = lines[0]
    path.write_bytes(b"".join(lines))
    reading = read_log(path)
    assert [event.id for event in reading.events] == ["run-1", "pop1-2", "pop1-4"]
    assert [why.partition(":")[0] for why in reading.left_out] == ["line 2", "line 4"]
    assert reading.lines == 2
    assert reading.octets == len(lines[1]) + len(lines[3])
    assert reading.uncaused == (
        "line 3: the cause 'pop1-1' is no line above",
        "line 5: the cause 'pop1-3' is no line above",
    )
    note = str(reading.note(path))
    assert "2 lines were left out" in note
    assert "2 events name a cause that is not there: line 3" in note


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (gzip.compress(b"".join(map(jsonl.encode_line, chain(3)))), "gzip must be unpacked"),
        (bytes(range(256)) * 40, "line 1: not JSON"),
        (b"\0" * 1000, "line 1: not JSON"),
        (b"seconds,value\n1,2\n", "line 1: not JSON"),
    ],
)
def test_a_file_without_an_event_is_no_log(path: Path, octets: bytes, why: str) -> None:
    path.write_bytes(octets)
    with pytest.raises(LogError, match=f"^{path}: line 1: .*") as caught:
        read_log(path)
    assert why in str(caught.value)


def test_a_huge_line_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 300)
    lines = [jsonl.encode_line(event) for event in chain(2)]
    path.write_bytes(lines[0] + b"x" * 5_000 + b"\n" + lines[1])
    reading = read_log(path)
    assert reading.events == chain(2)[:2]
    assert reading.octets == 5_001
    assert reading.left_out == ("line 2: longer than 300 bytes",)


@given(data=st.data())
def test_of_any_damage_the_whole_lines_are_read(data: st.DataObject, scratch: Path) -> None:
    lines = [jsonl.encode_line(event) for event in chain(8)]
    damaged = bytearray(b"".join(lines))
    ends = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
    untouched = set(range(len(lines)))
    flips = st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=4)
    harm = [(at, 1, bytes([octet])) for at, octet in data.draw(flips)]
    harm.append(data.draw(st.tuples(st.integers(0, len(damaged)), st.integers(0, 40), st.binary())))
    for at, length, octets in harm:
        damaged[at : at + length] = octets
        untouched = {n for n in untouched if at + length < ends[n] or at >= ends[n + 1]}
    scratch.write_bytes(damaged)
    try:
        found = read_log(scratch).events
    except LogError:
        found = []
    # A line is lost only where damage touches it, its line end, or the line end before it.
    assert {chain(8)[n].id for n in untouched} <= {event.id for event in found}


def check_read(path: Path) -> None:
    try:
        events = read_jsonl(path)
    except LogError as error:
        said = str(error)
        assert said.startswith(f"{path}: line ")
        assert len(said.splitlines()) == 1
    else:
        assert len({event.id for event in events}) == len(events)


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (Event("x", float("nan"), "a", "k", None, {}), "its time is nan"),
        (Event("x", float("inf"), "a", "k", None, {}), "its time is inf"),
        (Event("x", 0.0, "a", "k", None, {"o": object()}), "cannot be written as JSON"),
        (Event("x", 0.0, "a", "k", None, {"o": {(1, 2): 3}}), "cannot be written as JSON"),
        (Event("\ud800", 0.0, "a", "k", None, {}), "cannot be written as JSON"),
    ],
)
def test_an_event_that_is_not_json_leaves_the_old_log(
    path: Path, tmp_path: Path, event: Event, what: str
) -> None:
    write_jsonl([ROOT], path)
    with pytest.raises(LogError, match=f"^event .*: {what}"):
        write_jsonl([*chain(2), event], path)
    assert read_jsonl(path) == [ROOT]
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "log.jsonl"
    with pytest.raises(LogError, match=f"^{path}: No such file or directory$"):
        JsonlSink(path)


@pytest.mark.parametrize("path", [Path(), Path(os.devnull)], ids=["folder", "device"])
def test_what_is_no_file_is_not_replaced(path: Path) -> None:
    with pytest.raises(LogError, match=f"^{path}: is not a regular file$"):
        write_jsonl([ROOT], path)


def test_a_link_still_points_to_the_log(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_jsonl([ROOT], link)
    assert link.is_symlink()
    assert read_jsonl(target) == [ROOT]


def test_a_sink_shows_a_log_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = chain(5)
    with JsonlSink(path) as sink:
        for event in events[:5]:
            sink(event)
        assert not path.exists()
        (part,) = tmp_path.glob("log.jsonl.part-*")
        assert read_jsonl(part) == events[:5], "what was written is there at once"
        sink(events[5])
    assert read_jsonl(path) == events
    assert list(tmp_path.iterdir()) == [path]
    sink.close()


def fail_after(sink: JsonlSink, events: list[Event]) -> None:
    with sink:
        for event in events:
            sink(event)
        raise ZeroDivisionError


def test_a_run_that_fails_leaves_its_part_and_the_old_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_jsonl([ROOT], path)
    sink = JsonlSink(path)
    with pytest.raises(ZeroDivisionError):
        fail_after(sink, chain(2))
    assert read_jsonl(path) == [ROOT]
    assert read_jsonl(sink.part) == chain(2)
    sink = JsonlSink(path)
    with pytest.raises(ZeroDivisionError):
        fail_after(sink, [])
    assert not sink.part.exists(), "nothing was written"


LIMITED = """
import resource, signal, sys
from pathlib import Path
from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.store.jsonl import write_jsonl
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_jsonl((Event(str(i), 0.0, "a", "k", None, {}) for i in range(1000)), Path(sys.argv[1]))
except LogError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_leaves_the_old_log(path: Path, tmp_path: Path) -> None:
    write_jsonl([ROOT], path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path}: File too large\n"
    assert read_jsonl(path) == [ROOT]
    assert list(tmp_path.iterdir()) == [path]
