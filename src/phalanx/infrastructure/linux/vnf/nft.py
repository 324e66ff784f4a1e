"""libnftables through ctypes, and the matches that several tables share.

What a script of rules changes, it changes in one transaction. A handle works in the network
namespace of the thread that uses it.
"""

from __future__ import annotations

import ctypes
import json
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

TUPLE = "ip saddr . tcp sport . ip daddr . tcp dport"
TUPLE_BACK = "ip daddr . tcp dport . ip saddr . tcp sport"
TUPLE_TYPE = "type ipv4_addr . inet_service . ipv4_addr . inet_service"
"""Client and server of a connection, in packets to the server and in packets back."""
HELD_MARK = 0x70686C78
"""Mark of packets that were held and are sent on: no rule meets them a second time."""


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


def with_payload(match: str, verdict: str) -> list[str]:
    """Return rules that give ``verdict`` to TCP packets that carry data.

    One rule for each length of the TCP header: nftables cannot add two fields.
    """
    return [
        f"{match} tcp doff {words} ip length > {20 + 4 * words} {verdict}" for words in range(5, 16)
    ]
