"""The journal of leases on a disk that may fail, with clocks that may jump."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from phalanx.infrastructure.linux.journal import LeasedMeasure, LeaseJournal


def entry(measure: str) -> LeasedMeasure:
    body: dict[str, str | int | float | list[str]] = {"verdict": "drop", "devices": ["eth9"]}
    return LeasedMeasure(measure, "pop1/vnf", "rate-limiter", "pop1", body)


@pytest.fixture
def journal(tmp_path: Path) -> LeaseJournal:
    return LeaseJournal(tmp_path / "leases.db")


def names(journal: LeaseJournal) -> list[str]:
    return [kept.entry.measure for kept in journal.remaining()]


def test_what_was_put_is_there_for_the_next_driver(tmp_path: Path) -> None:
    journal = LeaseJournal(tmp_path / "leases.db")
    journal.put([(entry("a"), 60)])
    journal.put([(entry("b"), 60)])
    journal.drop(["a"])
    journal.close()
    again = LeaseJournal(tmp_path / "leases.db")
    (kept,) = again.remaining()
    assert kept.entry == entry("b")
    assert 59 < kept.seconds <= 60


def test_a_lease_runs_out_by_real_time_unless_it_is_renewed(journal: LeaseJournal) -> None:
    journal.put([(entry("short"), 0.2), (entry("renewed"), 0.2), (entry("long"), 60)])
    journal.renew(["renewed"], 60)
    time.sleep(0.25)
    assert sorted(names(journal)) == ["long", "renewed"]


def test_a_wall_clock_that_jumps_changes_nothing(
    journal: LeaseJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.put([(entry("a"), 60)])
    real = time.time
    for jump in (-300, 300, 1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert names(journal) == ["a"]


def test_after_a_reboot_no_lease_is_longer_than_it_was(
    journal: LeaseJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.put([(entry("a"), 60)])
    journal._boot = "another boot"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    (kept,) = journal.remaining()
    assert kept.seconds <= 60
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert journal.remaining() == []


def _put_for_ever(path: str) -> None:
    journal = LeaseJournal(Path(path))
    number = 0
    while True:
        journal.put([(entry(f"m{number:06}"), 600)])
        print(number, flush=True)
        number += 1


def test_kill_9_loses_nothing_that_was_said_to_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"
    read, write = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=_reported, args=(path, write))
    process.start()
    os.close(write)
    said = b""
    while said.count(b"\n") < 20:
        said += os.read(read, 1000)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.close(read)
    kept = int(said.split(b"\n")[said.count(b"\n") - 1])
    assert set(names(LeaseJournal(path))) >= {f"m{number:06}" for number in range(kept + 1)}


def _reported(path: Path, pipe: int) -> None:
    os.dup2(pipe, 1)
    sys.stdout = os.fdopen(1, "w")
    _put_for_ever(str(path))


def test_a_file_that_is_no_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "leases.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match="is no journal of leases"):
        LeaseJournal(path)


def test_what_a_full_disk_does_not_take_is_kept_and_written_later(tmp_path: Path) -> None:
    journal = LeaseJournal(tmp_path / "leases.db")
    journal._db.execute("PRAGMA max_page_count = 1")
    _fill(journal)
    assert journal.problem == "database or disk is full"
    journal.drop(["m1"])
    assert len(names(journal)) == 999
    with closing(LeaseJournal(tmp_path / "leases.db")) as other:
        assert len(names(other)) < 999
    journal._db.execute("PRAGMA max_page_count = 1000000")
    journal.renew(["m2"], 60)
    assert journal.problem is None
    with closing(LeaseJournal(tmp_path / "leases.db")) as other:
        assert names(other) == names(journal)


def _fill(journal: LeaseJournal) -> None:
    for number in range(1000):
        journal.put([(entry(f"m{number}"), 60)])


def test_changes_that_come_together_are_made_all_or_none(journal: LeaseJournal) -> None:
    journal.put([(entry("a"), 60), (entry("b"), 60)])
    assert names(journal) == ["a", "b"]
    journal._db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON lease WHEN NEW.measure = 'd' "
        "BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    journal.put([(entry("c"), 60), (entry("d"), 60)])
    assert journal.problem == "no"
    count = "SELECT count(*) FROM lease"
    assert journal._db.execute(count).fetchone() == (2,)
    journal.drop(["d"])
    assert journal.problem is None
    assert journal._db.execute(count).fetchone() == (3,)


def test_a_damaged_row_costs_only_itself(tmp_path: Path, journal: LeaseJournal) -> None:
    journal.put([(entry("a"), 60)])
    journal.put([(entry("b"), 60)])
    journal._db.execute("UPDATE lease SET entry = '{' WHERE measure = 'a'")
    assert names(LeaseJournal(tmp_path / "leases.db")) == ["b"]


def test_the_journal_is_for_its_owner_alone(tmp_path: Path) -> None:
    LeaseJournal(tmp_path / "leases.db")
    assert (tmp_path / "leases.db").stat().st_mode & 0o077 == 0


def test_a_journal_that_closes_under_its_writers_ends_them_in_order(journal: LeaseJournal) -> None:
    began = Barrier(5)

    def write(number: int) -> str:
        began.wait()
        for _ in range(10_000):
            try:
                journal.put([(entry(f"m{number}"), 60)])
            except OSError as error:
                return str(error)
        return "never closed"

    with ThreadPoolExecutor(4) as threads:
        ends = [threads.submit(write, number) for number in range(4)]
        began.wait()
        journal.close()
        assert {end.result() for end in ends} == {"the journal of leases is closed"}
