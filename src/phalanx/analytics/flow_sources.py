"""Flow exports as a source of observations: datagrams in, windows of flow records out, judged.

Each exporter is an observation point of its own: what two of them saw of one flow is not counted
twice. A flow counts when it was, by its exporter's clock, not when it was exported; a window is
judged as soon as the exporter is not expected to send more about it.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address, ip_address

import numpy as np
from msgspec import Struct, field

from phalanx.analytics.capture import (
    CONNECTIONS,
    CaptureFinding,
    CaptureFindings,
    FindingLog,
    FlowTable,
    findings,
)
from phalanx.analytics.flow_exports import ExportedFlow, ExportReader, SampledPacket
from phalanx.analytics.packets import (
    IPV4,
    IPV6,
    LINKS,
    UDP,
    VLAN_TAGS,
    Capture,
    CaptureError,
    decode,
    known_link,
    packet_batch,
)
from phalanx.domain.errors import PhalanxError

INACTIVE_S = 15.0
"""A flow is expected to be exported so long after its last packet, in seconds, until it is known
how long that takes: what most routers have. Samples of packets are exported at once."""
MOST_LAG_S = 300.0
"""No window waits longer than this; flows that are exported later are counted as late."""
OPEN_WINDOWS, SHARE = 1_024, 256
"""Windows of an exporter that wait; connections by which the room of one grows at a time."""
HELD = 2_048
"""Sampled packets of an exporter that are decoded together."""
BUFFER = 4 << 20
"""Octets of datagrams that the kernel is asked to keep."""
LOOK_S = 0.2
_RXQ_OVFL = 40
"""Option of Linux sockets: how many datagrams there was no room for (socket(7))."""


class _Watch(Struct):
    """The open windows of one exporter."""

    tables: dict[int, FlowTable] = field(default_factory=dict)
    servers: set[bytes] = field(default_factory=set)
    packets: list[tuple[float, SampledPacket]] = field(default_factory=list)
    lag_s: float = 0.0
    judged: int | None = None
    """The latest window that was judged."""


class Collector:
    """Observes by what exporters send."""

    def __init__(
        self,
        window_s: float,
        exporters: Iterable[str] = (),
        sampling: int | None = None,
        told: Callable[[CaptureFinding], None] | None = None,
        connections: int = 4 * CONNECTIONS,
    ) -> None:
        """Collect nothing yet.

        Args:
            window_s: length of a window, in seconds.
            exporters: as for ``ExportReader``.
            sampling: as for ``ExportReader``.
            told: called with each new finding.
            connections: told apart by exporter, in all its open windows together.

        """
        self.reader = ExportReader(exporters, sampling)
        self.late = 0
        """Flows that were exported after their window was judged."""
        self._window_s = window_s
        self._connections = connections
        self._watches: dict[str, _Watch] = {}
        self._log = FindingLog(told)
        self._skipped: Counter[str] = Counter()
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = 0.0
        self._octets = self._analysed = 0

    def feed(self, source: str, datagram: bytes, arrived: float) -> None:
        """Take a datagram that an exporter sent, and judge what it makes complete.

        Args:
            source: address of the exporter.
            datagram: what came, whatever that is.
            arrived: seconds of one clock, since when does not matter.

        """
        self._first = arrived if self._first is None else self._first
        self._last = max(self._last, arrived)
        self._octets += len(datagram)
        export = self.reader.read(source, datagram, arrived)
        if export is None:
            return
        exporter, flows, packets = export
        watch = self._watches.setdefault(exporter.address, _Watch())
        if flows and not exporter.samples:
            watch.lag_s = max(watch.lag_s, INACTIVE_S)
        for flow in flows:
            self._add(watch, flow, arrived)
        watch.packets += [(arrived, packet) for packet in packets]
        self._analysed += len(flows)
        if len(watch.packets) >= HELD:
            self._decode(watch)
        self.advance(arrived, watch)

    def advance(self, now: float, only: _Watch | None = None) -> None:
        """Judge the windows that are complete at ``now``."""
        for watch in self._watches.values() if only is None else (only,):
            first = int((watch.packets[0][0] if watch.packets else now) // self._window_s)
            oldest = min(watch.tables, default=first)
            if (min(first, oldest) + 1) * self._window_s + watch.lag_s <= now:
                self._decode(watch)
                self._judge(watch, int((now - watch.lag_s) // self._window_s))

    def end(self, file: str, problem: str | None = None) -> CaptureFindings:
        """Judge all that is left; return what was found."""
        for watch in self._watches.values():
            self._decode(watch)
            self._judge(watch, max(watch.tables, default=0) + 1)
        if self.late:
            self.reader.dropped["flows exported after their window was judged"] += self.late
        exporters = self.reader.exporters.values()
        return findings(
            self._log,
            file=file,
            packets=sum(each.samples + each.flows for each in exporters),
            analysed=self._analysed,
            octets=self._octets,
            seconds=self._last - (self._first or 0.0),
            skipped=self.reader.dropped + self._skipped,
            problem=problem,
            took_s=time.perf_counter() - self._began,
            exporters=tuple(exporters),
        )

    def _table(self, watch: _Watch, at: float) -> FlowTable | None:
        """Return the window of that time; None: it was judged."""
        number = int(at // self._window_s)
        table = watch.tables.get(number)
        if table is None:
            if watch.judged is not None and number <= watch.judged:
                return None
            if len(watch.tables) >= OPEN_WINDOWS:
                self._judge(watch, min(watch.tables) + 1)
            table = watch.tables[number] = FlowTable(0, watch.servers)
        if len(table) >= table.most:
            spare = self._connections - sum(map(len, watch.tables.values()))
            table.most = len(table) + max(0, min(spare, SHARE))
        return table

    def _add(self, watch: _Watch, flow: ExportedFlow, arrived: float) -> None:
        watch.lag_s = max(watch.lag_s, min(flow.age_s, MOST_LAG_S))
        table = self._table(watch, arrived - flow.age_s)
        if table is None:
            self.late += 1
        elif flow.packets:
            # Of a long flow counts what the window's share is; what was before is past.
            table.record(flow, min(1.0, self._window_s / max(flow.lasted_s, self._window_s)))

    def _decode(self, watch: _Watch) -> None:
        """Count the sampled packets that are held."""
        groups: dict[tuple[int, int], list[tuple[float, SampledPacket]]] = {}
        for arrived, packet in watch.packets:
            groups.setdefault((packet.link, packet.rate), []).append((arrived, packet))
        watch.packets.clear()
        for (link, rate), group in groups.items():
            batch = packet_batch([(p.head, at, p.length) for at, p in group])
            rows = decode(batch, link, self._skipped)
            self._analysed += len(rows.time)
            keys = rows.keys
            columns = rows.flags, rows.payload, rows.octets, rows.time
            values = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
            for key, (flags, payload, octets, at) in zip(keys, values, strict=True):
                table = self._table(watch, at)
                if table is None:
                    self.late += 1
                    continue
                flow = ExportedFlow(key.tobytes(), flags, 1, octets, 0.0, 0.0, rate)
                table.record(flow, data=payload > 0)

    def _judge(self, watch: _Watch, until: int) -> None:
        """Judge the windows before number ``until``."""
        for number in sorted(number for number in watch.tables if number < until):
            records = watch.tables.pop(number).close(self._window_s)
            start = number * self._window_s - (self._first or 0.0)
            self._log.add(max(0.0, start), records)
        watch.judged = max(until - 1, watch.judged if watch.judged is not None else until - 1)


def analyse_exports(
    path: str,
    collector: Collector,
    ports: Iterable[int],
    progress: Callable[[int], None] | None = None,
) -> CaptureFindings:
    """Observe by the datagrams to UDP ``ports`` that a capture holds.

    Raises:
        CaptureError: as ``analyse``.

    """
    capture = Capture(path)
    known_link(path, capture.link_type)
    wanted = frozenset(ports)
    while packets := capture.read():
        for octets, at, length in packets:
            found = _datagram(octets, capture.link_type)
            if found is None or found[1] not in wanted:
                continue
            source, _, datagram = found
            if len(octets) < length or datagram is None:
                collector.reader.dropped["datagrams cut short by the capture"] += 1
            else:
                collector.feed(source, datagram, at)
        if progress is not None:
            progress(sum(len(octets) for octets, _, _ in packets))
    if capture.problem is not None and not collector.reader.exporters:
        raise CaptureError(f"{path}: {capture.problem}")
    return collector.end(path, capture.problem)


def _datagram(octets: bytes, link_type: int) -> tuple[str, int, bytes | None] | None:
    """Return source, port and data of a UDP packet; None for data: it is a fragment."""
    _, type_at, at = LINKS[link_type]
    if type_at is None:
        ether = {4: IPV4, 6: IPV6}.get(octets[at] >> 4 if len(octets) > at else 0, 0)
    else:
        ether = int.from_bytes(octets[type_at : type_at + 2])
        while ether in VLAN_TAGS:
            ether, at = int.from_bytes(octets[at + 2 : at + 4]), at + 4
    if ether == IPV4 and len(octets) >= at + 20:
        header, protocol = (octets[at] & 15) * 4, octets[at + 9]
        source, fragment = octets[at + 12 : at + 16], octets[at + 6] & 0x3F or octets[at + 7]
    elif ether == IPV6 and len(octets) >= at + 40:
        header, protocol = 40, octets[at + 6]
        source, fragment = octets[at + 8 : at + 24], 0
    else:
        return None
    at += header
    if protocol != UDP or len(octets) < at + 8:
        return None
    port, length = int.from_bytes(octets[at + 2 : at + 4]), int.from_bytes(octets[at + 4 : at + 6])
    data = None if fragment or at + length > len(octets) else octets[at + 8 : at + length]
    return str(ip_address(source)), port, data


def collect(sock: socket.socket, collector: Collector, seconds: float | None) -> CaptureFindings:
    """Observe by what arrives at a socket for ``seconds``; None: until interrupted."""
    base = time.time() - time.monotonic()  # the calendar's clock may be set meanwhile
    until = None if seconds is None else time.monotonic() + seconds
    try:
        for source, datagram in _arrivals(sock, until, collector.reader.dropped):
            now = base + time.monotonic()
            if source:
                collector.feed(source, datagram, now)
            else:
                collector.advance(now)
    except KeyboardInterrupt:
        pass
    return collector.end("{}:{}".format(*sock.getsockname()))


def open_socket(where: str) -> socket.socket:
    """Return a socket that receives datagrams at ``HOST:PORT``, or ``[IPv6]:PORT``.

    Raises:
        PhalanxError: with one line, if nothing can be received there.

    """
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 0xFFFF:
        raise PhalanxError(f"{where!r} is no address; expected HOST:PORT or [IPv6]:PORT")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise PhalanxError(f"{where}: {error.strerror or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, _RXQ_OVFL, 1)
        sock.bind(address)
        sock.settimeout(LOOK_S)
    except OSError as error:
        sock.close()
        raise PhalanxError(f"{where}: {error.strerror or error}") from None
    return sock


def _arrivals(
    sock: socket.socket, until: float | None, dropped: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield who sent what; nothing, from nobody, each ``LOOK_S`` without any."""
    while until is None or time.monotonic() < until:
        try:
            datagram, about, _, address = sock.recvmsg(0xFFFF, 64)
        except TimeoutError:
            yield "", b""
            continue
        for level, kind, value in about:
            if level == socket.SOL_SOCKET and kind == _RXQ_OVFL:  # since the socket was opened
                reason = "datagrams that came faster than they were read"
                dropped[reason] = int.from_bytes(value[:4], "little")
        source = ip_address(address[0].partition("%")[0])
        mapped = source.ipv4_mapped if isinstance(source, IPv6Address) else None
        yield str(mapped or source), datagram
