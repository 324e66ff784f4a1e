"""Run in a network namespace of its own: what a kernel with nftables rules lets through.

Reads ``[[nftables text, [packet, …]], …]`` from stdin as JSON, packets in hexadecimal, and prints
for each pair what ``nft list ruleset`` shows and the packets that came out on the other side.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys

SENTINEL = bytes.fromhex("4500001c0000000040fd0000" + "c6120001" + "c6120002") + b"sentinel"


CHECKSUM = "/proc/sys/net/netfilter/nf_conntrack_checksum"


def checksum(octets: bytes) -> int:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUN, NO_PI
    for words in (f"link set {name} addrgenmode none", f"link set {name} up"):
        run("ip", *words.split())
    return device


def run(*words: str, text: str | None = None) -> str:
    env = {**os.environ, "TZ": "UTC"}
    done = subprocess.run(words, input=text, text=True, capture_output=True, env=env, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def main() -> None:
    for name, value in (
        ("net/ipv4/ip_forward", 1),
        ("net/ipv6/conf/all/forwarding", 1),
        ("net/ipv4/conf/all/rp_filter", 0),
        ("net/ipv4/conf/default/rp_filter", 0),
    ):
        with open(f"/proc/sys/{name}", "w") as file:  # noqa: PTH123
            file.write(str(value))
    near, far = tun("near"), tun("far")
    run("ip", "route", "add", "default", "dev", "far")
    run("ip", "-6", "route", "add", "default", "dev", "far")
    sentinel = bytearray(SENTINEL)
    struct.pack_into("!H", sentinel, 10, checksum(bytes(sentinel[:20])))
    answers = []
    for text, packets in json.load(sys.stdin):
        run("nft", "flush ruleset")
        run("nft", "-f", "-", text=text)
        if os.path.exists(CHECKSUM):  # noqa: PTH110
            with open(CHECKSUM, "w") as file:  # noqa: PTH123
                file.write("0")
        listed = run("nft", "list", "ruleset")
        for packet in packets:
            os.write(near, bytes.fromhex(packet))
        run("nft", "flush ruleset")
        os.write(near, bytes(sentinel))
        passed = []
        while True:
            try:
                octets = os.read(far, 65_536)
            except BlockingIOError:
                continue
            if octets.endswith(b"sentinel"):
                break
            passed.append(octets.hex())
        answers.append([listed, passed])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
