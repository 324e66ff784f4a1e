"""Record labelled flows of a live service, the vCDN on loopback (docs/flow-models.md).

``python scripts/flow_vcdn.py --out DIR`` adds the network ``vcdn`` to what ``flow_data.py``
makes: viewers, honest traffic and attackers, each with an address of 127.0.0.0/8. It needs root,
for tcpdump and hping3, and six minutes.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from flow_data import (
    BEGIN_S,
    END_S,
    REAL,
    TRAFFIC,
    WINDOWS_S,
    Writer,
    attack,
    parser,
    record,
)
from phalanx.analytics.capture import FlowTable, Windows
from phalanx.analytics.packets import Capture, decode
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.traffic import VIDEO, Source
from phalanx.testrange.client import SEGMENT_S
from phalanx.testrange.processes import NamespaceProcess, end
from phalanx.testrange.users import Users
from phalanx.testrange.workload import command
from vcdn import ADDRESS, LIVE, RENDITIONS, Vcdn

ON_LOOPBACK = (
    "syn flood", "udp flood", "syn-ack flood", "reflection", "slow http", "http flood",
)  # fmt: skip
"""Forged sources would be answered to the world; and of ACKs of no connection a capture can only
guess by the ports who is the server, which is wrong for a service at a high port."""


def stream(name: str, family: str, strength: str, path: Path) -> str:
    """Play one run at the vCDN, of which tcpdump records the packets; return what was written."""
    rng = random.Random(f"{path.parent.name} {name}")
    folder = Path(tempfile.mkdtemp(prefix="phalanx-flows-"))
    vcdn = Vcdn(folder / "vcdn")
    service = rng.randrange(20_000, 30_000)
    played: list[NamespaceProcess] = []
    users: list[Users] = []
    clock = WallClock()

    def launch(*words: object) -> None:
        played.append(
            NamespaceProcess(
                list(map(str, words)), run="loopback", namespace=None, complaints=folder / "stderr"
            )
        )

    def publish() -> None:
        vcdn.publish()
        clock.call_at(clock.now() + SEGMENT_S / 2, publish)

    def fail(reason: str) -> None:
        raise PhalanxError(reason)

    try:
        vcdn.start()
        sources = loopback_sources(rng, vcdn.target, service, family, strength)
        viewers = [s for s in sources if s.profile == LIVE]
        users.append(Users("loopback", None, list(enumerate(viewers)), folder))
        script = (sys.executable, "-I", "-S", TRAFFIC)
        launch(*script, "serve", ADDRESS, service, END_S + 5)
        ports = f"(port {vcdn.target[1]} or portrange {service}-{service + 9})"
        recorded = folder / "packets.pcap"
        launch("tcpdump", "-i", "lo", "-U", "-s", "128", "-Z", "root", "-w", recorded, ports)
        time.sleep(1.0)
        users[0].begin(time.monotonic() - clock.now(), clock.loop, fail)
        publish()
        for one in sources:
            verb = {"http-flood": "http", "slow-http": "slow"}.get(one.profile.name, "")
            verb = verb or (REAL[one.group][0] if one.group in REAL else "")
            words: tuple[object, ...] = (
                *script, verb, ADDRESS, one.port, END_S - one.start_s, one.demand_mb_s, one.address
            )  # fmt: skip
            if not verb:
                words = tuple(command(one, shutil.which("hping3") or "hping3"))
            if one.profile != LIVE:
                clock.call_at(one.start_s, partial(launch, *words))
        clock.run(until=END_S)
        time.sleep(0.5)
    finally:
        for each in users:
            each.stop()
        end([*played, *(each.process for each in users)])
        vcdn.stop()
        clock.close()
    writer = Writer(path, {s.address: s.group for s in sources}, "", f"{path.parent.name} {name}")
    capture = Capture(str(recorded))
    windows = Windows(rng.choice(WINDOWS_S), FlowTable())
    for batch in capture.batches():
        for _, records in windows.add(decode(batch, capture.link_type, Counter())):
            writer.add(records, records.seconds)
    shutil.rmtree(folder)
    return writer.close()


def loopback_sources(
    rng: random.Random, target: tuple[str, int], service: int, family: str, strength: str
) -> list[Source]:
    """Draw who sends what on loopback, each from an address of its own; proxies from one."""
    address, port = target
    found: list[Source] = []

    def visits(label: str, number: int, count: int, begin: float, end_s: float) -> None:
        for n in range(count):
            at = f"127.0.{number}.{1 if label == 'proxy' else n + 1}"
            start = begin + rng.random()
            rate = rng.choice(RENDITIONS) / 1e6
            found.append(
                Source(f"{label}-{n}", label, "lo", at, address, port, LIVE, rate, start, end_s)
            )

    visits("users", 2, rng.randint(10, 20), 0.0, END_S)
    visits("proxy", 3, rng.randint(5, 15), 0.0, END_S)
    groups = [
        (label, *REAL[label][1:], VIDEO, service) for label in ("bulk upload", "calls", "reports")
    ]
    if family == "flash crowd":
        visits(family, 4, rng.randint(60, 90), BEGIN_S, END_S)
    elif family:
        profile, (least, most, fewest, many) = attack(rng, family, strength)
        rates, counts = (least, min(most, 900.0)), (fewest, min(many, 14))
        if family == "http flood":
            rates, counts = (
                ((30.0, 60.0), (3, 5)) if strength == "strong" else ((6.0, 20.0), (6, 10))
            )
        if family == "slow http":
            rates = (profile.connections * 0.7, float(profile.connections))
        at = service + 5 if profile.protocol == "udp" else port
        groups.append((family, rates, counts, profile, at))
    for number, (label, (least, most), (fewest, many), profile, at) in enumerate(groups, 5):
        for n in range(rng.randint(fewest, many)):
            rate = least * (most / least) ** rng.random()
            if profile.malicious and family not in ("http flood", "slow http"):
                rate *= min(profile.packet_octets, 400.0) / 1e6
            span = (BEGIN_S, END_S) if label == family else (0.0, END_S)
            own = replace(profile, packet_octets=min(profile.packet_octets, 400.0))
            source = f"127.0.{number}.{n + 1}"
            found.append(Source(f"{label}-{n}", label, "lo", source, address, at, own, rate, *span))
    return found


def main() -> int:
    """Make the data; return the exit code."""
    given = parser().parse_args()
    return record(given.out, given.only, {"vcdn": stream}, ON_LOOPBACK)


if __name__ == "__main__":
    sys.exit(main())
