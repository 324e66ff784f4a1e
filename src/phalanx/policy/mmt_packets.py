"""The attributes of packets that MMT-Security rules use, under the names of MMT-DPI.

Of a protocol that a packet holds twice (a tunnel), the inner one counts. Datagrams in fragments
are put together: the last fragment to come also has what the whole datagram carries. What a TCP
segment carries is read once: a segment that is sent again has no HTTP or FTP in it.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter, OrderedDict
from collections.abc import Callable
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

from msgspec import Struct

from phalanx.analytics.packets import LINKS

NUMBER, TEXT, IPV4, IPV6, MAC = "number", "text", "IPv4 address", "IPv6 address", "MAC address"
DATAGRAMS, FRAGMENTS, OCTETS = 512, 1_000, 1 << 17
"""Datagrams in fragments that are held at a time; fragments and octets of one."""
SEGMENTS, LAYERS = 8_192, 16
"""Segments of TCP that are known again; protocols of a packet that are read."""
SHOWN = 255
"""Characters of a text that a verdict has."""

_FIELD = re.compile(r"(\w+)@(\d+):(\d+)([im])?(?:/(\d+))?(?:&(\d+))?(?:\*(\d+))?", re.ASCII)
_ETHER = {0x0800: "ip", 0x86DD: "ipv6", 0x0806: "arp", 0x6558: "ethernet"}
_ETHER |= dict.fromkeys((0x8100, 0x88A8, 0x9100), "8021q")
_IP = {1: "icmp", 4: "ip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 58: "icmpv6", 132: "sctp"}
_PORTS = {21: "ftp", 22: "ssh", 25: "smtp", 53: "dns", 2152: "gtp"}
_PORTS |= dict.fromkeys((104, 4242, 11112), "dicom")
_HTTP = re.compile(rb"(?:([A-Z]{3,20}) ([^\r\n]*) )?HTTP/\d(?:\.\d)?(?: +([^\r\n]*))?\r?\n")
_COMMANDS = {0x100: "command_field", 0x110: "message_id", 0x800: "data_set_type", 0x900: "status"}


class MmtPacket:
    """A packet, and where the protocols in it and what they carry begin."""

    def __init__(self, data: bytes, time_us: int, index: int, length: int) -> None:
        self.data, self.index, self.end, self.wire_end = data, index, len(data), len(data)
        self.at: dict[str, int] = {"meta": 0}
        self.carries: dict[str, int] = {}
        self.extra: dict[str, Any] = {
            "meta.packet_len": length,
            "meta.utime": time_us,
            "meta.packet_index": index,
            "meta.packet_count": index,
        }
        """Attributes that are found on the way, by ``protocol.attribute``."""

    def number(self, at: int, size: int = 1) -> int:
        """Return a number of the packet; 0 behind its end."""
        if at + size <= self.end:
            return int.from_bytes(self.data[at : at + size])
        return int.from_bytes(self.data[at : max(at, self.end)].ljust(size, b"\0"))

    def note(self, protocol: str, **attributes: Any) -> None:
        """Keep attributes of a protocol; empty texts are none."""
        for name, value in attributes.items():
            self.extra[f"{protocol}.{name}"] = None if value == b"" else value


class MmtField(Struct, frozen=True):
    """An attribute: what it is, and how it is read; None: the packet has none."""

    kind: str
    read: Callable[[MmtPacket, int], Any]


def _field(protocol: str, text: str) -> tuple[str, MmtField]:
    found = _FIELD.fullmatch(text)
    if found is None:
        name = text.removeprefix("text.")
        key = f"{protocol}.{name}"
        kind = NUMBER if name == text else TEXT
        return name, MmtField(kind, lambda packet, _: packet.extra.get(key))
    first, size = int(found[2]), int(found[3])
    last = first + size
    over, mask, times = int(found[5] or 1), int(found[6] or -1), int(found[7] or 1)

    def octets(packet: MmtPacket, at: int) -> bytes | None:
        return packet.data[at + first : at + last] if at + last <= packet.end else None

    def number(packet: MmtPacket, at: int) -> int | None:
        if at + last > packet.end:
            return None
        return (int.from_bytes(packet.data[at + first : at + last]) // over & mask) * times

    if found[4]:
        kind = MAC if found[4] == "m" else IPV4 if size == 4 else IPV6
        return found[1], MmtField(kind, octets)
    return found[1], MmtField(NUMBER, number)


def _fields(protocol: str, line: str) -> dict[str, MmtField]:
    def payload(packet: MmtPacket, _: int) -> bytes | None:
        at = packet.carries.get(protocol, packet.end)
        return packet.data[at : packet.end] or None

    return dict(_field(protocol, text) for text in f"{line} packet_count".split()) | {
        "p_data": MmtField(TEXT, lambda packet, at: packet.data[at : packet.end] or None),
        "p_payload": MmtField(TEXT, payload),
    }


_TABLE = files(__package__).joinpath("mmt_attributes.toml").read_text(encoding="utf-8")
FIELDS = {protocol: _fields(protocol, line) for protocol, line in tomllib.loads(_TABLE).items()}
"""The attributes that are read, by protocol and name."""


def shown(kind: str, value: Any) -> Any:
    """Return a value of an attribute as people write it; what cannot be printed is a dot."""
    if kind in (IPV4, IPV6):
        return str(ip_address(value))
    if kind == MAC:
        return value.hex(":")
    if kind == NUMBER:
        return value
    text = value[:SHOWN].decode("latin-1")
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "." for c in text)


class MmtDecoder:
    """Finds the protocols of packets; what it remembers of earlier ones is bounded."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Packets by protocol."""
        self.shed = 0
        """Datagrams whose fragments were given up, for want of room."""
        self._fragments: OrderedDict[bytes, dict[int, tuple[bytes, bool]]] = OrderedDict()
        self._segments: OrderedDict[int, None] = OrderedDict()

    def decode(self, raw: bytes, time_us: int, length: int, link: int) -> MmtPacket:
        """Return a packet of a link of this DLT number (see ``LINKS``), decoded."""
        self.counts["meta"] += 1
        packet = MmtPacket(raw, time_us, self.counts["meta"], length)
        _, type_at, at = LINKS[link]
        protocol, at = ("ethernet", 0) if link == 1 else (_by_version(packet, at), at)
        if link != 1 and type_at is not None:
            protocol = _ETHER.get(packet.number(type_at, 2), "")
        for _ in range(LAYERS):
            if not protocol or at >= packet.end:
                break
            packet.at[protocol] = at
            self.counts[protocol] += 1
            packet.extra[f"{protocol}.packet_count"] = self.counts[protocol]
            step = getattr(self, f"_{protocol}", None)
            before = protocol
            protocol, at = step(packet, at) if step else ("", at)
            packet.carries[before] = at
        return packet

    def _ethernet(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        kind = packet.number(at + 12, 2)
        packet.note("ethernet", **{"length" if kind < 0x600 else "proto": kind})
        return _ETHER.get(kind, ""), at + 14

    def _8021q(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        return _ETHER.get(packet.number(at + 2, 2), ""), at + 4

    def _ip(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        header = (packet.number(at) & 15) * 4
        total = packet.number(at + 2, 2) or packet.end - at  # 0: cut up by the sender's card
        packet.wire_end, packet.end = at + total, min(packet.end, at + total)
        body = at + header
        if header > 20:
            _options(packet, packet.data[at + 20 : min(body, packet.end)])
        where = packet.number(at + 6, 2) & 0x3FFF
        self.counts["fragments"] += where > 0
        packet.note("ip", ip_frag_packets_count=self.counts["fragments"])
        if header < 20 or body > packet.end or (where and not self._whole(packet, at, body, where)):
            return "", body
        return _IP.get(packet.number(at + 9), ""), body

    def _whole(self, packet: MmtPacket, at: int, body: int, where: int) -> bool:
        """Keep a fragment; put the datagram in its place and return True if it is complete."""
        data = packet.data
        key = data[at + 12 : at + 20] + data[at + 4 : at + 6] + data[at + 9 : at + 10]
        parts = self._fragments.setdefault(key, {})
        parts.setdefault((where & 0x1FFF) * 8, (data[body : packet.end], where < 0x2000))
        whole, last, reached = bytearray(), False, True
        for first, (octets, ends) in sorted(parts.items()):
            reached = reached and first <= len(whole)
            whole[first : first + len(octets)] = octets
            last = last or ends
        if reached and last:
            del self._fragments[key]
            packet.data = data[:body] + whole
            packet.end = packet.wire_end = len(packet.data)
            packet.note("meta", packet_len=packet.end)
            return True
        if len(parts) > FRAGMENTS or sum(len(octets) for octets, _ in parts.values()) > OCTETS:
            del self._fragments[key]
            self.shed += 1
        elif len(self._fragments) > DATAGRAMS:
            self._fragments.popitem(last=False)
            self.shed += 1
        return False

    def _ipv6(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        if size := packet.number(at + 4, 2):
            packet.wire_end, packet.end = at + 40 + size, min(packet.end, at + 40 + size)
        kind, at = packet.number(at + 6), at + 40
        for _ in range(LAYERS):
            if kind not in (0, 43, 44, 51, 60) or (
                kind == 44 and packet.number(at + 2, 2) & 0xFFF8  # a later fragment
            ):
                break
            size = packet.number(at + 1)
            size = 8 if kind == 44 else size * 4 + 8 if kind == 51 else size * 8 + 8
            kind, at = packet.number(at), at + size
        return _IP.get(kind, ""), at

    def _icmp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.note("icmp", data=packet.data[at + 8 : packet.end])
        return "", at + 8

    def _tcp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        body = at + packet.number(at + 12) // 16 * 4
        if body < at + 20 or body > packet.wire_end:
            return "", body
        packet.extra["tcp.payload_len"] = packet.wire_end - body
        found = _HTTP.match(packet.data, body, packet.end)
        protocol = "http" if found else _by_port(packet, at)
        if not protocol or body >= packet.end:
            return "", body
        # Addresses (of IPv6 the target's), ports, sequence number, and what the segment carries.
        segment = hash((packet.data[at - 16 : at + 8], packet.data[body : packet.end]))
        if segment in self._segments:
            return "", body
        self._segments[segment] = None
        if len(self._segments) > SEGMENTS:
            self._segments.popitem(last=False)
        if found:
            _http(packet, found)
        return protocol, body

    def _udp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        return _by_port(packet, at), at + 8

    def _sctp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        at += 12
        for _ in range(LAYERS):  # the first chunk of data, behind those of control
            kind = {0: "sctp_data", 1: "sctp_init", 2: "sctp_init"}.get(packet.number(at), "")
            if kind or at + 4 > packet.end:
                break
            at += max(4, packet.number(at + 2, 2) + 3 & ~3)
        return kind, at

    def _sctp_data(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        ngap = packet.number(at + 12, 4) == 60 and packet.number(at) & 0x9F == 0
        packet.end = min(packet.end, at + packet.number(at + 2, 2))
        return "ngap" if ngap else "", at + 16

    def _ngap(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        """Read the elements of a message in aligned PER (3GPP TS 38.413): an id and octets each."""
        at, nas = _length(packet, at + 3)[1] + 3, at
        for _ in range(LAYERS * 4):
            if at + 4 > packet.end:
                break
            kind, (size, value) = packet.number(at, 2), _length(packet, at + 3)
            if kind in (10, 85):
                name = "amf_ue_id" if kind == 10 else "ran_ue_id"
                packet.note("ngap", **{name: packet.number(value + 1, min(size - 1, 8))})
            elif kind == 38:
                nas = _length(packet, value)[1]
            at = value + size
        return ("nas_5g", nas) if packet.number(nas) == 0x7E else ("", at)

    def _nas_5g(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        inner = at
        if packet.number(at + 1) & 15:  # protected (3GPP TS 24.501, 9.1.1)
            code, sequence, inner = packet.number(at + 2, 4), packet.number(at + 6), at + 7
            packet.note("nas_5g", message_authentication_code=code, sequence_number=sequence)
        if packet.number(inner) == 0x7E and not packet.number(inner + 1):
            packet.note("nas_5g", message_type=packet.number(inner + 2))
        return "", inner + 3

    def _gre(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        body = at + 4 + 4 * (packet.number(at) & 0xB0).bit_count()
        known = not packet.number(at + 1) & 7
        return _ETHER.get(packet.number(at + 2, 2), "") if known else "", body

    def _gtp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        body = at + 12 if packet.number(at) & 7 else at + 8
        kind = packet.number(at + 11) if packet.number(at) & 4 else 0
        while kind and (size := packet.number(body) * 4):
            kind, body = packet.number(body + size - 1), body + size
        return _by_version(packet, body) if packet.number(at + 1) == 255 else "", body

    def _ftp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        word, _, rest = packet.data[at : packet.end].split(b"\r\n", 1)[0].partition(b" ")
        if packet.number(packet.at["tcp"] + 2, 2) == 21:
            packet.note("ftp", packet_request=word, packet_request_parameter=rest)
        elif word[:3].isdigit():
            packet.note("ftp", packet_response_code=int(word[:3]), packet_reponse_value=rest)
        return "", at

    def _dicom(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        """Read the head of a PDU (DICOM PS3.8, 9.3), and of a command (PS3.7, 6.3)."""
        kind, data = packet.number(at), packet.data
        if kind in (1, 2):
            called, calling = data[at + 10 : at + 26].rstrip(), data[at + 26 : at + 42].rstrip()
            packet.note("dicom", called_ae_title=called, calling_ae_title=calling)
            packet.note("dicom", proto_version=packet.number(at + 6, 2))
        elif kind == 4:
            flags, where = packet.number(at + 11), at + 12
            packet.note("dicom", pdv_length=packet.number(at + 6, 4), pdv_flags=flags)
            packet.note("dicom", pdv_context=packet.number(at + 10))
            while flags & 1 and where + 8 <= packet.end and data[where : where + 2] == b"\0\0":
                element = int.from_bytes(data[where + 2 : where + 4], "little")
                size = int.from_bytes(data[where + 4 : where + 8], "little")
                value = data[where + 8 : where + 8 + size]
                if element in _COMMANDS:
                    packet.note("dicom", **{_COMMANDS[element]: int.from_bytes(value, "little")})
                elif element == 2:
                    packet.note("dicom", affected_sop_class_uid=value.rstrip(b"\0"))
                where += 8 + size
        return "", at + 6


def _by_version(packet: MmtPacket, at: int) -> str:
    return {4: "ip", 6: "ipv6"}.get(packet.number(at) >> 4, "")


def _by_port(packet: MmtPacket, at: int) -> str:
    ports = packet.number(at, 2), packet.number(at + 2, 2)
    return next((_PORTS[port] for port in ports if port in _PORTS), "")


def _length(packet: MmtPacket, at: int) -> tuple[int, int]:
    """Return a length of PER, and where what is so long begins."""
    size = packet.number(at)
    return (packet.number(at, 2) & 0x3FFF, at + 2) if size & 0x80 else (size, at + 1)


def _options(packet: MmtPacket, options: bytes) -> None:
    """Note the options of an IP header, and whether octets behind their end are not zero."""
    packet.note("ip", options=options, opts_type=options[0] if options else None)
    at = 0
    while at < len(options) and options[at]:
        at += 1 if options[at] == 1 else max(2, int.from_bytes(options[at + 1 : at + 2]))
    if at < len(options):
        packet.note("ip", padding_check=int(any(options[at:])))


def _http(packet: MmtPacket, found: re.Match[bytes]) -> None:
    """Note the first line and the headers of an HTTP message."""
    method, uri, response = found.groups()
    packet.note("http", method=method, uri=uri, response=None if method else response)
    for line in packet.data[found.end() : packet.end].split(b"\r\n\r\n", 1)[0].split(b"\n"):
        name, colon, value = line.partition(b":")
        name = name.strip().lower().replace(b"-", b"_").replace(b"length", b"len")
        if colon and not packet.extra.get(key := f"http.{name.decode('latin-1')}"):
            packet.extra[key] = value.strip() or None
