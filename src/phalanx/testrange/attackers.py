"""Attacks with real tools, each bounded in time and in packets or connections.

hping3 makes what it does well: it spends about 80 µs of processor time on a packet and waits
about 100 µs longer than told, so that it serves up to 1,000 packets a second. Faster streams
of connection requests come from ``flood.c``, compiled at need (20 µs a packet, at an even
rate). curl asks for pages, a connection each. slowhttptest holds connections open with headers
that never end.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from phalanx.domain.traffic import Source
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.cgroups import Cgroup
from phalanx.infrastructure.linux.kernel.wire import compiled
from phalanx.testrange.processes import NamespaceProcess
from phalanx.testrange.sampler import Devices

HPING_PACKETS_S = 1000.0
"""Up to this rate in packets a second hping3 is used."""
LONGEST_S = 3600.0
"""An attack without an end ends after this long, in seconds."""

_HPING_LATE_US = 100
_HEADERS = 42  # Ethernet, IP and UDP
_SPARE_S = 5.0  # ``timeout`` is the last resort: the workload ends an attack, or its own count
_OPENING_S = 1.0  # a slow attack has all its connections after this long
_FLOOD = Path(__file__).with_name("flood.c")


def packets_s(source: Source) -> float:
    """Return the packets a second that make up the demand of ``source``."""
    return source.demand_mb_s * 1e6 / source.profile.packet_octets


def length_s(source: Source) -> float:
    """Return how long ``source`` attacks, in seconds."""
    if source.end_s is None:
        return LONGEST_S
    return min(source.end_s - source.start_s, LONGEST_S)


def tool(source: Source) -> str:
    """Return the name of the program that plays ``source``.

    Raises:
        KernelError: if there is none.

    """
    if source.profile.holds:
        return "slowhttptest"
    if source.profile.establishes and source.profile.syn_share and not source.profile.responsive:
        return "curl"
    if source.profile.establishes:
        raise KernelError(f"nothing here plays {source.profile.name} with real packets")
    if source.profile.syn_share and packets_s(source) > HPING_PACKETS_S:
        return "flood"
    return "hping3"


def command(source: Source, program: str) -> list[str]:
    """Return the words that start the attack of ``source`` with ``program``."""
    seconds = length_s(source)
    words = ["timeout", "--kill-after=1", f"{seconds + _SPARE_S:.1f}", program]
    if source.profile.holds:
        return words + _slow(source, seconds)
    rate = packets_s(source)
    if tool(source) == "curl":
        return words + _asking(source, rate * source.profile.syn_share, seconds)
    if tool(source) == "flood":
        origin = "random" if source.profile.spoofed else source.address
        return [*words, origin, source.target, str(source.port), f"{rate:.1f}", f"{seconds:.1f}"]
    return words + _hping(source, rate, seconds)


def _hping(source: Source, rate: float, seconds: float) -> list[str]:
    profile = source.profile
    kind = "--syn" if profile.syn_share else "--syn --ack" if profile.syn_acks else "--ack"
    if profile.protocol == "udp":
        kind = f"--udp --data {max(0, round(profile.packet_octets) - _HEADERS)}"
    if profile.source_port:
        kind += f" --baseport {profile.source_port} --keep"
    origin = "--rand-source" if profile.spoofed else f"--spoof {source.address}"
    pause_us = max(1, round(1e6 / rate) - _HPING_LATE_US)
    return (
        f"{kind} --quiet --numeric --destport {source.port} {origin} --interval u{pause_us}"
        f" --count {math.ceil(rate * seconds)} {source.target}"
    ).split()


def _slow(source: Source, seconds: float) -> list[str]:
    count = source.profile.connections
    return (
        f"-H -c {count} -r {math.ceil(count / _OPENING_S)} -i 1 -x 24 -p 1"
        f" -l {math.ceil(seconds)} -u http://{source.target}:{source.port}/"
    ).split()


def _asking(source: Source, rate: float, seconds: float) -> list[str]:
    pages = f"http://{source.target}:{source.port}/?[1-{math.ceil(rate * seconds)}]"
    pace = f"--rate {math.ceil(rate)}/s --interface {source.address}"
    return f"-s -o /dev/null -m 2 {pace} -H Connection:close {pages}".split()


def programs(sources: Sequence[Source], folder: Path) -> dict[str, str]:
    """Return the path of each tool that ``sources`` need; ``flood`` is compiled to ``folder``.

    Raises:
        KernelError: if one is missing.

    """
    return {
        name: str(compiled(_FLOOD, folder / "flood", "fast floods"))
        if name == "flood"
        else _installed(name)
        for name in sorted({tool(source) for source in sources})
    }


def _installed(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        raise KernelError(f"no {name} here: install it (Debian: apt install {name})")
    return path


class Attack:
    """The attack of one source, from its start on.

    Args:
        source: who attacks.
        tools: paths of the tools, from ``programs``.
        run: mark of the run.
        namespace: where the source lives.
        group: limits of what attackers may take of this machine.
        sent: counters of that namespace.
        folder: where the tool's complaints go.

    """

    def __init__(
        self,
        source: Source,
        tools: Mapping[str, str],
        *,
        run: str,
        namespace: str,
        group: Cgroup,
        sent: Devices,
        folder: Path,
    ) -> None:
        self.source = source
        self._sent = sent
        self._before = self._packets()
        self.process = NamespaceProcess(
            group.words(command(source, tools[tool(source)])),
            run=run,
            namespace=namespace,
            complaints=folder / f"{source.name}.stderr",
        )

    @property
    def sending(self) -> bool:
        """Whether packets have left; one alone may be the kernel's, asking for a neighbour."""
        return self._packets() - self._before > 1

    def _packets(self) -> int:
        return sum(sent.packets for name, sent in self._sent.read().items() if name != "lo")
