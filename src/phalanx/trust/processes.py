"""Processes seen through proc(5): mappings, pages, memory, limits, activity; and what guards them.

All is read from outside the process, which runs on meanwhile and takes no part. That needs the
same user, and for a process that is not dumpable (``harden_process``) root or CAP_SYS_PTRACE.
What may be claimed for these readings: they show what the kernel shows. A kernel that lies, or
whoever may change it, is not seen (seed 000, II).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import sys
from array import array
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from random import SystemRandom
from typing import NamedTuple

from phalanx.trust.elf import PAGE, place
from phalanx.trust.measurement import Activity, MappedObject, MeasurementError

PROGRESS = "phalanx-progress"
"""Name of the memory file with the counter of an agent's own loop."""
HASH_SEED = "PYTHONHASHSEED"
"""Variable that decides about code which libraries make of hashes of text, as ``attrs`` does."""
HARMLESS = frozenset({"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8"})
"""Variables of Python that change nothing of what is loaded."""
ANEW = 0.1
"""Share of looks that hash program text again although nothing tells of a change."""
_RANDOM = SystemRandom()
_WATCHED = ("LD_", "PYTHON", "GLIBC_TUNABLES", "GCONV_PATH", "MALLOC_", "OPENSSL_", "SSLKEYLOGFILE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PRESENT, _SWAPPED, _FILE_PAGE = 1 << 63, 1 << 62, 1 << 61
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_DELETED = " (deleted)"


class Mapping(NamedTuple):
    """One line of ``/proc/PID/maps``."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str
    """Without the kernel's mark of a deleted file."""
    deleted: bool

    @property
    def backed(self) -> bool:
        """Whether a file on a disk stands, or stood, behind it."""
        return self.inode != 0 and not self.path.startswith(("/memfd:", "/dev/zero", "/SYSV"))


class MemoryRun(ctypes.Structure):
    """Where octets stand in a memory, and how many: a ``struct iovec``."""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


@cache
def _libc() -> ctypes.CDLL:
    found = ctypes.CDLL(None)
    found.process_vm_readv.restype = ctypes.c_ssize_t
    return found


_RUNS = 1024
"""Places that the kernel takes in one call."""


class ProcessFiles:
    """The files of one life of a process: a PID that is used again is not taken for it."""

    def __init__(self, pid: int) -> None:
        """Open what proc(5) has of process ``pid``.

        Raises:
            MeasurementError: if there is none.

        """
        self.pid = pid
        try:
            self._folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise MeasurementError(f"process {pid}: {error.strerror}") from None
        self._open: dict[str, int] = {}

    def close(self) -> None:
        """Close all files."""
        for number in (*self._open.values(), self._folder):
            os.close(number)
        self._open.clear()

    def text(self, name: str) -> str:
        """Return the text of a file such as ``status``.

        Raises:
            MeasurementError: if it cannot be read, as when the process has ended.

        """
        try:
            number = os.open(name, os.O_RDONLY, dir_fd=self._folder)
            with open(number, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
                return file.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise self._unreadable(name, error) from None

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return octets of ``mem`` or ``pagemap``.

        Raises:
            MeasurementError: if not all of them can be read.

        """
        octets = bytearray(length)
        self._fill(name, octets, start)
        return bytes(octets)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with octets of ``mem``, as ``read`` does."""
        self._fill("mem", buffer, start)

    def read_runs(self, address: int, runs: ctypes.Array[MemoryRun]) -> bool:
        """Copy many places of the process's memory to one of ours, one after the other.

        Return whether all was: that takes half the time of reading ``mem``, but not every
        sandbox allows the call.
        """
        count = 0
        for first in range(0, len(runs), _RUNS):
            part = runs[first : first + _RUNS]
            theirs, length = (MemoryRun * len(part))(*part), sum(run.length for run in part)
            ours = MemoryRun(address + count, length)
            copied = _libc().process_vm_readv(self.pid, ctypes.byref(ours), 1, theirs, len(part), 0)
            if copied != length:
                return False
            count += length
        return True

    def owner(self) -> int:
        """Return the user that owns the process's files: root where it is not dumpable."""
        try:
            return os.stat("maps", dir_fd=self._folder).st_uid
        except OSError as error:
            raise self._unreadable("maps", error) from None

    def mappings(self) -> tuple[Mapping, ...]:
        """Return the mappings of the process, by address."""
        return tuple(_mapping(line) for line in self.text("maps").splitlines())

    def status(self) -> dict[str, str]:
        """Return the fields of ``status``."""
        pairs = (line.partition(":") for line in self.text("status").splitlines())
        return {name: value.strip() for name, _, value in pairs}

    def environment(self) -> dict[str, str]:
        """Return the variables, of those that change what is loaded, that it was started with."""
        pairs = (item.partition("=") for item in self.text("environ").split("\0"))
        return {name: value for name, _, value in pairs if is_watched(name)}

    def core_limit(self) -> int:
        """Return the octets that a core file may have; -1: any number."""
        for line in self.text("limits").splitlines():
            if line.startswith("Max core file size"):
                soft = line.split()[4]
                return -1 if soft == "unlimited" else int(soft)
        return -1

    def _fill(self, name: str, buffer: bytearray | memoryview, start: int) -> None:
        try:
            if name not in self._open:
                self._open[name] = os.open(name, os.O_RDONLY, dir_fd=self._folder)
            count = os.preadv(self._open[name], [buffer], start)
        except (OSError, OverflowError, ValueError) as error:
            raise self._unreadable(name, error) from None
        if count != len(buffer):
            raise MeasurementError(
                f"process {self.pid}: {name} ends before {start + len(buffer):#x}"
            )

    def _unreadable(self, name: str, error: Exception) -> MeasurementError:
        if isinstance(error, PermissionError):
            why = (
                "may not be read: the measurer must be root, or the same user while it is dumpable"
            )
        elif isinstance(error, FileNotFoundError | ProcessLookupError):
            why = "is gone: the process has ended"
        else:
            why = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        return MeasurementError(f"process {self.pid}: {name} {why}")


def is_watched(name: str) -> bool:
    """Whether a variable of the environment changes what a process loads, or gives keys away."""
    return name.startswith(_WATCHED) and name not in HARMLESS


def safe_environment(hash_seed: str | None = None) -> dict[str, str]:
    """Return our environment without variables that change what is loaded.

    Args:
        hash_seed: of text, for a Python process; empty: one of its own; None: as ours.

    """
    kept = {name: value for name, value in os.environ.items() if not is_watched(name)}
    seed = os.environ.get(HASH_SEED, "") if hash_seed is None else hash_seed
    return {**kept, HASH_SEED: seed} if seed else kept


def new_hash_seed() -> str:
    """Return a value of ``PYTHONHASHSEED`` for the processes of one deployment."""
    return str(1 + _RANDOM.randrange(2**32 - 1))


def started(files: ProcessFiles) -> int:
    """Return when the process began, in clock ticks since the machine did."""
    return int(_stat(files)[19])


def activity(files: ProcessFiles, maps: tuple[Mapping, ...]) -> Activity:
    """Return how a process runs: CPU, waiting for a core, memory, the counter of its loop."""
    fields = _stat(files)
    try:
        waiting_s = int(files.text("schedstat").split()[1]) / 1e9
    except (MeasurementError, IndexError, ValueError):  # a kernel without these figures
        waiting_s = 0.0
    return Activity(
        state=fields[0],
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        waiting_s=waiting_s,
        memory_mb=int(fields[21]) * PAGE / 1e6,
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        progress=_progress(files, maps),
    )


def mapped_objects(
    files: ProcessFiles,
    maps: tuple[Mapping, ...],
    texts_known: dict[object, str],
    *,
    contents: bool,
) -> Iterator[tuple[str, MappedObject, int]]:
    """Measure the files whose segments a process may execute.

    Args:
        files: of the process.
        maps: its mappings.
        texts_known: digests of program text by mappings and file, kept from look to look. One is
            used again if no page was written and the file has the same times, and now and then
            made anew whatever these say.
        contents: whether to read them, or to look at the flags of their pages alone.

    Yields:
        Path, measurement, and how many octets are mapped read-only: that grows once, when an
        object has been relocated.

    Raises:
        MeasurementError: if its pages or its memory cannot be read.

    """
    parts: dict[tuple[str, bool], list[Mapping]] = {}
    for mapping in maps:
        if mapping.backed:
            parts.setdefault((mapping.path, mapping.deleted), []).append(mapping)
    for (path, deleted), those in parts.items():
        texts = [m for m in those if "x" in m.permissions]
        if not texts:
            continue
        constants, readable, text = sha256(), 0, ""
        written = sum(len(_private(files, mapping)) for mapping in texts)
        if contents:
            state = _file_state(path, texts[0].inode)
            text = texts_known.get((*texts, *state), "") if state else ""
            if not text or written or _RANDOM.random() < ANEW:
                text = texts_known[*texts, *state] = _text_in_memory(files, texts)
        for mapping in those:
            if mapping.permissions == "r--p":
                readable += mapping.end - mapping.start
                for page in _private(files, mapping) if contents else ():
                    start = mapping.start + page * PAGE
                    constants.update(start.to_bytes(8, "little") + files.read("mem", start, PAGE))
        thing = MappedObject(
            text, written, constants.hexdigest() if contents else "", deleted=deleted
        )
        yield path, thing, readable


def _text_in_memory(files: ProcessFiles, texts: list[Mapping]) -> str:
    digest = sha256()
    for mapping in texts:
        digest.update(place(mapping.offset, mapping.end - mapping.start, mapping.permissions))
        digest.update(files.read("mem", mapping.start, mapping.end - mapping.start))
    return digest.hexdigest()


def _file_state(path: str, inode: int) -> tuple[object, ...]:
    """Return what changes with a file; empty: it cannot be seen from here."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a path as maps has it
    except OSError:
        return ()
    same = found.st_ino == inode
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if same else ()


def unbacked(maps: tuple[Mapping, ...]) -> tuple[str, ...]:
    """Return the executable mappings that no file backs, but for those that the kernel makes."""
    found = (m for m in maps if "x" in m.permissions and not m.backed)
    return tuple(
        f"{m.path or 'anonymous'} {m.permissions} {m.end - m.start}"
        for m in found
        if m.path not in ("[vdso]", "[vsyscall]", "[uprobes]")
    )


def harden_process() -> tuple[str, ...]:
    """Keep the memory of this process from other processes of its user, and from core files.

    ``PR_SET_DUMPABLE`` 0: no other process of the same user may trace it or read its memory, no
    core file is left; ``RLIMIT_CORE`` 0; ``no_new_privs``; memory that is used from now on is kept
    out of the swap as far as the limit for locked memory allows. A measurer then needs root.

    Returns:
        What could not be done, one line each.

    """
    libc, missing = ctypes.CDLL(None, use_errno=True), []
    for option, value, what in (
        (_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE"),
        (_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS"),
    ):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            missing.append(f"{what}: {os.strerror(ctypes.get_errno())}")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        missing.append(f"RLIMIT_CORE: {error}")
    return tuple(missing)


class ProgressCounter:
    """The counter of an agent's own loop, in a shared mapping that a measurer finds by name.

    A function of the loop calls ``turn`` at least every ``measurement.STALL_S`` seconds.
    """

    def __init__(self) -> None:
        number = os.memfd_create(PROGRESS)
        try:
            os.ftruncate(number, PAGE)
            # One store of eight octets: a measurer must never read half a number.
            self._turns = memoryview(mmap.mmap(number, PAGE)).cast("Q")
        finally:
            os.close(number)

    def turn(self) -> None:
        """Count one turn of the loop."""
        self._turns[0] += 1


def _mapping(line: str) -> Mapping:
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition("-")
    path = fields[5] if len(fields) > 5 else ""
    deleted = path.endswith(_DELETED)
    return Mapping(
        int(start, 16),
        int(end, 16),
        fields[1],
        int(fields[2], 16),
        int(fields[4]),
        path.removesuffix(_DELETED),
        deleted,
    )


def _stat(files: ProcessFiles) -> list[str]:
    return files.text("stat").rpartition(")")[2].split()


def _progress(files: ProcessFiles, maps: tuple[Mapping, ...]) -> int | None:
    for mapping in maps:
        if mapping.path == f"/memfd:{PROGRESS}" and mapping.permissions == "rw-s":
            try:
                return int.from_bytes(files.read("mem", mapping.start, 8), sys.byteorder)
            except MeasurementError:
                return None
    return None


def _private(files: ProcessFiles, mapping: Mapping) -> list[int]:
    """Return which pages of a private file mapping are no longer the file's: they were written."""
    count = (mapping.end - mapping.start) // PAGE
    flags = array("Q", files.read("pagemap", mapping.start // PAGE * 8, count * 8))
    written = {f for f in set(flags) if f & (_PRESENT | _SWAPPED) and not f & _FILE_PAGE}
    return [number for number, f in enumerate(flags) if f in written] if written else []
