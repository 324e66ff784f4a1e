"""The error of the MLFO."""

from phalanx.domain.errors import PhalanxError


class PlacementError(PhalanxError):
    """No pipeline keeps the needs of a service; says which cannot be met, and what would do."""
