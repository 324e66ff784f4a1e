"""The error of this room."""

from __future__ import annotations

from phalanx.domain.errors import PhalanxError


class KernelError(PhalanxError):
    """The machine lacks or refuses something; its text is one line that says what to do."""
