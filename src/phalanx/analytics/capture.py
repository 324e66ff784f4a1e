"""Recorded traffic: from a capture file to flow records to verdicts, in constant memory.

``packets`` (octets, headers), then ``flow_table`` (records such as a live recorder makes), then
the same detector as on live records: what was attacked, by which source, how surely, and when.

Flow records from packets, window by window: the same that a recorder in the network makes.

Memory is bounded: connections beyond ``CONNECTIONS`` in a window are counted as unlisted.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple, replace
from numpy.typing import NDArray

from phalanx.analytics.detectors import Finding
from phalanx.analytics.fixed_rules import FixedRules
from phalanx.analytics.flow_exports import ExportedFlow, Exporter
from phalanx.analytics.packets import (
    ACK,
    FIN,
    KEY,
    RST,
    SYN,
    TCP,
    UDP,
    Capture,
    CaptureError,
    Decoded,
    Ints,
    Octets,
    decode,
    known_link,
)
from phalanx.domain.actions import FlowRecords, FlowStats
from phalanx.domain.series import TrafficWindow

CONNECTIONS = 32_768
"""Connections told apart in a window; packets of further ones are counted as unlisted."""
SERVICES = 4_096
"""Addresses and ports remembered as those of servers."""
PROTOCOLS = {TCP: "tcp", UDP: "udp"}
END = (KEY - 1) // 2
"""Octets of an address and a port."""
BARE, SYN_OPTIONS = 52, 8
"""Octets of a packet of TCP with timestamps and without data; how many more a SYN has."""

# A connection's record: counters, what happened on it as bits, and which end asked.
COLUMNS = 11
(
    PACKETS, OCTETS, ASKED, REPLIES, BITS, RESETS, REFUSALS, REPLY_OCTETS, RATE, ACCEPTS, SWAPPED
) = range(COLUMNS)  # fmt: skip
KNOWN, COMPLETED, SENT, ANSWERED, ENDED, ACCEPTED = 1, 2, 4, 8, 16, 32


class FlowTable:
    """The connections of one window; which end is the server is remembered over windows.

    The source of a connection is who asks: the sender of the SYN, or the other end of a known
    server; where neither was seen, the end with the higher TCP port or the first that sends
    UDP. A connection whose ends were guessed never counts as held open.

    A connection that began with a SYN-ACK nobody asked for, and of which nothing came but resets
    from the end that it went to, or nothing at all after SYN-ACKs alone, is told the other way
    round: who sent the SYN-ACK is its source.
    One on which the target sent nothing but resets was never established.
    """

    def __init__(self, connections: int = CONNECTIONS, servers: set[bytes] | None = None) -> None:
        """Begin a window.

        Args:
            connections: that are told apart.
            servers: those that an exporter's other windows know, of which this is one; records of
                exporters may show one way of a connection alone. None: it is of whole packets.

        """
        self.most = connections
        self._rows: dict[bytes, int] = {}
        """Of each connection, by its key, in which the lower end is the first."""
        self._counts = np.zeros((COLUMNS, 0), np.int64)
        self._exported = servers is not None
        self._servers: set[bytes] = set() if servers is None else servers
        self._unlisted = 0
        self._coarsest = 1

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, packets: Decoded) -> None:
        """Count packets, given in the order of their times."""
        ends = packets.keys[:, :-1].copy().view(f"S{END}")
        swapped = ends[:, 0] > ends[:, 1]
        keys = _octets(_turned(packets.keys, swapped))
        known = map(self._rows.get, keys, repeat(-1))
        rows: Ints = np.fromiter(known, np.int64, len(keys))
        flags = packets.flags
        syn, rst, ack, fin = ((flags & bit) > 0 for bit in (SYN, RST, ACK, FIN))
        special = np.flatnonzero((rows < 0) | (syn & ack))
        rows[special] = self._begin(
            [keys[i] for i in special], swapped[special].tolist(), flags[special].tolist()
        )
        forth = swapped == self._counts[SWAPPED, rows]
        listed = rows >= 0
        forth, back = forth & listed, ~forth & listed
        done, data = forth & ack & ~syn & ~rst, packets.payload > 0
        counts = self._counts
        for column, mask, more in (
            (PACKETS, forth, 1), (OCTETS, forth, packets.octets[forth]),
            (REPLIES, back, 1), (REPLY_OCTETS, back, packets.octets[back]),
            (ASKED, forth & syn, 1), (REFUSALS, forth & rst & ~syn, 1),
            (ACCEPTS, back & syn, 1), (RESETS, back & rst & ~syn, 1),
        ):  # fmt: skip
            np.add.at(counts[column], rows[mask], more)
        for bit, mask in (
            (KNOWN, forth & syn),
            (COMPLETED, done),
            (SENT, done & data),
            (ANSWERED, back & data),
            (ENDED, (rst & (back | (forth & ~syn))) | (fin & (back | done))),
        ):
            counts[BITS, rows[mask]] |= bit

    def _begin(self, keys: list[bytes], swapped: list[bool], flags: list[int]) -> list[int]:
        """Return the rows of packets that begin connections or accept them; -1: no room."""
        rows, begun = [], []
        first = len(self._rows)
        for key, swap, flag in zip(keys, swapped, flags, strict=True):
            row = self._rows.get(key)
            if row is None and len(self._rows) >= self.most:
                self._unlisted += 1
                row = -1
            elif row is None:
                known, reply = (KNOWN, False) if flag == SYN else self._ends(key, flag, swap=swap)
                self._rows[key] = row = len(self._rows)
                accepted = ACCEPTED if reply and flag & SYN else 0
                begun.append((known | accepted, swap is not reply))
            elif flag & SYN and flag & ACK:
                asked = begun[row - first][1] if row >= first else self._counts[SWAPPED, row]
                if swap != asked:
                    self._note_server(key, swap=swap)
            rows.append(row)
        if begun:
            self._make_room()
            self._counts[RATE, first : len(self._rows)] = 1
            self._counts[[BITS, SWAPPED], first : len(self._rows)] = np.array(begun).T
        return rows

    def _make_room(self) -> None:
        """Have a column for each connection, and for as many as there may be soon."""
        if (more := 2 * len(self._rows) - self._counts.shape[1]) > len(self._rows):
            self._counts = np.pad(self._counts, ((0, 0), (0, more)))

    def record(self, flow: ExportedFlow, share: float = 1.0, *, data: bool | None = None) -> None:
        """Count a ``share`` of what an exporter says of one direction of a flow.

        Args:
            flow: the flow, or one sampled packet.
            share: how much of it lies in this window.
            data: whether it carries any; None: as its mean length says.

        """
        key, flags, rate = flow.key, flow.flags & 31, flow.rate
        self._coarsest = max(self._coarsest, rate)
        packets, octets = flow.packets, flow.octets
        if share * rate != 1:
            packets, octets = round(share * rate * packets) or 1, round(share * rate * octets)
        swap = key[:END] > key[END:-1]
        key = key[END:-1] + key[:END] + key[-1:] if swap else key
        accepts = flags == SYN | ACK and flow.packets == 1
        if accepts:
            self._note_server(key, swap=swap)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self.most:
                self._unlisted += packets
                return
            # The flags are those of all packets together: SYN and ACK may be of either end.
            only = flags & ~SYN if flags & ACK and not accepts else flags
            known, reply = self._ends(key, only, swap=swap)
            self._rows[key] = row = len(self._rows)
            self._make_room()
            self._counts[BITS, row] = known | (ACCEPTED if accepts else 0)
            self._counts[SWAPPED, row] = swap is not reply
        record = self._counts[:, row].tolist()
        reply = record[SWAPPED] != swap
        record[RATE] = max(record[RATE], rate)
        if data is None:
            data = octets > BARE * packets + (SYN_OPTIONS if flags & SYN else 0)
        ended = ENDED if flags & (FIN | RST) else 0
        resets = 0
        if flags & RST and not flags & SYN:
            resets = packets if flags in (RST, RST | ACK) else rate
        if reply:
            record[REPLIES] += packets
            record[REPLY_OCTETS] += octets
            record[RESETS] += resets
            record[BITS] |= ended | (ANSWERED if data else 0)
        else:
            record[PACKETS] += packets
            record[OCTETS] += octets
            record[REFUSALS] += resets
            if flags & SYN:
                record[ASKED] += packets if flags == SYN else rate
                record[BITS] |= KNOWN
            if flags & ACK and flags != RST | ACK:
                record[BITS] |= COMPLETED | (SENT if data else 0)
            record[BITS] |= ended
        self._counts[:, row] = record

    def close(self, seconds: float) -> FlowRecords:
        """Return the records of the window that ends, which took ``seconds``; begin the next."""
        keys = np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, KEY)
        counts = self._counts[:, : len(keys)]
        if not self._exported:
            # Where only the target's side was seen nobody sent anything to it.
            replies = counts[REPLIES]
            sent = (counts[PACKETS] > 0) | ((replies > 0) & (replies == counts[ACCEPTS]))
            keys, counts = keys[sent], counts[:, sent]
        packets, octets, asked, replies, bits, resets, refusals, back, rate, _, swapped = counts
        accepted = (bits & ACCEPTED > 0) & (packets == refusals)
        if self._exported:
            accepted &= packets > 0
        refused = (replies > 0) & (replies == resets) & (asked == 0)
        held = (bits & KNOWN > 0) & (bits & (COMPLETED | SENT) > 0) & (bits & ENDED == 0)
        if self._exported:  # of samples nobody knows whether a connection ended
            held &= (replies > 0) & (rate == 1)
        done, none = np.where((bits & COMPLETED > 0) & ~refused, rate, 0), np.zeros_like(packets)
        said = np.where(bits & ANSWERED > 0, rate, 0)
        usual = packets, octets, asked, done, replies, said, held, resets, none, refusals
        turned = replies, back, none, none, packets, none, none, refusals, replies, none
        flows = np.where(accepted, turned, usual)
        found = _flows(_turned(keys, accepted ^ (swapped > 0)), flows, self._coarsest)
        unlisted, self._unlisted, self._coarsest = self._unlisted, 0, 1
        self._rows.clear()
        self._counts[:] = 0
        return FlowRecords(found, seconds, unlisted=unlisted)

    def _note_server(self, key: bytes, *, swap: bool) -> None:
        """Remember who sent a SYN-ACK; a SYN alone tells only that somebody asks for a server."""
        if len(self._servers) < SERVICES:
            self._servers.add(key[END:-1] if swap else key[:END])

    def _ends(self, key: bytes, flag: int, *, swap: bool) -> tuple[int, bool]:
        """Return whether the ends are known (``KNOWN`` or 0), and whether this is a reply.

        ``swap``: the packet's source is the second end of the key.
        """
        if key[-1] != TCP:
            return 0, False
        if flag & SYN:
            if flag & ACK:
                self._note_server(key, swap=swap)
            return KNOWN, bool(flag & ACK)
        source, target = (key[END:-1], key[:END]) if swap else (key[:END], key[END:-1])
        if target in self._servers:
            return KNOWN, False
        if source in self._servers:
            return KNOWN, True
        return 0, source[-2:] < target[-2:]


def _turned(keys: Octets, swap: NDArray[np.bool_]) -> Octets:
    """Return keys (n, KEY) with the ends of some swapped."""
    keys = keys.copy()
    keys[swap, :-1] = np.roll(keys[swap, :-1], END, axis=1)
    return keys


def _octets(rows: Octets) -> list[bytes]:
    octets: list[bytes] = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()
    return octets


def _flows(keys: Octets, counts: Ints, sampling: int) -> tuple[FlowStats, ...]:
    """Return the flows of connections with counts (10, n): by ends, target's port and protocol.

    Of the source's port is told only whether it was the same for all.
    """
    index: dict[bytes, int] = {}
    names = _octets(np.delete(keys, (END - 2, END - 1), axis=1))
    group = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
    first = np.unique(group, return_index=True)[1]
    totals = np.zeros((len(counts), len(index)), np.int64)
    for total, count in zip(totals, counts, strict=True):
        np.add.at(total, group, count)
    source_port, port = (keys[:, at].astype(np.int64) << 8 | keys[:, at + 1] for at in (16, 34))
    ports = source_port[first]
    ports[group[source_port != ports[group]]] = 0
    sources, targets = (_octets(keys[first, at : at + 16]) for at in (0, END))
    text = {each: _address(each) for each in {*sources, *targets}}
    *counted, resets, syn_acks, aborts = totals.tolist()
    columns = (
        [text[each] for each in sources],
        [text[each] for each in targets],
        port[first].tolist(),
        [PROTOCOLS.get(each, "icmp") for each in keys[first, -1].tolist()],
    )
    rest = ports.tolist(), resets, syn_acks, repeat(0), aborts, repeat(sampling)
    return tuple(map(FlowStats, *columns, *counted, *rest))


def _address(octets: bytes) -> str:
    if octets.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    return socket.inet_ntop(socket.AF_INET6, octets)


SHORTEST_S = 1e-3
"""A window whose packets lie closer together than this tells no rate; it counts as a whole one."""


class Windows:
    """Cuts packets into windows by their own times.

    A window begins with its first packet and ends with the first one that is ``seconds`` later
    (or as much earlier: a clock that was set back begins a new window).
    """

    def __init__(self, seconds: float, table: FlowTable) -> None:
        self.seconds = seconds
        self._table = table
        self._start: float | None = None
        self._elapsed = 0.0

    def add(self, packets: Decoded) -> Iterator[tuple[float, FlowRecords]]:
        """Count packets; yield each window that they end: when it began, what it held."""
        while len(time := packets.time):
            if self._start is None:
                self._start, self._elapsed = float(time[0]), 0.0
            since = np.abs(time - self._start)
            outside = np.flatnonzero(since >= self.seconds)
            count = int(outside[0]) if len(outside) else len(time)
            if count:
                self._elapsed = max(self._elapsed, float(since[:count].max()))
                self._table.add(Decoded(*(column[:count] for column in astuple(packets))))
            if count < len(time):
                later = float(time[count]) > self._start
                yield self._start, self._table.close(self.seconds if later else self._length())
                self._start = None
            packets = Decoded(*(column[count:] for column in astuple(packets)))

    def end(self) -> Iterator[tuple[float, FlowRecords]]:
        """Yield the window that is still open."""
        if self._start is not None:
            yield self._start, self._table.close(self._length())
            self._start = None

    def _length(self) -> float:
        return self._elapsed if self._elapsed >= SHORTEST_S else self.seconds


WINDOW_S = 5.0
"""Length of a window, in seconds."""
MOST = 10_000
"""Findings of a sort that are kept; further ones are counted."""

Key = TypeVar("Key")


class CaptureFinding(Struct, frozen=True):
    """A finding and the windows in which it was made."""

    finding: Finding
    """The surest one."""
    since_s: float
    """Begin of the first such window, in seconds from the capture's first packet."""
    until_s: float
    """End of the last one."""
    windows: int
    told_s: float
    """When the first such window was over, and this could be told."""


class CaptureFindings(Struct, frozen=True):
    """What the detectors say about a capture, and what they did not look at."""

    file: str
    targets: tuple[CaptureFinding, ...]
    flows: tuple[CaptureFinding, ...]
    left_out: int
    """Findings beyond the ``MOST`` first."""
    packets: int
    analysed: int
    """Packets that were TCP, UDP or ICMP echoes."""
    octets: int
    """Of all packets, on the wire."""
    seconds: float
    """From the first packet to the last."""
    windows: int
    skipped: dict[str, int]
    """Packets that were passed over, by reason."""
    unlisted: int
    """Packets of connections that the flow table had no room for."""
    problem: str | None
    """Why reading ended before the capture did; None: it did not."""
    took_s: float
    """Time that reading and analysing took."""
    backwards: int = 0
    """Packets with an earlier time than the one before them."""
    exporters: tuple[Exporter, ...] = ()
    """Where these are flows and samples that routers exported."""


def analyse(
    path: str,
    window_s: float = WINDOW_S,
    connections: int = CONNECTIONS,
    progress: Callable[[int], None] | None = None,
) -> CaptureFindings:
    """Run the detectors over a capture, window by window, in constant memory.

    Args:
        path: a pcap or pcapng file; ``-`` is the standard input.
        window_s: length of a window in seconds. Longer ones find slower attacks.
        connections: connections told apart in a window.
        progress: called with the octets of the file that were read since the last call.

    Raises:
        CaptureError: if nothing in the file can be read, with one line. If reading fails later
            on, what was read until then is analysed, and ``problem`` says why it ended.

    """
    began = perf_counter()
    capture = Capture(path)
    known_link(path, capture.link_type)
    windows = Windows(window_s, FlowTable(connections))
    log = FindingLog()
    skipped: Counter[str] = Counter()
    packets = analysed = octets = 0
    first = last = before = 0.0
    backwards = 0
    for batch in capture.batches():
        if not packets:
            first = before = float(batch.time[0])
        backwards += int((np.diff(batch.time, prepend=before) < 0).sum())
        before = float(batch.time[-1])
        packets += len(batch.time)
        octets += int(batch.length.sum())
        last = max(last, float(batch.time.max()))
        decoded = decode(batch, capture.link_type, skipped)
        analysed += len(decoded.time)
        for start, records in windows.add(decoded):
            log.add(start - first, records)
        if progress is not None:
            progress(batch.file_octets)
    if capture.problem is not None and not packets:
        raise CaptureError(f"{path}: {capture.problem}")
    for start, records in windows.end():
        log.add(start - first, records)
    return findings(
        log,
        file=path,
        packets=packets,
        analysed=analysed,
        octets=octets,
        seconds=max(0.0, last - first),
        backwards=backwards,
        skipped=skipped,
        problem=capture.problem,
        took_s=perf_counter() - began,
    )


def findings(log: FindingLog, *, skipped: Counter[str], **figures: Any) -> CaptureFindings:
    """Return what the windows of ``log`` held, sorted, with the other fields as ``figures``."""
    by_source = lambda f: (f.finding.source, f.finding.target)  # noqa: E731
    return CaptureFindings(
        targets=tuple(sorted(log.targets.values(), key=lambda f: f.finding.target)),
        flows=tuple(sorted(log.flows.values(), key=by_source)),
        left_out=log.left_out,
        windows=log.windows,
        unlisted=log.unlisted,
        skipped={reason: count for reason, count in sorted(skipped.items()) if count},
        **figures,
    )


class FindingLog:
    """Findings of all windows, the surest of each flow and target."""

    def __init__(self, told: Callable[[CaptureFinding], None] | None = None) -> None:
        """Know nothing yet; ``told`` is called with each finding that is new."""
        self._told = told
        self.targets: dict[str, CaptureFinding] = {}
        self.flows: dict[tuple[str, str, str], CaptureFinding] = {}
        self.left_out = 0
        self.windows = 0
        self.unlisted = 0

    def add(self, start_s: float, records: FlowRecords) -> None:
        """Judge a window that began ``start_s`` after the capture."""
        span = start_s, start_s + records.seconds
        self.windows += 1
        self.unlisted += records.unlisted
        window = TrafficWindow(records.seconds, (), records.flows, records.unlisted)
        # One stands for all targets of a prefix.
        found: dict[tuple[str | None, str, str], Finding] = {}
        for each in FixedRules().examine(window):
            where = each.prefix or each.target
            found.setdefault((each.source, where, each.kind), each)
        for (source, where, kind), each in found.items():
            finding = replace(each, target=where)
            if source is None:
                self._note(self.targets, where, finding, span)
            else:
                self._note(self.flows, (source, where, kind), finding, span)

    def _note(
        self,
        found: dict[Key, CaptureFinding],
        key: Key,
        finding: Finding,
        span: tuple[float, float],
    ) -> None:
        before = found.get(key)
        if before is not None:
            surer = finding.certainty > before.finding.certainty
            found[key] = replace(
                before,
                finding=finding if surer else before.finding,
                until_s=span[1],
                windows=before.windows + 1,
            )
        elif len(found) < MOST:
            found[key] = CaptureFinding(finding, *span, windows=1, told_s=span[1])
            if self._told is not None:
                self._told(found[key])
        else:
            self.left_out += 1
