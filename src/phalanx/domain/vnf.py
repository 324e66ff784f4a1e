"""VNF descriptors and instances."""

from __future__ import annotations

import math

from msgspec import Struct

from phalanx.domain.resources import Resources
from phalanx.domain.rules import TrafficVerdict

InstanceId = str

_TOLERANCE = 1e-6


class Vnfd(Struct, frozen=True, cache_hash=True):
    """A VNF descriptor: what one unit needs and what it can do (table 5.6)."""

    name: str
    """Name of the capability that it carries."""
    requires: Resources
    """Resources of one unit."""
    image_mb: float = 500.0
    """Download size in MB."""
    handles_mb_s: float | None = None
    """Traffic that one unit can process in MB/s; None where traffic does not matter."""
    version: str = "1.0"
    accuracy: float = 1.0
    """Share of verdicts expected to be right, 0 to 1; goals may ask for a least value."""
    shared: bool = False
    """Whether one instance may serve several goals at a time."""
    boot_s: float = 0.0
    """Time from the finished download to the running VNF, in seconds."""
    enforces: tuple[TrafficVerdict, ...] = ()
    """Verdicts of the traffic rules that it puts into force."""
    observes: tuple[str, ...] = ()
    """What it looks at: ``links`` (counters) or ``flows`` (records)."""
    code: str = ""
    """File of its class, which goes into its image; empty: none does."""
    detector: str = ""
    """Name of the detector that it runs; empty: none."""
    program: str = ""
    """File of a program of its own that its process runs; see ``Capability.program``."""
    needs: tuple[str, ...] = ()
    """Programs of the machine that this one runs."""

    @property
    def image(self) -> str:
        """Name of its image: that of another version is another image."""
        return f"{self.name} {self.version}"

    def units_for(self, traffic_mb_s: float) -> int:
        """Return how many units process ``traffic_mb_s`` (scaling of 5.4.1), at least one."""
        if self.handles_mb_s is None or traffic_mb_s <= 0:
            return 1
        return max(1, math.ceil(traffic_mb_s / self.handles_mb_s - _TOLERANCE))

    def scaled(self, units: int) -> Resources:
        """Return the resources of ``units`` units."""
        return self.requires.times(units)
