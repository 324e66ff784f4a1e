"""Measures of a guard at a real router: ExaBGP beside the guard, GoBGP as its peer."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Network, collapse_addresses, ip_network
from pathlib import Path

import pytest

from phalanx.infrastructure.linux import announcer
from phalanx.infrastructure.linux.kernel import namespaces
from phalanx.store.jsonl import read_jsonl
from tests.system.guard_lab import (
    ATTACKERS,
    ATTACKERS6,
    GATEWAY,
    SERVER,
    SERVER6,
    SITE6,
    USER6,
    Lab,
    end,
    said,
    until,
)

pytestmark = [
    *GATEWAY,
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"not installed: {name}")
        for name in ("exabgp", "gobgpd", "gobgp")
    ),
]

LEASE_S, HOLD_S = 4, 6
FIRST, SECOND = ATTACKERS[:2]
EXABGP = """\
process phalanx {{
  run /usr/bin/python3 -I -S {announcer} {folder}/phalanx.sock;
  encoder json;
}}
neighbor 10.8.9.2 {{
  router-id 10.8.9.1; local-address 10.8.9.1; local-as 65001; peer-as 65000; hold-time {hold};
  family {{ ipv4 unicast; ipv4 flow; ipv6 flow; }}
  api {{ processes [ phalanx ]; neighbor-changes; }}
}}
"""
GOBGP = """\
[global.config]
  as = 65000
  router-id = "10.8.9.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.8.9.1"
    peer-as = 65001
  [neighbors.timers.config]
    hold-time = {hold}
    connect-retry = 3
  [neighbors.transport.config]
    passive-mode = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-flowspec"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-flowspec"
"""
SITE = """\
timing: {{auction_deadline_s: 0.3, lease_s: {lease}}}
routers:
  - name: edge
    socket: {folder}/phalanx.sock
"""


class RouterLab(Lab):
    """A gateway with ExaBGP, and a router that peers with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            self._join(folder)
        except BaseException:
            self.close()
            raise

    def _join(self, folder: Path) -> None:
        namespaces.create(self.name("edge"))
        self._made.callback(namespaces.delete, self.name("edge"))
        self._ip("gate", f"link add edge type veth peer name eth netns {self.name('edge')}")
        for place, device, number in (("gate", "edge", 1), ("edge", "eth", 2)):
            self._ip(place, f"addr add 10.8.9.{number}/24 dev {device}")
            self._ip(place, f"link set {device} up")
            self._ip(place, "link set lo up")
        self.shared = Path("/run") / f"phxt-{secrets.token_hex(3)}"  # ExaBGP is no root: it may
        self.shared.mkdir()  # not look into what pytest made
        self._made.callback(shutil.rmtree, self.shared)
        shutil.chown(self.shared, "exabgp", "exabgp")
        self.conf = self.shared / "exabgp.conf"
        words = {"announcer": announcer.__file__, "folder": self.shared, "hold": HOLD_S}
        self.conf.write_text(EXABGP.format(**words))
        (folder / "gobgp.toml").write_text(GOBGP.format(hold=HOLD_S))
        self.start(
            "edge", "sh", "-c", f"exec gobgpd -f {folder}/gobgp.toml >{folder}/gobgpd.log 2>&1"
        )
        with self.site.open("a") as site:
            site.write(SITE.format(lease=LEASE_S, folder=self.shared))
        self.exabgp = self.start_exabgp()

    def start_exabgp(self) -> subprocess.Popen[str]:
        settings = "exabgp.daemon.user=exabgp exabgp.api.cli=false"
        command = f"exec env {settings} exabgp {self.conf} >>{self.folder}/exabgp.log 2>&1"
        exabgp = self.start("gate", "sh", "-c", command)
        until(self.established, "no BGP session", 30)
        return exabgp

    def established(self) -> bool:
        try:
            said = self.inside("edge", "gobgp", "neighbor", "10.8.9.1")
        except subprocess.CalledProcessError:  # it is not up yet
            return False
        return "BGP state = ESTABLISHED" in said

    def routes(self, family: str = "ipv4-flowspec") -> dict[str, str]:
        """What the router has: by route, what becomes of the traffic."""
        rib = json.loads(self.inside("edge", "gobgp", "global", "rib", "-a", family, "-j"))
        return {route: json.dumps(paths[0]["attrs"]) for route, paths in rib.items()}

    def wait(self, *sources: str, seconds: float = 15.0) -> None:
        """Wait until the router drops just what comes from these sources to the server."""
        wanted = {f"[destination: {SERVER}/32][source: {source}/32]" for source in sources}
        until(lambda: self.routes().keys() == wanted, f"never just {wanted}", seconds)

    def dropped(self) -> set[str]:
        """Whose packets to the server the router drops."""
        begin = f"[destination: {SERVER}/32][source: "
        assert all(route.startswith(begin) for route in self.routes())
        prefixes = [route.removeprefix(begin).rstrip("]") for route in self.routes()]
        return {str(address) for each in prefixes for address in ip_network(each)}

    def block(self, **seconds: float) -> subprocess.Popen[str]:
        """Start a guard that blocks sources, each under a lease that it does not renew."""
        script = Path(__file__).with_name("guard_driver.py")
        leases = [f"{FIRST if name == 'first' else SECOND}:{s}" for name, s in seconds.items()]
        guard = self.start("gate", sys.executable, str(script), str(self.site), SERVER, *leases)
        for _ in leases:
            assert "Done" in said(guard, "until")
        return guard

    def announcers(self) -> list[int]:
        """The processes of the announcer, by number."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0] == b"/usr/bin/python3" and f"{self.shared}/phalanx.sock".encode() in words:
                found.append(int(folder.name))
        return found

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RouterLab]:
    made = RouterLab(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_what_a_guard_blocks_is_at_the_router_until_it_stops(lab: RouterLab, tmp_path: Path):
    lab.serve()
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(30)
    until(lambda: lab.dropped() == set(ATTACKERS), "the router does not drop all attackers", 60)
    assert all('"rate": 0' in attributes for attributes in lab.routes().values())
    # BGP brings no counter back: what arrives in spite of the routes is counted where it does.
    log = next(tmp_path.glob("log.jsonl*"))
    until(lambda: "measures.counted" in log.read_text(), "nothing is counted", 30)
    end(guard)
    lab.wait(seconds=2)
    events = list(read_jsonl(tmp_path / "log.jsonl"))
    told = [e.data for e in events if e.kind == "route.announced"]
    assert {data["router"] for data in told} == {"edge"}


def test_routes_of_ipv6_are_of_networks(lab: RouterLab, tmp_path: Path):
    site = lab.site.read_text().replace("memory_gb: 1", "memory_gb: 4")
    lab.site.write_text(site.replace("timing:", f"{SITE6}timing:"))
    lab.serve(USER6)
    guard = lab.guard("--log", str(tmp_path / "log.jsonl"))
    said(guard, "second 0 of the log")
    lab.flood(30, ATTACKERS6)
    networks = collapse_addresses(IPv6Network((a, 64), strict=False) for a in ATTACKERS6)
    wanted = {f"[destination: {SERVER6}/128/0][source: {each}/0]" for each in networks}
    until(lambda: lab.routes("ipv6-flowspec").keys() == wanted, f"never just {wanted}", 60)
    assert all('"rate": 0' in each for each in lab.routes("ipv6-flowspec").values())
    end(guard)
    until(lambda: not lab.routes("ipv6-flowspec"), "the routes stay", 3)
    assert not lab.routes()


def test_routes_end_with_their_leases(lab: RouterLab):
    lab.block(first=5, second=60)
    lab.wait(FIRST, SECOND)
    lab.wait(SECOND)


def test_routes_of_a_killed_guard_end_with_their_leases_and_no_sooner(lab: RouterLab):
    guard = lab.block(first=8)
    lab.wait(FIRST)
    lab.kill(guard)
    time.sleep(2)
    lab.wait(FIRST, seconds=0.1)
    lab.wait(seconds=10)


def test_a_guard_that_is_back_in_time_leaves_no_gap(lab: RouterLab):
    guard = lab.block(first=60)  # longer than the next guard takes to begin on a busy machine
    lab.wait(FIRST)
    lab.kill(guard)
    again = lab.guard()
    said(again, "still in force")
    said(again, "second 0 of the log")
    for _ in range(20):
        lab.wait(FIRST, seconds=0.1)
        time.sleep(0.1)
    lab.wait(seconds=65)


def test_a_killed_exabgp_takes_its_routes_along_and_the_next_one_is_told(lab: RouterLab):
    lab.block(first=60)
    lab.wait(FIRST)
    lab.kill(lab.exabgp)
    lab.wait(seconds=HOLD_S + 4)
    lab.start_exabgp()
    lab.wait(FIRST)
    assert len(lab.announcers()) == 1


def test_a_killed_announcer_is_started_again_and_leaves_nothing(lab: RouterLab):
    guard = lab.block(first=60)
    lab.wait(FIRST)
    lab.kill(guard)
    (process,) = lab.announcers()
    os.kill(process, signal.SIGKILL)  # the only one that knew of the lease
    lab.wait(seconds=5)
    lab.block(second=60)
    lab.wait(FIRST, SECOND)  # the first is in the guard's journal


def test_what_ends_while_the_line_is_cut_does_not_come_back(lab: RouterLab):
    guard = lab.block(first=6, second=60)
    lab.wait(FIRST, SECOND)
    lab.inside("edge", "ip", "link", "set", "eth", "down")
    lab.wait(seconds=HOLD_S + 6)  # the router gives up the session, and all that it had of it
    assert guard.poll() is None
    time.sleep(3)
    lab.inside("edge", "ip", "link", "set", "eth", "up")
    until(lab.established, "the session does not come back", 40)
    lab.wait(SECOND)
    time.sleep(4)  # after this long, everything was sent again
    lab.wait(SECOND, seconds=0.1)


def test_what_a_killed_guard_left_does_not_come_back_after_a_partition(lab: RouterLab):
    guard = lab.block(first=8, second=8)
    lab.wait(FIRST, SECOND)
    lab.inside("edge", "ip", "link", "set", "eth", "down")
    lab.kill(guard)
    time.sleep(12)
    lab.inside("edge", "ip", "link", "set", "eth", "up")
    until(lab.established, "the session does not come back", 40)
    time.sleep(4)
    assert lab.routes() == {}


def test_blackholes_of_attackers_carry_their_community(lab: RouterLab):
    with lab.site.open("a") as site:
        site.write("    speaks: blackhole\n    next_hop: 10.8.9.1\n")
    lab.block(first=6)
    until(lambda: list(lab.routes("ipv4")) == [f"{FIRST}/32"], "no blackhole")
    communities = json.loads(lab.routes("ipv4")[f"{FIRST}/32"])
    assert {"type": 8, "communities": [0xFFFF029A, 0xFFFFFF01]} in communities
    assert lab.routes() == {}
    until(lambda: lab.routes("ipv4") == {}, "the blackhole stays")
