"""The error of the overlay."""

from phalanx.domain.errors import PhalanxError


class OverlayError(PhalanxError):
    """The overlay, or a part of it, could not be set up or changed."""
