"""Files of keys and certificates: written as a whole or not at all, keys for their owner alone."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.identity.names import IdentityError
from phalanx.loading import open_file

MAX_OCTETS = 1 << 20
"""No certificate, key or revocation list is longer."""


def write(path: Path, octets: bytes, *, secret: bool = False) -> None:
    """Write a file that is there as a whole or not at all, whatever ends the process.

    Args:
        path: the file; an older one is replaced.
        octets: what it will hold.
        secret: readable by its owner alone (0600), also while it is written.

    Raises:
        IdentityError: if it cannot be written.

    """
    try:
        number, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    except OSError as error:
        raise _unusable(path, "written", error) from None
    try:
        with open(number, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.write(octets)
            file.flush()
            if not secret:
                os.fchmod(number, 0o644)
            os.fsync(number)
        Path(part).replace(path)
        sync(path.parent)
    except OSError as error:
        Path(part).unlink(missing_ok=True)
        raise _unusable(path, "written", error) from None


def read(path: Path, *, secret: bool = False, what: str = "key") -> bytes:
    """Return what a file holds.

    Args:
        path: the file.
        secret: whether its owner alone may be able to read it.
        what: the secret in a word.

    Raises:
        IdentityError: if it cannot be read or is too long; if it is secret and others than its
            owner may read it.

    """
    try:
        with open_file(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            if secret and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise IdentityError(
                    f"{path}: others may read this {what} (mode {stat.S_IMODE(mode):04o}); "
                    f"allowed is 0600: chmod 600 {path}"
                )
            octets = file.read(MAX_OCTETS + 1)
    except OSError as error:
        raise _unusable(path, "read", error) from None
    if len(octets) > MAX_OCTETS:
        raise IdentityError(f"{path}: is larger than {MAX_OCTETS >> 10} KiB, the most allowed")
    return octets


def read_secret(path: Path) -> bytes:
    """Return the 32 octets that a file holds in hexadecimal, such as the key of an account.

    Raises:
        IdentityError: if there are none, or others may read them.

    """
    try:
        secret = bytes.fromhex(read(path, secret=True).decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise IdentityError(f"{path}: is no key of an account; 64 hexadecimal digits are expected")
    return secret


@contextmanager
def appearing(path: Path, mode: int = 0o700) -> Iterator[Path]:
    """Give a directory to fill, which then appears at ``path`` as a whole, or not at all.

    If the process is killed in between, a hidden directory beside ``path`` is left, which
    nothing reads.

    Raises:
        IdentityError: if there is something at ``path`` already, or it cannot be written.

    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise IdentityError(f"{path}: exists already; a new or empty directory is expected")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))  # 0700
    except OSError as error:
        raise _unusable(path, "made", error) from None
    try:
        yield part
        part.chmod(mode)
        for folder in (part, *(child for child in part.rglob("*") if child.is_dir())):
            sync(folder)
        part.rename(path)
        sync(path.parent)
    except OSError as error:
        raise _unusable(path, "made", error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)  # without effect once it has its name


def vanish(path: Path) -> None:
    """Remove a directory: as a whole for its readers, then from the disk."""
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.rename(part)
    except OSError as error:
        raise _unusable(path, "removed", error) from None
    sync(path.parent)
    shutil.rmtree(part, ignore_errors=True)


def sync(folder: Path) -> None:
    """Have the disk hold the names that a directory holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, done: str, error: OSError) -> IdentityError:
    why = f"cannot be {done}: {error.strerror}" if error.strerror else str(error)
    return IdentityError(f"{path}: {why}")
