"""A site on this machine: each unit is a process of its own, in a folder of its own.

=================  ==================================================================
file of the site   holds
=================  ==================================================================
``site.toml``      optional: ``enter = […]``, a command that puts what follows into
                   the site, such as ``["ip", "netns", "exec", "madrid"]``
``<unit>/``        ``unit.json``, ``config.toml`` and what it names, ``state/``,
                   ``log`` and ``log.1``, ``pid``, ``lock``
=================  ==================================================================
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.loading import read_toml
from phalanx.orchestration.holders import STARTED, started
from phalanx.orchestration.iml.unit import AgentImage, BusyError, ImlError, Running, Unit

_BEGUN_S = 10.0
"""How long a process may take to write down its number."""
_HELD = 3
"""The descriptor by which a process holds its claim."""
_SHIM = (
    'read -r stat < /proc/$$/stat; echo "$$ ${stat##*) }" > "$0.new"; mv "$0.new" "$0"; exec "$@"'
)
"""Writes down the process's number and start before it becomes what it shall be."""


class SiteProcess(Struct, frozen=True):
    """A process, and when it was started, which tells it from a later one of its number."""

    pid: int
    started: int
    """In clock ticks since the machine was started."""

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # ours: else it would stay, dead
        return started(self.pid) == self.started

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

    The starter of the process holds the file ``lock``, and the process inherits the hold: even
    if its starter is killed in between, the place is taken as long as the process lives. The
    process writes down its number itself, so that it is never there without one for long.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = folder / "lock"
        self._number = folder / "pid"

    def process(self) -> SiteProcess | None:
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

    def start(self, command: Sequence[str], environment: dict[str, str], log: Path) -> SiteProcess:
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

    def _begun(self, pid: int) -> SiteProcess:
        give_up = time.monotonic() + _BEGUN_S
        while (found := self._read()) is None or found.pid != pid:
            if started(pid) is None or time.monotonic() > give_up:
                raise ImlError(f"{self._number.parent}: the process ended before it began")
            time.sleep(0.005)
        return found

    def _read(self) -> SiteProcess | None:
        try:
            pid, *fields = self._number.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        return SiteProcess(int(pid), int(fields[STARTED]))

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


SITE_FILE = "site.toml"
MOST_LOG = 1 << 20
"""A log that is longer is put aside, as ``log.1``, whenever the site is asked for something."""
MOST_STATE = 256 << 20
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV")
_UNIT, _STATE, _LOG, _LOCK = "unit.json", "state", "log", ".lock"


class LocalSiteSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a site says of itself."""

    enter: tuple[str, ...] = ()
    """What puts a command into the site; the command follows it."""


class _Kept(Struct, frozen=True):
    unit: Unit
    fence: int


class LocalProcesses:
    """The IML of one site, on this machine; implements ``Iml``."""

    def __init__(
        self,
        root: Path,
        site: str,
        image: AgentImage,
        command: Callable[[str, Path], list[str]] = command_of,
    ) -> None:
        """Look at a site; nothing is made before something is started.

        Args:
            root: the folder of all sites.
            site: the site's name.
            image: what this installation is.
            command: what runs a unit of a kind with a configuration.

        """
        self._site = site
        self._folder = root / site
        self._image = image
        self._command = command

    def start(
        self, unit: Unit, files: dict[str, bytes], *, fence: int, state: bytes | None = None
    ) -> Running:
        """Have ``unit`` run; see ``Iml``."""
        self._check(unit)
        with self._alone():
            folder = self._folder / unit.name
            kept = self._kept(unit.name, fence)
            slot = Slot(folder)
            process = None if kept is None else slot.process()
            if kept is not None and process is not None:
                if kept.unit != unit:
                    raise ImlError(f"{self._site}: another revision of {unit.name} runs")
                return Running(unit, process.pid)
            if kept is not None and kept.unit == unit:
                state = None  # it was started before, and may know more by now
            self._furnish(unit, files, fence, state)
            self._rotate(folder)
            entry = self._spec().enter
            process = slot.start(
                [*entry, *self._command(unit.kind.value, folder / "config.toml")],
                _environment(),
                folder / _LOG,
            )
            return Running(unit, process.pid)

    def stop(self, name: str, *, fence: int, gracefully: bool, within_s: float) -> None:
        """Have it end; see ``Iml``."""
        with self._alone():
            kept = self._kept(name, fence)
            if kept is None:
                return
            self._write(kept.unit, fence)
            process = Slot(self._folder / name).process()
            if process is None:
                return
            process.signal(signal.SIGTERM if gracefully else signal.SIGINT)
            if process.wait(within_s):
                return
            process.signal(signal.SIGKILL)
            if not process.wait(10.0):
                raise ImlError(f"{self._site}: {name} (process {process.pid}) cannot be ended")

    def state(self, name: str) -> bytes | None:
        """Return what a unit keeps across restarts; see ``Iml``."""
        folder = self._folder / name
        if not (folder / _STATE).is_dir():
            return None
        self._check_idle(name)
        kept = {
            str(path.relative_to(folder / _STATE)): path.read_bytes()
            for path in sorted((folder / _STATE).rglob("*"))
            if path.is_file()
        }
        if sum(map(len, kept.values())) > MOST_STATE:
            raise ImlError(f"{self._site}: what {name} keeps is too large to be moved")
        return msgspec.msgpack.encode(kept)

    def update(self, name: str, files: dict[str, bytes], *, fence: int) -> None:
        """Replace some of a unit's files; see ``Iml``."""
        if not self._folder.is_dir():
            return
        with self._alone():
            kept = self._kept(name, fence)
            if kept is not None:
                self._write(kept.unit, fence)
                for relative, octets in files.items():
                    _write(self._folder / name / relative, octets)

    def clear(self, name: str, *, fence: int) -> None:
        """Forget a unit; see ``Iml``."""
        if not self._folder.is_dir():
            return
        with self._alone():
            if self._kept(name, fence) is not None:
                self._check_idle(name)
                gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=self._folder))
                (self._folder / name).rename(gone / name)
            for left in self._folder.glob(".gone-*"):
                shutil.rmtree(left)
            if {path.name for path in self._folder.iterdir()} == {_LOCK}:
                shutil.rmtree(self._folder)

    def running(self) -> tuple[Running, ...]:
        """Return all units that are here, by name."""
        found = []
        for path in sorted(self._folder.glob(f"*/{_UNIT}")):
            if not path.parent.name.startswith("."):
                self._rotate(path.parent)
                process = Slot(path.parent).process()
                unit = msgspec.json.decode(path.read_bytes(), type=_Kept).unit
                found.append(Running(unit, None if process is None else process.pid))
        return tuple(found)

    def logs(self, name: str, lines: int = 100) -> str:
        """Return the end of what a unit said."""
        said = b""
        for part in (f"{_LOG}.1", _LOG):
            with suppress(FileNotFoundError):
                said += (self._folder / name / part).read_bytes()
        return "\n".join(said.decode("utf-8", "replace").splitlines()[-lines:])

    # -- parts ------------------------------------------------------------------------------

    def _check(self, unit: Unit) -> None:
        image = self._image
        if unit.image != image.name:
            raise ImlError(f"{self._site}: has no image {unit.image!r}; there is {image.name}")
        if unit.digest != image.digest:
            raise ImlError(
                f"{self._site}: the image {image.name} here is {image.digest}, but "
                f"{unit.digest} is asked for; phalanx service image shows what is here"
            )
        lacking = sorted({*unit.capabilities} - {*image.capabilities})
        if lacking:
            raise ImlError(f"{self._site}: the image {image.name} cannot do {', '.join(lacking)}")

    def _check_idle(self, name: str) -> None:
        process = Slot(self._folder / name).process()
        if process is not None:
            raise ImlError(f"{self._site}: {name} still runs (process {process.pid})")

    def _kept(self, name: str, fence: int) -> _Kept | None:
        """Return what is here of a unit, unless a later order than this one came already."""
        try:
            octets = (self._folder / name / _UNIT).read_bytes()
        except FileNotFoundError:
            return None
        kept = msgspec.json.decode(octets, type=_Kept)
        if kept.fence > fence:
            raise ImlError(f"{self._site}: {name}: another orchestrator has taken it over")
        return kept

    def _furnish(
        self, unit: Unit, files: dict[str, bytes], fence: int, state: bytes | None
    ) -> None:
        """Write a unit's folder, which appears as a whole."""
        folder = self._folder / unit.name
        for relative, octets in files.items() if folder.is_dir() else ():
            _write(folder / relative, octets)
        if not folder.is_dir():
            part = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            for relative, octets in files.items():
                _write(part / relative, octets)
            if state is not None:
                _unpack(state, part / _STATE)
            _write(part / _UNIT, msgspec.json.encode(_Kept(unit, fence)))
            part.rename(folder)
        elif state is not None:
            part = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
            _unpack(state, part)
            # If this is cut short, it is done anew: the revision is written last.
            shutil.rmtree(folder / _STATE, ignore_errors=True)
            part.rename(folder / _STATE)
        self._write(unit, fence)

    def _write(self, unit: Unit, fence: int) -> None:
        _write(self._folder / unit.name / _UNIT, msgspec.json.encode(_Kept(unit, fence)))

    def _spec(self) -> LocalSiteSpec:
        path = self._folder / SITE_FILE
        return read_toml(LocalSiteSpec, path) if path.is_file() else LocalSiteSpec()

    def _rotate(self, folder: Path) -> None:
        """Put a long log aside; the process goes on writing at the end of the emptied file."""
        log = folder / _LOG
        if log.is_file() and log.stat().st_size > MOST_LOG:
            with log.open("rb") as file:
                file.seek(-MOST_LOG, os.SEEK_END)
                (folder / f"{_LOG}.1").write_bytes(file.read())
            os.truncate(log, 0)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time change the site, and clear up after one that was killed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in self._folder.glob(".new-*"):
                shutil.rmtree(left)
            yield
        except OSError as error:
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            raise ImlError(f"{self._site}: {what}") from error
        finally:
            os.close(descriptor)


def _environment() -> dict[str, str]:
    """Return what processes get of the orchestrator's environment, which may hold secrets."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("PYTHON")
    }


def _write(path: Path, octets: bytes) -> None:
    """Write a file for its owner alone, as a whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    with open(number, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
        file.write(octets)
        file.flush()
        os.fsync(number)
    Path(part).replace(path)


def _unpack(state: bytes, folder: Path) -> None:
    for relative, octets in msgspec.msgpack.decode(state, type=dict[str, bytes]).items():
        _write(folder / relative, octets)
