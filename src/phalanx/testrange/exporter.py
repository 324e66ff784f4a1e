"""Metrics of a function that nginx serves, read from the kernel and from nginx's log.

The twelve metrics of table 1 of the profiling tool (resource use and requests), and open
connections. Rates are means since the sample before. What cannot be read is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from os import sysconf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

METRICS = {
    "disk_read_bytes_per_s": "read from storage by its processes",
    "disk_write_bytes_per_s": "sent to storage by its processes",
    "memory_rss_bytes": "resident memory, summed over its processes",
    "memory_vsize_bytes": "address space, summed over its processes",
    "cpu_cores": "processor time of its processes a second",
    "network_rx_bytes_per_s": "received",
    "network_tx_bytes_per_s": "sent",
    "latency_p50_s": "half of the requests took at most this long",
    "latency_p90_s": "90 % of the requests took at most this long",
    "latency_p99_s": "99 % of the requests took at most this long",
    "requests_per_s": "requests answered with a status below 400",
    "errors_per_s": "requests answered with another status, or given up by the client",
    "connections_open": "established connections to its port",
}
"""Names of the metrics, and what they say; the first five are of processes."""

LOG_FORMAT = (
    r"$request_time\t$status\t$bytes_sent\t$request_length"
    r"\t$upstream_bytes_received\t$upstream_bytes_sent"
)
"""What nginx is to log of each request."""

_RATES = np.array([True, True, False, False, True])


def process_use(pid: int) -> NDArray[np.float64] | None:
    """Return the first five of ``METRICS`` of one process; what is a rate is since it began.

    None once it is gone.
    """
    proc = Path(f"/proc/{pid}")
    try:
        pages = (proc / "statm").read_text().split()
        io = dict(line.split(": ") for line in (proc / "io").read_text().splitlines())
        tasks = [(task / "schedstat").read_text() for task in (proc / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return None
    cpu_s = sum(int(task.split()[0]) for task in tasks) / 1e9
    vsize, rss = (int(count) * sysconf("SC_PAGE_SIZE") for count in pages[:2])
    return np.array([float(io["read_bytes"]), float(io["write_bytes"]), rss, vsize, cpu_s])


def family(pids: Iterable[int]) -> Iterator[int]:
    """Yield processes and all that they have started and that has not ended."""
    for pid in pids:
        yield pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            continue
        yield from family(map(int, children.split()))


class FunctionExporter:
    """Samples the metrics of one function.

    Args:
        ports: where it listens (TCP, IPv4).
        log: nginx's log, in ``LOG_FORMAT``. Received and sent octets are those of requests and
            answers, to either side, which it tells when they end.

    """

    def __init__(self, ports: int | Iterable[int], log: Path) -> None:
        self.roots: list[int] = []
        """Its processes; what these start belongs to it, too."""
        self._ports = {f"{port:04X}" for port in ([ports] if isinstance(ports, int) else ports)}
        self._log = log.open("rb", buffering=0)
        self._rest = b""
        self._taken = math.nan
        self._before: dict[int, NDArray[np.float64]] = {}

    def sample(self, now: float) -> dict[str, float]:
        """Return all of ``METRICS``; rates are NaN at the first call.

        Args:
            now: time in seconds, of a clock that never goes back.

        """
        seconds, self._taken = now - self._taken, now
        uses = {pid: use for pid in family(self.roots) if (use := process_use(pid)) is not None}
        row = dict.fromkeys(METRICS, math.nan)
        if uses:
            # One that is new has used all that it has since the sample before.
            used = [np.maximum(use - self._before.get(pid, 0.0), 0.0) for pid, use in uses.items()]
            rates, totals = np.sum(used, axis=0) / seconds, np.sum([*uses.values()], axis=0)
            row.update(zip(METRICS, np.where(_RATES, rates, totals).tolist(), strict=False))
            table = Path(f"/proc/{next(iter(uses))}/net/tcp")  # of the namespace that it is in
            ends = [line.split() for line in table.read_text().splitlines()[1:]]
            open_ = [e for e in ends if e[1].partition(":")[2] in self._ports and e[3] == "01"]
            row["connections_open"] = float(len(open_))
        self._before = uses
        waits, bad, received, sent = self._requests()
        row["requests_per_s"] = (len(waits) - bad) / seconds
        row["errors_per_s"] = bad / seconds
        row["network_rx_bytes_per_s"] = received / seconds
        row["network_tx_bytes_per_s"] = sent / seconds
        if waits:
            latencies = np.percentile(waits, (50, 90, 99)).tolist()
            row.update(zip([*METRICS][7:10], latencies, strict=True))
        return row

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _requests(self) -> tuple[list[float], int, int, int]:
        """Return what was logged since the last call.

        How long each request took, how many failed, and the octets received and sent.
        """
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        waits, bad, received, sent = [], 0, 0, 0
        for line in lines:
            seconds, status, *octets = line.decode("ascii").split("\t")
            to_client, request, from_server, to_server = map(_total, octets)
            waits.append(float(seconds))
            bad += int(status) >= 400
            received += request + from_server
            sent += to_client + to_server
        return waits, bad, received, sent


def _total(octets: str) -> int:
    # Of several tries at the server behind each is told: "0, 1234"; of none "-".
    return sum(int(part) for part in octets.replace(":", ",").split(",") if part.strip(" -"))
