"""Writes a small capture of a SYN flood: ``python flood_capture.py FILE.pcap``."""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address
from pathlib import Path

SERVER, USER = "192.0.2.10", "198.51.100.7"
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10


def frame(source: str, target: str, ports: tuple[int, int], flags: int) -> bytes:
    """Return an Ethernet frame with a TCP segment without data."""
    tcp = struct.pack("!HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 1024, 0, 0)
    addresses = ip_address(source).packed + ip_address(target).packed
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp


def main() -> None:
    """Write five seconds: three attackers, and a user who connects once a second."""
    packets = []
    for n in range(3000):
        attacker = f"203.0.113.{n % 3 + 1}"
        packets.append((n / 600, frame(attacker, SERVER, (1024 + n, 80), SYN)))
        if n % 600 == 300:
            port = 20_000 + n
            packets.append((n / 600, frame(USER, SERVER, (port, 80), SYN)))
            packets.append((n / 600, frame(SERVER, USER, (80, port), SYN_ACK)))
            packets.append((n / 600, frame(USER, SERVER, (port, 80), ACK)))
    with Path(sys.argv[1]).open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for time, packet in packets:
            seconds, rest = divmod(time, 1)
            length = len(packet)
            file.write(struct.pack("<IIII", int(seconds), int(rest * 1e6), length, length))
            file.write(packet)


if __name__ == "__main__":
    main()
