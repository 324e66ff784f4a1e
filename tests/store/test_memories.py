"""An agent's memory on disk: whole at every moment, whatever happens to process and files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_disk import fill, small_disk

from phalanx.domain.errors import StoreError
from phalanx.store import slots
from phalanx.store.memories import Memories, Recollection

ANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def test_nothing_then_the_newest(tmp_path: Path) -> None:
    with Memories(tmp_path / "a" / "b") as memories:
        assert memories.load() is None
        assert memories.begin() == 1
        assert memories.load() is None
        assert [memories.save(b"one"), memories.save(b""), memories.save(b"three")] == [1, 2, 3]
        assert memories.load() == Recollection(b"three", 3, 1)
    with Memories(tmp_path / "a" / "b") as memories:
        assert memories.load() == Recollection(b"three", 3, 1)
        assert memories.begin() == 2
        assert memories.load() == Recollection(b"three", 3, 1)
        memories.save(b"four")
        assert memories.load() == Recollection(b"four", 4, 2)


def test_nothing_is_saved_before_a_life_has_begun(tmp_path: Path) -> None:
    with Memories(tmp_path) as memories:
        with pytest.raises(StoreError, match=r"before a life has begun$"):
            memories.save(b"x")
        assert memories.load() is None


def test_a_memory_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phalanx.store.memories.MAX_OCTETS", 100)
    with Memories(tmp_path) as memories:
        memories.begin()
        memories.save(b"x" * 92)
        with pytest.raises(StoreError, match=r"93 octets is too large, at most 92 can be kept$"):
            memories.save(b"x" * 93)
        found = memories.load()
        assert found is not None
        assert found.octets == b"x" * 92


@ANY
@given(
    saved=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    at=st.floats(0, 1, exclude_max=True),
    cut=st.booleans(),
    noise=st.binary(min_size=1, max_size=30),
)
def test_a_damaged_file_is_never_taken_for_a_memory(
    tmp_path_factory: pytest.TempPathFactory,
    saved: list[bytes],
    at: float,
    cut: bool,
    noise: bytes,
) -> None:
    path = tmp_path_factory.mktemp("memories")
    with Memories(path) as memories:
        memories.begin()
        for octets in saved:
            memories.save(octets)
    newest = path / ("memory-a" if len(saved) % 2 else "memory-b")
    whole = newest.read_bytes()
    place = int(at * len(whole))
    damaged = whole[:place] if cut else whole[:place] + noise + whole[place + len(noise) :]
    newest.write_bytes(damaged)
    with Memories(path) as memories:
        if damaged == whole:
            assert memories.load() == Recollection(saved[-1], len(saved), 1)
        elif len(saved) == 1:
            with pytest.raises(StoreError, match="memory-a is damaged, and there is no other"):
                memories.load()
        else:
            damage = f"{newest.name} is damaged"
            assert memories.load() == Recollection(saved[-2], len(saved) - 1, 1, damage)
        assert memories.begin() == 2
        generation = memories.save(b"new")
        assert generation > len(saved)
        assert memories.load() == Recollection(b"new", generation, 2)


def test_the_incarnation_never_goes_back(tmp_path: Path) -> None:
    for life in (1, 2, 3, 4):
        with Memories(tmp_path) as memories:
            assert memories.begin() == life
    (tmp_path / "life-b").write_bytes(b"noise")
    with Memories(tmp_path) as memories:
        assert memories.begin() == 5, "one number is left out for the one that cannot be read"
    (tmp_path / "life-a").write_bytes(b"noise")
    (tmp_path / "life-b").write_bytes(b"")
    with Memories(tmp_path) as memories:
        with pytest.raises(StoreError, match="life-a and life-b are damaged: which incarnation"):
            memories.begin()
        assert memories.begin(at_least=7) == 8
        assert memories.begin(at_least=3) > 8


def test_a_folder_that_was_restored_from_a_copy_is_told(tmp_path: Path) -> None:
    with Memories(tmp_path) as memories:
        assert memories.begin(at_least=41) == 42


def test_the_incarnation_survives_the_loss_of_its_files(tmp_path: Path) -> None:
    with Memories(tmp_path) as memories:
        memories.begin(at_least=8)
        memories.save(b"x")
    (tmp_path / "life-a").unlink()
    with Memories(tmp_path) as memories:
        assert memories.begin() == 10


def test_a_second_process_is_refused_in_one_line(tmp_path: Path) -> None:
    with (
        Memories(tmp_path),
        pytest.raises(StoreError, match=rf"^{tmp_path}: another process \(process {os.getpid()}\)"),
    ):
        Memories(tmp_path)
    Memories(tmp_path).close()


WRITER = """
import sys
from pathlib import Path
from phalanx.store.memories import Memories
memories = Memories(Path(sys.argv[1]))
life = memories.begin()
print(life, flush=True)
number = 0
while True:
    number += 1
    memories.save(b"%d " % number * (number % 50 * 100 + 1))
"""


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
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
        with Memories(path) as memories:
            found = memories.load()
            if found is not None:
                assert found.damaged is None
                assert found.generation >= generation
                words = found.octets.split()
                assert set(words) == {words[0]}
                assert len(words) == int(words[0]) % 50 * 100 + 1
                generation = found.generation
        assert not list(path.glob("*.part"))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1 << 20) as disk, Memories(disk / "memory") as memories:
        memories.begin()
        memories.save(b"before" * 1_000)
        filler = fill(disk)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"memory: No space left on device$"):
                memories.save(b"after" * 20_000)
        found = memories.load()
        assert found is not None
        assert found.octets == b"before" * 1_000
        filler.unlink()
        memories.save(b"after" * 20_000)
        found = memories.load()
        assert found is not None
        assert (found.octets, found.damaged) == (b"after" * 20_000, None)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from phalanx.domain.errors import StoreError
from phalanx.store.memories import Memories
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Memories(Path(sys.argv[1])) as memories:
    memories.begin()
    memories.save(b"small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        memories.save(b"large" * 10_000)
    except StoreError as error:
        print(error)
    print(memories.load().octets.decode())
    memories.save(b"fits")
"""


def test_a_file_that_cannot_grow_leaves_what_was_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}: File too large\nsmall\n"
    with Memories(tmp_path) as memories:
        assert memories.load() == Recollection(b"fits", 2, 1)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_is_too_long_to_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MAX_OCTETS", 1_000)
    (tmp_path / "memory-a").write_bytes(b"x" * 5_000)
    with Memories(tmp_path) as memories, pytest.raises(StoreError, match="memory-a is damaged"):
        memories.load()


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StoreError, match=f"^{path}: File exists$"):
        Memories(path)
    with pytest.raises(StoreError, match=f"^{path / 'below'}: Not a directory$"):
        Memories(path / "below")


def test_without_sync_the_incarnation_is_synced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Memories(tmp_path, sync=False) as memories:
        memories.begin()
        assert len(synced) == 2, "the file and its folder"
        memories.save(b"x")
        assert len(synced) == 2
    with Memories(tmp_path) as memories:
        memories.begin()
        memories.save(b"x")
        assert len(synced) == 6
