"""What the driver stands on: a testbed of namespaces, or the machine that it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from phalanx.domain.network import LinkId, PopId


class Limits(Protocol):
    """Limits on the processes of a PoP."""

    def enter(self, pid: int) -> None:
        """Put a process, and all that it will start, under the limits."""


class Ground(Protocol):
    """Namespaces, devices and addresses of the PoPs."""

    @property
    def run(self) -> str:
        """The mark of this run: six hexadecimal digits."""

    @property
    def folder(self) -> Path:
        """Where files of this run lie."""

    def namespace(self, pop: PopId) -> str | None:
        """Return the network namespace of a PoP; None: the machine's own."""

    def underlay(self, pop: PopId) -> str:
        """Return the address under which other PoPs reach this one."""

    def device(self, link: LinkId) -> str:
        """Return the device, at the PoP where ``link`` begins, whose egress is the link.

        Raises:
            KeyError: if there is no such link here.

        """

    def host_at(self, address: str) -> PopId | None:
        """Return the PoP at whose switch ``address`` is; None if it is at none."""

    def address(self, host: str) -> str | None:
        """Return the address of the host of that name; None if there is none."""

    def host_device(self, address: str) -> str:
        """Return the device towards ``address`` at its PoP."""

    def cgroup(self, pop: PopId) -> Limits:
        """Return the limits of a PoP."""

    def set_link(self, a: PopId, b: PopId, *, up: bool) -> None:
        """Cut or mend the link between two PoPs."""
