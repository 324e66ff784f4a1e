"""Recorded traffic: from a capture file to flow records to verdicts, in constant memory.

``packets`` (octets, headers), then ``flow_table`` (records such as a live recorder makes), then
the same detector as on live records: what was attacked, by which source, how surely, and when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from phalanx.analytics.detectors import Finding
from phalanx.analytics.fixed_rules import FixedRules
from phalanx.analytics.flow_table import CONNECTIONS, FlowTable, Windows
from phalanx.analytics.packets import Capture, CaptureError, decode, known_link
from phalanx.domain.actions import FlowRecords
from phalanx.domain.series import TrafficWindow

WINDOW_S = 5.0
"""Length of a window, in seconds."""
MOST = 10_000
"""Findings of a sort that are kept; further ones are counted."""

Key = TypeVar("Key")


class CaptureFinding(Struct, frozen=True):
    """A finding and the windows in which it was made."""

    finding: Finding
    """The surest one."""
    since_s: float
    """Begin of the first such window, in seconds from the capture's first packet."""
    until_s: float
    """End of the last one."""
    windows: int


class CaptureFindings(Struct, frozen=True):
    """What the detectors say about a capture, and what they did not look at."""

    file: str
    targets: tuple[CaptureFinding, ...]
    flows: tuple[CaptureFinding, ...]
    left_out: int
    """Findings beyond the ``MOST`` first."""
    packets: int
    analysed: int
    """Packets that were TCP or UDP."""
    octets: int
    """Of all packets, on the wire."""
    seconds: float
    """From the first packet to the last."""
    backwards: int
    """Packets with an earlier time than the one before them."""
    windows: int
    skipped: dict[str, int]
    """Packets that were passed over, by reason."""
    unlisted: int
    """Packets of connections that the flow table had no room for."""
    problem: str | None
    """Why reading ended before the capture did; None: it did not."""
    took_s: float
    """Time that reading and analysing took."""


def analyse(
    path: str,
    window_s: float = WINDOW_S,
    connections: int = CONNECTIONS,
    progress: Callable[[int], None] | None = None,
) -> CaptureFindings:
    """Run the detectors over a capture, window by window, in constant memory.

    Args:
        path: a pcap or pcapng file; ``-`` is the standard input.
        window_s: length of a window in seconds. Longer ones find slower attacks.
        connections: connections told apart in a window.
        progress: called with the octets of the file that were read since the last call.

    Raises:
        CaptureError: if nothing in the file can be read, with one line. If reading fails later
            on, what was read until then is analysed, and ``problem`` says why it ended.

    """
    began = perf_counter()
    capture = Capture(path)
    known_link(path, capture.link_type)
    windows = Windows(window_s, FlowTable(connections))
    findings = _Findings()
    skipped: Counter[str] = Counter()
    packets = analysed = octets = 0
    first = last = before = 0.0
    backwards = 0
    for batch in capture.batches():
        if not packets:
            first = before = float(batch.time[0])
        backwards += int((np.diff(batch.time, prepend=before) < 0).sum())
        before = float(batch.time[-1])
        packets += len(batch.time)
        octets += int(batch.length.sum())
        last = max(last, float(batch.time.max()))
        decoded = decode(batch, capture.link_type, skipped)
        analysed += len(decoded.time)
        for start, records in windows.add(decoded):
            findings.add(start - first, records)
        if progress is not None:
            progress(batch.file_octets)
    if capture.problem is not None and not packets:
        raise CaptureError(f"{path}: {capture.problem}")
    for start, records in windows.end():
        findings.add(start - first, records)
    return CaptureFindings(
        file=path,
        targets=tuple(sorted(findings.targets.values(), key=lambda f: f.finding.target)),
        flows=tuple(
            sorted(findings.flows.values(), key=lambda f: (f.finding.source, f.finding.target))
        ),
        left_out=findings.left_out,
        packets=packets,
        analysed=analysed,
        octets=octets,
        seconds=max(0.0, last - first),
        backwards=backwards,
        windows=findings.windows,
        skipped={reason: count for reason, count in sorted(skipped.items()) if count},
        unlisted=findings.unlisted,
        problem=capture.problem,
        took_s=perf_counter() - began,
    )


class _Findings:
    """Findings of all windows, the surest of each flow and target."""

    def __init__(self) -> None:
        self.targets: dict[str, CaptureFinding] = {}
        self.flows: dict[tuple[str, str, str], CaptureFinding] = {}
        self.left_out = 0
        self.windows = 0
        self.unlisted = 0

    def add(self, start_s: float, records: FlowRecords) -> None:
        """Judge a window that began ``start_s`` after the capture."""
        span = start_s, start_s + records.seconds
        self.windows += 1
        self.unlisted += records.unlisted
        window = TrafficWindow(records.seconds, (), records.flows, records.unlisted)
        for finding in FixedRules().examine(window):
            if finding.source is None:
                self._note(self.targets, finding.target, finding, span)
            else:
                key = finding.source, finding.target, finding.kind
                self._note(self.flows, key, finding, span)

    def _note(
        self,
        found: dict[Key, CaptureFinding],
        key: Key,
        finding: Finding,
        span: tuple[float, float],
    ) -> None:
        before = found.get(key)
        if before is not None:
            surer = finding.certainty > before.finding.certainty
            found[key] = replace(
                before,
                finding=finding if surer else before.finding,
                until_s=span[1],
                windows=before.windows + 1,
            )
        elif len(found) < MOST:
            found[key] = CaptureFinding(finding, *span, windows=1)
        else:
            self.left_out += 1
