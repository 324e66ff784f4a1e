"""A virtual content delivery network: users follow a live stream at a streamer behind a cache.

users -> streamer -> cache -> origin, all of them nginx on loopback, as the vCDN slice of the proof
of concept of service-based autonomic anomaly detection; its two functions are the streamer, which
alone is exposed to users, and the cache. A visit begins with a clip that the streamer reads from
its own disk, past the page cache, as what is larger than memory would be. Relays stand for the
links streamer-cache and cache-origin.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from phalanx.domain.traffic import Profile, Source
from phalanx.infrastructure.linux.kernel import KernelError, runs
from phalanx.testrange.client import SEGMENT_S
from phalanx.testrange.exporter import LOG_FORMAT, FunctionExporter, family
from phalanx.testrange.processes import (
    NamespaceProcess,
    end,
    filled,
    start_nginx,
    wait_for_page,
)
from phalanx.testrange.users import Users

FUNCTIONS = ("streamer", "cache")
RENDITIONS = (10_000, 25_000, 50_000)
"""Octets a second of the stream, from the smallest picture to the largest."""
DELAY_MS = 4.0
"""Of each link between functions, one way."""
ADDRESS = "127.0.0.1"
LIVE = Profile("live", responsive=True, packet_octets=900.0, connections=1)

_NAMES = 3  # segments in a playlist
_INTRO_OCTETS = 100_000
_NGINX = Path(__file__).with_name("nginx")
_RELAY = Path(__file__).with_name("vcdn_relay.py")
_RUN = "loopback"  # no run of ``phalanx clean``: there is nothing to remove but processes


class Vcdn:
    """The service, with users and exporters.

    Args:
        folder: where its files lie while it runs; on a disk, or the disk metrics are 0.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._ports: dict[str, int] = {}
        self._servers: list[NamespaceProcess] = []
        self._relays: list[NamespaceProcess] = []
        self._others: list[NamespaceProcess] = []
        """Users, and what troubles the service."""
        self._exporters: dict[str, FunctionExporter] = {}

    def start(self) -> None:
        """Start all but the users, and wait until the stream is there; blocking.

        Raises:
            KernelError: if something is missing or does not start.

        """
        self._write_clips()
        self.publish()
        behind = 0
        for name in ("origin", *reversed(FUNCTIONS)):
            port, folder = _free_port(), self.folder / name
            self._ports[name] = port
            cores = "".join("01"[n == self.core(name)] for n in range(self.core("cache"), -1, -1))
            values = {
                "user": "user root;" if os.geteuid() == 0 else "",
                "cores": cores,
                "log": LOG_FORMAT,
                "listen": f"{ADDRESS}:{port}",
                "folder": folder,
                "behind": f"{ADDRESS}:{behind}",
            }
            (folder / "server.conf").write_text(filled(_NGINX / f"{name}.conf", **values))
            server = start_nginx(_RUN, None, filled(_NGINX / "nginx.conf", **values), folder)
            self._servers.append(server)
            wait_for_page(server, None, ADDRESS, port, f"/live/{RENDITIONS[0]}.m3u8")
            if name in FUNCTIONS:
                self._exporters[name] = FunctionExporter(port, folder / "access.log")
                self.adopt(name, server)
            if name != "streamer":
                behind = _free_port()
                words = [str(_RELAY), ADDRESS, str(behind), ADDRESS, str(port), str(DELAY_MS)]
                self._relays.append(self._program(words, piped=True))
        for pid in family([self._servers[1].pid]):
            # It has nothing to load, and would end after a minute: a step in the memory used.
            if b"cache loader" in Path(f"/proc/{pid}/cmdline").read_bytes():
                runs.end([pid])

    def users(self, visits: Sequence[tuple[float, float]], rng: random.Random) -> Users:
        """Start the process of the users, who wait for ``begin``.

        Args:
            visits: begin and end of each, in seconds after it.
            rng: draws the rendition that each of them takes.

        """
        viewer = Source("viewer", "viewers", "access", ADDRESS, *self.target, LIVE, 0.0)
        sources = [
            replace(viewer, demand_mb_s=rng.choice(RENDITIONS) / 1e6, start_s=begin, end_s=end_s)
            for begin, end_s in visits
        ]
        users = Users(_RUN, None, list(enumerate(sources)), self.folder)
        self._others.append(users.process)
        return users

    def launch(self, words: Sequence[str]) -> NamespaceProcess:
        """Start a Python program, by its path and arguments, until ``stop``."""
        self._others.append(self._program(words))
        return self._others[-1]

    def adopt(self, function: str, process: NamespaceProcess) -> None:
        """Count what a process uses to a function from now on."""
        self._exporters[function].roots.append(process.pid)

    @staticmethod
    def core(name: str) -> int:
        """Return the processor that the worker of a part runs on."""
        cores = sorted(os.sched_getaffinity(0))
        return cores[0 if name == "streamer" else -1]

    @property
    def target(self) -> tuple[str, int]:
        """Address and port that users, and attackers, know."""
        return ADDRESS, self._ports["streamer"]

    def delay(self, delay_ms: float) -> None:
        """Set the delay of the links between functions, one way."""
        for relay in self._relays:
            relay.input.write(f"{delay_ms}\n".encode())
            relay.input.flush()

    def publish(self) -> None:
        """Write the playlists as of now; to be called at least once a segment's length."""
        newest = int(time.time() / SEGMENT_S)
        first = newest - _NAMES + 1
        for rate in RENDITIONS:
            head = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
            names = [f"#EXTINF:2,\n{rate}/{n}.ts\n" for n in range(first, newest + 1)]
            playlist = self.folder / "origin" / "pages" / "live" / f"{rate}.m3u8"
            playlist.with_suffix(".new").write_text(head + "".join(names))
            playlist.with_suffix(".new").replace(playlist)

    def sample(self, now: float) -> dict[str, dict[str, float]]:
        """Return the metrics of each function.

        Raises:
            KernelError: if a part of the service has ended.

        """
        for process in (*self._servers, *self._relays):
            if process.ended:
                raise KernelError(f"{Path(process.words[0]).name} ended: {process.complaint()}")
        return {name: self._exporters[name].sample(now) for name in FUNCTIONS}

    def stop(self) -> None:
        """End all of it; blocking. Idempotent."""
        end([*self._others, *self._servers, *self._relays])
        for processes in (self._others, self._servers, self._relays):
            processes.clear()
        for exporter in self._exporters.values():
            exporter.close()

    def _write_clips(self) -> None:
        pages, own = self.folder / "origin" / "pages", self.folder / "streamer" / "pages"
        for folder in (pages / "live", pages / "segments", own, self.folder / "cache"):
            folder.mkdir(parents=True)
        rng = random.Random(1)
        (own / "intro").write_bytes(rng.randbytes(_INTRO_OCTETS))
        for rate in RENDITIONS:
            for digit in range(10):
                size = round(rate * SEGMENT_S * rng.uniform(0.7, 1.3))
                (pages / "segments" / f"{rate}-{digit}").write_bytes(rng.randbytes(size))

    def _program(self, words: Sequence[str], *, piped: bool = False) -> NamespaceProcess:
        return NamespaceProcess(
            [sys.executable, "-I", "-S", *words],
            run=_RUN,
            namespace=None,
            complaints=self.folder / f"{Path(words[0]).stem}.stderr",
            piped=piped,
        )


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind((ADDRESS, 0))
        return int(bound.getsockname()[1])
