"""Runs: their marks, their folders below ``/run/phalanx``, and whether they are still alive.

A run is six hexadecimal digits. What is made inside its namespaces or in its control groups
carries them in a name; what has to be made in the machine's own namespace is written down
first (``note``), so that others can tell to which run it belongs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.infrastructure.linux.kernel.errors import KernelError

ROOT = Path("/run/phalanx")
VARIABLE = "PHALANX_RUN"
"""Environment variable that every process of a run carries."""

_RUN = re.compile(r"[0-9a-f]{6}")
_MAKING = ".new-"
_STARTED = 19  # field of /proc/PID/stat, counted from the one after the command's name
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


class Owner(Struct, frozen=True):
    """The process that a run belongs to."""

    pid: int
    started: int
    """When it was started, in clock ticks since the machine was; tells it from a later one."""


def new_run() -> str:
    """Make a run that belongs to this process, and its folder (mode 0700).

    Raises:
        KernelError: if no folder can be made.

    """
    try:
        ROOT.mkdir(mode=0o755, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=ROOT))
        owner = Owner(os.getpid(), _started(os.getpid()) or 0)
        (making / "owner").write_bytes(msgspec.json.encode(owner))
        while True:
            run = secrets.token_hex(3)
            if not folder(run).exists():
                break
        making.rename(folder(run))  # never seen without an owner
    except OSError as error:
        raise KernelError(f"{ROOT}: no folder for a run can be made: {error.strerror}") from None
    return run


def folder(run: str) -> Path:
    """Return where the files of a run lie."""
    return ROOT / run


def known() -> list[str]:
    """Return the runs that have a folder, sorted."""
    return sorted(entry.name for entry in _entries() if _RUN.fullmatch(entry.name))


def unfinished() -> list[Path]:
    """Return folders of runs that were killed while they were made."""
    return sorted(entry for entry in _entries() if entry.name.startswith(_MAKING))


def is_run(text: str) -> bool:
    """Whether ``text`` looks like a run."""
    return _RUN.fullmatch(text) is not None


def owner(run: str) -> Owner | None:
    """Return the process that the run belongs to; None once that is gone."""
    try:
        found = msgspec.json.decode((folder(run) / "owner").read_bytes(), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if _started(found.pid) == found.started else None


def note(run: str, kind: str, name: str) -> None:
    """Write down what the run is about to make in the machine's own namespace.

    Args:
        run: the run.
        kind: ``interface`` or ``table``.
        name: of an interface (``phx…``), or family and name of a table (``netdev phx_…``).

    """
    with (folder(run) / "made").open("a") as file:
        file.write(f"{kind} {name}\n")


def noted(run: str) -> set[str]:
    """Return what was written down, as ``kind name``."""
    try:
        return set((folder(run) / "made").read_text().splitlines())
    except FileNotFoundError:
        return set()


def remove(path: Path) -> None:
    """Remove the folder of a run, or one that is unfinished. One that is gone is no error.

    What is mounted in it is unmounted first, never walked into.

    Raises:
        KernelError: if something stays mounted in it, or it cannot be removed.

    """
    if path.parent != ROOT or not (is_run(path.name) or path.name.startswith(_MAKING)):
        raise ValueError(f"{path} is no folder of a run")
    libc = ctypes.CDLL(None, use_errno=True)
    for point in sorted(_mounts(path), reverse=True):
        libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    if left := _mounts(path):
        raise KernelError(f"{path} is left: something is mounted at {left[0]}")
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    except OSError as error:
        raise KernelError(f"{path} cannot be removed: {error.strerror}") from None


def _entries() -> list[Path]:
    try:
        return [entry for entry in ROOT.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except FileNotFoundError:
        return []


def _mounts(path: Path) -> list[str]:
    """Return the mount points at and below ``path``."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if Path(point).is_relative_to(path):
            points.append(point)
    return points


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold blanks and brackets itself. A zombie is gone.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[_STARTED])
