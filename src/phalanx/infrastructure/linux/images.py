"""Images of VNFs: one file that Python runs, of the size that the descriptor asks for.

An image is a zip application (PEP 441): the ``vnf`` package, as source and as bytecode (PEP
552, so that a VNF of the same Python starts without compiling), a start script that names role
and version, and padding that cannot be compressed. The same inputs give the same digest.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import zipfile
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from random import Random
from typing import IO

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.infrastructure.linux import vnf
from phalanx.infrastructure.linux.vnf.server import ROLES

LARGEST_OCTETS = 2_000_000_000
"""Below the limit of the plain zip format."""
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_HASHED = 0b01
"""Of bytecode: made from a source of that hash, and not to be compared with it (PEP 552)."""
_SHEBANG = b"#!/usr/bin/env python3\n"
_START = """\
import sys

from vnf.program import main

sys.exit(main(sys.argv[1:], {role!r}, {version!r}))
"""


class Image(Struct, frozen=True):
    """An image on disk."""

    path: Path
    sha256: str
    octets: int


class ImageError(PhalanxError):
    """An image that cannot be built, or is not what it should be; the message is one line."""


def build(role: str, version: str, octets: int, folder: Path) -> Image:
    """Build the image of ``role`` in ``folder``, exactly ``octets`` long.

    Raises:
        ImageError: if there is no such role, or ``octets`` are too few or too many.

    """
    if role not in ROLES:
        raise ImageError(f"no program for the VNF {role!r}; there are {', '.join(ROLES)}")
    empty = io.BytesIO()
    _write(empty, role, version, 0)
    least = len(empty.getvalue())
    if not least <= octets <= LARGEST_OCTETS:
        raise ImageError(f"an image of {role} has {least} to {LARGEST_OCTETS} octets, not {octets}")
    path = folder / f"{role}-{version}.pyz"
    with path.open("wb") as file:
        _write(file, role, version, octets - least)
    return Image(path, digest(path), octets)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str) -> None:
    """Check an image before it is used.

    Raises:
        ImageError: if its digest is another.

    """
    found = digest(path)
    if found != sha256:
        raise ImageError(f"{path.name} has the digest {found[:16]}…, not {sha256[:16]}…")


def _write(file: IO[bytes], role: str, version: str, padding: int) -> None:
    """Write an image with ``padding`` octets that stand for what a larger function would have."""
    file.write(_SHEBANG)
    package = Path(vnf.__file__).parent
    sources = {f"vnf/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    sources["__main__.py"] = _START.format(role=role, version=version).encode()
    sources |= {f"{name}c": _bytecode(name, source) for name, source in sources.items()}
    random = Random(f"{role} {version}")  # seeded by text: the same on every machine
    with zipfile.ZipFile(file, "w") as archive:
        for name, source in sources.items():
            archive.writestr(_entry(name), source)
        with archive.open(_entry("padding"), "w") as stream:
            for start in range(0, padding, _CHUNK):
                stream.write(random.randbytes(min(_CHUNK, padding - start)))


def _bytecode(name: str, source: bytes) -> bytes:
    """Return a compiled module, which Python takes as it is: the digest vouches for it."""
    code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
    flags = _HASHED.to_bytes(4, "little")
    return MAGIC_NUMBER + flags + source_hash(source) + code


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry that does not tell when or where it was made."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry
