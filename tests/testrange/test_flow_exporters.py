"""Real exporters (softflowd, pmacct) see traffic in a namespace; who attacks is told by both alike.

The same frames are judged as a capture, and as what each exporter told of them.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.analytics import captures as make
from tests.analytics.test_flow_sources import SERVER, mixed, reflection, slow, udp, users
from tests.infrastructure.linux.linux_needs import requires, requires_root

from phalanx.analytics.packets import Capture
from phalanx.infrastructure.linux.kernel import namespaces
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import entered, prefix

pytestmark = [
    pytest.mark.linux,
    requires_root,
    requires("softflowd", "pmacctd", "tcpdump"),
]

SHORT = ["general=2", "tcp=2", "tcp.rst=1", "tcp.fin=1", "udp=2", "maxlife=4", "expint=1"]
PMACCT = """daemonize: false
pcap_interface: eth-b
plugins: sfprobe[s], nfprobe[n], nfprobe[i]
sfprobe_receiver[s]: 127.0.0.1:6343
sampling_rate[s]: 5
nfprobe_receiver[n]: 127.0.0.1:2059
nfprobe_version[n]: 9
nfprobe_receiver[i]: 127.0.0.1:2060
nfprobe_version[i]: 10
"""
AGGREGATE = "src_host,dst_host,src_port,dst_port,proto,tcpflags"
PORTS = {
    "softflowd NetFlow 5": 2055,
    "softflowd NetFlow 9": 2056,
    "softflowd IPFIX": 2057,
    "softflowd IPFIX, 1 in 5": 2058,
    "pmacct NetFlow 9": 2059,
    "pmacct IPFIX": 2060,
    "pmacct sFlow, 1 in 5": 6343,
}
LIVE = ("pmacct sFlow, 1 in 5", 6343)


PUBLIC = Path(__file__).parents[3] / "shared/data/pcaps/CIC-DDoS-2019-SynFlood.pcap"
SLOWER = 8.0
"""The public capture is played so much more slowly: it has 38,000 packets/s."""


def public() -> list[tuple[float, bytes]]:
    """Return the frames of a SYN flood of the set CIC-DDoS2019."""
    if not PUBLIC.exists():
        pytest.skip(f"{PUBLIC.name} is not here")
    capture, packets = Capture(str(PUBLIC)), []
    while more := capture.read():
        packets += [(at, octets) for octets, at, _ in more]
    return [((at - packets[0][0]) * SLOWER, octets) for at, octets in packets]


def made() -> list[tuple[float, bytes]]:
    """Return users, three floods, and connections that are held open, for 6 s."""
    syn = make.syn_flood(1.0, "6.6.6.6", 5000, SERVER, rate=1250)
    flood = [udp(1 + n / 1500, "6.6.6.8", SERVER, 7000, 9000, 100) for n in range(6000)]
    packets = mixed(users(150, 6.0), syn, flood, reflection(4000), slow())
    return [(at, make.ethernet(packet)) for at, packet in packets]


TRAFFIC = {"made": made, "CIC-DDoS2019": public}


def phalanx(*args: str, within: str | None = None) -> subprocess.Popen[str]:
    command = [*(prefix(within) if within else []), sys.executable, "-m", "phalanx", "detect"]
    return subprocess.Popen([*command, *args, "--json"], stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict:
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(told)


def listening(pid: int, port: int) -> None:
    """Wait until a process has a UDP port, 60 s at most."""
    for _ in range(600):
        table = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
        if any(line.split()[1].endswith(f":{port:04X}") for line in table):
            return
        time.sleep(0.1)
    pytest.fail(f"nothing listens at port {port}")


def play(frames: list[tuple[float, bytes]]) -> None:
    """Send frames at their times, as far as this machine keeps up."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth-a", 0))
        began = time.monotonic()
        for at, frame in frames:
            ahead = began + at - time.monotonic()
            if ahead > 0.002:
                time.sleep(ahead)
            sock.send(frame)


@pytest.fixture(scope="module", params=list(TRAFFIC))
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict]]:
    """What is found in the capture, in the exports of each exporter, and as they arrive."""
    frames = TRAFFIC[request.param]()
    folder = tmp_path_factory.mktemp("exports")
    name = "phxt-flowexports"
    with contextlib.suppress(Exception):
        namespaces.delete(name)
    namespaces.create(name)
    processes: list[subprocess.Popen] = []

    def start(*command: str) -> None:
        processes.append(
            subprocess.Popen(
                [*prefix(name), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    try:
        with entered(name):
            ip(
                "link set lo up",
                "link add eth-a type veth peer name eth-b",
                "link set eth-a up",
                "link set eth-b up",
            )
        start("tcpdump", "-U", "-s", "0", "-i", "lo", "-w", str(folder / "exports.pcap"), "udp")
        start("tcpdump", "-U", "-i", "eth-b", "-w", str(folder / "packets.pcap"), "ip")
        for number, options in enumerate((["-v5"], ["-v9"], ["-v10"], ["-v10", "-s5"])):
            timeouts = [word for each in SHORT for word in ("-t", each)]
            control = ["-p", str(folder / f"{number}.pid"), "-c", str(folder / f"{number}.ctl")]
            place = f"127.0.0.1:{2055 + number}"
            start("softflowd", "-d", "-i", "eth-b", "-n", place, *options, *control, *timeouts)
        settings = folder / "pmacctd.conf"
        lines = [
            f"aggregate[{p}]: {AGGREGATE}\nnfprobe_timeouts[{p}]: {':'.join(SHORT)}" for p in "ni"
        ]
        settings.write_text(PMACCT + "\n".join(lines) + "\n")
        start("pmacctd", "-f", str(settings))
        live = phalanx(
            "--collect", f"127.0.0.1:{LIVE[1]}", "--exporter", "127.0.0.1", "--seconds", "24",
            "--window", "10", within=name,
        )  # fmt: skip
        listening(live.pid, LIVE[1])
        time.sleep(4)  # the exporters look at the interface by then
        with entered(name):
            play(frames)
        found = {"live": answer(live)}  # by then all is exported
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
        packets = answer(phalanx(str(folder / "packets.pcap"), "--window", "10"))
        found["packets"] = packets
        for way, port in PORTS.items():
            file = str(folder / "exports.pcap")
            found[way] = answer(phalanx(file, "--exports", str(port), "--window", "10"))
        yield found
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        namespaces.delete(name)


def named(found: dict) -> tuple[set[tuple[str, str, str]], set[str]]:
    sources = {(each["source"], each["target"], each["kind"]) for each in found["flows"]}
    return sources, {each["target"] for each in found["targets"]}


def test_the_capture_itself_names_all_that_attack(told: dict[str, dict]) -> None:
    sources, targets = named(told["packets"])
    if targets == {"192.168.50.4"}:
        assert sources == {("172.16.0.5", "192.168.50.4", "syn flood")}
        return
    assert targets == {SERVER}
    reflectors = {(f"9.9.9.{n}", SERVER, "reflection") for n in range(1, 13)}
    floods = {("6.6.6.6", SERVER, "syn flood"), ("6.6.6.8", SERVER, "udp flood")}
    assert sources == {*reflectors, *floods, ("6.6.6.7", SERVER, "slow connections")}


@pytest.mark.parametrize("way", [*PORTS, "live"])
def test_a_real_exporter_leads_to_the_same_verdict(told: dict[str, dict], way: str) -> None:
    sampled = "1 in" in way or way == "live"
    sources, targets = named(told["packets"])
    if sampled:  # of samples nobody knows which connections stay open
        sources = {each for each in sources if each[2] != "slow connections"}
    assert named(told[way]) == (sources, targets)
    (exporter,) = told[way]["exporters"]
    assert exporter["lost"] == 0
    assert abs(exporter["skew_s"]) < 5
    assert exporter["rates"] == ([5] if sampled else exporter["rates"])
    assert all(("samples of 1 in 5" in each["reason"]) == sampled for each in told[way]["flows"])


def test_what_was_told_by_whom(told: dict[str, dict], capsys: pytest.CaptureFixture[str]) -> None:
    """Print what was found in the traffic, by where it was seen."""
    with capsys.disabled():
        print(f"\n{'seen in':<26}{'read':>8}{'sources':>9}  kinds")
        for way, found in told.items():
            kinds = sorted({each["kind"] for each in found["flows"]})
            print(f"{way:<26}{found['packets']:>8,}{len(found['flows']):>9}  {', '.join(kinds)}")


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """Its commands, word by word, with a user's and an attacker's traffic at ``wan0``."""
    page = (Path(__file__).parents[2] / "docs/flow-sources.md").read_text(encoding="utf-8")
    exporting, collecting = re.findall(r"```sh\n(.*?)\n```", page)
    name = "phxt-flowpage"
    with contextlib.suppress(Exception):
        namespaces.delete(name)
    namespaces.create(name)
    within = prefix(name)
    words = collecting.split()
    assert words[0] == "phalanx"
    files = ["-p", str(tmp_path / "pid"), "-c", str(tmp_path / "ctl")]
    try:
        with entered(name):
            ip("link set lo up", "link add eth-a type veth peer name wan0")
            ip("link set eth-a up", "link set wan0 up")
        command = [*within, sys.executable, "-m", *words]
        with (
            subprocess.Popen(
                [*within, *exporting.split(), *files], stderr=subprocess.DEVNULL
            ) as one,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as two,
        ):
            listening(two.pid, 4739)
            with entered(name):
                play(made())
            told, _ = two.communicate(timeout=120)
            one.terminate()
        assert two.returncode == 0
        for source in ("6.6.6.6", "6.6.6.7", "6.6.6.8", "9.9.9.1"):
            assert f"malicious: {source} > {SERVER}" in told
        assert "malicious: 1.1." not in told
    finally:
        namespaces.delete(name)
