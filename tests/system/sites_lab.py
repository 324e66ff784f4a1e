"""Three sites that drive themselves: machines with users behind two, and a server behind the third.

A street has users, attackers and an address for each; the server's name is ``shop``. What goes from
site to site crosses the switch between the machines, which nobody drives.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from phalanx.infrastructure.linux.kernel.namespaces import enter, prefix
from phalanx.testrange import workload
from tests.system.machines import ADDRESS, Machines

ADDRESS6 = "2001:db8::{}"
"""Of the machines among themselves, beside those of IPv4."""
SITES = {"north": 1, "south": 2, "east": 3}
ENTRIES = ("north", "south")
SERVER, PORT = "10.3.0.10", 80
ATTACKERS = {site: tuple(f"10.{SITES[site]}.0.{n}" for n in (11, 12, 13)) for site in ENTRIES}
USERS = {site: tuple(f"10.{SITES[site]}.0.{n}" for n in (21, 22, 23, 24)) for site in ENTRIES}
SERVER6 = "2001:db8:3:1::10"
ATTACKERS6 = {
    site: tuple(f"2001:db8:{SITES[site]}:{n}::2" for n in (11, 13, 15)) for site in ENTRIES
}
"""Each in a network of its own, as subscribers are; adjacent ones would be listed as one range."""
USERS6 = {
    site: tuple(f"2001:db8:{SITES[site]}:{n}::2" for n in (21, 22, 23, 24)) for site in ENTRIES
}
PAUSE_S = 0.05
_PROBE = """
table netdev probe {{
  counter hostile {{ }}
  chain comes {{
    type filter hook ingress device "eth0" priority -300;
    {ip} saddr {{ {hostile} }} counter name hostile
  }}
}}
"""
"""At the third site: what attackers get across the switch."""

PLAN: dict[str, Any] = {
    "name": "three-sites",
    "duration_s": 86400,
    "network": {
        "repository": "east",
        "pops": [{"name": n, "cores": 2, "memory_gb": 2, "disk_gb": 2} for n in SITES],
        "links": [
            {"between": ["north", "east"], "bandwidth_mb_s": 50, "latency_ms": 1},
            {"between": ["south", "east"], "bandwidth_mb_s": 50, "latency_ms": 1},
            {"between": ["north", "south"], "bandwidth_mb_s": 50, "latency_ms": 1},
        ],
    },
    "hosts": [{"name": "shop", "at": "east", "address": SERVER, "bandwidth_mb_s": 5}],
    "monitors": [{"link": "east>shop", "at": "east", "threshold_mb_s": 4}],
    "functions": {"rate-limiter": {"image_mb": 1, "boot_s": 0}},
    "timing": {"auction_deadline_s": 0.3, "drain_s": 5},
    "parameters": {"hold_s": 10, "hold_interval_s": 1},
}


class Sites(Machines):
    """The machines with what stands behind them; used with ``with``."""

    def __init__(self, folder: Path, *, six: bool = False) -> None:
        super().__init__(folder, len(SITES))
        self.six = six
        self.server = SERVER6 if six else SERVER
        self.attackers, self.users = (ATTACKERS6, USERS6) if six else (ATTACKERS, USERS)
        self.folder = folder
        self._running: list[subprocess.Popen[Any]] = []
        self._flood = folder / "flood"
        source = Path(workload.__file__).with_name("flood.c")
        with self._or_close():
            words = "cc", "-O2", "-o", str(self._flood), str(source)
            subprocess.run(words, check=True)
            for site, number in SITES.items():
                self._behind(site, number)

    def close(self) -> None:
        """End what was started here; ``with`` does."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()

    def __exit__(self, *_: object) -> None:
        self.close()
        super().__exit__(*_)

    def namespace(self, site: str) -> str:
        """Return the namespace of what stands behind a site."""
        return f"phxt-{self._mark}-behind{SITES[site]}"

    def inside(self, site: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program behind a site."""
        quiet = subprocess.DEVNULL
        words = (*prefix(self.namespace(site)), *words)
        process = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet)
        self._running.append(process)
        return process

    def serve(self) -> None:
        """Start the shop."""
        page = str(self.folder / "page")
        words = ("-m", "http.server", str(PORT), "--bind", self.server, "-d", page)
        (self.folder / "page").mkdir()
        self.inside("east", sys.executable, *words)
        until(
            lambda: visit(self.namespace("north"), self.users["north"][0]), "the shop does not open"
        )

    def flood(self, site: str, seconds: float, rate: int = 1000) -> None:
        """Let the attackers behind a site flood the shop with requests for connections."""
        for source in self.attackers[site]:
            self.inside(
                site, str(self._flood), source, self.server, str(PORT), str(rate), str(seconds)
            )

    def do(self, site: str, commands: str, within_s: float = 60.0) -> str:
        """Return what commands say on a site's machine; fail if one fails."""
        code, said = self[SITES[site]].run(commands, within_s=within_s)
        assert code == 0, f"{site}: {commands}: {said}"
        return said

    def dropped(self, site: str) -> dict[str, int]:
        """Return the packets that rules have dropped at a site, by the counter's name."""
        listing = json.loads(self.do(site, "nft -j list counters"))
        counters = (each["counter"] for each in listing["nftables"] if "counter" in each)
        return {f"{c['table']} {c['name']}": c["packets"] for c in counters if "held" in c["name"]}

    def crossed(self) -> int:
        """Return how many packets of attackers have come to the third site since it was made."""
        (found,) = [
            each["counter"]["packets"]
            for each in json.loads(self.do("east", "nft -j list counter netdev probe hostile"))[
                "nftables"
            ]
            if "counter" in each
        ]
        return int(found)

    def blocked(self, site: str) -> set[str]:
        """Return the addresses that rules at the ingress of a site name."""
        listing = json.loads(self.do(site, "nft -j list sets"))
        sets = (each["set"] for each in listing["nftables"] if "set" in each)
        named = [s.get("elem", []) for s in sets if s["name"].endswith(("sources", "sources6"))]
        return {_address(element) for elements in named for element in elements}

    def tables(self, site: str) -> list[str]:
        """Return the tables of ours on a site's machine."""
        return [line for line in self.do(site, "nft list tables").splitlines() if "phx_" in line]

    @contextlib.contextmanager
    def _or_close(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.__exit__()
            raise

    def _behind(self, site: str, number: int) -> None:
        name = self._namespace(f"behind{number}")
        peer = f"link add eth1 type veth peer name eth0 netns {name}"
        self._ip(f"{number}", peer)
        self._ip(f"{number}", f"addr add 10.{number}.0.1/24 dev eth1")
        self._ip(f"{number}", "link set eth1 up")
        self._ip(f"behind{number}", "link set lo up")
        own = (self.server,) if site == "east" else (*self.attackers[site], *self.users[site])
        if self.six:
            self._ip(f"{number}", f"addr add 2001:db8:{number}:1::1/64 dev eth1 nodad")
            self._ip(f"{number}", f"addr add {ADDRESS6.format(number)}/64 dev eth0 nodad")
            self._ip(f"behind{number}", f"addr add 2001:db8:{number}:1::2/64 dev eth0 nodad")
        for address in own:
            size = "64 dev eth0 nodad" if self.six else "24 dev eth0"
            self._ip(f"behind{number}", f"addr add {address}/{size}")
        self._ip(f"behind{number}", "link set eth0 up")
        gateway = f"2001:db8:{number}:1::1" if self.six else f"10.{number}.0.1"
        self._ip(f"behind{number}", f"route add default via {gateway}")
        if self.six:
            self._ip(f"{number}", f"route add 2001:db8:{number}::/48 via 2001:db8:{number}:1::2")
        for other in SITES.values():
            if other != number:
                self._ip(f"{number}", f"route add 10.{other}.0.0/24 via {ADDRESS.format(other)}")
                if self.six:
                    to = f"2001:db8:{other}::/48 via {ADDRESS6.format(other)}"
                    self._ip(f"{number}", f"route add {to}")
        for path in ("ipv4/ip_forward", *["ipv6/conf/all/forwarding"] * self.six):
            self.do(site, f"echo 1 > /proc/sys/net/{path}")
        if site == "east":
            hostile = ", ".join(source for each in self.attackers.values() for source in each)
            probe = _PROBE.format(ip="ip6" if self.six else "ip", hostile=hostile)
            self.do(site, f"nft -f - <<'END'\n{probe}END\n")


def _address(element: Any) -> str:
    value = element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return str(value)


class Visitors:
    """Users behind two sites, each of whom asks the shop for its page again and again."""

    def __init__(self, sites: Sites) -> None:
        self.visits: list[tuple[float, str, bool]] = []
        self._over = threading.Event()
        people = [(sites.namespace(site), user) for site in ENTRIES for user in sites.users[site]]
        self._threads = [threading.Thread(target=self._come, args=each) for each in people]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def unserved(self, since: float) -> dict[str, tuple[int, int]]:
        """Return (failed, all) visits since a time, of those users for whom one failed."""
        found: dict[str, list[bool]] = {}
        for begun, user, served in list(self.visits):
            if begun >= since:
                found.setdefault(user, []).append(served)
        return {u: (v.count(False), len(v)) for u, v in found.items() if not all(v)}

    def _come(self, namespace: str, user: str) -> None:
        enter(namespace)
        while not self._over.wait(PAUSE_S):
            begun = time.monotonic()
            self.visits.append((begun, user, _visited(user)))


def visit(namespace: str, user: str) -> bool:
    """Whether a user is served once."""
    found: list[bool] = []

    def go() -> None:
        enter(namespace)
        found.append(_visited(user))

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return found == [True]


def _visited(user: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        server = SERVER6 if ":" in user else SERVER
        connection = http.client.HTTPConnection(server, PORT, timeout=3, source_address=(user, 0))
        with contextlib.closing(connection):
            connection.request("HEAD", "/")
            return connection.getresponse().status == 200
    return False


def until(ready: Callable[[], object], else_say: str, seconds: float = 30.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, else_say
        time.sleep(0.05)


def plan_of(sites: Sites) -> dict[str, Any]:
    """Return the plan, with the address that the shop has there."""
    return {**PLAN, "hosts": [{**PLAN["hosts"][0], "address": sites.server}]}


class SiteDomain:
    """A domain with a broker at the first site, and an agent at each that drives its own."""

    def __init__(self, sites: Sites, plan: dict[str, Any] | None = None) -> None:
        self.sites = sites
        broker = (ADDRESS6 if sites.six else ADDRESS).format(1)
        sites.do("north", f"phalanx domain init edge --broker {broker}")
        for site in SITES:
            sites.do("north", f"phalanx domain add edge {site}")
        self.start_broker()
        for site in SITES:
            self._configure(site, plan or plan_of(sites))

    def start_broker(self) -> None:
        self.sites.do("north", "phalanx domain up edge --detach")

    def start(self, site: str) -> None:
        """Start the agent of a site, and wait for its first word."""
        self.sites.do(site, f"setsid phalanx agent --config {site}.toml >> {site}.log 2>&1 &")

    def kill(self, site: str, what: str = "--config") -> None:
        self.sites.do(site, f"kill -9 $(pgrep -f -- '{what}')")

    def log(self, site: str) -> str:
        return self.sites.do(site, f"cat {site}.log")

    def events(self) -> list[dict[str, Any]]:
        """Return all that the broker keeps."""
        said = self.sites.do("north", "phalanx logs --domain edge --all --json 2>/dev/null")
        return [json.loads(line) for line in said.splitlines()]

    def serving(self) -> set[str]:
        _, said = self.sites[1].run("phalanx status --domain edge --json")
        rows = json.loads(said)["rows"]
        return {row["agent"] for row in rows if row["state"] == "serving"}

    def _configure(self, site: str, plan: dict[str, Any]) -> None:
        sites, number = self.sites, SITES[site]
        interface = 'hosts = { shop = "eth1" }' if site == "east" else 'ingress = "eth1"'
        config = (
            f'bus = "{site}/bus.toml"\nplan = "plan.yaml"\nstate = "state"\n[site]\n{interface}\n'
        )
        if number != 1:
            copy = f"scp -rp edge/identities/{site} root@{ADDRESS.format(number)}:"
        else:
            copy = f"cp -rp edge/identities/{site} ."
        sites.do("north", copy)
        sites.do(site, f"cat > {site}.toml <<'END'\n{config}END\n")
        sites.do(site, f"cat > plan.yaml <<'END'\n{yaml.safe_dump(plan)}END\n")


def named(events: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind."""
    return [event for event in events if event["kind"] == kind]
