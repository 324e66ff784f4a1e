"""Network namespaces with names, as ``ip netns`` knows them, and work done inside them.

A namespace belongs to a thread, and what is made in it (sockets, netlink handles, nftables
contexts) stays there. So ``Inside`` is a thread of its own that has entered once: nothing
of the rest of the process ever changes its namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import ParamSpec, Self, TypeVar

from phalanx.infrastructure.linux.kernel import KernelError

FOLDER = Path("/run/netns")

_OWN = "/proc/self/ns/net"  # of the process's first thread, which never leaves it
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
T = TypeVar("T")


def create(name: str) -> None:
    """Make the network namespace ``name``, empty but for a ``lo`` that is down.

    Raises:
        KernelError: if it exists, or the kernel refuses.

    """
    path = FOLDER / name
    try:
        FOLDER.mkdir(mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except OSError as error:
        raise KernelError(f"no namespace {name!r} can be made: {error.strerror}") from None
    try:
        _in_thread(lambda: _make(path))
    except OSError as error:
        delete(name)
        raise KernelError(f"no namespace {name!r} can be made: {error.strerror}") from None


def delete(name: str) -> None:
    """Take the name away; the namespace ends with its last process. Unknown ones are no error.

    Raises:
        KernelError: if the kernel refuses.

    """
    path = FOLDER / name
    try:
        with contextlib.suppress(FileNotFoundError):
            _unmount(path)
            path.unlink()
    except OSError as error:
        raise KernelError(f"namespace {name!r} cannot be removed: {error.strerror}") from None


def names(prefix: str = "") -> list[str]:
    """Return the names that begin with ``prefix``, sorted."""
    try:
        return sorted(path.name for path in FOLDER.iterdir() if path.name.startswith(prefix))
    except FileNotFoundError:
        return []


def identity(name: str) -> int | None:
    """Return the inode that tells the namespace from others (as in ``/proc/PID/ns/net``).

    None for a name that no namespace belongs to.
    """
    try:
        found = (FOLDER / name).stat()
    except FileNotFoundError:
        return None
    return found.st_ino if found.st_dev == Path(_OWN).stat().st_dev else None


def prefix(name: str) -> list[str]:
    """Return the words to put before a command that shall run in the namespace ``name``."""
    return ["nsenter", f"--net={FOLDER / name}", "--"]


class Inside:
    """A thread that lives in a namespace and does what it is given, one thing after another.

    Args:
        name: the namespace; None: the one of this process.

    Raises:
        KernelError: if it cannot be entered.

    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inside-{name or 'host'}")
        try:
            self.call(enter, name)
        except KernelError:
            self.close()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns in the namespace; what it raises is raised here."""
        return self._thread.submit(function, *args, **kwargs).result()

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``function`` called in the namespace, after all that was submitted before."""
        return self._thread.submit(function, *args, **kwargs)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Move the calling thread into a namespace and back; sockets made meanwhile stay there.

    Raises:
        KernelError: if there is no such namespace, or the kernel refuses.

    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(name)
        try:
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def enter(name: str | None) -> None:
    """Move the calling thread into a namespace for good; see ``Inside`` for a thread to move.

    Args:
        name: the namespace; None: the one of this process.

    Raises:
        KernelError: if there is no such namespace, or the kernel refuses.

    """
    path = _OWN if name is None else os.fspath(FOLDER / name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", handle, _CLONE_NEWNET)
        finally:
            os.close(handle)
    except OSError as error:
        raise KernelError(
            f"namespace {name or 'of this process'!r} cannot be entered: {error.strerror}"
        ) from None


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``function`` returns in a nameless namespace, which ends with the call.

    Raises:
        KernelError: if the kernel makes none; and what ``function`` raises.

    """
    with Inside(None) as thread:
        try:
            thread.call(_call, "unshare", _CLONE_NEWNET)
        except OSError as error:
            raise KernelError(f"no namespace can be made: {error.strerror}") from None
        return thread.call(function, *args, **kwargs)


def _make(path: Path) -> None:
    _call("unshare", _CLONE_NEWNET)
    own = b"/proc/thread-self/ns/net"
    _call("mount", own, os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None)


def _unmount(path: Path) -> None:
    try:
        while True:
            _call("umount2", os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    except OSError as error:
        # Not mounted any more; or never, where the maker was killed half way.
        if error.errno != errno.EINVAL:
            raise


def _in_thread(work: Callable[[], None]) -> None:
    raised: list[OSError] = []

    def run() -> None:
        try:
            work()
        except OSError as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _call(function: str, *args: object) -> None:
    """Call the C library.

    Raises:
        OSError: with its error.

    """
    if getattr(_libc, function)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
