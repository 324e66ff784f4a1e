"""Flow exports of routers and switches: from a datagram to flows and sampled packet headers.

sFlow 5 (sflow.org/sflow_version_5.txt), NetFlow 5 (Cisco), NetFlow 9 (RFC 3954) and IPFIX (RFC
7011, with the reverse fields of RFC 5103 and the sampling of RFC 5477). What is told by whom is
kept for each exporter, protocol and source (observation domain, sub-agent); all of it is bounded.

A datagram that is not what it says is dropped as a whole and counted by reason. No octets raise.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from phalanx.analytics.packets import ACK, MAPPED, SYN, TCP, UDP

EXPORTERS = 256
"""Exporters that are told apart where no list says which are allowed."""
DOMAINS, TEMPLATES, SAMPLERS = 64, 512, 64
"""Sources of an exporter; templates and samplers of each source. What is beyond is counted."""
FIELDS, LONGEST = 512, 65_535
"""Fields of a template; octets of its records, and of a datagram."""
TOTALS = 65_536
"""Flows of a source of which the running total is kept (where no increments are exported)."""
EARLY_S, MOST_AGE_S = 2.0, 86_400.0
"""A flow ends so long after it was exported, or so long before, in seconds: its exporter's clock
is wrong, and the flow is refused. Export times of NetFlow 9 and IPFIX are whole seconds."""
COARSEST = 1 << 24
"""No sampling is coarser than 1 in so many."""
JUMP = 10_000
"""A sequence number that lies further back than this begins anew: the exporter was restarted."""
ETHERNET, RAW4, RAW6 = 1, 228, 229
"""DLT numbers of what sFlow samples."""

_MAPPED = MAPPED.tobytes()
_V5, _V5_FLOW = struct.Struct("!HHIIIIBBH"), struct.Struct("!4s4s8xIIII2s2sxBBx8x")
_V9, _IPFIX, _PAIR = struct.Struct("!HHIIII"), struct.Struct("!HHIII"), struct.Struct("!HH")
_SAMPLES = {1: struct.Struct("!IIIIIIII"), 3: struct.Struct("!IIIIIIIIIII")}
"""Flow sample and expanded flow sample (sFlow 5, 5.3)."""
_TAGGED, _RAW = struct.Struct("!II"), struct.Struct("!IIII")
_SAMPLED_LINKS = {1: ETHERNET, 11: RAW4, 12: RAW6}
_REVERSE = 29_305
"""Enterprise number of the fields about the way back (RFC 5103)."""
_VARIABLE = 0xFFFF

FIELD_NAMES = {
    8: "source", 12: "target", 27: "source6", 28: "target6", 7: "sport", 11: "dport",
    180: "sport", 181: "dport", 182: "sport", 183: "dport", 4: "protocol", 6: "flags",
    2: "packets", 1: "octets", 24: "packets", 23: "octets", 86: "total_packets",
    85: "total_octets", 22: "first_up", 21: "last_up", 150: "first_s", 151: "last_s",
    152: "first_ms", 153: "last_ms", 154: "first_ntp", 155: "last_ntp", 156: "first_ntp",
    157: "last_ntp", 158: "first_ago", 159: "last_ago", 160: "booted_ms", 34: "interval",
    50: "interval", 305: "interval", 306: "space", 48: "sampler", 302: "sampler",
}  # fmt: skip
"""Fields that are read, by number (IANA, IPFIX information elements; those of NetFlow 9 agree)."""
CLOCKS = {"up": (0, 0.0), "ago": (0, 0.0), "s": (0, 1.0), "ms": (0, 1e-3)} | {
    "ntp": (2_208_988_800, 2.0**-32)
}
"""How times of flows are told: the second of 1970 and the unit, where they are of a calendar."""
_LENGTHS = {"source": 4, "target": 4, "source6": 16, "target6": 16, "sport": 2, "dport": 2}
_REVERSED = {1: "back_octets", 2: "back_packets", 6: "back_flags"}


class ExportedFlow(Struct, frozen=True):
    """What an exporter says of one direction of a flow: counted on the wire, or of samples."""

    key: bytes
    """As of ``packets.Decoded``."""
    flags: int
    """Of all its packets together; those of UDP are 0."""
    packets: int
    octets: int
    age_s: float
    """Seconds from its last packet to its export."""
    lasted_s: float
    rate: int
    """Each packet stands for so many."""


class SampledPacket(Struct, frozen=True):
    """The first octets of a packet that was sampled."""

    link: int
    """DLT number."""
    head: bytes
    length: int
    """Octets on the wire."""
    rate: int


class Exporter(Struct):
    """One exporter: what came of it."""

    address: str
    datagrams: int = 0
    flows: int = 0
    samples: int = 0
    """Sampled packets."""
    counters: int = 0
    """Counter samples of sFlow: passed over."""
    lost: int = 0
    """Datagrams or flows (as the protocol counts) that its sequence numbers say are missing."""
    reordered: int = 0
    """Datagrams that came later than a younger one."""
    restarts: int = 0
    rates: set[int] = field(default_factory=set)
    """Sampling that was told, each 1 in so many; empty: none was."""
    skew_s: float = 0.0
    """By how much its clock is behind at the latest datagram (sFlow tells no time)."""
    sources: dict[tuple[int, int], _Source] = field(default_factory=dict)


class _Template(Struct, frozen=True):
    names: tuple[str, ...]
    fields: tuple[tuple[str, int], ...]
    least: int
    """Octets of the shortest record."""
    fixed: struct.Struct | None
    options: bool
    clock: str
    """One of ``CLOCKS``; empty: it tells no times."""


class _Source(Struct):
    """State of one observation domain."""

    number: int = 0
    """Sequence number of the youngest datagram."""
    expected: int | None = None
    templates: dict[int, _Template] = field(default_factory=dict)
    rates: dict[bytes, int] = field(default_factory=dict)
    booted_ms: int | None = None
    totals: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class _MalformedError(Exception):
    """A datagram that is not what it says; the message is the reason."""


_Flows = list[ExportedFlow]
_Row = dict[str, bytes]
_Clock = tuple[int | None, int]
"""Milliseconds since an exporter began (None: it does not tell), and seconds since 1970."""
Export = tuple[Exporter, list[ExportedFlow], list[SampledPacket]]


class ExportReader:
    """Reads datagrams, whatever their exporters send."""

    def __init__(self, exporters: Iterable[str] = (), sampling: int | None = None) -> None:
        """Read nothing yet.

        Args:
            exporters: addresses that are listened to; empty: all, up to ``EXPORTERS``.
            sampling: 1 in so many packets, of exporters that do not tell; None: each packet.

        """
        self.exporters: dict[str, Exporter] = {}
        self.dropped: Counter[str] = Counter()
        """Datagrams, templates and flows that were dropped, by reason."""
        self._allowed = frozenset(exporters)
        self._sampling = sampling or 1

    def read(self, source: str, datagram: bytes, arrived: float) -> Export | None:
        """Return what a datagram of ``source`` holds that arrived then; None: it is dropped."""
        exporter = self.exporters.get(source)
        if exporter is None:
            if self._allowed and source not in self._allowed:
                self.dropped["datagrams of unknown exporters"] += 1
                return None
            if len(self.exporters) >= EXPORTERS:
                self.dropped["datagrams of too many exporters"] += 1
                return None
            exporter = Exporter(source)
        flows: list[ExportedFlow] = []
        packets: list[SampledPacket] = []
        try:
            version = int.from_bytes(datagram[:2])
            if version == 0 and int.from_bytes(datagram[:4]) == 5:
                self._sflow(exporter, datagram, packets)
            elif version == 5:
                self._netflow5(exporter, datagram, arrived, flows)
            elif version in (9, 10):
                self._templated(exporter, version, datagram, arrived, flows)
            else:
                raise _MalformedError("datagrams of no known protocol")
        except _MalformedError as error:
            self.dropped[str(error)] += 1
            return None
        except (struct.error, IndexError):
            self.dropped["datagrams cut short"] += 1
            return None
        self.exporters[source] = exporter
        exporter.datagrams += 1
        exporter.flows += len(flows)
        exporter.samples += len(packets)
        return exporter, flows, packets

    def _source(self, exporter: Exporter, version: int, number: int) -> _Source:
        source = exporter.sources.get((version, number))
        if source is None:
            if len(exporter.sources) >= DOMAINS:
                raise _MalformedError("datagrams of too many sources of one exporter")
            source = exporter.sources[version, number] = _Source()
        return source

    def _in_order(
        self, exporter: Exporter, source: _Source, number: int, count: int, flows: int = -1
    ) -> None:
        """Count what is missing before ``number``, of a datagram that counts as ``count``.

        Some exporters of IPFIX (softflowd) count what the datagram holds as before it, and flows
        alone: such a number is right as well.
        """
        ahead = 0
        if source.expected is not None and number != (source.number + flows) & 0xFFFFFFFF:
            ahead = _signed(number - source.expected)
        source.number = number if ahead >= 0 or ahead < -JUMP else source.number
        if -JUMP <= ahead < 0:
            exporter.reordered += 1
            exporter.lost = max(0, exporter.lost - count)  # it had been counted as lost
            return
        if ahead < 0:
            exporter.restarts += 1
            source.totals.clear()
        exporter.lost += max(0, ahead)
        source.expected = (number + count) & 0xFFFFFFFF

    def _told(self, exporter: Exporter, rate: int) -> int:
        if not 1 <= rate <= COARSEST:
            raise _MalformedError("datagrams with a sampling rate without sense")
        if len(exporter.rates) < SAMPLERS:
            exporter.rates.add(rate)
        return rate

    def _timely(self, age_s: float, lasted_s: float) -> bool:
        if -EARLY_S <= age_s <= MOST_AGE_S and lasted_s >= 0:
            return True
        self.dropped["flows at times without sense"] += 1
        return False

    def _netflow5(
        self, exporter: Exporter, octets: bytes, arrived: float, flows: list[ExportedFlow]
    ) -> None:
        _, count, uptime, seconds, _, number, kind, engine, sampling = _V5.unpack_from(octets)
        if not 1 <= count <= 1000 or len(octets) < _V5.size + count * _V5_FLOW.size:
            raise _MalformedError("datagrams cut short")
        source = self._source(exporter, 5, kind << 8 | engine)
        told = sampling & 0x3FFF  # above it: how packets are chosen
        rate = self._told(exporter, told) if told else self._sampling
        self._in_order(exporter, source, number, count)
        exporter.skew_s = arrived - seconds
        body = octets[_V5.size : _V5.size + count * _V5_FLOW.size]
        for row in _V5_FLOW.iter_unpack(body):
            a, b, packets, size, first, last, sport, dport, flags, protocol = row
            age_s, lasted_s = _signed(uptime - last) / 1e3, _signed(last - first) / 1e3
            if protocol not in (TCP, UDP):
                self.dropped["flows neither TCP nor UDP"] += 1
            elif self._timely(age_s, lasted_s):
                key = _MAPPED + a + sport + _MAPPED + b + dport + bytes((protocol,))
                seen = flags if protocol == TCP else 0
                ago = max(0.0, age_s)
                flows.append(ExportedFlow(key, seen, packets, size, ago, lasted_s, rate))

    def _templated(
        self, exporter: Exporter, version: int, octets: bytes, arrived: float, flows: _Flows
    ) -> None:
        """Read NetFlow 9 or IPFIX: sets of templates, options and records."""
        if version == 9:
            _, _, uptime, seconds, number, domain = _V9.unpack_from(octets)
            at, end, kinds = _V9.size, len(octets), (0, 1)
        else:
            _, end, seconds, number, domain = _IPFIX.unpack_from(octets)
            at, uptime, kinds = _IPFIX.size, None, (2, 3)
            if end != len(octets):
                raise _MalformedError("datagrams cut short")
        sets = list(_sets(octets, at, end))
        source = self._source(exporter, version, domain)
        exporter.skew_s = arrived - seconds
        records, told, all_known = 0, 0, True
        for kind, body in sets:
            template = source.templates.get(kind)
            if kind in kinds:
                self._templates(source, version, body, options=kind == kinds[1])
            elif kind < 256:
                raise _MalformedError("datagrams with a set of no known kind")
            elif template is None:
                all_known = False
                self.dropped["sets of records before their template"] += 1
            elif template.options:
                for row in _rows(template, body):
                    told += 1
                    self._options(exporter, source, row)
            else:
                for row in _rows(template, body):
                    records += 1
                    self._flow(exporter, source, template, row, (uptime, seconds), flows)
        count, flows_told = (1, -1) if version == 9 else (records + told, records)
        self._in_order(exporter, source, number, count, flows_told)
        if version == 10 and not all_known:
            source.expected = None  # how many records those were is not known

    def _templates(self, source: _Source, version: int, body: bytes, *, options: bool) -> None:
        at = 0
        while at + 4 <= len(body):
            number, count = _PAIR.unpack_from(body, at)
            if number == 0 and not any(body[at:]):
                return  # padding
            at += 4
            if version == 10 and count == 0:  # withdrawn (RFC 7011, 8.1)
                if number in (2, 3):
                    kept = {n: t for n, t in source.templates.items() if t.options != options}
                    source.templates = kept
                source.templates.pop(number, None)
                continue
            if options and version == 9:  # octets of scopes, octets of options
                (more,) = struct.unpack_from("!H", body, at)
                at, scopes, count = at + 2, count // 4, (count + more) // 4
            elif options:
                at, scopes = at + 2, int.from_bytes(body[at : at + 2])
            else:
                scopes = 0
            if not 1 <= count <= FIELDS or number < 256:
                raise _MalformedError("datagrams with a template without sense")
            fields = []
            for place in range(count):
                kind, length = _PAIR.unpack_from(body, at)
                at += 4
                name = FIELD_NAMES.get(kind, "")
                if version == 10 and kind & 0x8000:
                    (enterprise,) = struct.unpack_from("!I", body, at)
                    at += 4
                    name = _REVERSED.get(kind & 0x7FFF, "") if enterprise == _REVERSE else ""
                elif version == 9 and place < scopes:
                    name = ""  # scopes of NetFlow 9 have numbers of their own
                fields.append((name, length))
            self._keep(source, number, fields, options=options)

    def _keep(
        self, source: _Source, number: int, fields: list[tuple[str, int]], *, options: bool
    ) -> None:
        if number not in source.templates and len(source.templates) >= TEMPLATES:
            self.dropped["templates of too many"] += 1
            return
        seen: set[str] = set()
        chosen = []
        for name, length in fields:
            fits = length == _LENGTHS.get(name, length) and (length <= 8 or name in _LENGTHS)
            wanted = name if name not in seen and fits and length else ""
            seen.add(wanted)
            chosen.append((wanted, length))
        variable = any(length == _VARIABLE for _, length in chosen)
        least = sum(1 if length == _VARIABLE else length for _, length in chosen)
        if not 1 <= least <= LONGEST:
            raise _MalformedError("datagrams with a template without sense")
        form = "".join(f"{length}{'s' if name else 'x'}" for name, length in chosen)
        fixed = None if variable else struct.Struct(f"!{form}")
        names = tuple(name for name, _ in chosen if name)
        clock = next((each for each in CLOCKS if f"last_{each}" in names), "")
        source.templates[number] = _Template(names, tuple(chosen), least, fixed, options, clock)

    def _options(self, exporter: Exporter, source: _Source, row: _Row) -> None:
        if "booted_ms" in row:
            source.booted_ms = int.from_bytes(row["booted_ms"])
        if "interval" in row:
            interval = int.from_bytes(row["interval"])
            space = int.from_bytes(row.get("space", b""))
            if interval == 0:
                return
            rate = round((interval + space) / interval) if "space" in row else interval
            sampler = row.get("sampler", b"").lstrip(b"\0")
            if sampler in source.rates or len(source.rates) < SAMPLERS:
                source.rates[sampler] = self._told(exporter, rate)

    def _flow(
        self,
        exporter: Exporter,
        source: _Source,
        template: _Template,
        row: _Row,
        clock: _Clock,
        flows: _Flows,
    ) -> None:
        ends = _ends(row)
        if ends is None:
            self.dropped["flows without addresses"] += 1
            return
        protocol = row.get("protocol", b"\0")
        if protocol[-1] not in (TCP, UDP):
            self.dropped["flows neither TCP nor UDP"] += 1
            return
        tail = protocol[-1:]
        key = ends[0] + ends[1] + tail
        packets = int.from_bytes(row.get("packets", b""))
        size = int.from_bytes(row.get("octets", b""))
        if "packets" not in row and "total_packets" in row:
            packets, size = _since(source, key, row)
        age_s, lasted_s = _times(template, row, clock, source.booted_ms)
        if not self._timely(age_s, lasted_s):
            return
        rate = self._sampling
        if "interval" in row:
            rate = self._told(exporter, max(1, int.from_bytes(row["interval"])))
        elif source.rates:
            sampler = row.get("sampler", b"").lstrip(b"\0")
            rate = source.rates.get(sampler) or max(source.rates.values())
        age_s = max(0.0, age_s)
        if packets:
            flags = self._flags(row, "flags", tail)
            flows.append(ExportedFlow(key, flags, packets, size, age_s, lasted_s, rate))
        back = int.from_bytes(row.get("back_packets", b""))
        if back:
            size = int.from_bytes(row.get("back_octets", b""))
            flags = self._flags(row, "back_flags", tail)
            key = ends[1] + ends[0] + tail
            flows.append(ExportedFlow(key, flags, back, size, age_s, lasted_s, rate))

    def _flags(self, row: _Row, name: str, protocol: bytes) -> int:
        """Return the TCP flags; where none are exported, those of which nothing bad follows."""
        if protocol[0] != TCP:
            return 0
        if name not in row:
            self.dropped["TCP flags that are not exported: nothing is said of handshakes"] += 1
            return SYN | ACK
        return row[name][-1]

    def _sflow(self, exporter: Exporter, octets: bytes, packets: list[SampledPacket]) -> None:
        _, family = _TAGGED.unpack_from(octets)
        if family not in (1, 2):
            raise _MalformedError("datagrams of an agent without an address")
        at = 12 if family == 1 else 24
        agent, number, _, count = struct.unpack_from("!IIII", octets, at)
        at += 16
        counters = 0
        for _ in range(count):
            kind, length = _TAGGED.unpack_from(octets, at)
            at += 8
            if at + length > len(octets):
                raise _MalformedError("datagrams cut short")
            if kind in _SAMPLES:
                self._sample(exporter, kind, octets[at : at + length], packets)
            elif kind in (2, 4):
                counters += 1
            else:
                self.dropped["samples of no known kind"] += 1
            at += length
        self._in_order(exporter, self._source(exporter, 0, agent), number, 1)
        exporter.counters += counters

    def _sample(
        self, exporter: Exporter, kind: int, octets: bytes, packets: list[SampledPacket]
    ) -> None:
        head = _SAMPLES[kind].unpack_from(octets)
        rate, count = self._told(exporter, head[2 if kind == 1 else 3]), head[-1]
        at, found = _SAMPLES[kind].size, False
        for _ in range(count):
            what, length = _TAGGED.unpack_from(octets, at)
            at += 8
            body = octets[at : at + length]
            if len(body) < length:
                raise _MalformedError("datagrams cut short")
            at += length
            if what == 1 and not found:
                link, frame, stripped, captured = _RAW.unpack_from(body)
                first = body[_RAW.size : _RAW.size + captured]
                if len(first) < captured or not stripped <= frame <= LONGEST:
                    raise _MalformedError("datagrams with a sampled header of wrong length")
                if link in _SAMPLED_LINKS:
                    found = True
                    size = frame - stripped
                    packets.append(SampledPacket(_SAMPLED_LINKS[link], first, size, rate))
        if not found:
            self.dropped["samples without a packet that is read"] += 1


def _sets(octets: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the sets of a datagram: kind, and what comes after the header."""
    while at + 4 <= end:
        kind, length = _PAIR.unpack_from(octets, at)
        if length < 4 or at + length > end:
            raise _MalformedError("datagrams with a set of wrong length")
        yield kind, octets[at + 4 : at + length]
        at += length


def _rows(template: _Template, body: bytes) -> Iterator[dict[str, bytes]]:
    """Yield the records of a set, by field; what is left over is padding."""
    names, fixed = template.names, template.fixed
    if fixed is not None:
        whole = len(body) - len(body) % fixed.size
        for values in fixed.iter_unpack(memoryview(body)[:whole]):
            yield dict(zip(names, values, strict=True))
        return
    at = 0
    while len(body) - at >= template.least:
        row = {}
        for name, size in template.fields:
            length = size
            if size == _VARIABLE:
                length, at = body[at], at + 1
                if length == 0xFF:
                    length, at = int.from_bytes(body[at : at + 2]), at + 2
            if at + length > len(body):
                raise _MalformedError("datagrams cut short")
            if name:
                row[name] = body[at : at + length]
            at += length
        yield row


def _ends(row: _Row) -> tuple[bytes, bytes] | None:
    sport, dport = row.get("sport", b"\0\0"), row.get("dport", b"\0\0")
    if "source" in row and "target" in row:
        return _MAPPED + row["source"] + sport, _MAPPED + row["target"] + dport
    if "source6" in row and "target6" in row:
        return row["source6"] + sport, row["target6"] + dport
    return None


def _times(
    template: _Template, row: _Row, exported: _Clock, booted_ms: int | None
) -> tuple[float, float]:
    """Return how long before its export a flow ended, and how long it lasted, in seconds.

    All by the exporter's own clock, so that it matters not whether that is right.
    """
    clock, (uptime, seconds) = template.clock, exported
    if not clock:
        return 0.0, 0.0
    last = int.from_bytes(row[f"last_{clock}"])
    first = int.from_bytes(row.get(f"first_{clock}", row[f"last_{clock}"]))
    if clock == "up":  # milliseconds since the exporter began
        if uptime is None and booted_ms is not None:
            uptime = seconds * 1000 - booted_ms
        ago = _signed(uptime - last) / 1e3 if uptime is not None else 0.0
        return ago, _signed(last - first) / 1e3
    if clock == "ago":  # microseconds before the export
        return last / 1e6, (first - last) / 1e6
    since, scale = CLOCKS[clock]
    return seconds - (last * scale - since), (last - first) * scale


def _since(source: _Source, key: bytes, row: _Row) -> tuple[int, int]:
    """Return what was added to a flow's running totals since its last record."""
    now = int.from_bytes(row["total_packets"]), int.from_bytes(row.get("total_octets", b""))
    before = source.totals.pop(key, (0, 0))
    if len(source.totals) >= TOTALS:
        del source.totals[next(iter(source.totals))]
    source.totals[key] = now
    if now[0] < before[0]:
        return now  # a new flow with these ends
    return now[0] - before[0], max(0, now[1] - before[1])


def _signed(difference: int) -> int:
    """Return the difference of two 32-bit counters that may have wrapped."""
    return (difference + 0x80000000 & 0xFFFFFFFF) - 0x80000000
