"""The attributes of packets that MMT-Security rules use, under the names of MMT-DPI.

Of a protocol that a packet holds twice (a tunnel), the inner one counts. Datagrams in fragments
are put together: the last fragment to come also has what the whole datagram carries.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from msgspec import Struct

from phalanx.analytics.packets import LINKS

NUMBER, TEXT, IPV4, IPV6, MAC = "number", "text", "IPv4 address", "IPv6 address", "MAC address"
DATAGRAMS, FRAGMENTS, LAYERS = 512, 2_000, 16
"""Datagrams in fragments that are held at a time; fragments of one; protocols of a packet."""

_TABLE = {
    "meta": "packet_len utime packet_index",
    "ethernet": "dst@0:6m src@6:6m proto@12:2",
    "8021q": "pcp@0:1/32 dei@0:1/16&1 vid@0:2&4095",
    "arp": "ar_hrd@0:2 ar_pro@2:2 ar_hln@4:1 ar_pln@5:1 ar_op@6:2 ar_sha@8:6m ar_sip@14:4i "
    "ar_tha@18:6m ar_tip@24:4i",
    "ip": "version@0:1/16 header_len@0:1&15*4 proto_tos@1:1 tot_len@2:2 identification@4:2 "
    "rf_flag@6:1/128 df_flag@6:1/64&1 mf_flag@6:1/32&1 frag_offset@6:2&8191*8 proto_ttl@8:1 "
    "proto_id@9:1 checksum@10:2 src@12:4i dst@16:4i opts_type padding_check options "
    "ip_frag_packets_count",
    "ipv6": "version@0:1/16 TC@0:2/16&255 flow_label@0:4&1048575 len@4:2 next_hdr@6:1 "
    "hop_limit@7:1 src@8:16i dst@24:16i",
    "icmp": "type@0:1 code@1:1 checksum@2:2 identifier@4:2 seq_nb@6:2 gateway@4:4 data",
    "icmpv6": "type@0:1 code@1:1 checksum@2:2",
    "tcp": "src_port@0:2 dest_port@2:2 seq_nb@4:4 ack_nb@8:4 data_offset@12:1/16 flags@13:1 "
    "fin@13:1&1 syn@13:1/2&1 rst@13:1/4&1 psh@13:1/8&1 ack@13:1/16&1 urg@13:1/32&1 "
    "ece@13:1/64&1 cwr@13:1/128 window@14:2 checksum@16:2 urg_pointer@18:2 payload_len",
    "udp": "src_port@0:2 dest_port@2:2 len@4:2 checksum@6:2",
    "sctp": "src_port@0:2 dest_port@2:2 verif_tag@4:4 checksum@8:4 ch_type@12:1 ch_flags@13:1 "
    "ch_length@14:2",
    "sctp_data": "ch_type@0:1 ch_flags@1:1 ch_length@2:2 data_tsn@4:4 data_stream@8:2 "
    "data_ssn@10:2 data_ppid@12:4",
    "sctp_init": "ch_type@0:1 ch_flags@1:1 ch_length@2:2 init_ini_tag@4:4 init_a_rwnd@8:4 "
    "init_num_out_streams@12:2 init_num_in_streams@14:2 init_ini_tsn@16:4",
    "gre": "flags@0:2 cflag@0:1/128 kflag@0:1/32&1 sflag@0:1/16&1 version@1:1&7 proto@2:2",
    "gtp": "version@0:1/32 proto_type@0:1/16&1 flags@0:1 msg_type@1:1 length@2:2 teid@4:4",
    "dns": "tid@0:2 qr@2:1/128 opcode@2:1/8&15 aa@2:1/4&1 tc@2:1/2&1 rd@2:1&1 ra@3:1/128 "
    "rcode@3:1&15 qdcount@4:2 ancount@6:2 nscount@8:2 arcount@10:2",
    "http": "method response host uri referer content_type user_agent upgrade connection accept "
    "transfer_encoding content_encoding cookie content_len server",
    "ftp": "packet_request packet_request_parameter packet_response_code packet_reponse_value",
    "ssh": "",
    "smtp": "",
}
"""By protocol its attributes: where, how many octets, shifted, masked, times; i an IP address."""
_FIELD = re.compile(r"(\w+)@(\d+):(\d+)([im])?(?:/(\d+))?(?:&(\d+))?(?:\*(\d+))?", re.ASCII)
_ETHER = {0x0800: "ip", 0x86DD: "ipv6", 0x0806: "arp", 0x6558: "ethernet"}
_ETHER |= dict.fromkeys((0x8100, 0x88A8, 0x9100), "8021q")
_IP = {1: "icmp", 4: "ip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 58: "icmpv6", 132: "sctp"}
_PORTS = {21: "ftp", 22: "ssh", 25: "smtp", 53: "dns", 2152: "gtp"}
_HTTP = re.compile(rb"(?:([A-Z]{3,20}) ([^\r\n]*) )?HTTP/\d(?:\.\d)?(?: +([^\r\n]*))?\r?\n")
_HEADERS = {b"content-length": "content_len"}


class MmtPacket:
    """A packet, and where the protocols in it and what they carry begin."""

    def __init__(self, data: bytes, time_us: int, index: int, length: int) -> None:
        self.data, self.time_us, self.index, self.length = data, time_us, index, length
        self.at: dict[str, int] = {"meta": 0}
        self.carries: dict[str, int] = {}
        self.end = self.wire_end = len(data)
        self.extra: dict[str, Any] = {
            "meta.packet_len": length, "meta.utime": time_us, "meta.packet_index": index
        }  # fmt: skip
        """Attributes that are found on the way, by ``protocol.attribute``."""

    def number(self, at: int, size: int = 1) -> int:
        """Return a number of the packet; 0 behind its end."""
        return int.from_bytes(self.data[at : min(at + size, self.end)].ljust(size, b"\0"))


class MmtField(Struct, frozen=True):
    """An attribute: what it is, and how it is read; None: the packet has none."""

    kind: str
    read: Callable[[MmtPacket, int], Any]


def _field(protocol: str, text: str) -> tuple[str, MmtField]:
    found = _FIELD.fullmatch(text)
    if found is None:
        texts = protocol in ("http", "ftp") or text in ("options", "data")
        name = f"{protocol}.{text}"
        return text, MmtField(TEXT if texts else NUMBER, lambda packet, _: packet.extra.get(name))
    first, size = int(found[2]), int(found[3])
    last = first + size
    shift, mask, times = int(found[5] or 1), int(found[6] or -1), int(found[7] or 1)

    def octets(packet: MmtPacket, at: int) -> bytes | None:
        return packet.data[at + first : at + last] if at + last <= packet.end else None

    def number(packet: MmtPacket, at: int) -> int | None:
        if at + last > packet.end:
            return None
        return (int.from_bytes(packet.data[at + first : at + last]) // shift & mask) * times

    if found[4]:
        kind = MAC if found[4] == "m" else IPV4 if size == 4 else IPV6
        return found[1], MmtField(kind, octets)
    return found[1], MmtField(NUMBER, number)


def _fields(protocol: str, line: str) -> dict[str, MmtField]:
    def payload(packet: MmtPacket, _: int) -> bytes | None:
        at = packet.carries.get(protocol)
        return packet.data[at : packet.end] or None if at is not None else None

    count = f"{protocol}.#"
    return dict(_field(protocol, text) for text in line.split()) | {
        "packet_count": MmtField(NUMBER, lambda packet, _: packet.extra.get(count)),
        "p_data": MmtField(TEXT, lambda packet, at: packet.data[at : packet.end] or None),
        "p_payload": MmtField(TEXT, payload),
    }


FIELDS = {protocol: _fields(protocol, line) for protocol, line in _TABLE.items()}
"""The attributes that are read, by protocol and name."""


def shown(kind: str, value: Any) -> Any:
    """Return a value of an attribute as people write it."""
    if kind in (IPV4, IPV6):
        return str(ip_address(value))
    if kind == MAC:
        return value.hex(":")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class MmtDecoder:
    """Finds the protocols of packets; keeps the fragments of datagrams, at most ``DATAGRAMS``."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Packets by protocol."""
        self.shed = 0
        """Datagrams whose fragments were given up, for want of room."""
        self._fragments: OrderedDict[bytes, dict[int, tuple[bytes, bool]]] = OrderedDict()

    def decode(self, raw: bytes, time_us: int, length: int, link: int) -> MmtPacket:
        """Return a packet of a link of this DLT number (see ``LINKS``), decoded."""
        self.counts["meta"] += 1
        packet = MmtPacket(raw, time_us, self.counts["meta"], length)
        packet.extra["meta.#"] = packet.index
        _, type_at, at = LINKS[link]
        if link == 1:
            protocol, at = "ethernet", 0
        elif type_at is None:
            protocol = _by_version(packet, at)
        else:
            protocol = _ETHER.get(packet.number(type_at, 2), "")
        for _ in range(LAYERS):
            if not protocol or at >= packet.end:
                break
            packet.at[protocol] = at
            self.counts[protocol] += 1
            packet.extra[f"{protocol}.#"] = self.counts[protocol]
            protocol, at = getattr(self, f"_{protocol}", _last)(packet, at)
        return packet

    def _ethernet(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.carries["ethernet"] = at + 14
        return _ETHER.get(packet.number(at + 12, 2), ""), at + 14

    def _8021q(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.carries["8021q"] = at + 4
        return _ETHER.get(packet.number(at + 2, 2), ""), at + 4

    def _ip(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        header = (packet.number(at) & 15) * 4
        total = packet.number(at + 2, 2) or packet.end - at  # 0: cut up by the sender's card
        packet.wire_end, packet.end = at + total, min(packet.end, at + total)
        body = packet.carries["ip"] = at + header
        if header > 20:
            _options(packet, packet.data[at + 20 : min(body, packet.end)])
        where = packet.number(at + 6, 2) & 0x3FFF
        self.counts["fragments"] += where > 0
        packet.extra["ip.ip_frag_packets_count"] = self.counts["fragments"]
        if header < 20 or body > packet.end or (where and not self._whole(packet, at, body, where)):
            return "", 0
        return _IP.get(packet.number(at + 9), ""), body

    def _whole(self, packet: MmtPacket, at: int, body: int, where: int) -> bool:
        """Keep a fragment; put the datagram in its place and return True if it is complete."""
        key = (
            packet.data[at + 12 : at + 20]
            + packet.data[at + 4 : at + 6]
            + packet.data[at + 9 :][:1]
        )
        parts = self._fragments.setdefault(key, {})
        parts.setdefault((where & 0x1FFF) * 8, (packet.data[body : packet.end], where < 0x2000))
        whole, last = bytearray(), False
        for first, (octets, ends) in sorted(parts.items()):
            if first > len(whole):
                break
            whole[first : first + len(octets)] = octets
            last = last or ends
        else:
            if last:
                del self._fragments[key]
                packet.data = packet.data[:body] + whole
                packet.end = packet.wire_end = len(packet.data)
                packet.extra["meta.packet_len"] = packet.end
                return True
        if len(self._fragments) > DATAGRAMS or len(parts) > FRAGMENTS:
            self._fragments.popitem(last=False)
            self.shed += 1
        return False

    def _ipv6(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        total = 40 + packet.number(at + 4, 2)
        if total > 40:
            packet.wire_end, packet.end = at + total, min(packet.end, at + total)
        kind, at = packet.number(at + 6), at + 40
        for _ in range(LAYERS):
            if kind not in (0, 43, 44, 51, 60) or (
                kind == 44 and packet.number(at + 2, 2) & 0xFFF8
            ):
                break
            size = {44: 8, 51: packet.number(at + 1) * 4 + 8}.get(
                kind, packet.number(at + 1) * 8 + 8
            )
            kind, at = packet.number(at), at + size
        packet.carries["ipv6"] = at
        return _IP.get(kind, ""), at

    def _icmp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.carries["icmp"] = at + 8
        packet.extra["icmp.data"] = packet.data[at + 8 : packet.end] or None
        return "", 0

    def _tcp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        body = packet.carries["tcp"] = at + (packet.number(at + 12) // 16) * 4
        if body < at + 20 or body > packet.wire_end:
            return "", 0
        packet.extra["tcp.payload_len"] = packet.wire_end - body
        if found := _HTTP.match(packet.data, body, packet.end):
            _http(packet, found)
            return "http", body
        return _by_port(packet, at), body

    def _udp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.carries["udp"] = at + 8
        return _by_port(packet, at), at + 8

    def _sctp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        packet.carries["sctp"] = at = at + 12
        for _ in range(LAYERS):  # the first chunk of data, behind those of control
            kind = {0: "sctp_data", 1: "sctp_init", 2: "sctp_init"}.get(packet.number(at), "")
            if kind or at + 4 > packet.end:
                break
            at += max(4, packet.number(at + 2, 2) + 3 & ~3)
        packet.carries[kind] = at + 16
        return kind, at

    def _gre(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        flags, version = packet.number(at), packet.number(at + 1) & 7
        body = packet.carries["gre"] = at + 4 + 4 * (flags & 0xB0).bit_count()
        return _ETHER.get(packet.number(at + 2, 2), "") if not version else "", body

    def _gtp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        flags, body = packet.number(at), at + 8
        if flags & 7:
            kind, body = packet.number(at + 11) if flags & 4 else 0, at + 12
            for _ in range(LAYERS):
                size = packet.number(body) * 4
                if not kind or not size:
                    break
                kind, body = packet.number(body + size - 1), body + size
        packet.carries["gtp"] = body
        return _by_version(packet, body) if packet.number(at + 1) == 255 else "", body

    def _ftp(self, packet: MmtPacket, at: int) -> tuple[str, int]:
        line = packet.data[at : packet.end].split(b"\r\n", 1)[0]
        first, _, rest = line.partition(b" ")
        asked = packet.number(packet.at["tcp"] + 2, 2) == 21
        names = ("packet_request", "packet_request_parameter") if asked else (
            "packet_response_code", "packet_reponse_value")  # fmt: skip
        for name, value in zip(names, (first, rest), strict=True):
            packet.extra[f"ftp.{name}"] = value or None
        return "", 0


def _last(_packet: MmtPacket, _at: int) -> tuple[str, int]:
    return "", 0


def _by_version(packet: MmtPacket, at: int) -> str:
    return {4: "ip", 6: "ipv6"}.get(packet.number(at) >> 4, "")


def _by_port(packet: MmtPacket, at: int) -> str:
    ports = packet.number(at, 2), packet.number(at + 2, 2)
    return next((_PORTS[port] for port in ports if port in _PORTS), "")


def _options(packet: MmtPacket, options: bytes) -> None:
    """Note the options of an IP header, and whether octets behind their end are not zero."""
    packet.extra["ip.options"] = options or None
    packet.extra["ip.opts_type"] = options[0] if options else None
    at = 0
    while at < len(options) and options[at]:
        at += 1 if options[at] == 1 else max(2, options[at + 1] if at + 1 < len(options) else 0)
    if at < len(options):
        packet.extra["ip.padding_check"] = int(any(options[at:]))


def _http(packet: MmtPacket, found: re.Match[bytes]) -> None:
    """Note the first line and the headers of an HTTP message."""
    method, uri, response = found.groups()
    extra = {"method": method, "uri": uri, "response": None if method else response}
    head = packet.data[found.end() : packet.end].split(b"\r\n\r\n", 1)[0]
    for line in head.split(b"\n"):
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon:
            extra.setdefault(
                _HEADERS.get(name, name.decode("latin-1").replace("-", "_")), value.strip()
            )
    packet.extra |= {f"http.{name}": value or None for name, value in extra.items()}
