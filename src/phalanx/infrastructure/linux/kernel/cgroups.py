"""Control groups: limits on the cores, the memory and the processes of a PoP.

Both generations are used, whichever offers a controller: version 1 has a tree for each of
them, version 2 one tree for all, in which the parent passes controllers on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from phalanx.infrastructure.linux.kernel import KernelError

CONTROLLERS = ("cpu", "memory", "pids")
MARK = "phalanx"

_PERIOD_US = 100_000
_LEAST_US = 1_000
_MOST_PROCESSES = 4096


class CgroupTree(Struct, frozen=True):
    """A mounted tree of control groups that this process may write to."""

    version: int
    top: Path
    controllers: tuple[str, ...]
    """Those of ``CONTROLLERS`` that it offers to groups below its top."""


class Cgroup:
    """The group of a PoP, which may stand in several trees."""

    def __init__(self, folders: tuple[Path, ...] = (), limits: tuple[str, ...] = ()) -> None:
        self.folders = folders
        """Where it stands; empty for a group that limits nothing."""
        self.limits = limits
        """The controllers that are in force."""

    def enter(self, pid: int) -> None:
        """Put a process, and all that it will start, into the group.

        Raises:
            KernelError: if the kernel refuses, as it does for a process that is gone.

        """
        for folder in self.folders:
            _write(folder / "cgroup.procs", str(pid))

    def words(self, command: Sequence[str]) -> list[str]:
        """Return ``command`` as a command that enters the group before it does anything else."""
        enter = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in self.folders)
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *command]


def trees() -> tuple[CgroupTree, ...]:
    """Return the trees to use: each controller once, those of version 1 first."""
    found: list[CgroupTree] = []
    missing = set(CONTROLLERS)
    mounts = [line.split()[1:4] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for kind in ("cgroup", "cgroup2"):
        for point, type_, options in mounts:
            top = Path(point)
            if type_ != kind or not os.access(top, os.W_OK):
                continue
            offers = options.split(",") if kind == "cgroup" else _passed_on(top)
            useful = tuple(name for name in CONTROLLERS if name in offers and name in missing)
            if useful:
                found.append(CgroupTree(1 if kind == "cgroup" else 2, top, useful))
                missing.difference_update(useful)
    return tuple(found)


def create(run: str, name: str, cores: float, memory_gb: float) -> Cgroup:
    """Make the group ``phalanx/<run>/<name>`` in every tree there is.

    Args:
        run: mark of the run.
        name: of the group.
        cores: CPU time a second, in seconds; 0: no limit.
        memory_gb: memory in GB (10^9 octets); 0: no limit.

    Raises:
        KernelError: if a tree that is writable refuses.

    """
    folders = []
    limits: list[str] = []
    for tree in trees():
        folder = _make(tree, run, name)
        for file, value in _settings(tree.version, cores, memory_gb):
            controller = file.partition(".")[0]
            # A kernel may have the controller without this limit (no CFS bandwidth).
            if controller in tree.controllers and (folder / file).exists():
                _write(folder / file, value)
                limits.append(controller)
        folders.append(folder)
    return Cgroup(tuple(folders), tuple(dict.fromkeys(limits)))


def groups(run: str | None = None) -> list[Path]:
    """Return the groups of a run, or of all, in every tree; those below others come first."""
    found: list[Path] = []
    for root in roots():
        start = root if run is None else root / run
        if start.is_dir():
            found += (Path(folder) for folder, _, _ in os.walk(start, topdown=False))
    return found


def roots() -> list[Path]:
    """Return where the groups of all runs stand, whether or not there are any."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = (line.split()[1:3] for line in lines)
    return [Path(point) / MARK for point, kind in mounts if kind in ("cgroup", "cgroup2")]


def members(group: Path) -> list[int]:
    """Return the ids of the processes in a group."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def remove(group: Path) -> None:
    """Remove an empty group; one that is gone is no error.

    Raises:
        KernelError: if processes or groups are left in it.

    """
    try:
        with contextlib.suppress(FileNotFoundError):
            group.rmdir()
    except OSError as error:
        raise KernelError(f"group {group} cannot be removed: {error.strerror}") from None


def _passed_on(top: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (top / "cgroup.subtree_control").read_text().split()
    return []


def _make(tree: CgroupTree, run: str, name: str) -> Path:
    folder = tree.top
    for part in (MARK, run, name):
        if folder != tree.top and tree.version == 2:
            _write(folder / "cgroup.subtree_control", " ".join(f"+{c}" for c in tree.controllers))
        folder = folder / part
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KernelError(f"group {folder} cannot be made: {error.strerror}") from None
    return folder


def _settings(version: int, cores: float, memory_gb: float) -> Iterator[tuple[str, str]]:
    """Yield the files to write and their values."""
    if cores > 0:
        quota = max(_LEAST_US, round(cores * _PERIOD_US))
        if version == 1:
            yield "cpu.cfs_period_us", str(_PERIOD_US)
            yield "cpu.cfs_quota_us", str(quota)
        else:
            yield "cpu.max", f"{quota} {_PERIOD_US}"
    if memory_gb > 0:
        file = "memory.limit_in_bytes" if version == 1 else "memory.max"
        yield file, str(round(memory_gb * 1e9))
    yield "pids.max", str(_MOST_PROCESSES)


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise KernelError(f"{file}: {value!r} is refused: {error.strerror}") from None
