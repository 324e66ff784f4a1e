"""What guards the gateway of ``bench_fastnetmon``, and what each says of itself while it does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from gateway import ATTACKERS, DOWNLINK, LINK_MB_S, SERVER, UPLINK, Gateway
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.reporting.event_text import is_alarm
from phalanx.store.jsonl import read_jsonl

BOOT_S = 10.0
THRESHOLD_PPS = 5000
"""Of FastNetMon; about what the server's link carries of the least packets."""
_TICKS = os.sysconf("SC_CLK_TCK")


# One interface: each costs FastNetMon half a gigabyte. The times are the shortest it takes.
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
ban_for_bandwidth = off
ban_for_flows = off
ban_time = 1900
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
    bandwidth_mb_s: {LINK_MB_S}
    threshold_mb_s: {0.6 * LINK_MB_S:g}
strategy: {{strategy}}
"""


class Told(msgspec.Struct):
    """When a defender did what, by ``time.time``; None: it did not."""

    alarm: float | None = None
    throttle: float | None = None
    named: float | None = None
    last_block: float | None = None
    whom: str = "nobody"
    """Whom it names as attackers, or as attacked."""


class Defender(Protocol):
    """Something that guards the gateway: a process with its children."""

    process: subprocess.Popen[bytes]

    def told(self) -> Told:
        """End it, and return what it has done."""


class FastNetMon:
    """FastNetMon Community, which watches the uplink and calls a script."""

    def __init__(self, gateway: Gateway) -> None:
        self._folder = folder = gateway.folder / "fastnetmon"
        (folder / "log" / "fastnetmon_attacks").mkdir(parents=True)
        script = folder / "notify"
        script.write_text(f'#!/bin/sh\necho "$(date +%s.%N) $1 $4" >> {folder}/told\n')
        script.chmod(0o700)
        (folder / "networks").write_text(f"{SERVER}/32\n")
        (folder / "allowed").write_text("")
        (folder / "conf").write_text(_FASTNETMON.format(folder=folder))
        # What it writes to /var/log whatever it is told lands in our folder.
        start = f"mount --bind {folder}/log /var/log && exec fastnetmon"
        self.process = subprocess.Popen(  # noqa: S603
            [
                *prefix(gateway.name("gate")),
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{start} "$@"'),
                *("sh", "--configuration_file", f"{folder}/conf", "--disable_pid_logic"),
                *("--log_file", f"{folder}/log/main"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(self.process, lambda: "worker process" in _text(folder / "log" / "main"))

    def told(self) -> Told:
        """End it, and return what it has done."""
        _end(self.process)
        lines = [line.split() for line in _text(self._folder / "told").splitlines()]
        bans = [float(moment) for moment, _, what in lines if what == "ban"]
        return Told(min(bans, default=None), whom="the target" if bans else "nobody")


class Phalanx:
    """``phalanx guard`` for the interface towards the server."""

    def __init__(self, gateway: Gateway, strategy: str) -> None:
        folder = gateway.folder / "phalanx"
        folder.mkdir()
        self._log, self._says = folder / "log.jsonl", folder / "says"
        (folder / "site.yaml").write_text(_SITE.format(folder=folder, strategy=strategy))
        with self._says.open("wb") as says:
            self.process = subprocess.Popen(  # noqa: S603
                [
                    *(*prefix(gateway.name("gate")), sys.executable, "-m", "phalanx"),
                    *("guard", str(folder / "site.yaml"), "--log", str(self._log)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=says,
                stderr=subprocess.STDOUT,
            )
        _until(self.process, lambda: "second 0" in _text(self._says))

    def told(self) -> Told:
        """End it, and return what it has done."""
        _end(self.process)
        said = _text(self._says)
        zero = said.partition("second 0 of the log is ")[2].partition("\n")[0]
        began = datetime.fromisoformat(zero).timestamp()
        told = Told()
        threats: set[str] = set()
        blocked: set[str] = set()
        for event in read_jsonl(self._log):
            now, data = began + event.time, event.data
            if is_alarm(event):
                told.alarm = told.alarm or now
            elif event.kind == "belief.changed" and data["value"]:
                if (threat := _source(data["belief"], "threat")) and threat not in threats:
                    told.named = now
                    threats.add(threat)
            elif event.kind == "analysis.done":
                found = {pair.partition(">")[0] for pair in data["found"]}
                told.named = now if found - threats else told.named
                threats |= found
            elif event.kind == "measure.applied":
                told.throttle = told.throttle or now
                flow = _source(data["effect"], "flowRateLimited")
                if sources := set(data.get("sources", [flow] if flow else [])):
                    told.last_block = now
                    blocked |= sources
        told.whom = f"{len(blocked & set(ATTACKERS))} of {len(ATTACKERS)} sources"
        if others := blocked - set(ATTACKERS):
            told.whom += f", {len(others)} others"
        return told


class Use(msgspec.Struct):
    """What a process and all that descends from it have used."""

    cpu_s: float
    own_mb: float
    """Most memory that the process itself had at a time."""
    all_mb: float
    """What all of them have now."""


def use(pid: int) -> Use:
    """Return what a process and its descendants, living and gone, have used."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for other in (int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit()):
        with contextlib.suppress(OSError):
            stat = _stat(other)
            parents[other], ticks[other] = stat[1], sum(stat[11:15])
    family, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        family |= found
    all_kb = 0
    for member in family - {pid}:
        with contextlib.suppress(OSError):
            all_kb += _memory(member, "VmRSS")
    return Use(
        sum(ticks[member] for member in family) / _TICKS,
        _memory(pid, "VmHWM") / 1e3,
        (all_kb + _memory(pid, "VmRSS")) / 1e3,
    )


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


def _memory(pid: int, what: str) -> int:
    """Return a figure of /proc/PID/status, in kB."""
    return int(_text(Path(f"/proc/{pid}/status")).partition(f"{what}:")[2].split()[0])


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
