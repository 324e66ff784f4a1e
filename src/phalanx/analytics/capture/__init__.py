"""Recorded traffic: from a capture file to flow records to verdicts, in constant memory.

``reader`` (octets) → ``decode`` (headers) → ``windows`` and ``flows`` (records such as a live
recorder makes) → ``findings`` (the same detectors as on live records).
"""

from phalanx.analytics.capture.findings import WINDOW_S, CaptureFindings, Found, analyse
from phalanx.analytics.capture.reader import CaptureError

__all__ = ["WINDOW_S", "CaptureError", "CaptureFindings", "Found", "analyse"]
