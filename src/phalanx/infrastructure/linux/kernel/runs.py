"""Runs: their marks, their folders below ``/run/phalanx``, and the removal of what they left.

A run is six hexadecimal digits. What is made inside its namespaces or in its control groups
carries them in a name; the nftables tables that have to be made in the machine's own namespace
are written down first (``note``): that record, not their name, says that they are ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.infrastructure.linux.kernel import KernelError, cgroups, namespaces
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError, owner_of

ROOT = Path("/run/phalanx")
VARIABLE = "PHALANX_RUN"
"""Environment variable that every process of a run carries."""

_RUN = re.compile(r"[0-9a-f]{6}")
_MAKING = ".new-"
_STARTED = 19  # field of /proc/PID/stat, counted from the one after the command's name
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


class RunOwner(Struct, frozen=True):
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
        making = _new_folder()
        owner = RunOwner(os.getpid(), _started(os.getpid()) or 0)
        (making / "owner").write_bytes(msgspec.json.encode(owner))
        while True:
            run = secrets.token_hex(3)
            if not folder(run).exists():
                break
        making.rename(folder(run))  # never seen without an owner
    except OSError as error:
        raise KernelError(f"{ROOT}: no folder for a run can be made: {error.strerror}") from None
    return run


def _new_folder() -> Path:
    while True:
        ROOT.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another run has removed it, the last one
            return Path(tempfile.mkdtemp(prefix=_MAKING, dir=ROOT))


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


def owner(run: str) -> RunOwner | None:
    """Return the process that the run belongs to; None once that is gone."""
    try:
        found = msgspec.json.decode((folder(run) / "owner").read_bytes(), type=RunOwner)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if _started(found.pid) == found.started else None


def note(run: str, table: str) -> None:
    """Write down a table that the run is about to make in the machine's own namespace.

    Args:
        run: the run.
        table: its family and name, such as ``netdev phx_1a2b3c4d``.

    """
    with (folder(run) / "made").open("a") as file:
        file.write(f"{table}\n")


def noted(run: str) -> set[str]:
    """Return the tables that were written down, as ``family name``."""
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
    for shared in (ROOT, *cgroups.roots()):
        with contextlib.suppress(OSError):  # other runs use it
            shared.rmdir()


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


PREFIX = "phx-"
"""Of the names of network namespaces: ``phx-<run>-<name>``."""

_PATIENCE_S = 3.0
_ROUNDS = 5


class MarkedProcess(Struct, frozen=True):
    """A running process."""

    pid: int
    name: str
    """As the kernel shows it; never the arguments."""


class Remains(Struct, frozen=True):
    """All of a run but its folder, in the order of removal."""

    processes: tuple[MarkedProcess, ...] = ()
    namespaces: tuple[str, ...] = ()
    groups: tuple[Path, ...] = ()

    def lines(self) -> list[str]:
        """Return a line for each thing."""
        return [
            *(f"process {process.pid} ({process.name})" for process in self.processes),
            *(f"namespace {name}" for name in self.namespaces),
            *(f"group {group}" for group in self.groups),
        ]


def marked() -> set[str]:
    """Return every run of which something is left on this machine.

    A run has a folder, which goes last, or processes with its mark in their environment: what
    merely has a name like ours (a namespace, a control group) is somebody else's.
    """
    found = {*known(), *(_run_in_environment(pid) for pid in _pids())}
    return {run for run in found if run is not None and is_run(run)}


def find(run: str) -> Remains:
    """Return what carries the mark of ``run``.

    A process belongs to it by its environment, its control group or the network namespace in
    which it is; never by its name. This process and those above it never do.

    Raises:
        ValueError: if ``run`` is none: it becomes part of paths.

    """
    if not is_run(run):
        raise ValueError(f"{run!r} is no run: six hexadecimal digits")
    names = [name for name in namespaces.names(PREFIX) if _run_of(name) == run]
    groups = cgroups.groups(run)
    inodes = {namespaces.identity(name) for name in names} - {None}
    members = {pid for group in groups for pid in cgroups.members(group)}
    own = line_of_descent()
    processes = [
        MarkedProcess(pid, _name(pid))
        for pid in _pids()
        if pid not in own
        and (pid in members or _namespace(pid) in inodes or _run_in_environment(pid) == run)
    ]
    return Remains(tuple(processes), tuple(names), tuple(groups))


def sweep(run: str) -> Remains:
    """Remove what carries the mark of ``run``, and return what that was.

    Raises:
        KernelError: if something cannot be removed.

    """
    found = find(run)
    processes = list(found.processes)
    end(process.pid for process in processes)
    for _ in range(_ROUNDS):  # what they started while they were being ended
        found = find(run)
        if not found.processes:
            break
        processes += found.processes
        end((process.pid for process in found.processes), grace_s=None)
    for name in found.namespaces:
        namespaces.delete(name)
    for group in found.groups:
        cgroups.remove(group)
    return Remains(tuple(processes), found.namespaces, found.groups)


def kill(run: str) -> None:
    """Kill the processes of ``run`` without asking, so that they take nothing with them.

    What they have put in force stays, until it runs out or another process takes it over.
    """
    end((process.pid for process in find(run).processes), grace_s=None)


def end(pids: Iterable[int], grace_s: float | None = 1.0) -> None:
    """End processes: asked first, killed if that takes longer than ``grace_s``; None: unasked."""
    handles = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    try:
        asked = [] if grace_s is None else [(signal.SIGTERM, grace_s)]
        for number, patience in (*asked, (signal.SIGKILL, _PATIENCE_S)):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            if not _left(handles, patience):
                return
    finally:
        for handle in handles:
            os.close(handle)


def line_of_descent() -> set[int]:
    """Return this process, its parent, and so on."""
    found = set()
    pid = os.getpid()
    with contextlib.suppress(OSError):
        while pid > 0:
            found.add(pid)
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _left(handles: list[int], patience_s: float) -> bool:
    """Wait for processes to end; return whether some have not."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    waiting = set(handles)
    until = time.monotonic() + patience_s
    while waiting and (left := until - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            waiting.discard(handle)
    return bool(waiting)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _run_of(namespace: str) -> str:
    return namespace.removeprefix(PREFIX).partition("-")[0]


def _run_in_environment(pid: int) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    start = f"{VARIABLE}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(start):
            return entry.removeprefix(start).decode(errors="replace")
    return None


def _namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def clean(
    runs: Collection[str] | None = None,
    dry_run: bool = False,
    all: bool = False,  # noqa: A002  the word of the command line
) -> list[str]:
    """Remove all that carries our mark and belongs to no living run.

    That is: processes, network namespaces, control groups and folders of those runs, and the
    nftables tables that they have noted in this machine's own namespace. A table that no run
    has noted is never touched, whatever its name; nor is one that a living run has noted too.

    Args:
        runs: only these runs; None means every run of which something is found.
        dry_run: remove nothing.
        all: end runs that are alive, too.

    Returns:
        A line for each thing that was removed, or would be.

    Raises:
        KernelError: without root; or if something of a run cannot be removed, after all else
            was.

    """
    if os.geteuid() != 0:
        raise KernelError("clean needs root: it removes namespaces, tables and processes")
    found = marked()
    gone = {run for run in found if all or owner(run) is None}
    if runs is not None:
        gone &= set(runs)
    ours = _noted(gone) - _noted(found - gone)
    lines: list[str] = []
    left: list[str] = []
    for run in sorted(gone):
        try:
            lines += _clean_run(run, dry_run=dry_run)
        except KernelError as error:
            left.append(str(error))
    try:
        lines += [f"table {table}" for table in remove_tables(ours, dry_run=dry_run)]
    except KernelError as error:
        left.append(str(error))
    for path in unfinished() if runs is None and not dry_run else ():
        remove(path)
    if left:
        raise KernelError("; ".join(left))
    return lines


def living() -> dict[str, int]:
    """Return the runs whose process is alive, and its id."""
    owners = ((run, owner(run)) for run in known())
    return {run: found.pid for run, found in owners if found is not None}


def _clean_run(run: str, *, dry_run: bool) -> list[str]:
    lines = []
    process = owner(run)
    if process is not None and process.pid not in line_of_descent():
        lines.append(f"process {process.pid}, which has run {run}")
        if not dry_run:
            end([process.pid])
    lines += (find(run) if dry_run else sweep(run)).lines()
    if run in known():
        lines.append(f"folder {folder(run)}")
        if not dry_run:
            remove(folder(run))
    return lines


def _noted(runs: Iterable[str]) -> set[str]:
    return {table for run in runs for table in noted(run)}


def remove_tables(ours: Collection[str], *, dry_run: bool = False) -> list[str]:
    """Remove the tables in this process's namespace that ``ours`` names, and their observations'.

    Raises:
        KernelError: if nftables refuses.

    """
    if not ours:
        return []
    try:
        with closing(Nft()) as nft:
            tables = [
                item["table"] for item in nft.json("list tables")["nftables"] if "table" in item
            ]
            found = [
                f"{table['family']} {table['name']}"
                for table in tables
                if f"{table['family']} {owner_of(table['name'])}" in ours
            ]
            for table in [] if dry_run else found:
                with contextlib.suppress(NftError):  # its program may have removed it meanwhile
                    nft.run(f"delete table {table}")
    except NftError as error:
        raise KernelError(f"nftables tables cannot be removed: {error}") from None
    return found
