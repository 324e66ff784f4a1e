"""Computational resources: the set R^C of table 4.1 (cores, memory, disk)."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import astuple


class Resources(Struct, frozen=True, cache_hash=True):
    """An amount of computational resources (dissertation, table 4.1)."""

    cores: float = 0.0
    """CPU cores (symbol U)."""
    memory_gb: float = 0.0
    """RAM in GB (symbol M)."""
    disk_gb: float = 0.0
    """Disk in GB (symbol D)."""

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cores + other.cores,
            self.memory_gb + other.memory_gb,
            self.disk_gb + other.disk_gb,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.cores - other.cores,
            self.memory_gb - other.memory_gb,
            self.disk_gb - other.disk_gb,
        )

    def times(self, units: int) -> Resources:
        """Return these resources for ``units`` instances."""
        return Resources(self.cores * units, self.memory_gb * units, self.disk_gb * units)

    def shares(self, total: Resources) -> dict[str, float]:
        """Return what share of ``total`` each resource is; 0 of what there is none of."""
        pairs = zip(("cores", "memory", "disk"), astuple(self), astuple(total), strict=True)
        return {name: mine / most if most > 0 else 0.0 for name, mine, most in pairs}

    def within(self, limit: Resources) -> bool:
        """Whether every resource is at most that of ``limit`` (eq. 4.1)."""
        return (
            self.cores <= limit.cores
            and self.memory_gb <= limit.memory_gb
            and self.disk_gb <= limit.disk_gb
        )

    def most(self, other: Resources) -> Resources:
        """Return the larger of the two, resource by resource."""
        return Resources(
            max(self.cores, other.cores),
            max(self.memory_gb, other.memory_gb),
            max(self.disk_gb, other.disk_gb),
        )

    def lacking(self, limit: Resources) -> str | None:
        """Name the first resource that exceeds ``limit``, with both figures; None if all fit."""
        if self.within(limit):
            return None
        for name, unit in (("cores", "core"), ("memory_gb", "GB memory"), ("disk_gb", "GB disk")):
            want, have = getattr(self, name), getattr(limit, name)
            if want > have:
                plural = "s" if unit == "core" and want != 1 else ""
                return f"needs {want:g} {unit}{plural}, {round(have, 6):g} free"
        return None


NOTHING = Resources()
