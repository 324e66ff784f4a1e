"""Times as envelopes hold them: RFC 3339, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from phalanx.domain.errors import PhalanxError

# RFC 3339; a leap second cannot be told by ``datetime`` and is refused with the rest.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)
_SHOWN = 160


class EnvelopeError(PhalanxError):
    """Something is no envelope, or cannot be one; the text is one line."""

    def __init__(self, text: str) -> None:
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        super().__init__(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339, to the microsecond.

    Raises:
        EnvelopeError: if no date can be made of them.

    """
    try:
        when = _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise EnvelopeError(f"{seconds} is no time") from None
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Return the seconds since 1970 of a time in RFC 3339.

    Raises:
        EnvelopeError: if it is none.

    """
    match = _TIME.match(text)
    try:
        if match:
            day, clock, fraction, zone = match.groups()
            micro = (fraction or "0").ljust(6, "0")[:6]
            zone = "+00:00" if zone in "Zz" else zone
            return datetime.fromisoformat(f"{day}T{clock}.{micro}{zone}").timestamp()
    except (ValueError, OverflowError):
        pass
    raise EnvelopeError(f"time {text!r} is not as in RFC 3339")
