"""How fast a TCP connection sends, given the loss and the delay of its path."""

from __future__ import annotations

import numpy as np

from phalanx.infrastructure.simulated.paths import Floats

SEGMENT_MB = 1460e-6
"""Octets of a full segment, in MB."""
INITIAL_SEGMENTS = 10
"""Segments that a new connection sends in its first round trip (RFC 6928)."""
_LEAST_TIMEOUT_S = 0.2
"""What the retransmission timeout adds to the round trip at least, as in Linux."""
_LEAST_RTT_S = 1e-3
_LEAST_LOSS = 1e-9


def pftk_mb_s(loss: Floats, rtt_s: Floats) -> Floats:
    """Return the sending rate of TCP in MB/s, retransmissions included.

    Padhye, Firoiu, Towsley, Kurose: Modeling TCP Throughput (SIGCOMM 1998), eq. 30 without
    the receiver's window, with one acknowledgement a segment (b = 1).

    Args:
        loss: share of the packets lost on the path, 0 to 1.
        rtt_s: round trip time in seconds, queueing included.

    Returns:
        Rates, in the shape of the arguments.

    """
    p = np.maximum(loss, _LEAST_LOSS)
    rtt = np.maximum(rtt_s, _LEAST_RTT_S)
    timeout = rtt + _LEAST_TIMEOUT_S
    recovery = rtt * np.sqrt(2 * p / 3)
    waiting = timeout * np.minimum(1.0, 3 * np.sqrt(3 * p / 8)) * p * (1 + 32 * p * p)
    return np.asarray(SEGMENT_MB / (recovery + waiting), dtype=np.float64)


def first_mb_s(rtt_s: Floats) -> Floats:
    """Return the rate in MB/s of a connection's first round trip of ``rtt_s`` seconds."""
    return INITIAL_SEGMENTS * SEGMENT_MB / np.maximum(rtt_s, _LEAST_RTT_S)
