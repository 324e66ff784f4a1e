"""The users of one namespace: starts their process and adds up what it measures."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from phalanx.domain.traffic import Source
from phalanx.testrange.processes import PAGE_OCTETS, NamespaceProcess

TIMEOUT_S = 1.0
"""How long a user waits for a page, in seconds."""
LINE_S = 0.1
"""Pause between two lines of the users' process, in seconds."""

_CLIENT = Path(__file__).with_name("client.py")
_GOLDEN = 0.618034  # its multiples, less the whole part, spread evenly whatever their count
_LONGEST_LINE = 4096
_READ = 65_536


class Received(Struct):
    """What users received, as their process writes it and summed over its lines."""

    octets: int = 0
    """Of answers' bodies."""
    ok: int = 0
    """Requests answered; a stream counts once, when it begins."""
    failed: int = 0
    """Requests not answered in time, and streams that stalled or broke."""
    waited_s: float = 0.0
    """All latencies together: from a request, connection included, to the end of its page (or
    the begin of its stream)."""
    slowest_s: float = 0.0
    """The greatest of them."""

    def add(self, other: Received) -> None:
        """Add what was received meanwhile, or by others."""
        self.octets += other.octets
        self.ok += other.ok
        self.failed += other.failed
        self.waited_s += other.waited_s
        self.slowest_s = max(self.slowest_s, other.slowest_s)


class Users:
    """A process that stands for all benign sources of one namespace.

    It waits for ``begin`` with its plan at hand, so that no start-up falls into the run.

    Args:
        run: mark of the run.
        namespace: where they live; None: that of the caller.
        sources: the users, each with its number among all of the run.
        folder: where the process's complaints go.

    """

    def __init__(
        self,
        run: str,
        namespace: str | None,
        sources: Sequence[tuple[int, Source]],
        folder: Path,
    ) -> None:
        self.target = sources[0][1].target
        self._place = namespace or "loopback"
        self._received = Received()
        self._decoder = Decoder(Received)
        self._rest = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.process = NamespaceProcess(
            [sys.executable, "-I", "-S", str(_CLIENT)],
            run=run,
            namespace=namespace,
            complaints=folder / f"{self._place}.stderr",
            piped=True,
        )
        plan = {
            "users": [
                {
                    "address": source.address,
                    "target": source.target,
                    "port": source.port,
                    "profile": source.profile.name,
                    "mb_s": source.demand_mb_s,
                    "start_s": source.start_s,
                    "end_s": source.end_s,
                    "phase": number * _GOLDEN % 1.0,
                }
                for number, source in sources
            ],
            "page_octets": PAGE_OCTETS,
            "timeout_s": TIMEOUT_S,
            "sample_s": LINE_S,
        }
        self._write(json.dumps(plan))

    def begin(
        self, zero: float, loop: asyncio.AbstractEventLoop, failed: Callable[[str], None]
    ) -> None:
        """Let the users begin, and listen to what they tell.

        Args:
            zero: CLOCK_MONOTONIC at the start of the run, in seconds.
            loop: the event loop to listen on.
            failed: told in one line if their process ends by itself or tells nonsense.

        """
        self._write(repr(zero))
        os.set_blocking(self.process.output.fileno(), False)
        self._loop = loop
        loop.add_reader(self.process.output.fileno(), self._read, failed)

    def take(self) -> Received:
        """Return what was received since the last call."""
        received, self._received = self._received, Received()
        return received

    def stop(self) -> None:
        """Listen no more."""
        if self._loop is not None:
            self._loop.remove_reader(self.process.output.fileno())
            self._loop = None

    def _write(self, line: str) -> None:
        self.process.input.write(line.encode() + b"\n")
        self.process.input.flush()

    def _read(self, failed: Callable[[str], None]) -> None:
        try:
            got = os.read(self.process.output.fileno(), _READ)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + got).split(b"\n")
        try:
            for line in lines:
                self._received.add(self._decoder.decode(line))
        except DecodeError as error:
            wrong = f"tell nonsense: {error}"
        else:
            if got and len(self._rest) <= _LONGEST_LINE:
                return
            wrong = "tell a line without an end" if got else f"ended: {self.process.complaint()}"
        self.stop()
        failed(f"the users in {self._place} {wrong}")
