"""An agent's memory on disk: whole at every moment, whatever happens to process and files."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_disk import fill, small_disk
from tests.nightly import examples

from phalanx.domain.errors import StoreError
from phalanx.store.state import FILE, Recollection, StateFile

ANY = settings(max_examples=examples(24), suppress_health_check=list(HealthCheck))


def test_nothing_then_the_newest(tmp_path: Path) -> None:
    with StateFile(tmp_path / "a" / "b") as kept:
        assert kept.load() is None
        assert kept.begin() == 1
        assert kept.load() is None
        assert [kept.save(b"one"), kept.save(b""), kept.save(b"three")] == [1, 2, 3]
        assert kept.load() == Recollection(b"three", 3, 1)
    with StateFile(tmp_path / "a" / "b") as kept:
        assert kept.load() == Recollection(b"three", 3, 1)
        assert kept.begin() == 2
        assert kept.load() == Recollection(b"three", 3, 1)
        kept.save(b"four")
        assert kept.load() == Recollection(b"four", 4, 2)


def test_nothing_is_saved_before_a_life_has_begun(tmp_path: Path) -> None:
    with StateFile(tmp_path) as kept:
        with pytest.raises(StoreError, match=r"before a life has begun$"):
            kept.save(b"x")
        assert kept.load() is None


def test_a_memory_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.store.state.MAX_OCTETS", 92)
    with StateFile(tmp_path) as kept:
        kept.begin()
        kept.save(b"x" * 92)
        with pytest.raises(StoreError, match=r"93 octets is too large, at most 92 can be kept$"):
            kept.save(b"x" * 93)
        found = kept.load()
        assert found is not None
        assert found.octets == b"x" * 92


@ANY
@given(
    saved=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.booleans(),
    noise=st.binary(min_size=1, max_size=30),
)
@example(saved=[b""], at=0.2483930032049644, cut=False, noise=b"\x80")  # no text: the schema
@example(saved=[b""], at=0.24609375, cut=False, noise=b"\x80")
def test_a_damaged_file_is_never_taken_for_a_memory(
    tmp_path_factory: pytest.TempPathFactory,
    saved: list[bytes],
    at: float,
    cut: bool,
    noise: bytes,
) -> None:
    path = tmp_path_factory.mktemp("state")
    with StateFile(path) as kept:
        kept.begin(at_least=6)
        for octets in saved:
            kept.save(octets)
    whole = (path / FILE).read_bytes()
    place = int(at * len(whole))
    damaged = whole[:place] if cut else whole[:place] + noise + whole[place + len(noise) :]
    (path / FILE).write_bytes(damaged)
    try:
        kept = StateFile(path)
    except StoreError as error:  # a mark or a version that is no longer ours
        assert "is the database of another program" in str(error)  # noqa: PT017
        return
    with kept:
        try:
            found = kept.load()
        except StoreError:
            found = None
        if found is not None:
            assert found.octets in saved[-2:]
            assert found.generation >= len(saved) - 1
            assert found.octets == saved[-1] or found.damaged is not None
        life = kept.begin(at_least=7)
        assert life > 7
        generation = kept.save(b"new")
        assert kept.load() == Recollection(b"new", generation, life)


def test_a_damaged_memory_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    with StateFile(tmp_path) as kept:
        kept.begin()
        for octets in (b"first" * 9, b"second" * 9, b"third" * 9):
            kept.save(octets)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes().replace(b"third" * 9, b"thirt" * 9))
    with StateFile(tmp_path) as kept:
        damage = f"a memory in {FILE} is damaged"
        assert kept.load() == Recollection(b"second" * 9, 2, 1, damage)
        assert kept.begin() == 3, "one number is left out for the one that may be lost"
        assert kept.save(b"fourth") == 4
        assert kept.load() == Recollection(b"fourth", 4, 3)
    with StateFile(tmp_path) as kept:
        assert kept.load() == Recollection(b"fourth", 4, 3)


def test_what_can_be_read_of_a_damaged_file_is_taken_over(tmp_path: Path) -> None:
    with StateFile(tmp_path) as kept:
        assert kept.begin(at_least=4) == 5
        kept.save(b"kept")
        with kept.transaction():
            row = 1, "e-1", 9_000, b"x" * 9_000
            kept.connection.execute("INSERT INTO outbox VALUES (?, ?, ?, ?)", row)
    file = tmp_path / FILE
    octets = file.read_bytes()
    (page,) = (
        n for n in range(0, len(octets), 4096) if b"e-1" in octets[n : n + 4096] and octets[n] == 13
    )
    file.write_bytes(octets[:page] + b"\xff" * 4096 + octets[page + 4096 :])
    with StateFile(tmp_path) as kept:
        found = kept.load()
        assert found == Recollection(b"kept", 1, 5, f"{FILE}.damaged-1 is damaged")
        assert kept.begin() == 7
    with StateFile(tmp_path) as kept:
        assert kept.begin() == 8


def test_the_incarnation_never_goes_back(tmp_path: Path) -> None:
    for life in (1, 2, 3, 4):
        with StateFile(tmp_path) as kept:
            assert kept.begin() == life
    file = tmp_path / FILE
    file.write_bytes(b"noise" * 2_000)
    for _ in range(2):  # what was put aside is remembered until a life has begun
        with (
            StateFile(tmp_path) as kept,
            pytest.raises(StoreError, match=r"damaged-1 is damaged: which incarnation comes next"),
        ):
            kept.begin()
        file.unlink()
    with StateFile(tmp_path) as kept:
        assert kept.begin(at_least=7) == 8
        assert kept.begin(at_least=3) > 8


def test_the_incarnation_is_in_the_file_itself_once_a_life_has_begun(tmp_path: Path) -> None:
    with StateFile(tmp_path / "one") as kept:
        kept.begin(at_least=8)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / FILE).write_bytes((tmp_path / "one" / FILE).read_bytes())
    with StateFile(tmp_path / "other") as kept:
        assert kept.begin() == 10, "without the write-ahead log, which a power failure may cost"


def test_another_program_s_database_and_a_second_process_are_refused(tmp_path: Path) -> None:
    file = tmp_path / FILE
    with (
        StateFile(tmp_path),
        pytest.raises(StoreError, match=rf"^{file}: another process uses it$"),
    ):
        StateFile(tmp_path)
    StateFile(tmp_path).close()
    other = tmp_path / "other"
    other.mkdir()
    connection = sqlite3.connect(other / FILE)
    connection.execute("CREATE TABLE outbox (name)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"is the database of another program$"):
        StateFile(other)


WRITER = """
import sys
from pathlib import Path
from phalanx.store.state import StateFile
kept = StateFile(Path(sys.argv[1]))
life = kept.begin()
print(life, flush=True)
number = 0
while True:
    number += 1
    octets = b"%d " % number * (number % 50 * 100 + 1)
    kept.save(octets)
    kept.put("other", octets)
"""


@settings(max_examples=examples(3), suppress_health_check=list(HealthCheck))
@given(pause=st.floats(0, 0.1))
def test_a_writer_that_is_killed_leaves_a_whole_memory(
    tmp_path_factory: pytest.TempPathFactory, pause: float
) -> None:
    path = tmp_path_factory.mktemp("killed")
    generation = 0
    for life in (1, 2):
        command = [sys.executable, "-c", WRITER, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"%d\n" % life
            time.sleep(pause)
            writer.kill()
        with StateFile(path) as kept:
            found = kept.load()
            if found is not None:
                assert found.damaged is None
                assert found.generation >= generation
                words = found.octets.split()
                assert set(words) == {words[0]}
                assert len(words) == int(words[0]) % 50 * 100 + 1
                generation = found.generation
            other = kept.get("other")
            if other is not None:
                words = other.split()
                assert set(words) == {words[0]}
                assert len(words) == int(words[0]) % 50 * 100 + 1


def test_a_file_of_an_earlier_version_keeps_things_by_name_as_well(tmp_path: Path) -> None:
    with StateFile(tmp_path) as kept:
        kept.begin()
        kept.save(b"memory")
        kept.connection.execute("DROP TABLE other")
    with StateFile(tmp_path) as kept:
        assert kept.get("register") is None
        kept.put("register", b"first")
        kept.put("register", b"second")
    with StateFile(tmp_path) as kept:
        found = kept.load()
        assert found is not None
        assert (found.octets, kept.get("register")) == (b"memory", b"second")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as disk, StateFile(disk / "memory") as kept:
        kept.begin()
        kept.save(b"before" * 1_000)
        filler = fill(disk)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"state\.db: database or disk is full$"):
                kept.save(b"after" * 20_000)
        found = kept.load()
        assert found is not None
        assert found.octets == b"before" * 1_000
        filler.unlink()
        kept.save(b"after" * 20_000)
        found = kept.load()
        assert found is not None
        assert (found.octets, found.damaged) == (b"after" * 20_000, None)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from phalanx.domain.errors import StoreError
from phalanx.store.state import StateFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with StateFile(Path(sys.argv[1])) as kept:
    kept.begin()
    kept.save(b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        kept.save(b"large" * 10_000)
    except StoreError as error:
        print(error)
    print(kept.load().octets.decode())
    kept.save(b"fits")
"""


def test_a_file_that_cannot_grow_leaves_what_was_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / FILE}: disk I/O error\nsmall\n"
    with StateFile(tmp_path) as kept:
        assert kept.load() == Recollection(b"fits", 2, 1)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StoreError, match=rf"^{path / FILE}: File exists$"):
        StateFile(path)
    with pytest.raises(StoreError, match=r"Not a directory$"):
        StateFile(path / "below")
