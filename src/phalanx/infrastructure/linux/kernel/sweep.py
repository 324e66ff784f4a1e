"""What carries the mark of a run, and its removal, whoever made it and however that ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from phalanx.infrastructure.linux.kernel import cgroups, namespaces, runs

PREFIX = "phx-"
"""Of the names of network namespaces: ``phx-<run>-<name>``."""

_PATIENCE_S = 3.0
_ROUNDS = 5


class Process(Struct, frozen=True):
    """A running process."""

    pid: int
    name: str
    """As the kernel shows it; never the arguments."""


class Marks(Struct, frozen=True):
    """All of a run but its folder, in the order of removal."""

    processes: tuple[Process, ...] = ()
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
    """Return every run of which something is left on this machine."""
    roots = cgroups.roots()
    found = {
        *runs.known(),
        *(_run_of(name) for name in namespaces.names(PREFIX)),
        *(group.name for group in cgroups.groups() if group.parent in roots),
        *(_run_in_environment(pid) for pid in _pids()),
    }
    return {run for run in found if run is not None and runs.is_run(run)}


def find(run: str) -> Marks:
    """Return what carries the mark of ``run``.

    A process belongs to it by its environment, its control group or the network namespace in
    which it is; never by its name. This process and those above it never do.

    Raises:
        ValueError: if ``run`` is none: it becomes part of paths.

    """
    if not runs.is_run(run):
        raise ValueError(f"{run!r} is no run: six hexadecimal digits")
    names = [name for name in namespaces.names(PREFIX) if _run_of(name) == run]
    groups = cgroups.groups(run)
    inodes = {namespaces.identity(name) for name in names} - {None}
    members = {pid for group in groups for pid in cgroups.members(group)}
    own = line_of_descent()
    processes = [
        Process(pid, _name(pid))
        for pid in _pids()
        if pid not in own
        and (pid in members or _namespace(pid) in inodes or _run_in_environment(pid) == run)
    ]
    return Marks(tuple(processes), tuple(names), tuple(groups))


def sweep(run: str) -> Marks:
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
    return Marks(tuple(processes), found.namespaces, found.groups)


def kill(run: str) -> None:
    """Kill the processes of ``run`` without asking, so that they take nothing with them.

    What they have put in force stays, until it runs out or somebody else takes it over.
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
    start = f"{runs.VARIABLE}=".encode()
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
