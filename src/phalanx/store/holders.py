"""Processes that hold something in a store: told apart, and known to be dead where that can be."""

from __future__ import annotations

import os
from pathlib import Path


def me() -> str:
    """Return what tells this process from every other: machine, process id, its start."""
    return f"{_place()}:{os.getpid()}:{_started(os.getpid())}"


def is_here(holder: str) -> bool:
    """Whether ``holder`` is or was a process that this one would see."""
    return holder.partition(":")[0] == _place()


def is_dead(holder: str) -> bool:
    """Whether ``holder`` was a process of this machine that is no more."""
    _, pid, started = holder.split(":")
    return is_here(holder) and _started(int(pid)) != started


def words(holder: str) -> str:
    """Return ``holder`` for a person."""
    where = "of this machine" if is_here(holder) else "of another machine"
    return f"the process {holder.split(':')[1]} {where}"


def _place() -> str:
    """Return the running machine and its set of processes: two containers do not see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"


def _started(pid: int) -> str:
    """Return when a process started, in ticks of the machine; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
