"""The Infrastructure Management Layer of a site: what it is asked to run, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError


class ImlError(PhalanxError):
    """A site does not do what it was asked to; the text is one line."""


class BusyError(ImlError):
    """A site cannot do it now; it may be tried again."""


class UnitKind(Enum):
    """What a unit is."""

    AGENT = "agent"
    NETWORK = "network"


class Unit(Struct, frozen=True):
    """Something that a site shall run: one process, with an identity of its own."""

    name: str
    """Of its identity."""
    service: str
    kind: UnitKind
    revision: int
    """The change of the service that made it so: another revision is another configuration."""
    image: str
    digest: str
    capabilities: tuple[str, ...]
    """Those of the image's that it needs."""


class Running(Struct, frozen=True):
    """What a site has of a unit."""

    unit: Unit
    pid: int | None
    """Its process; None: it does not run."""


class Iml(Protocol):
    """Starts and stops units at one site; each call may be repeated without harm.

    ``fence`` is the fencing number of the caller: an order older than the last one for the
    unit is refused (``ImlError``).

    Raises:
        ImlError: by all of its methods, if the site cannot do it.

    """

    def start(
        self, unit: Unit, files: dict[str, bytes], *, fence: int, state: bytes | None = None
    ) -> Running:
        """Have ``unit`` run, from ``files``; without effect if this revision of it runs.

        Args:
            unit: what to run; another revision of it that runs is refused.
            files: by relative name, ``config.toml`` among them; may hold secrets.
            fence: the caller's.
            state: what ``state`` returned at the site where it ran before; what is here of an
                earlier revision is replaced by it. None: what is here stays.

        """

    def stop(self, name: str, *, fence: int, gracefully: bool, within_s: float) -> None:
        """Have it end, by force once the time is over; without effect if it does not run.

        Args:
            name: of the unit.
            fence: the caller's.
            gracefully: it hands over what it does and leaves; else it keeps what it holds, for
                a later start to take up.
            within_s: how long it may take.

        """

    def state(self, name: str) -> bytes | None:
        """Return what a unit that does not run keeps across restarts; None: there is nothing."""

    def update(self, name: str, files: dict[str, bytes], *, fence: int) -> None:
        """Replace some of a unit's files; without effect if it is not here."""

    def clear(self, name: str, *, fence: int) -> None:
        """Forget a unit that does not run, with all of its files."""

    def running(self) -> tuple[Running, ...]:
        """Return all units that are here, by name."""

    def logs(self, name: str, lines: int = 100) -> str:
        """Return the end of what a unit said."""


AGENT_IMAGE = "phalanx-agent"
"""The image that every installation of Phalanx has: all of its capabilities."""


class AgentImage(Struct, frozen=True):
    """What a site can start."""

    name: str
    digest: str
    """``sha256:…`` over the files of the distribution and the list of capabilities."""
    capabilities: tuple[str, ...]


def image_of(package: Path, capabilities: Iterable[str], name: str = AGENT_IMAGE) -> AgentImage:
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
    return AgentImage(name, f"sha256:{total.hexdigest()}", listed)
