"""Images: named sets of capabilities, each known by the digest of the code that it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

AGENT_IMAGE = "phalanx-agent"
"""The image that every installation of Phalanx has: all of its capabilities."""


class Image(Struct, frozen=True):
    """What a site can start."""

    name: str
    digest: str
    """``sha256:…`` over the files of the distribution and the list of capabilities."""
    capabilities: tuple[str, ...]


def image_of(package: Path, capabilities: Iterable[str], name: str = AGENT_IMAGE) -> Image:
    """Return the image that an installed distribution is.

    Its digest is that of the names and the contents of all files of ``package``, compiled ones
    aside, and of the names of the capabilities.
    """
    listed = tuple(sorted(capabilities))
    total = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            own = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(package)}\0{own}\n".encode())
    for capability in listed:
        total.update(f"capability\0{capability}\n".encode())
    return Image(name, f"sha256:{total.hexdigest()}", listed)
