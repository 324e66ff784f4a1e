"""Images of VNFs: one file that Python runs, of the size that the descriptor asks for.

An image is a zip application (PEP 441): the ``vnf`` package, which carries out traffic rules and
observations for any function, the function's own file, its own program if it brings one, a start
script that says what the descriptor says, and padding that cannot be compressed. Modules are in
it as source and as bytecode (PEP 552, so that a VNF of the same Python starts without
compiling). The same inputs give the same digest.
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
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux import vnf

LARGEST_OCTETS = 2_000_000_000
"""Below the limit of the plain zip format."""
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_HASHED = 0b01
"""Of bytecode: made from a source of that hash, and not to be compared with it (PEP 552)."""
_SHEBANG = b"#!/usr/bin/env python3\n"
_START = """\
import sys

from vnf.server import main
{program}
sys.exit(main(sys.argv[1:], {role!r}, {version!r}, {observes!r}, {enforces!r}, program))
"""
_OWN = "function"
"""Folder of what the function brings along."""


class VnfImage(Struct, frozen=True):
    """An image on disk."""

    path: Path
    sha256: str
    octets: int
    observes: tuple[str, ...] = ()
    """What its VNF looks at, as its descriptor says."""


class ImageError(PhalanxError):
    """An image that cannot be built, or is not what it should be; the message is one line."""


def build(vnfd: Vnfd, folder: Path) -> VnfImage:
    """Build the image of a VNF in ``folder``, exactly as long as its descriptor says.

    That of a native VNF, of 0 MB, is as long as its program: every PoP has it already.

    Raises:
        ImageError: if that is too short or too long, or the function's files cannot be read.

    """
    sources = _sources(vnfd)
    empty = io.BytesIO()
    _write(empty, vnfd, sources, 0)
    least = len(empty.getvalue())
    octets = round(vnfd.image_mb * 1e6) or least
    if not least <= octets <= LARGEST_OCTETS:
        raise ImageError(
            f"an image of {vnfd.name} has {least} to {LARGEST_OCTETS} octets, not {octets}"
        )
    path = folder / f"{vnfd.name}-{vnfd.version}.pyz"
    with path.open("wb") as file:
        _write(file, vnfd, sources, octets - least)
    return VnfImage(path, digest(path), octets, vnfd.observes)


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


def _sources(vnfd: Vnfd) -> dict[str, bytes]:
    """Return the modules of an image, by their names in it."""
    own = [Path(file) for file in (vnfd.code, vnfd.program) if file]
    program = f"from {_OWN}.{own[-1].stem} import start as program" if vnfd.program else ""
    start = _START.format(
        program=program or "\nprogram = None",
        role=vnfd.name,
        version=vnfd.version,
        observes=vnfd.observes,
        enforces=tuple(verdict.value for verdict in vnfd.enforces),
    )
    package = Path(vnf.__file__).parent
    beside = Path(vnfd.program).parent.glob(f"{own[-1].stem}.*") if vnfd.program else ()
    own += sorted(path for path in beside if path not in own)
    try:
        return {
            **{f"vnf/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))},
            f"{_OWN}/__init__.py": b"",
            **{f"{_OWN}/{path.name}": path.read_bytes() for path in own},
            "__main__.py": start.encode(),
        }
    except OSError as error:
        raise ImageError(f"no image of {vnfd.name}: {error}") from error


def _write(file: IO[bytes], vnfd: Vnfd, sources: dict[str, bytes], padding: int) -> None:
    """Write an image with ``padding`` octets that stand for what a larger function would have."""
    file.write(_SHEBANG)
    compiled = {f"{n}c": _bytecode(n, text) for n, text in sources.items() if n.endswith(".py")}
    random = Random(f"{vnfd.name} {vnfd.version}")  # seeded by text: the same on every machine
    with zipfile.ZipFile(file, "w") as archive:
        for name, source in (sources | compiled).items():
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
