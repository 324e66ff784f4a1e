"""Captures of attacks beside honest traffic, by kind and seed, over IPv4 or IPv6.

A capture is what passes at the border of one network: its servers, those who use them, and who
attacks. It is the same to the octet for the same kind, seed, family and size. Packets are cut
after their headers, as ``tcpdump -s`` does; their lengths on the wire are kept.

Honest are web users over good and bad lines (retransmissions, lost packets, long times), offices
and mobile networks behind one address, uploads that take seconds, DNS asked and answered, NTP,
QUIC downloads, a backup at full speed, half-open health checks of a load balancer, a monitoring
host of which some targets are down, and a flash crowd.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
SNAP = 96
"""Octets of each packet that are kept."""
MTU = 1500
START_S = 1_700_000_000.0
BEGINS_S = 3.2
"""When the attack begins: the honest traffic is there before."""

Packet = tuple[float, bytes, int]
"""When it passes, in seconds; its first octets; its octets on the wire."""


class Made(Struct):
    """A capture, and what is true of it."""

    packets: list[Packet]
    attackers: frozenset[str]
    """Addresses that attack by their own name; empty: they are forged, or there is none."""
    targets: frozenset[str]
    """Addresses that are attacked."""
    honest: frozenset[str]
    """All other addresses that send anything."""
    first_s: float | None
    """When the first packet of the attack passes, in seconds from the capture's begin."""

    def write(self, file: Path) -> None:
        """Write it as a pcap file."""
        with file.open("wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, 1))
            for at, head, length in self.packets:
                moment = round((START_S + at) * 1e6)
                out.write(struct.pack("<IIII", *divmod(moment, 1_000_000), len(head), length))
                out.write(head)


class Network:
    """Makes addresses and packets of one family, all draws from one seed."""

    def __init__(self, family: int, seed: int, scale: float, seconds: float) -> None:
        """Make nothing yet.

        Args:
            family: 4 or 6.
            seed: of all draws.
            scale: of the rates of honest users and of most attacks; 1: some thousand packets/s.
            seconds: length of the capture.

        """
        self.family, self.scale, self.seconds = family, scale, seconds
        self.draw = random.Random(f"{family} {seed}")
        self.packets: list[Packet] = []

    def host(self, number: int) -> bytes:
        """Return an address of the network that is observed."""
        return self._address("198.51.100.0", "2001:db8:7::", number)

    def outside(self, group: int, number: int) -> bytes:
        """Return an address elsewhere, of one of 200 groups."""
        return self._address(f"{20 + group}.0.0.0", f"2400:{group:x}::", number)

    def anyone(self) -> bytes:
        """Return an address drawn at random."""
        if self.family == 4:
            return struct.pack("!I", self.draw.randrange(0x0B000000, 0xC0000000))
        return struct.pack("!Q", self.draw.randrange(0x2600 << 48, 0x2A00 << 48)) + (
            self.draw.randbytes(8)
        )

    def _address(self, v4: str, v6: str, number: int) -> bytes:
        base = ip_address(v4 if self.family == 4 else v6)
        return (base + number).packed

    def tcp(
        self, at: float, ends: tuple[bytes, int, bytes, int], flags: int, data: int = 0
    ) -> None:
        """Add a TCP segment with ``data`` octets."""
        source, sport, target, dport = ends
        body = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x80, flags, 512, 0, 0) + bytes(12)
        self._ip(at, source, target, TCP, body, 32 + data)

    def udp(self, at: float, ends: tuple[bytes, int, bytes, int], data: int) -> None:
        """Add a datagram, in fragments where it is longer than the MTU allows."""
        source, sport, target, dport = ends
        body = struct.pack("!HHHH", sport, dport, 8 + data, 0) + bytes(8)
        left, most = 8 + data, MTU - (20 if self.family == 4 else 48)
        most -= most % 8
        if left <= MTU - (20 if self.family == 4 else 40):
            self._ip(at, source, target, UDP, body, left)
            return
        offset = 0
        while left > 0:
            size = min(left, most)
            first = body if not offset else bytes(16)
            self.fragment(at, source, target, UDP, first, size, offset, more=left > size)
            left, offset = left - size, offset + size

    def icmp(self, at: float, source: bytes, target: bytes, kind: int, data: int = 56) -> None:
        """Add an echo request (8) or reply (0)."""
        if self.family == 6:
            kind = {8: 128, 0: 129}[kind]
        body = struct.pack("!BBHHH", kind, 0, 0, 7, 1) + bytes(8)
        self._ip(at, source, target, ICMP if self.family == 4 else ICMP6, body, 8 + data)

    def fragment(
        self,
        at: float,
        source: bytes,
        target: bytes,
        protocol: int,
        body: bytes,
        size: int,
        offset: int,
        *,
        more: bool,
    ) -> None:
        """Add a fragment of ``size`` octets at an offset in octets."""
        number = self.draw.getrandbits(16)
        if self.family == 4:
            self._ip(at, source, target, protocol, body, size, offset // 8 | more << 13)
            return
        head = struct.pack("!BBHI", protocol, 0, offset | more, number)
        self._ip(at, source, target, 44, head + body, 8 + size)

    def _ip(
        self,
        at: float,
        source: bytes,
        target: bytes,
        protocol: int,
        body: bytes,
        size: int,
        fragment: int = 0,
    ) -> None:
        if at >= self.seconds:
            return
        if self.family == 4:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 7, fragment, 60, protocol, 0)
            frame, length = b"\2" * 12 + b"\x08\0" + head + source + target + body, 34 + size
        else:
            head = struct.pack("!IHBB", 6 << 28, size, protocol, 60)
            frame, length = b"\2" * 12 + b"\x86\xdd" + head + source + target + body, 54 + size
        self.packets.append((at, frame[: min(SNAP, length)], length))

    def times(self, rate: float, since: float = 0.0, until: float | None = None) -> Iterator[float]:
        """Yield moments at random, ``rate`` a second."""
        at = since + self.draw.expovariate(rate)
        while at < (self.seconds if until is None else until):
            yield at
            at += self.draw.expovariate(rate)

    def connection(
        self,
        at: float,
        client: bytes,
        server: bytes,
        port: int = 443,
        *,
        rtt_s: float = 0.03,
        loss: float = 0.0,
        ask_s: float = 0.0,
        answer: int = 6,
        keep_s: float = 0.0,
    ) -> None:
        """Add a connection as clients make it: asked again where something is lost.

        Args:
            at: when it is asked for, in seconds.
            client: who asks.
            server: who answers.
            port: of the server.
            rtt_s: time there and back.
            loss: share of the SYNs and SYN-ACKs that is lost, on the far side of the border.
            ask_s: how long the request takes to come in whole.
            answer: segments of the answer.
            keep_s: how long it stays open after that.

        """
        there = client, self.draw.randrange(20_000, 60_000), server, port
        back = there[2:] + there[:2]
        for retry in range(4):
            if self.draw.random() >= loss:  # the SYN is seen
                self.tcp(at, there, SYN)
                self.tcp(at + 2e-4, back, SYN | ACK)
                if self.draw.random() >= loss:
                    break
            at += 2.0**retry
        else:
            return
        at += rtt_s
        self.tcp(at, there, ACK)
        parts = 1 + int(ask_s / max(0.25, rtt_s))
        for part in range(parts):
            at += ask_s / parts
            self.tcp(at + 1e-4, there, ACK | PSH, 420)
            if part + 1 < parts:
                self.tcp(at + 3e-4, back, ACK)
        at += self.draw.uniform(0.002, 0.03)
        for segment in range(answer):
            self.tcp(at + segment * 2e-4, back, ACK | PSH, 1400)
            if segment % 2:
                self.tcp(at + rtt_s + segment * 2e-4, there, ACK)
        at += rtt_s + keep_s
        self.tcp(at, there, ACK | FIN)
        self.tcp(at + 2e-4, back, ACK | FIN)
        self.tcp(at + rtt_s, there, ACK)


WEB, DNS_SERVER, QUIC, MAIL, IDLE, CLIENT = 10, 53, 44, 25, 99, 130
"""Numbers of hosts of the network."""


def honest(net: Network) -> None:
    """Add the traffic that is there anyway."""
    for add in (web_users, datagrams, backup, health_checks, monitoring):
        add(net)


def web_users(net: Network) -> None:
    """Add users over good lines and bad ones, alone and many behind one address."""
    draw, scale, web = net.draw, net.scale, net.host(WEB)
    for user in range(round(40 * scale)):
        source = net.outside(1, user)
        rtt, loss = draw.uniform(0.01, 0.2), 0.02
        for at in net.times(0.6):
            net.connection(at, source, web, rtt_s=rtt, loss=loss, keep_s=draw.uniform(0, 3))
    office = net.outside(2, 1)  # many behind one address
    for at in net.times(30 * scale):
        net.connection(at, office, web, rtt_s=0.02, loss=0.01, keep_s=draw.uniform(0, 4))
    for gateway in range(3):  # of mobile networks: slow, lossy, uploads that take seconds
        mobile = net.outside(3, gateway)
        for at in net.times(8 * scale, since=gateway * 0.9):
            net.connection(
                at,
                mobile,
                web,
                rtt_s=draw.uniform(0.3, 1.2),
                loss=0.15,
                ask_s=draw.choice((0.0, 0.0, 0.6, 2.0, 4.0)),
            )
    for user in range(round(12 * scale)):
        source = net.outside(4, user)
        for _ in range(6):  # a phone's six connections
            at = draw.uniform(0, net.seconds)
            net.connection(at, source, web, rtt_s=1.0, loss=0.2, ask_s=draw.uniform(0, 5))


def datagrams(net: Network) -> None:
    """Add DNS, NTP and QUIC."""
    draw, scale, dns, quic = net.draw, net.scale, net.host(DNS_SERVER), net.host(QUIC)
    for at in net.times(80 * scale):  # asked of the network's own name server
        ends = net.outside(5, draw.randrange(400)), draw.randrange(1024, 65_535), dns, 53
        net.udp(at, ends, 40)
        net.udp(at + 3e-4, ends[2:] + ends[:2], draw.choice((90, 180, 1200, 2900)))
    for at in net.times(120 * scale):  # and by hosts of the network, of a resolver
        asker, port = net.host(CLIENT + draw.randrange(20)), draw.randrange(1024, 65_535)
        query = asker, port, net.outside(6, 8), 53
        net.udp(at, query, 45)
        net.udp(
            at + draw.uniform(0.005, 0.05), query[2:] + query[:2], draw.choice((150, 1400, 3500))
        )
    for at in net.times(6 * scale):
        query = net.host(CLIENT + draw.randrange(20)), 123, net.outside(7, draw.randrange(4)), 123
        net.udp(at, query, 48)
        net.udp(at + 0.02, query[2:] + query[:2], 48)
    for user in range(3):  # QUIC: a datagram of acknowledgement for each four
        ends = net.outside(8, user), 50_000 + user, quic, 443
        for number, at in enumerate(net.times(150 * scale, since=user)):
            net.udp(at, ends[2:] + ends[:2], 1250)
            if number % 4 == 0:
                net.udp(at + 0.04, ends, 40)


def backup(net: Network) -> None:
    """Add a connection at full speed that began before the capture."""
    ends = net.outside(9, 1), 44_444, net.host(IDLE), 873
    for number, at in enumerate(net.times(900 * net.scale)):
        net.tcp(at, ends, ACK, 1400)
        if number % 2:
            net.tcp(at + 1e-4, ends[2:] + ends[:2], ACK)


def health_checks(net: Network) -> None:
    """Add a load balancer that asks each server for a connection, and resets it."""
    draw, balancer = net.draw, net.outside(10, 1)
    for server in range(24):
        for turn in range(int(net.seconds / 2) + 1):
            ends = balancer, draw.randrange(30_000, 60_000), net.host(WEB + server), 8080
            at = 2 * turn + server * 0.01
            net.tcp(at, ends, SYN)
            net.tcp(at + 2e-4, ends[2:] + ends[:2], SYN | ACK)
            net.tcp(at + 4e-4, ends, RST | ACK)


def monitoring(net: Network) -> None:
    """Add a host that looks after 60 others, of which an eighth is down."""
    draw, scale, monitor = net.draw, net.scale, net.outside(11, 1)
    for at in net.times(20 * scale):
        host, port = net.host(WEB + draw.randrange(60)), draw.choice((22, 80, 443))
        if host[-1] % 8 == 0:  # is down
            ends = monitor, draw.randrange(30_000, 60_000), host, port
            for again in (0.0, 1.0, 3.0):
                net.tcp(at + again, ends, SYN)
        else:
            net.connection(at, monitor, host, port, answer=1)
        net.icmp(at, monitor, host, 8)
        if host[-1] % 8:
            net.icmp(at + 3e-4, host, monitor, 0)
    for at in net.times(25 * scale):  # SNMP
        ends = monitor, draw.randrange(30_000, 60_000), net.host(WEB + draw.randrange(60)), 161
        net.udp(at, ends, 60)
        net.udp(at + 2e-3, ends[2:] + ends[:2], 900)


def flash_crowd(net: Network) -> None:
    """Add a crowd that comes within two seconds; much of what it sends is lost."""
    for user in range(round(900 * net.scale)):
        at = BEGINS_S + net.draw.uniform(0, 2.0)
        rtt = net.draw.uniform(0.02, 0.5)
        net.connection(at, net.outside(12, user), net.host(WEB), rtt_s=rtt, loss=0.35)


Attack = Callable[[Network], None]


def _bots(
    net: Network, count: int, rate: float, *, group: int = 66
) -> Iterator[tuple[float, bytes]]:
    """Yield (time, source) of ``count`` sources, ``rate`` packets/s in all."""
    for at in net.times(rate, since=BEGINS_S):
        yield at, net.outside(group, net.draw.randrange(count))


def syn_flood(net: Network) -> None:
    """Eight sources that complete nothing."""
    for at, bot in _bots(net, 8, 2500):
        ends = bot, net.draw.randrange(1024, 65_535), net.host(WEB), 443
        net.tcp(at, ends, SYN)
        if net.draw.random() < 0.4:
            net.tcp(at + 2e-4, ends[2:] + ends[:2], SYN | ACK)


def syn_forged(net: Network) -> None:
    """SYNs from addresses drawn at random."""
    for at in net.times(2500, since=BEGINS_S):
        ends = net.anyone(), net.draw.randrange(1024, 65_535), net.host(WEB), 443
        net.tcp(at, ends, SYN)
        net.tcp(at + 2e-4, ends[2:] + ends[:2], SYN | ACK)


def _unconnected(flags: int, *, forged: bool, answered: bool, data: int = 0) -> Attack:
    def attack(net: Network) -> None:
        for at, bot in _bots(net, 4, 6000):
            source, port = (net.anyone() if forged else bot), net.draw.randrange(1024, 65_535)
            ends = source, 443 if flags & SYN else port, net.host(WEB), port if flags & SYN else 443
            net.tcp(at, ends, flags, data)
            if answered:
                net.tcp(at + 1e-4, ends[2:] + ends[:2], RST)

    return attack


def syn_ack_reflected(net: Network) -> None:
    """Many servers that each answer SYNs which the target never sent."""
    for at, server in _bots(net, 120, 3000):
        ends = server, 443, net.host(WEB), net.draw.randrange(1024, 65_535)
        net.tcp(at, ends, SYN | ACK)
        net.tcp(at + 1e-4, ends[2:] + ends[:2], RST)


def _reflection(port: int, octets: tuple[int, ...], count: int = 40, rate: float = 1500) -> Attack:
    def attack(net: Network) -> None:
        for at, reflector in _bots(net, count, rate):
            net.udp(at, (reflector, port, net.host(WEB), 31_337), net.draw.choice(octets))

    return attack


def _fragments(protocol: int, *, forged: bool) -> Attack:
    def attack(net: Network) -> None:
        for at, bot in _bots(net, 4, 6000):
            source, offset = net.anyone() if forged else bot, 8 * net.draw.randrange(1, 180)
            body = net.draw.randbytes(16)
            net.fragment(at, source, net.host(WEB), protocol, body, 1200, offset, more=True)

    return attack


def icmp_flood(net: Network) -> None:
    """Four sources that ask for echoes, of which the target answers next to none."""
    for at, bot in _bots(net, 4, 3000):
        net.icmp(at, bot, net.host(WEB), 8, 1000)


def udp_flood(net: Network) -> None:
    """Eight sources of datagrams to ports drawn at random."""
    for at, bot in _bots(net, 8, 4000):
        net.udp(at, (bot, 4000, net.host(WEB), net.draw.randrange(1, 65_535)), 900)


def udp_forged(net: Network) -> None:
    """Datagrams of one length to one port, from addresses drawn at random."""
    for at in net.times(4000, since=BEGINS_S):
        net.udp(at, (net.anyone(), net.draw.randrange(1024, 65_535), net.host(WEB), 27_015), 512)


def _carpet(forged: bool, port: int | None, bots: int, rate: float, octets: int) -> Attack:
    """Return a flood that is spread over all addresses of the network's prefix."""

    def attack(net: Network) -> None:
        for at, bot in _bots(net, bots, rate):
            source = net.anyone() if forged else bot
            sport = port or net.draw.randrange(1024, 65_535)
            target = net.host(1 + net.draw.randrange(254))
            net.udp(at, (source, sport, target, net.draw.randrange(1, 65_535)), octets)

    return attack


def _carpet_syn(*, forged: bool) -> Attack:
    def attack(net: Network) -> None:
        for at, bot in _bots(net, 4, 8000):
            source = net.anyone() if forged else bot
            target = net.host(1 + net.draw.randrange(254))
            net.tcp(at, (source, net.draw.randrange(1024, 65_535), target, 443), SYN)

    return attack


def _slow(*, headers: bool) -> Attack:
    def attack(net: Network) -> None:
        """Connections that are opened at 25 a second and never ask for anything whole."""
        for at, bot in _bots(net, 2, 50):
            ends = bot, net.draw.randrange(1024, 65_535), net.host(WEB), 443
            net.tcp(at, ends, SYN)
            net.tcp(at + 2e-4, ends[2:] + ends[:2], SYN | ACK)
            net.tcp(at + 0.02, ends, ACK)
            for number in range(20):
                later = at + 0.03 + number * (2.0 if headers else 0.7)
                net.tcp(later, ends, ACK | PSH, 200 if not number else 10)
                net.tcp(later + 2e-4, ends[2:] + ends[:2], ACK)

    return attack


def _probe(net: Network, at: float, bot: bytes, host: bytes, port: int, *, connect: bool) -> None:
    """Add one probe of a scan: the network has some open ports, refuses some and drops others."""
    ends = bot, net.draw.randrange(30_000, 60_000), host, port
    net.tcp(at, ends, SYN)
    state = random.Random(host + bytes([port % 256])).random()
    if state < 0.05:
        net.tcp(at + 2e-4, ends[2:] + ends[:2], SYN | ACK)
        net.tcp(at + 0.02, ends, ACK if connect else RST)
        if connect:
            net.tcp(at + 0.03, ends, RST | ACK)
    elif state < 0.5:
        net.tcp(at + 2e-4, ends[2:] + ends[:2], RST | ACK)
    elif connect:
        net.tcp(at + 1.0, ends, SYN)


def _scan(rate: float, *, horizontal: bool, connect: bool) -> Attack:
    def attack(net: Network) -> None:
        bot = net.outside(67, 1)
        for number, at in enumerate(net.times(rate, since=BEGINS_S)):
            host = net.host(1 + number % 254 if horizontal else WEB)
            port = 22 + number // 254 if horizontal else 1 + number
            _probe(net, at, bot, host, port % 65_536, connect=connect)

    return attack


NOBODY: Attack = lambda net: None  # noqa: ARG005, E731
KINDS: dict[str, tuple[str, Attack]] = {
    "honest traffic": ("", NOBODY),
    "flash crowd": ("", flash_crowd),
    "DNS reflection": ("reflection", _reflection(53, (1200, 3000, 4000))),
    "NTP reflection": ("reflection", _reflection(123, (440,))),
    "CLDAP reflection": ("reflection", _reflection(389, (1400, 2900))),
    "memcached reflection": ("reflection", _reflection(11_211, (1400,), 15)),
    "SSDP reflection": ("reflection", _reflection(1900, (300, 320, 350))),
    "DNS reflection, 400 reflectors": ("reflection", _reflection(53, (3000,), 400, 2000)),
    "UDP flood": ("udp flood", udp_flood),
    "UDP flood, forged": ("udp flood", udp_forged),
    "SYN flood": ("syn flood", syn_flood),
    "SYN flood, forged": ("syn flood", syn_forged),
    "ACK flood": ("ack flood", _unconnected(ACK, forged=False, answered=True)),
    "ACK flood, dropped": ("ack flood", _unconnected(ACK, forged=False, answered=False)),
    "ACK flood, forged": ("ack flood", _unconnected(ACK, forged=True, answered=True)),
    "ACK flood, forged, dropped": ("ack flood", _unconnected(ACK, forged=True, answered=False)),
    "SYN-ACK flood": ("syn-ack flood", _unconnected(SYN | ACK, forged=False, answered=True)),
    "SYN-ACK flood, dropped": (
        "syn-ack flood",
        _unconnected(SYN | ACK, forged=False, answered=False),
    ),
    "SYN-ACK flood, reflected": ("syn-ack flood", syn_ack_reflected),
    "SYN-ACK flood, forged": ("syn-ack flood", _unconnected(SYN | ACK, forged=True, answered=True)),
    "RST flood": ("rst flood", _unconnected(RST, forged=False, answered=False)),
    "RST flood, forged": ("rst flood", _unconnected(RST, forged=True, answered=False)),
    "UDP fragments": ("udp fragment flood", _fragments(UDP, forged=False)),
    "UDP fragments, forged": ("udp fragment flood", _fragments(UDP, forged=True)),
    "TCP fragments": ("tcp fragment flood", _fragments(TCP, forged=False)),
    "TCP fragments, forged": ("tcp fragment flood", _fragments(TCP, forged=True)),
    "ICMP flood": ("icmp flood", icmp_flood),
    "carpet, UDP": ("udp flood", _carpet(False, None, 6, 6000, 900)),
    "carpet, UDP, forged": ("udp flood", _carpet(True, None, 1, 6000, 900)),
    "carpet, DNS reflection": ("reflection", _carpet(False, 53, 200, 5000, 3000)),
    "carpet, SYN": ("syn flood", _carpet_syn(forged=False)),
    "carpet, SYN, forged": ("syn flood", _carpet_syn(forged=True)),
    "slow headers": ("slow connections", _slow(headers=True)),
    "slow bodies": ("slow connections", _slow(headers=False)),
    "scan of ports, SYN": ("scan", _scan(400, horizontal=False, connect=False)),
    "scan of ports, connect": ("scan", _scan(150, horizontal=False, connect=True)),
    "scan of hosts, SYN": ("scan", _scan(400, horizontal=True, connect=False)),
    "scan of hosts, connect": ("scan", _scan(150, horizontal=True, connect=True)),
    "slow scan of ports": ("scan", _scan(15, horizontal=False, connect=False)),
}
"""By name: the kind of the verdict that is right, and what adds the attack."""


def make(kind: str, family: int, seed: int, scale: float = 1.0, seconds: float = 12.0) -> Made:
    """Return the capture of that name."""
    net = Network(family, seed, scale, seconds)
    honest(net)
    before = {_source(head) for _, head, _ in net.packets}
    count = len(net.packets)
    verdict, attack = KINDS[kind]
    attack(net)
    added = net.packets[count:]
    first = min((at for at, _, _ in added), default=None)
    inside = ip_address(net.host(0)).packed[: 3 if family == 4 else 6]
    sources = {_source(head) for _, head, _ in added}
    outside = {each for each in sources if not each.startswith(inside)}
    forged = "forged" in kind
    targets = {_target(head) for _, head, _ in added} if verdict else set()
    attackers = outside if verdict and not forged else set()
    return Made(
        sorted(net.packets, key=lambda packet: packet[0]),
        _names(attackers),
        _names(each for each in targets if each.startswith(inside)),
        _names((before | (set() if verdict else outside)) - attackers),
        first if verdict else None,
    )


def _names(addresses: Iterable[bytes]) -> frozenset[str]:
    return frozenset(str(ip_address(each)) for each in addresses)


def _source(head: bytes) -> bytes:
    return head[26:30] if head[12] == 8 else head[22:38]


def _target(head: bytes) -> bytes:
    return head[30:34] if head[12] == 8 else head[38:54]
