"""Packets of a capture file: a thin layer over libpcap, and their headers, many at a time.

libpcap (through pcapy-ng, whose wheels bring it along) reads pcap in both byte orders and all
its time resolutions, and pcapng; it bounds what a broken file can make it allocate.
"""

from __future__ import annotations

import select
import shlex
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from operator import methodcaller
from typing import Any

import numpy as np
import pcapy
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.domain.errors import PhalanxError
from phalanx.loading import open_file

Octets = NDArray[np.uint8]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

HEAD = 128
"""Octets of each packet that are kept: link header, two VLAN tags, IP with options, TCP."""
BATCH = 4096
"""Packets read at a time."""
RECORD = 16
"""Octets of a record header in a file."""
LONGEST, WAIT_MS = 65_535, 100
"""Octets of a packet that are read live, and how long is waited for one, in ms."""


class CaptureError(PhalanxError):
    """A capture that cannot be read: one line, file and what is wrong."""


class PacketBatch(Struct):
    """Some packets, a row each."""

    heads: NDArray[np.uint8]
    """The first octets of each, (packets, HEAD), zeros where it is shorter."""
    captured: NDArray[np.int64]
    """Octets of each that the capture holds."""
    length: NDArray[np.int64]
    """Octets of each on the wire."""
    time: NDArray[np.float64]
    """Seconds since 1970."""
    file_octets: int
    """Octets of the file that these packets take up, roughly."""


class Capture:
    """An open capture, or an interface whose packets come in."""

    def __init__(self, path: str, *, live: bool = False, verb: str = "detect") -> None:
        """Open ``path``; ``-`` is the standard input.

        Args:
            path: a file; or the name of an interface.
            live: whether it is an interface.
            verb: of the command that reads, for what a refusal suggests.

        Raises:
            CaptureError: if it is no capture, or no interface that may be read.

        """
        self.path = path
        self.live = live
        self.problem: str | None = None
        """Why reading ended before the capture did; None: it did not."""
        try:
            if path != "-" and not live:
                open_file(path).close()  # libpcap would wait for a named pipe
            opened = (
                pcapy.open_live(path, LONGEST, 1, WAIT_MS) if live else pcapy.open_offline(path)
            )
            self._reader: Any = opened
            if live:
                opened.setnonblock(1)
        except (pcapy.PcapError, OSError, ValueError) as error:
            raise CaptureError(f"{path}: {_why(error, path, verb)}") from None
        self.link_type: int = self._reader.datalink()
        """DLT number of the link layer."""

    def read(self) -> list[tuple[bytes, float, int]]:
        """Return the next packets whole: octets, seconds since 1970, octets on the wire.

        None: the capture is at its end (see ``problem``), or none came in for ``WAIT_MS``.
        """
        found: list[tuple[bytes, float, int]] = []

        def take(header: Any, octets: bytes) -> None:
            seconds, microseconds = header.getts()
            found.append((octets, seconds + microseconds / 1e6, header.getlen()))

        try:
            if not self.live or select.select([self._reader.getfd()], [], [], WAIT_MS / 1e3)[0]:
                self._reader.dispatch(BATCH, take)
        except pcapy.PcapError as error:
            self.problem = _why(error, self.path)
        return found

    def missed(self) -> int:
        """Return how many packets came in faster than they were read; 0 for a file."""
        return int(self._reader.stats()[1]) if self.live else 0

    def batches(self) -> Iterator[PacketBatch]:
        """Yield all packets up to the end, or up to what cannot be read (see ``problem``)."""
        packets: dict[Any, bytes] = {}  # by header: to set an item takes no call of Python's own
        while self.problem is None:
            try:
                self._reader.dispatch(BATCH, packets.__setitem__)
            except pcapy.PcapError as error:
                self.problem = _why(error, self.path)
            if not packets:
                return
            moments = chain.from_iterable(map(methodcaller("getts"), packets))
            seconds, microseconds = np.fromiter(moments, np.int64).reshape(-1, 2).T
            length = np.fromiter(map(methodcaller("getlen"), packets), np.int64)
            yield _batch(packets.values(), seconds + microseconds / 1e6, length)
            packets.clear()


def packet_batch(packets: list[tuple[bytes, float, int]]) -> PacketBatch:
    """Return packets given as ``Capture.read`` gives them, to the microsecond."""
    octets, moments, length = zip(*packets, strict=True)
    return _batch(octets, np.array([round(at * 1e6) for at in moments]) / 1e6, np.array(length))


def _batch(packets: Collection[bytes], time: NDArray[np.float64], length: Ints) -> PacketBatch:
    captured = np.fromiter(map(len, packets), np.int64)
    heads = b"".join([octets[:HEAD].ljust(HEAD, b"\0") for octets in packets])
    return PacketBatch(
        heads=np.frombuffer(heads, np.uint8).reshape(-1, HEAD),
        captured=captured,
        length=np.maximum(length, captured),
        time=time,
        file_octets=int(captured.sum()) + RECORD * len(packets),
    )


def _why(error: Exception, path: str, verb: str = "detect") -> str:
    """Return libpcap's words on one line, without the file's name."""
    words = " ".join((getattr(error, "strerror", None) or str(error)).split())
    words = words.removeprefix(f"{path}: ")
    if "unknown file format" in words:
        if path.endswith(".gz"):
            return f"is compressed; try: zcat {shlex.quote(path)} | phalanx {verb} -"
        return "is neither a pcap nor a pcapng capture"
    if "only got 0" in words and "header" in words:
        return "is empty"
    return words


LINKS = {
    0: ("BSD loopback", None, 4),
    1: ("Ethernet", 12, 14),
    12: ("raw IP", None, 0),
    108: ("OpenBSD loopback", None, 4),
    113: ("Linux cooked", 14, 16),
    228: ("raw IPv4", None, 0),
    229: ("raw IPv6", None, 0),
    276: ("Linux cooked v2", 0, 20),
}
"""By DLT number: name, where the EtherType stands (None: there is none), where IP begins."""
VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
MOST_TAGS = 2
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
V6_EXTENSIONS, FRAGMENT, AUTHENTICATION = (0, 43, 44, 51, 60), 44, 51
MOST_EXTENSIONS = 4
ECHOES = {ICMP: (0, 8), ICMP6: (128, 129)}
"""ICMP that is judged: errors and neighbour discovery answer other packets, or nobody."""
KEY = 37
"""Octets of a key: source, port, target, port, protocol; IPv4 addresses are mapped to IPv6."""
MAPPED = np.array([0] * 10 + [0xFF, 0xFF], np.uint8)


class Decoded(Struct):
    """The TCP, UDP and ICMP echo packets of a batch, a row each."""

    keys: Octets
    """(packets, KEY)."""
    flags: Ints
    """TCP flags; 0 for others and for fragments after the first."""
    payload: Ints
    """Octets after the header."""
    octets: Ints
    """Octets on the wire."""
    time: NDArray[np.float64]
    """Seconds since 1970."""


def known_link(path: str, link_type: int) -> None:
    """Refuse a capture of a link layer that is not read.

    Raises:
        CaptureError: with one line.

    """
    if link_type not in LINKS:
        known = ", ".join(name for name, _, _ in LINKS.values())
        raise CaptureError(f"{path}: link type {link_type} is not read; known are {known}")


def decode(batch: PacketBatch, link_type: int, skipped: Counter[str]) -> Decoded:
    """Return the packets of ``batch`` that are judged; what is passed over is counted by reason."""
    _, type_at, start = LINKS[link_type]
    rows = _Rows(batch, start)
    if type_at is None:
        version = rows.byte(0) >> 4
        ether = np.select([version == 4, version == 6], [IPV4, IPV6], 0)
    else:
        ether = rows.absolute_word(type_at)
        for _ in range(MOST_TAGS):
            tagged = np.isin(ether, VLAN_TAGS)
            if not tagged.any():
                break
            ether = np.where(tagged, rows.word(2), ether)
            rows.at = rows.at + 4 * tagged
    v4, v6 = ether == IPV4, ether == IPV6
    skipped["not IP"] += int((~v4 & ~v6).sum())
    parts = [_ipv4(rows.only(v4), skipped), _ipv6(rows.only(v6), skipped)]
    order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
    return Decoded(*(np.concatenate([part[1][i] for part in parts])[order] for i in range(5)))


class _Rows:
    """Packets and how far each was read; reading behind a packet's end gives zeros."""

    def __init__(self, batch: PacketBatch, start: int) -> None:
        count = len(batch.heads)
        self.batch = batch
        self.index: Ints = np.arange(count)
        """Rows of the batch that this is about."""
        self.at: Ints = np.full(count, start)
        """Where the header that is read now begins, in octets from the packet's."""

    def only(self, mask: Mask) -> _Rows:
        """Return the rows in ``mask``."""
        rows = _Rows.__new__(_Rows)
        rows.batch, rows.index, rows.at = self.batch, self.index[mask], self.at[mask]
        return rows

    def byte(self, offset: int) -> Ints:
        """Return the octet of each row at ``offset`` from where it was read to."""
        where = np.minimum(self.at + offset, HEAD - 1)
        octets: Octets = self.batch.heads[self.index, where]
        return octets.astype(np.int64)

    def word(self, offset: int) -> Ints:
        """Return the 16 bits at ``offset``."""
        return self.byte(offset) << 8 | self.byte(offset + 1)

    def absolute_word(self, offset: int) -> Ints:
        """Return the 16 bits at ``offset`` from the packet's begin."""
        pair: Ints = self.batch.heads[self.index, offset : offset + 2].astype(np.int64)
        return pair[:, 0] << 8 | pair[:, 1]

    def some(self, offset: int, count: int) -> Octets:
        """Return ``count`` octets of each row from ``offset`` on."""
        where = np.minimum(self.at[:, None] + np.arange(offset, offset + count), HEAD - 1)
        octets: Octets = self.batch.heads[self.index[:, None], where]
        return octets

    def holds(self, count: int) -> Mask:
        """Return which rows the capture holds ``count`` octets more of."""
        return self.at + count <= np.minimum(self.batch.captured[self.index], HEAD)

    def rest(self) -> Ints:
        """Return the octets of each on the wire from here on."""
        return self.batch.length[self.index] - self.at


_Part = tuple[Ints, tuple[NDArray[Any], ...]]
"""Rows of the batch, and the fields of ``Decoded`` for them."""


def _keep(rows: _Rows, mask: Mask, reason: str, skipped: Counter[str]) -> _Rows:
    skipped[reason] += int((~mask).sum())
    return rows.only(mask)


def _ipv4(rows: _Rows, skipped: Counter[str]) -> _Part:
    rows = _keep(rows, rows.holds(20), "cut short", skipped)
    header = (rows.byte(0) & 15) * 4
    good = (rows.byte(0) >> 4 == 4) & (header >= 20)
    rows = _keep(rows, good, "damaged IP header", skipped)
    header, total = (rows.byte(0) & 15) * 4, rows.word(2)
    # The total is 0 where the sender's card cuts the packet up (segmentation offload).
    data = np.where(total > 0, total, rows.rest()) - header
    later = rows.word(6) & 0x1FFF > 0
    source, target = _mapped(rows.some(12, 4)), _mapped(rows.some(16, 4))
    protocol = rows.byte(9)
    rows.at = rows.at + header
    return _transport(rows, source, target, protocol, data, later, skipped)


def _ipv6(rows: _Rows, skipped: Counter[str]) -> _Part:
    rows = _keep(rows, rows.holds(40), "cut short", skipped)
    rows = _keep(rows, rows.byte(0) >> 4 == 6, "damaged IP header", skipped)
    source, target, protocol = rows.some(8, 16), rows.some(24, 16), rows.byte(6)
    length = rows.word(4)
    rows.at = rows.at + 40
    data = np.where(length > 0, length, rows.rest())
    later = np.zeros(len(rows.index), bool)
    for _ in range(MOST_EXTENSIONS):
        extended = np.isin(protocol, V6_EXTENSIONS) & ~later
        if not extended.any():
            break
        fragment = extended & (protocol == FRAGMENT)
        words = np.where(protocol == AUTHENTICATION, rows.byte(1) * 4 + 8, rows.byte(1) * 8 + 8)
        size = extended * np.where(fragment, 8, words)
        later |= fragment & (rows.word(2) >= 8)
        protocol = np.where(extended, rows.byte(0), protocol)
        rows.at, data = rows.at + size, data - size
    return _transport(rows, source, target, protocol, data, later, skipped)


def _mapped(address: Octets) -> Octets:
    prefix = np.broadcast_to(MAPPED, (len(address), len(MAPPED)))
    return np.concatenate([prefix, address], axis=1)


def _transport(
    rows: _Rows,
    source: Octets,
    target: Octets,
    protocol: Ints,
    data: Ints,
    later: Mask,
    skipped: Counter[str],
) -> _Part:
    """Read the ports and flags; a later fragment has none, and counts for its addresses."""
    tcp, ported = protocol == TCP, np.isin(protocol, (TCP, UDP))
    judged = ported
    for number, kinds in ECHOES.items():
        judged = judged | (protocol == number) & (later | np.isin(rows.byte(0), kinds))
    skipped["neither TCP, UDP nor ICMP echo"] += int((~judged).sum())
    whole = later | rows.holds(14) | (~tcp & rows.holds(8))
    skipped["cut short"] += int((judged & ~whole).sum())
    whole = whole & judged
    first = tcp & ~later
    ports = np.where((later | ~ported)[:, None], 0, rows.some(0, 4)).astype(np.uint8)
    header = np.where(first, (rows.byte(12) >> 4) * 4, np.where(later, 0, 8))
    flags = np.where(first, rows.byte(13), 0)
    keys = np.concatenate(
        [source, ports[:, :2], target, ports[:, 2:], protocol[:, None].astype(np.uint8)], axis=1
    )
    payload = np.maximum(data - header, 0)
    batch = rows.batch
    columns = keys, flags, payload, batch.length[rows.index], batch.time[rows.index]
    return rows.index[whole], tuple(column[whole] for column in columns)
