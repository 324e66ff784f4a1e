"""Processes that hold something: told apart, and known to be dead where that can be seen."""

from __future__ import annotations

import os
from pathlib import Path

STARTED = 19
"""Field of /proc/PID/stat, counted after the name of the process, that says when it started."""


def me() -> str:
    """Return what tells this process from every other: machine, process id, its start."""
    return f"{_place()}:{os.getpid()}:{started(os.getpid())}"


def is_here(holder: str) -> bool:
    """Whether ``holder`` is or was a process that this one would see."""
    return holder.partition(":")[0] == _place()


def is_dead(holder: str) -> bool:
    """Whether ``holder`` was a process of this machine that is no more."""
    _, pid, began = holder.split(":")
    return is_here(holder) and str(started(int(pid))) != began


def words(holder: str) -> str:
    """Return ``holder`` for a person."""
    where = "of this machine" if is_here(holder) else "of another machine"
    return f"the process {holder.split(':')[1]} {where}"


def _place() -> str:
    """Return the running machine and its set of processes: two containers do not see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks; None if there is none, or a dead one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[STARTED])
