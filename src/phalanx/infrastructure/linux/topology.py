"""Where the parts of the model are in Linux: namespaces, devices, addresses, limits.

The driver knows a testbed, or the machine that it runs on, by this protocol alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from phalanx.domain.network import LinkId, PopId
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup


class LinuxTopology(Protocol):
    """Which namespace, device and address stands for what in the model."""

    @property
    def run(self) -> str:
        """The mark of this run: six hexadecimal digits."""

    @property
    def folder(self) -> Path:
        """Where files of this run lie."""

    def namespace(self, pop: PopId) -> str | None:
        """Return the network namespace of a PoP; None is the machine's own."""

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

    def entry(self, pop: PopId) -> str | None:
        """Return the device by whose ingress users' packets enter the network at a PoP.

        None where they are met only as they leave to their target.
        """

    def cgroup(self, pop: PopId) -> Cgroup:
        """Return the control group of a PoP, which may limit nothing."""

    def set_link(self, a: PopId, b: PopId, *, up: bool) -> None:
        """Cut or mend the link between two PoPs."""
