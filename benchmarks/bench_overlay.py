"""What the overlay costs: throughput and round trips over bare veth, VXLAN, and VXLAN with IPsec.

Each is a pair of network namespaces joined by a veth without a limit, all on this machine and
measured in turn, so the ratios say more than the figures. TCP is iperf3's with CUBIC; a round
trip is a UDP packet of 64 octets between two Python threads, whose own share is in it.

Run it with ``python benchmarks/bench_overlay.py [--quick]``, as root.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from tables import QUICK, console, extra, milliseconds, show

ROUNDS = 1 if QUICK else 3
SECONDS = 1 if QUICK else 2
PINGS = 200 if QUICK else 1000
VNI = 7


def lack() -> str | None:
    """Return one line on what is missing to run this, if anything."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    if shutil.which("iperf3") is None:
        return "iperf3 is missing: install it (Debian: iperf3)"
    extra("vici")
    from phalanx.infrastructure.linux.overlay_node import missing  # noqa: PLC0415

    return missing()


LACK = lack()
if LACK is not None:
    console.print(f"skipped: {LACK}", style="yellow", soft_wrap=True)
    sys.exit(0)


from phalanx.infrastructure.linux.kernel import namespaces  # noqa: E402
from phalanx.infrastructure.linux.kernel.links import ip  # noqa: E402
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix  # noqa: E402
from phalanx.infrastructure.linux.overlay import LocalKeys, Overlay  # noqa: E402
from phalanx.infrastructure.linux.overlay_node import OverlaySite, Vxlan  # noqa: E402


class Pair:
    """Two namespaces and the veth between them; gone when ``with`` ends."""

    def __init__(self, ends: ExitStack, run: str, kind: str) -> None:
        self.names = [f"phx-{run}-{kind}{n}" for n in (1, 2)]
        self.underlay = ["10.254.0.1", "10.254.0.2"]
        self.inside: list[Inside] = []
        for name in self.names:
            namespaces.create(name)
            ends.callback(namespaces.delete, name)
            self.inside.append(ends.enter_context(Inside(name)))
        self.inside[0].call(self._link)
        for inside, address in zip(self.inside, self.underlay, strict=True):
            inside.call(_configure, address)

    def _link(self) -> None:
        ip(f"link add name eth type veth peer name eth netns {self.names[1]}")


def _configure(address: str) -> None:
    ip("link set dev lo up", "link set eth up", f"addr add {address}/24 dev eth")


def throughput(pair: Pair, address: str) -> float:
    """Return the Mbit/s of one TCP connection to ``address`` in the second namespace."""
    server = subprocess.Popen(  # noqa: S603
        [*prefix(pair.names[1]), "iperf3", "--server", "--one-off"],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = ["iperf3", "--client", address, "--time", str(SECONDS), "-C", "cubic", "--json"]
        told: dict[str, dict[str, dict[str, float]]] = {}
        end = time.monotonic() + 3
        while "end" not in told or not told["end"]:  # until the server listens
            assert time.monotonic() < end, "iperf3 does not connect"
            done = subprocess.run(  # noqa: S603
                [*prefix(pair.names[0]), *client], capture_output=True, timeout=20, check=False
            )
            told = json.loads(done.stdout)
        return told["end"]["sum_received"]["bits_per_second"] / 1e6
    finally:
        server.kill()
        server.wait()


def round_trips(pair: Pair, address: str) -> list[float]:
    """Return the seconds of each round trip."""
    here, there = (i.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) for i in pair.inside)
    with here, there:
        there.bind((address, 7))
        here.settimeout(2)

        def answer() -> None:
            for _ in range(PINGS):
                said, whom = there.recvfrom(64)
                there.sendto(said, whom)

        echo = Thread(target=answer, daemon=True)
        echo.start()
        took = []
        for _ in range(PINGS):
            begin = time.perf_counter()
            here.sendto(bytes(64), (address, 7))
            here.recv(64)
            took.append(time.perf_counter() - begin)
        echo.join()
        return took


def bare_vxlan(ends: ExitStack, pair: Pair, address: str) -> None:
    """Set up the overlay's device without IPsec or rules."""
    near = address.removesuffix("2") + "1"
    for number, (inside, own, peer) in enumerate(
        zip(pair.inside, (near, address), (address, near), strict=True)
    ):
        device = Vxlan(inside, VNI, own)
        device.create(())
        ends.callback(device.delete)
        device.connect(peer, pair.underlay[1 - number])


def main() -> None:
    run = secrets.token_hex(3)
    target = "10.255.0.2"
    speeds: dict[str, list[float]] = {}
    trips: dict[str, list[float]] = {}
    with ExitStack() as ends:
        bare, vxlan, secured = (Pair(ends, run, kind) for kind in ("veth", "vxlan", "ipsec"))
        bare_vxlan(ends, vxlan, target)
        folder = Path("/run/phalanx") / run
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        places = [
            OverlaySite(f"pop{n}", name, f"10.254.0.{n}", f"10.255.0.{n}")
            for n, name in enumerate(secured.names, 1)
        ]
        overlay = Overlay(folder, VNI, places, LocalKeys(place.pop for place in places))
        overlay.up()
        ends.callback(overlay.down)
        networks = {
            "bare veth": (bare, bare.underlay[1]),
            "VXLAN": (vxlan, target),
            "VXLAN with IPsec": (secured, target),
        }
        for _ in range(ROUNDS):
            for name, (pair, address) in networks.items():
                trips.setdefault(name, []).extend(round_trips(pair, address))
                speeds.setdefault(name, []).append(throughput(pair, address))
        engine = overlay.engine
    rows = []
    first = next(iter(networks))
    for name in networks:
        speed, trip = statistics.median(speeds[name]), milliseconds(trips[name])
        rows.append(
            [
                name,
                f"{speed:,.0f}",
                f"{100 * speed / statistics.median(speeds[first]):.1f} %",
                f"{trip:.3f}",
                f"{trip / milliseconds(trips[first]):.1f}",
            ]
        )
    show(
        f"The overlay: medians of {ROUNDS} times {SECONDS} s of TCP and {PINGS} round trips",
        ("network", "Mbit/s", "of bare veth", "RTT, ms", "times bare veth"),
        rows,
        f"Encrypted by {engine.value}.\n"
        f"Load of the {os.cpu_count()} cores in the last minute: {os.getloadavg()[0]:.1f}. In user "
        "space each packet wakes\nseveral threads, so what else runs weighs most on the last line.",
    )


if __name__ == "__main__":
    main()
