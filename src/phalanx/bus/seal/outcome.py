"""What becomes of a frame that came in, and what is counted."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct, field


class Reason(Enum):
    """Why a frame is refused."""

    GARBAGE = "garbage"
    """It is no frame."""
    NO_SESSION = "no-session"
    """Its session is not known: one of the two sides started anew, or it is very old."""
    REPLAYED = "replayed"
    """It came in before, or is too old to tell."""
    ALTERED = "altered"
    """It is not what the peer sealed for here."""
    FORGED = "forged"
    """A hello or answer that the peer's certificate did not sign for here."""
    IDENTITY = "identity"
    """Its certificate is not the peer's, or not valid."""
    STALE = "stale"
    """It is of an earlier life of the peer."""
    UNASKED = "unasked"
    """An answer to no hello that waits for one."""
    TOO_OFTEN = "too-often"
    """More hellos than a peer may have looked at."""


HOSTILE = frozenset({Reason.GARBAGE, Reason.ALTERED, Reason.FORGED, Reason.IDENTITY})
"""Reasons that loss, doubling, reordering and restarts never give rise to."""


class OpenedFrame(Struct, frozen=True):
    """A frame that was believed."""

    payload: bytes | None
    """What the peer wrapped; None: it was only about keys."""
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now."""


class RefusedFrame(Struct, frozen=True):
    """A frame that was not believed."""

    reason: Reason
    detail: str = ""
    """More about it, in one line."""
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now: a hello, if keys are needed."""


class SealCounters(Struct):
    """What became of what was sent and what came in."""

    wrapped: int = 0
    """Payloads given to ``wrap``."""
    opened: int = 0
    """Payloads of peers."""
    shed: int = 0
    """Payloads dropped because too many waited for keys."""
    lapsed: int = 0
    """Payloads dropped because they waited too long."""
    waiting: int = 0
    """Payloads that wait for keys now."""
    sessions: int = 0
    """Agreements made."""
    refused: dict[Reason, int] = field(default_factory=dict)
    """Frames refused."""
