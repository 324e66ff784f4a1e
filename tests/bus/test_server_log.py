"""A log that is read while it is written, set aside and removed, by one reader after the other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.bus.nats.audit import LogPosition, ServerLog


def said(log: ServerLog) -> list[str]:
    return [line.decode() for line in log.lines()]


def test_a_reader_goes_on_where_an_earlier_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    path.write_text("one\ntwo\nhal")
    first = ServerLog(path, from_start=True)
    assert said(first) == ["one", "two"]
    place = first.place
    first.close()
    path.write_text("one\ntwo\nhalf\nfour\n")
    second = ServerLog(path, after=place)
    assert said(second) == ["half", "four"]
    second.close()


def test_if_its_file_is_gone_all_that_is_left_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    (tmp_path / "nats.log.2026.01.03").write_text("four\n")
    path.write_text("five\n")
    log = ServerLog(path, after=LogPosition("gone", 17))
    assert said(log) == ["four", "five"]
    log.close()


@pytest.mark.parametrize("after", [LogPosition("gone", 17), None])
def test_there_need_be_no_log_yet(tmp_path: Path, after: LogPosition | None) -> None:
    log = ServerLog(tmp_path / "nats.log", after=after)
    assert said(log) == []
    assert log.place is None
    (tmp_path / "nats.log").write_text("one\n")
    assert said(log) == ["one"]
    log.close()


def test_a_line_without_an_end_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    path.write_bytes(b"x" * (3 << 20))
    log = ServerLog(path, from_start=True)
    said(log)
    with path.open("a") as file:
        file.write("\ntwo\n")
    assert said(log)[-1] == "two"
    log.close()


@given(st.lists(st.sampled_from(["line", "half", "rotate", "read", "anew"]), max_size=40))
def test_each_line_is_given_once_whatever_happens_in_between(steps: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nats.log"
        path.write_text("begin\n")
        log = ServerLog(path, from_start=True)
        expected, found = ["begin"], said(log)
        open_line = ""
        for count, step in enumerate([*steps, "line", "read"]):
            if step == "half":
                open_line += f"{count}."
                with path.open("a") as file:
                    file.write(f"{count}.")
            elif step == "line":
                expected.append(f"{open_line}{count}")
                open_line = ""
                with path.open("a") as file:
                    file.write(f"{count}\n")
            elif step == "rotate" and not open_line:
                path.rename(path.with_name(f"nats.log.{count:04}"))
                path.write_text(f"begin {count}\n")
                expected.append(f"begin {count}")
            elif step == "anew":
                found += said(log)
                place = log.place
                log.close()
                log = ServerLog(path, after=place)
            else:
                found += said(log)
        log.close()
        assert found == expected
