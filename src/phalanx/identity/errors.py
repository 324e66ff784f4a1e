"""What is raised where a certificate, a key or an authority is not usable."""

from __future__ import annotations

from phalanx.domain.errors import PhalanxError


class IdentityError(PhalanxError):
    """A certificate, a key or an authority is refused; the text is one line."""
