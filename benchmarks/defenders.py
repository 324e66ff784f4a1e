"""What guards the gateway of ``bench_fastnetmon``, and what each says of itself while it does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from gateway import DOWNLINK, LINK_MBIT_S, SERVER, UPLINK, Gateway
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.reporting.event_text import is_alarm
from phalanx.store.jsonl import read_jsonl

BOOT_S = 10.0
LEAST_OCTETS = 54
"""Of a packet with nothing in it, Ethernet included."""
THRESHOLD_PPS = round(LINK_MBIT_S * 1e6 / 8 / LEAST_OCTETS)
"""Of FastNetMon: as many of the least packets as the server's link carries."""
BAN_S = 1900
"""How long FastNetMon bans: its default, here and upstream."""
LISTED = 4000
"""Packets that FastNetMon lists for its script, instead of 20, which are soon those of one source:
here attackers are processes that take turns."""
LEAST_SHARE = 0.05
"""A source with fewer of the packets that FastNetMon lists is not blocked by its script."""
_KTHREADD = 2
_TICKS = os.sysconf("SC_CLK_TCK")


# Of what is not said here the package's own configuration has the same value. One interface: each
# costs FastNetMon half a gigabyte. The times are the shortest it takes.
_FASTNETMON = f"""\
logging_level = info
disable_usage_report = on
enable_ban = on
enable_ban_ipv6 = off
process_incoming_traffic = on
process_outgoing_traffic = off
enable_connection_tracking = on
ban_for_pps = on
threshold_pps = {THRESHOLD_PPS}
ban_for_bandwidth = on
threshold_mbps = {LINK_MBIT_S}
ban_for_flows = off
ban_details_records_count = {LISTED}
ban_time = {BAN_S}
unban_only_if_attack_finished = on
check_period = 1
average_calculation_time = 1
speed_calculation_delay = 1
mirror_afpacket = on
mirror_af_packet_fanout_mode = cpu
interfaces = {UPLINK}
monitor_local_ip_addresses = off
networks_list_path = {{folder}}/networks
white_list_path = {{folder}}/allowed
notify_script_path = {{folder}}/notify
pid_path = {{folder}}/pid
cli_stats_file_path = {{folder}}/stats
cli_stats_ipv6_file_path = {{folder}}/stats6
enable_api = off
prometheus = off
"""

_NOTIFY = f"""\
#!/bin/sh
# FastNetMon: $1 the address that is attacked, $2 incoming, $3 packets/s, $4 what to do.
cd {{folder}} || exit
least_share={LEAST_SHARE}
now=$(date +%s.%N)
[ "$4" = unban ] || cat > "details.$4"
case $4 in
{{recipe}}
esac
echo "$now $(date +%s.%N) $4" >> told
"""

# Remotely triggered blackholing: FastNetMon's own ExaBGP and GoBGP actions announce the host with
# a blackhole community (65001:666 in its configuration), and the router before the line drops
# what goes there. Here the gateway is that router.
_RTBH = """\
ban) ip route add blackhole "$1/32" ;;
unban) ip route del blackhole "$1/32" ;;"""

# FastNetMon names no attackers: "process pcap dump or text attack details manually with your custom
# code" (its author, issue 496). It calls the script with ban and flows of the last second,
# "TARGET:80 < SOURCE:1024 54 bytes 1 packets", cut short and by port, so that they say little of
# shares; and, once it has so many, with attack_details and packets, "... SOURCE:1024 > TARGET:80
# protocol: tcp ...". A script counts the sources in these, blocks the frequent ones, and lets them
# go at the end of the ban.
_SOURCES = """\
attack_details)
  awk -v target="$1" -v share="$least_share" '
    $4 == ">" && index($3, target ":") != 1 { sub(/:.*/, "", $3); listed[$3]++; all++ }
    END { for (host in listed) if (listed[host] >= share * all) print host }
  ' details.attack_details | while read -r host; do
    nft add element inet fastnetmon sources "{ $host }"
  done ;;
unban) nft flush set inet fastnetmon sources ;;"""

_TABLE = f"""
table inet fastnetmon {{
  set sources {{ type ipv4_addr; flags timeout; timeout {BAN_S}s; }}
  chain comes {{
    type filter hook prerouting priority raw; policy accept;
    ip saddr @sources drop
  }}
}}
"""

_SITE = f"""\
pop: gate
cores: 2
memory_gb: 1
disk_gb: 1
state: {{folder}}/state
guards:
  - name: web
    address: {SERVER}
    interface: {DOWNLINK}
    bandwidth_mb_s: {LINK_MBIT_S / 8}
    threshold_mb_s: {0.6 * LINK_MBIT_S / 8:g}
"""


class Told(msgspec.Struct):
    """When a defender did what, by ``time.time``; None: it did not."""

    alarms: int = 0
    alarm: float | None = None
    """The first one."""
    actions: int = 0
    """How often it put something in force."""
    action: float | None = None
    last_block: float | None = None
    """When the last source was blocked, or all that goes to the target, or handshakes were answered
    for it."""
    blocked: frozenset[str] = frozenset()
    """Sources that it blocks, or has blocked."""
    target: bool = False
    """Whether it blocks all that goes to the target."""
    proxied: bool = False
    """Whether it answers handshakes for the target."""
    listed: frozenset[str] | None = None
    """Sources that it listed for its script, to make of that what it likes."""


class Defender(Protocol):
    """Something that guards the gateway: a process with its children."""

    @property
    def pid(self) -> int | None:
        """Of the process; None: there is none."""

    def told(self) -> Told:
        """End it, and return what it has done."""

    def close(self) -> None:
        """End it, if it has not."""


class Nobody:
    """Nothing guards the gateway.

    Args:
        gateway: what is not guarded.

    """

    pid = None

    def __init__(self, gateway: Gateway) -> None:
        pass

    def told(self) -> Told:
        """Return that nothing was done."""
        return Told()

    def close(self) -> None:
        """There is nothing to end."""


class FastNetMon:
    """FastNetMon Community, which watches the uplink, with a script that acts.

    Args:
        gateway: what it guards.
        recipe: ``rtbh``: drop all that goes to the address that is attacked; ``sources``: drop
            what comes from sources that are frequent in the list that the script gets.

    """

    def __init__(self, gateway: Gateway, recipe: Literal["rtbh", "sources"]) -> None:
        self._recipe = recipe
        self._folder = folder = gateway.folder / "fastnetmon"
        (folder / "log" / "fastnetmon_attacks").mkdir(parents=True)
        script = folder / "notify"
        acts = _RTBH if recipe == "rtbh" else _SOURCES
        script.write_text(_NOTIFY.format(folder=folder, recipe=acts))
        script.chmod(0o700)
        (folder / "networks").write_text(f"{SERVER}/32\n")
        (folder / "allowed").write_text("")
        (folder / "conf").write_text(_FASTNETMON.format(folder=folder))
        self._inside = prefix(gateway.name("gate"))
        if recipe == "sources":
            nft = [*self._inside, "nft", "-f", "-"]
            subprocess.run(nft, input=_TABLE.encode(), check=True)  # noqa: S603
        # What it writes to /var/log whatever it is told lands in our folder.
        start = f"mount --bind {folder}/log /var/log && exec fastnetmon"
        self._process = subprocess.Popen(  # noqa: S603
            [
                *self._inside,
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{start} "$@"'),
                *("sh", "--configuration_file", f"{folder}/conf", "--disable_pid_logic"),
                *("--log_file", f"{folder}/log/main"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._process.pid
        _until(self._process, lambda: "worker process" in _text(folder / "log" / "main"))

    def told(self) -> Told:
        """End it, and return what it has done."""
        self.close()
        lines = [line.split() for line in _text(self._folder / "told").splitlines()]
        calls = [(float(begun), float(done), what) for begun, done, what in lines]
        bans = [call for call in calls if call[2] == "ban"]
        if not bans:
            return Told()
        told = Told(len(bans), min(bans)[0])
        if self._recipe == "rtbh":
            told.target = True
            told.action = told.last_block = min(bans)[1]
            told.actions = len(bans)
        else:
            told.blocked = self._blocked()
            if told.blocked:
                acted = [done for _, done, what in calls if what == "attack_details"]
                told.actions = len(acted)
                told.action, told.last_block = min(acted), max(acted)
            details = _text(self._folder / "details.attack_details")
            told.listed = frozenset(re.findall(r"(\d+\.\d+\.\d+\.\d+):", details)) - {SERVER}
        return told

    def close(self) -> None:
        """End it, if it has not."""
        _end(self._process)

    def _blocked(self) -> frozenset[str]:
        nft = [*self._inside, "nft", "list", "set", "inet", "fastnetmon", "sources"]
        said = subprocess.run(nft, capture_output=True, text=True, check=True).stdout  # noqa: S603
        return frozenset(re.findall(r"\d+\.\d+\.\d+\.\d+", said))


def fastnetmon_version() -> str:
    """Return the version of the FastNetMon that is installed."""
    said = subprocess.run(["fastnetmon", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    return said.stdout.split()[-1]


class Phalanx:
    """``phalanx guard`` for the interface towards the server.

    Args:
        gateway: what it guards.

    """

    def __init__(self, gateway: Gateway) -> None:
        folder = gateway.folder / "phalanx"
        folder.mkdir()
        self._log, self._says = folder / "log.jsonl", folder / "says"
        (folder / "site.yaml").write_text(_SITE.format(folder=folder))
        with self._says.open("wb") as says:
            self._process = subprocess.Popen(  # noqa: S603
                [
                    *(*prefix(gateway.name("gate")), sys.executable, "-m", "phalanx"),
                    *("guard", str(folder / "site.yaml"), "--log", str(self._log)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=says,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        _until(self._process, lambda: "second 0" in _text(self._says))

    def told(self) -> Told:
        """End it, and return what it has done."""
        self.close()
        said = _text(self._says)
        zero = said.partition("second 0 of the log is ")[2].partition("\n")[0]
        began = datetime.fromisoformat(zero).timestamp()
        told = Told()
        blocked: set[str] = set()
        for event in read_jsonl(self._log):
            now, data = began + event.time, event.data
            if is_alarm(event):
                told.alarms += 1
                told.alarm = told.alarm or now
            elif event.kind == "measure.applied":
                told.actions += 1
                told.action = told.action or now
                flow = _source(data["effect"], "flowRateLimited")
                told.proxied = told.proxied or data.get("verdict") == "proxy"
                sources = set(data.get("sources", [flow] if flow else []))
                if sources - blocked or told.proxied:
                    told.last_block = now
                blocked |= sources
        told.blocked = frozenset(blocked)
        return told

    def close(self) -> None:
        """End it, if it has not."""
        _end(self._process)


class Use(msgspec.Struct, frozen=True):
    """What a defender and the machine have used since they began."""

    own_s: float
    """Processor time of the defender and all that descends from it, living and gone."""
    memory_mb: float
    """Of those that live: a page that several share counts once."""
    busy_s: float
    """Processor time of the machine, by /proc/stat, less that of processes that have nothing to do
    with this benchmark. All that packets cost the kernel is in it."""
    kernel_s: float
    """Of this, in system calls and interrupts."""
    idle_s: float
    """Time in which a core of the machine had nothing to do."""


def use(pid: int | None) -> Use:
    """Return what a defender with its descendants uses, and the machine.

    Args:
        pid: of the defender; None: there is none.

    """
    parents: dict[int, int] = {}
    users: dict[int, int] = {}
    systems: dict[int, int] = {}
    for other in (int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit()):
        with contextlib.suppress(OSError):
            stat = _stat(other)
            parents[other] = stat[1]
            users[other], systems[other] = stat[11] + stat[13], stat[12] + stat[14]
    own = set() if pid is None else _family(pid, parents)
    # Threads of the kernel work for us as for all.
    ours = _family(os.getpid(), parents) | _family(_KTHREADD, parents)
    foreign = [process for process in parents if process not in ours]
    memory_kb = 0
    for member in own:
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{member}/smaps_rollup").read_text()
            memory_kb += int(said.partition("\nPss:")[2].split()[0])
    words = Path("/proc/stat").read_text().partition("\n")[0].split()[1:8]
    user, nice, system, idle, waiting, hard, soft = map(int, words)
    kernel = system + hard + soft - sum(systems[process] for process in foreign)
    return Use(
        sum(users[member] + systems[member] for member in own) / _TICKS,
        memory_kb / 1e3,
        (user + nice - sum(users[process] for process in foreign) + kernel) / _TICKS,
        kernel / _TICKS,
        (idle + waiting) / _TICKS,
    )


def _family(pid: int, parents: dict[int, int]) -> set[int]:
    """Return a process and all that descend from it."""
    family, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        family |= found
    return family & set(parents)


def _source(said: str, what: str) -> str | None:
    """Return the first field of ``what(source, target)``; None for anything else."""
    kind, _, fields = said.partition("(")
    return fields.partition(",")[0] if kind == what else None


def _until(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Wait for a defender to be ready.

    Raises:
        RuntimeError: if it does not get there.

    """
    end = time.monotonic() + BOOT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            _end(process)
            raise RuntimeError(f"{process.args!r} does not start")
        time.sleep(0.05)


def _stat(pid: int) -> list[int]:
    """Return the fields of /proc/PID/stat after the name; the state is 0."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, fields[1:])]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then make it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
