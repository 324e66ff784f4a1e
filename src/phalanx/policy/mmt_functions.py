"""The functions that expressions of MMT-Security rules may call: a closed library.

Those of the language's documentation (2.3: ``is_exist``, ``is_null``, ``is_empty``), functions of
C on texts, and those that NATWORK D3.3, figure 4 names for the isolation of slices. Rules bring
code in C for others; such code is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from msgspec import Struct


class MmtContext(Struct):
    """What the functions of figure 4 need: the slice where the traffic is looked at."""

    slice_id: int | str
    whitelists: Mapping[int | str, tuple[IPv4Network | IPv6Network, ...]]
    """By slice, the networks that may send into it."""
    block: Callable[[str], None]
    """Called with the address whose packets shall be blocked."""


class MmtFunction(Struct, frozen=True):
    """A function: the kinds of its arguments, those after | may be left out, and what it does."""

    takes: str
    """A letter an argument: t a text, a an address, x anything."""
    call: Callable[..., Any]
    """Called with the context and the arguments."""
    in_slice: bool = False
    """Whether it needs a context."""


def _c(text: bytes) -> bytes:
    """Return a text as C sees it: up to the first zero."""
    return text.partition(b"\0")[0]


def _compare(one: bytes, other: bytes) -> int:
    return (_c(one) > _c(other)) - (_c(one) < _c(other))


def _whitelist(context: MmtContext, address: bytes, of: Any = None) -> int:
    """Return 1 if the whitelist of a slice, this one if none is named, lacks the address."""
    name = context.slice_id if of is None else of.decode() if isinstance(of, bytes) else of
    return int(not any(ip_address(address) in net for net in context.whitelists.get(name, ())))


def _block(context: MmtContext, address: bytes) -> int:
    context.block(str(ip_address(address)))
    return 1


def _slice(context: MmtContext) -> Any:
    name = context.slice_id
    return name.encode() if isinstance(name, str) else name


LIBRARY = {
    "is_exist": MmtFunction("x", lambda _, value: int(value is not None)),
    "is_null": MmtFunction("x", lambda _, value: int(value is None)),
    "is_empty": MmtFunction("x", lambda _, text: int(not text or text[:1] == b"\0")),
    "strlen": MmtFunction("t", lambda _, text: len(_c(text))),
    "strcmp": MmtFunction("tt", lambda _, a, b: _compare(a, b)),
    "strcasecmp": MmtFunction("tt", lambda _, a, b: _compare(a.lower(), b.lower())),
    "strstr": MmtFunction("tt", lambda _, text, part: int(_c(part) in _c(text))),
    "strcasestr": MmtFunction("tt", lambda _, a, b: int(_c(b).lower() in _c(a).lower())),
    "get_sliceID": MmtFunction("", _slice, in_slice=True),
    "whitelist": MmtFunction("a|x", _whitelist, in_slice=True),
    "block_packet_from": MmtFunction("a", _block, in_slice=True),
}
