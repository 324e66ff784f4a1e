"""What the PoPs of a run take: their energy, by the power that the run tells."""

from __future__ import annotations

from phalanx.domain.events import Event
from phalanx.reporting.log import Data, number, rows, table, text

KINDS = ("cores", "memory_gb", "disk_gb")


class EnergyMeter:
    """The energy of the PoPs whose power the run tells: P = idle + (busy - idle) * use of cores.

    A PoP in which nothing runs is taken to be asleep (Fan, Weber and Barroso, ISCA 2007).
    """

    def __init__(self) -> None:
        self._pops: dict[str, Data] = {}
        self._power_w: dict[str, float] = {}
        self._joules = self._now = 0.0

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._joules += sum(self._power_w.values()) * (event.time - self._now)
        self._now = event.time
        if event.kind == "run.started":
            self._pops |= {text(r, "name"): r for r in rows(event.data, "pops") if "idle_w" in r}
        elif event.kind == "resources.changed" and text(event.data, "pop") in self._pops:
            pop, free = text(event.data, "pop"), table(event.data, "free")
            total, idle_w = self._pops[pop], number(self._pops[pop], "idle_w")
            awake = any(number(free, key) < number(total, key) for key in KINDS)
            cores = number(total, "cores")
            use = 1.0 - number(free, "cores") / cores if cores > 0 else 0.0
            more_w = (number(total, "busy_w", idle_w) - idle_w) * use
            self._power_w[pop] = idle_w + more_w if awake else 0.0

    def result(self) -> float | None:
        """Return the energy until now, in Wh; None: the run tells no PoP's power."""
        return self._joules / 3600.0 if self._pops else None
