"""Processes that outlive whoever starts them, and are never mistaken for others."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from phalanx.orchestration.iml.unit import BusyError, ImlError

_BEGUN_S = 10.0
"""How long a process may take to write down its number."""
_HELD = 3
"""The descriptor by which a process holds its claim."""
_STARTED = 19
_SHIM = (
    'read -r stat < /proc/$$/stat; echo "$$ ${stat##*) }" > "$0.new"; mv "$0.new" "$0"; exec "$@"'
)
"""Writes down the process's number and start before it becomes what it shall be."""


class Process(Struct, frozen=True):
    """A process, and when it was started, which tells it from a later one of its number."""

    pid: int
    started: int
    """In clock ticks since the machine was started."""

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # ours: else it would stay, dead
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; without effect if it has ended."""
        with self._handle() as handle:
            if handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)

    def wait(self, within_s: float) -> bool:
        """Wait for its end; whether it came."""
        with self._handle() as handle:
            if handle is not None:
                select.select([handle], [], [], within_s)
        return not self.alive

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        """Give a handle of this process, never of a later one of its number; None: it ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield handle if self.alive else None
        finally:
            os.close(handle)


class Slot:
    """A place for one process, in a folder of its own.

    Whoever starts the process holds the file ``lock``, and the process inherits the hold: even
    if its starter is killed in between, the place is taken as long as the process lives. The
    process writes down its number itself, so that it is never there without one for long.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = folder / "lock"
        self._number = folder / "pid"

    def process(self) -> Process | None:
        """Return the process; None if there is none.

        Raises:
            BusyError: if one is just being started.

        """
        found = self._read()
        if found is not None and found.alive:
            return found
        give_up = time.monotonic() + _BEGUN_S
        while self._taken():
            found = self._read()
            if found is not None and found.alive:
                return found
            if time.monotonic() > give_up:
                raise BusyError(f"{self._lock}: a process is being started and does not begin")
            time.sleep(0.01)
        return None

    def start(self, command: Sequence[str], environment: dict[str, str], log: Path) -> Process:
        """Start a process in a session of its own, or return the one that there is.

        Raises:
            BusyError: if another one is just being started.
            ImlError: if it cannot be started.

        """
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = self.process()
                if found is None:
                    raise BusyError(f"{self._lock}: a process is just ending") from None
                return found
            self._number.unlink(missing_ok=True)
            descriptors = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, lock, _HELD),
            ]
            arguments = ["sh", "-c", _SHIM, str(self._number), *command]
            try:
                pid = os.posix_spawn(
                    "/bin/sh", arguments, environment, file_actions=descriptors, setsid=True
                )
            except OSError as error:
                raise ImlError(f"{self._number.parent}: cannot be started: {error}") from error
            found = self._begun(pid)
        finally:
            os.close(lock)
        return found

    def _begun(self, pid: int) -> Process:
        give_up = time.monotonic() + _BEGUN_S
        while (found := self._read()) is None or found.pid != pid:
            if _started(pid) is None or time.monotonic() > give_up:
                raise ImlError(f"{self._number.parent}: the process ended before it began")
            time.sleep(0.005)
        return found

    def _read(self) -> Process | None:
        try:
            pid, *fields = self._number.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        return Process(int(pid), int(fields[_STARTED]))

    def _taken(self) -> bool:
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False


def command_of(kind: str, config: Path) -> list[str]:
    """Return what runs one of Phalanx's own processes."""
    return [sys.executable, "-m", "phalanx", kind, "--config", str(config)]


def _started(pid: int) -> int | None:
    """Return when a process was started, in clock ticks; None if there is none, or a dead one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[_STARTED])
