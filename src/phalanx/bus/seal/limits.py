"""How long and how much: the bounds of what a seal keeps and does."""

from __future__ import annotations

from msgspec import Struct


class SealLimits(Struct, frozen=True):
    """Bounds; times in seconds of the caller's clock, which need agree with nobody's."""

    rekey_s: float = 3600.0
    """Age at which the initiator of a session makes a new one; the responder 30 s later."""
    rekey_messages: int = 1 << 32
    """Frames after which a session is made anew, whatever its age."""
    overlap_s: float = 300.0
    """How much longer an old session is believed."""
    sessions: int = 4
    """Sessions with one peer that are believed at a time, and as many not yet confirmed."""
    waiting: int = 256
    """Payloads that wait for one peer's keys; the oldest is shed."""
    waiting_octets: int = 1 << 22
    """The same, in octets."""
    waiting_s: float = 10.0
    """How long a payload waits: an auction is over by then."""
    retry_s: float = 0.2
    """When a hello is sent again the first time; then after twice as long, up to ..."""
    retry_most_s: float = 2.0
    hello_s: float = 10.0
    """How long a hello may be answered."""
    unknown_s: float = 1.0
    """How often at most frames of an unknown session make a new one."""
    hellos: int = 16
    """New hellos of one peer that are looked at at once, ..."""
    hellos_per_s: float = 4.0
    """... and afterwards."""
    peers: int = 4096
    """Peers that are known at a time."""


LIMITS = SealLimits()
