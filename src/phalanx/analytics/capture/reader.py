"""Packets of a capture file, in batches: a thin layer over libpcap.

libpcap (through pcapy-ng, whose wheels bring it along) reads pcap in both byte orders and all
its time resolutions, and pcapng; it bounds what a broken file can make it allocate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pcapy
from msgspec import Struct
from numpy.typing import NDArray

from phalanx.domain.errors import PhalanxError

HEAD = 128
"""Octets of each packet that are kept: link header, two VLAN tags, IP with options, TCP."""
BATCH = 4096
"""Packets read at a time."""
RECORD = 16
"""Octets of a record header in a file."""


class CaptureError(PhalanxError):
    """A capture that cannot be read: one line, file and what is wrong."""


class Batch(Struct):
    """Some packets, a row each."""

    heads: NDArray[np.uint8]
    """The first octets of each, (packets, HEAD), zeros where it is shorter."""
    captured: NDArray[np.int64]
    """Octets of each that the capture holds."""
    length: NDArray[np.int64]
    """Octets of each on the wire."""
    time: NDArray[np.float64]
    """Seconds since 1970."""
    file_octets: int
    """Octets of the file that these packets take up, roughly."""


class Capture:
    """An open capture."""

    def __init__(self, path: str) -> None:
        """Open ``path``; ``-`` is the standard input.

        Raises:
            CaptureError: if it is no capture.

        """
        self.path = path
        self.problem: str | None = None
        """Why reading ended before the capture did; None: it did not."""
        try:
            self._reader: Any = pcapy.open_offline(path)
        except (pcapy.PcapError, ValueError) as error:
            raise CaptureError(f"{path}: {_why(error, path)}") from None
        self.link_type: int = self._reader.datalink()
        """DLT number of the link layer."""

    def batches(self) -> Iterator[Batch]:
        """Yield all packets up to the end, or up to what cannot be read (see ``problem``)."""
        heads: list[bytes] = []
        figures: list[tuple[int, int, int, int]] = []

        def take(header: Any, octets: bytes) -> None:
            heads.append(octets[:HEAD].ljust(HEAD, b"\0"))
            figures.append((*header.getts(), len(octets), header.getlen()))

        while self.problem is None:
            try:
                self._reader.dispatch(BATCH, take)
            except pcapy.PcapError as error:
                self.problem = _why(error, self.path)
            if not heads:
                return
            yield _batch(heads, figures)
            heads.clear()
            figures.clear()


def _batch(heads: list[bytes], figures: list[tuple[int, int, int, int]]) -> Batch:
    seconds, microseconds, captured, length = np.array(figures, np.int64).T
    return Batch(
        heads=np.frombuffer(b"".join(heads), np.uint8).reshape(-1, HEAD),
        captured=captured,
        length=np.maximum(length, captured),
        time=seconds + microseconds / 1e6,
        file_octets=int(captured.sum()) + RECORD * len(heads),
    )


def _why(error: Exception, path: str) -> str:
    """Return libpcap's words on one line, without the file's name."""
    words = " ".join(str(error).split()).removeprefix(f"{path}: ")
    if "unknown file format" in words:
        return "is neither a pcap nor a pcapng capture"
    if "only got 0" in words and "header" in words:
        return "is empty"
    return words
