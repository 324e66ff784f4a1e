"""What may not pass: nftables rules around the overlay in one PoP.

A missing security association must never mean clear text, and VXLAN itself takes packets from
anyone. So VXLAN enters and leaves a PoP only through the encryption, the overlay's addresses
are reached only through its device, and the PoP forwards nothing into either: else a machine
at the PoP's switch could use the router to speak in the overlay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from typing import TypeVar

from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.overlay.errors import OverlayError
from phalanx.infrastructure.linux.overlay.ipsec import Engine
from phalanx.infrastructure.linux.overlay.vxlan import DEVICE, PORT, PREFIX
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError

T = TypeVar("T")

ENDPOINTS = IPv4Network("10.253.0.0/16")
"""Where the encapsulated packets travel from and to; a PoP has two addresses of it."""

# How a rule tells that a packet did not come through, or will not go through, the encryption.
_UNPROTECTED = {
    Engine.USER_SPACE: ('iifname != "ipsec0"', 'oifname != "ipsec0"'),
    Engine.KERNEL: ("meta ipsec missing", "rt ipsec missing"),
}

_RULES = """
table inet {table} {{
  counter outside {{ }}
  counter clear {{ }}
  counter revoked {{ }}
  set revoked {{ type ipv4_addr; }}
  chain input {{
    type filter hook input priority -300; policy accept;
    ip saddr @revoked counter name revoked drop
    {unprotected_in} udp dport {port} counter name outside drop
    iifname != {{ "{device}", "lo" }} ip daddr {overlay} counter name outside drop
  }}
  chain output {{
    type filter hook output priority -300; policy accept;
    ip daddr @revoked counter name revoked drop
    {unprotected_out} udp dport {port} counter name clear drop
    oifname != {{ "{device}", "lo" }} ip daddr {overlay} counter name clear drop
  }}
  chain forward {{
    type filter hook forward priority -300; policy accept;
    ip saddr {{ {endpoints}, {overlay} }} counter name outside drop
    ip daddr {{ {endpoints}, {overlay} }} counter name outside drop
    iifname "{device}" counter name outside drop
    oifname "{device}" counter name outside drop
  }}
}}
"""


class Guard:
    """The rules of one PoP, in a table of their own. Its methods block.

    Args:
        inside: a thread in the PoP's namespace.
        table: name of the table, ``phx_<8 hexadecimal digits>``.
        address: the PoP's address in the overlay, from which the overlay's network follows.

    """

    def __init__(self, inside: Inside, table: str, address: str) -> None:
        self._inside = inside
        self._nft: Nft | None = None
        self._table = table
        self._overlay = IPv4Network(f"{address}/{PREFIX}", strict=False)

    def raise_up(self, engine: Engine) -> None:
        """Put the rules in force, all at once.

        Raises:
            OverlayError: if nftables refuses.

        """
        unprotected_in, unprotected_out = _UNPROTECTED[engine]
        self._change(
            _RULES.format(
                table=self._table,
                device=DEVICE,
                port=PORT,
                overlay=self._overlay,
                endpoints=ENDPOINTS,
                unprotected_in=unprotected_in,
                unprotected_out=unprotected_out,
            )
        )

    def shut_out(self, addresses: Iterable[str]) -> None:
        """Drop all that comes from or goes to ``addresses`` from now on.

        Raises:
            OverlayError: if nftables refuses.

        """
        elements = ", ".join(addresses)
        self._change(f"add element inet {self._table} revoked {{ {elements} }}")

    def dropped(self) -> int:
        """Return how many packets the rules have dropped.

        Raises:
            OverlayError: if nftables refuses.

        """
        told = self._do(lambda nft: nft.json(f"list counters table inet {self._table}"))
        return sum(o["counter"]["packets"] for o in told["nftables"] if "counter" in o)

    def lower(self) -> None:
        """Take the rules away; none there is no error.

        Raises:
            OverlayError: if nftables refuses.

        """
        self._change(f"add table inet {self._table}\ndelete table inet {self._table}")

    def _change(self, script: str) -> None:
        self._do(lambda nft: nft.run(script))

    def _do(self, work: Callable[[Nft], T]) -> T:
        def do() -> T:
            self._nft = self._nft or Nft()  # made in the namespace, so it belongs there
            return work(self._nft)

        try:
            return self._inside.call(do)
        except NftError as error:
            raise OverlayError(f"nftables in {self._inside.name}: {error}") from error
