"""libnftables through ctypes, and the matches that several tables share.

What a script of rules changes, it changes in one transaction. A handle works in the network
namespace of the thread that uses it.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from threading import Lock
from typing import Any

_JSON_OUTPUT = 1 << 4

SEED = "0x1"
"""Seed of the hash that divides sources; the same in splits and in observations."""

SYN = "tcp flags & (fin | syn | rst | ack) == syn"
SYN_ACK = "tcp flags & (fin | syn | rst | ack) == syn | ack"
RESET = "tcp flags & rst != 0"
ATTESTED = "tcp flags & (syn | rst | ack) == ack"
"""From a server: a packet of a connection that it holds to be established."""
ENDS = "tcp flags & (fin | rst) != 0"
FLAGGED = "tcp flags & (fin | syn | rst) != 0"

_NEIGHBOURS = (
    "icmpv6 type { 133-137 } ip6 hoplimit 255 exthdr frag missing",
    "ip6 saddr { ::, fe80::/10 } meta l4proto icmpv6",
)
"""What hosts of one link say to each other, that no router lets through: neighbour discovery
(RFC 4861, 7.1), and who listens to the groups that it is sent to (RFC 3810, 5). Without it a
neighbour is not reached, so nothing holds it back."""
ERRORS_S = 1000
"""Errors of ICMP a second that nothing holds back: a connection stalls without *packet too big*. A
host makes no more of them (Linux), a flood of them does."""
HELD_MARK = 0x70686C78
"""Mark of packets that were held and are sent on: no rule meets them a second time."""


class AddressFamily:
    """IPv4 or IPv6, in the words of nftables."""

    def __init__(self, number: int, ip: str, own: str, mask: str, prefix: str) -> None:
        """Take the number of sockets, name of the header, an ending, and a subscriber's bits."""
        self.number = number
        self.ip = ip
        self.own = own
        """What names of parts that are of this family alone end with."""
        self.mask, self.prefix = mask, prefix
        self.neighbours = _NEIGHBOURS if own else ()
        icmp, self.icmp = ("icmpv6", "ipv6-icmp") if own else ("icmp", "icmp")
        self.whole = "exthdr frag missing" if own else "ip frag-off & 0x3fff == 0"
        """Of no fragment: in later ones of IPv6 kernels read ports, flags and types, too, from the
        head of the frame (seen with 6.18)."""
        self.errors = f"{icmp} type {{ {'1-4' if own else '3, 11, 12'} }} {self.whole}"
        """Of ICMP: what became of a packet on its way."""
        self.echo = f"{icmp} type {{ echo-request, echo-reply }}"
        self.request = f"{icmp} type echo-request"
        self.later = "frag frag-off != 0" if own else "ip frag-off & 0x1fff != 0"
        """Fragments but the first: without ports, and of ICMP without a type."""
        self.bare = f"{ip} saddr{mask} . {ip} daddr . 0 . meta l4proto"
        self.bare_back = f"{ip} daddr{mask} . {ip} saddr . 0 . meta l4proto"
        """What has no ports, as flows have it."""
        self.key = struct.Struct("!16s16sHxxB3x" if own else "!4s4sHxxB3x")
        """Of a flow, as sets have it."""
        self.type = f"ipv{own or 4}_addr"
        self.header = 0 if own else 20
        """Octets of its header that its length counts."""
        self.mss = 1440 if own else 1460
        """Octets of TCP in a packet of 1500."""
        self.tuple = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport"
        self.tuple_back = f"{ip} daddr . tcp dport . {ip} saddr . tcp sport"
        """Client and server of a connection, in packets to the server and in packets back."""
        self.flow = f"{ip} saddr{self.mask} . {ip} daddr . th dport . meta l4proto"
        self.flow_back = f"{ip} daddr{self.mask} . {ip} saddr . th sport . meta l4proto"
        self.tuple_type = f"type {self.type} . inet_service . {self.type} . inet_service"

    def has(self, address: str) -> bool:
        """Whether an address or prefix is of this family."""
        return (":" in address) == bool(self.own)

    def subscriber(self, end: str) -> str:
        """Return the field ``saddr`` or ``daddr``, as far as it says whose address it is.

        A subscriber of IPv6 has a network of 64 bits, and any address in it.
        """
        return f"{self.ip} {end}{self.mask}"


IP = AddressFamily(socket.AF_INET, "ip", "", "", "")
IP6 = AddressFamily(socket.AF_INET6, "ip6", "6", " & ffff:ffff:ffff:ffff::", "/64")
ADDRESS_FAMILIES = (IP, IP6)


def family_of(address: str) -> AddressFamily:
    """Return the family of an address or prefix."""
    return IP6 if IP6.has(address) else IP


class NftError(Exception):
    """nftables refused a script; the message is one line."""


def owner_of(table: str) -> str:
    """Return the name that a VNF was given for its tables, of which ``table`` is one.

    The table of an observation, ``phx_<8 hex>_<n>``, belongs to ``phx_<8 hex>``.
    """
    return "_".join(table.split("_")[:2])


class Nft:
    """A handle on nftables. Calls from several threads take turns."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            NftError: if libnftables is not installed.

        """
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise NftError("libnftables.so.1 is missing: apt-get install libnftables1") from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
        self._library = library
        self._lock = Lock()
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, script: str) -> None:
        """Carry out all of ``script`` or nothing of it.

        Raises:
            NftError: if nftables refuses it.

        """
        self._command(script, 0)

    def json(self, script: str) -> dict[str, Any]:
        """Return what a listing command answers, as libnftables-json(5) describes it.

        Raises:
            NftError: if nftables refuses it.

        """
        answer: dict[str, Any] = json.loads(self._command(script, _JSON_OUTPUT) or b"{}")
        return answer

    def close(self) -> None:
        """Free the handle, which is of no use after that."""
        with self._lock:
            self._library.nft_ctx_free(self._context)

    def _command(self, script: str, flags: int) -> bytes:
        library, context = self._library, self._context
        with self._lock:
            library.nft_ctx_output_set_flags(context, flags)
            failed = library.nft_run_cmd_from_buffer(context, script.encode())
            output: bytes = library.nft_ctx_get_output_buffer(context)
            complaint: bytes = library.nft_ctx_get_error_buffer(context)
        if failed:
            lines = complaint.decode(errors="replace").strip().splitlines()
            raise NftError(lines[0] if lines else "nftables refused the script")
        return output


def share(field: str, parts: int, part: int) -> str:
    """Return the match of the sources (in ``field``) that belong to a part; empty for all."""
    return f"jhash {field} mod {parts} seed {SEED} {part}" if parts > 1 else ""


def with_payload(family: AddressFamily, match: str, verdict: str) -> list[str]:
    """Return rules that give ``verdict`` to TCP packets that carry data.

    One rule for each length of the TCP header: nftables cannot add two fields. Extension headers
    of IPv6 count as data.
    """
    length = f"{family.ip} length > "
    sizes = ((words, family.header + 4 * words) for words in range(5, 16))
    return [f"{match} tcp doff {words} {length}{size} {verdict}" for words, size in sizes]
