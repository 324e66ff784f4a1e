"""A segment with PoPs and a rogue on it, and the overlay among those PoPs."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.infrastructure.linux.kernel import namespaces
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay
from phalanx.infrastructure.linux.overlay_node import OverlaySite
from phalanx.infrastructure.linux.vnf.nft import Nft

POPS = ("pop1", "pop2", "pop3", "pop4")
ROGUE = "rogue"
VNI = 4242


class Net:
    """Namespaces of PoPs and of a rogue, each with a veth to one bridge: the wire."""

    def __init__(self) -> None:
        self.run = secrets.token_hex(3)
        self.folder = Path("/run/phalanx") / self.run
        self.inside: dict[str, Inside] = {}

    def build(self) -> None:
        for name in ("wire", *POPS, ROGUE):
            namespaces.create(self.namespace(name))
            self.inside[name] = Inside(self.namespace(name))
        self.inside["wire"].call(self._wire)
        for number, name in enumerate((*POPS, ROGUE), 1):
            self.inside[name].call(configure, f"10.254.0.{number}")

    def destroy(self) -> None:
        for name in ("wire", *POPS, ROGUE):
            if name in self.inside:
                self.inside[name].close()
            namespaces.delete(self.namespace(name))

    def namespace(self, name: str) -> str:
        return f"phxt-{self.run}-{name}"

    def places(self) -> list[OverlaySite]:
        return [
            OverlaySite(pop, self.namespace(pop), f"10.254.0.{n}", f"10.255.0.{n}")
            for n, pop in enumerate(POPS, 1)
        ]

    def socket(self, name: str, kind: int, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket that belongs to the namespace of ``name``."""
        made = self.inside[name].call(socket.socket, family, kind)
        made.settimeout(3)
        return made

    def _wire(self) -> None:
        ip("link add name br up type bridge")
        for name in (*POPS, ROGUE):
            there = self.namespace(name)
            ip(
                f"link add name {name} type veth peer name eth netns {there}",
                f"link set dev {name} master br up",
            )


def configure(address: str) -> None:
    ip(
        "link set dev lo up",
        "link set dev eth up",
        f"addr add {address}/24 dev eth",
        "route add default dev eth",  # a way out for what should have been encrypted
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


@contextmanager
def overlay(net: Net) -> Iterator[tuple[Overlay, LateKeys]]:
    keys = LateKeys(POPS)
    made = Overlay(net.folder, VNI, net.places(), keys)
    made.up()
    try:
        yield made, keys
    finally:
        made.down()
        net.folder.rmdir()


class LateKeys(LocalKeys):
    """Keys of which one pair's can be late."""

    late: frozenset[str] = frozenset()

    def secret(self, a: str, b: str) -> bytes:
        if self.late == {a, b}:
            raise KeyError("not yet")
        return super().secret(a, b)


def remove_rules(net: Net, pop: str) -> None:
    """Remove the guard's table, to see what else holds, and that packets would have come."""

    def work() -> None:
        nft = Nft()
        for told in nft.json("list tables")["nftables"]:
            if "table" in told:
                nft.run(f"delete table inet {told['table']['name']}")

    net.inside[pop].call(work)


def pid_of(net: Net, pop: str) -> int:
    folder = net.folder / "ike" / str(POPS.index(pop) + 1)
    return int((folder / "charon.pid").read_text(encoding="ascii"))
