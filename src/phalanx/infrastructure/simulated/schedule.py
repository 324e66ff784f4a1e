"""When the sources of the scenario start and stop."""

from __future__ import annotations

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.infrastructure.simulated.engine import Engine
from phalanx.infrastructure.simulated.flows import Flows


class Schedule:
    """Starts and stops sources, and tells of each group that changes."""

    def __init__(
        self, clock: Clock, flows: Flows, engine: Engine, recorder: Recorder, cause: str
    ) -> None:
        self._flows = flows
        self._engine = engine
        self._recorder = recorder
        self._cause = cause
        self._changes: dict[float, list[tuple[int, bool]]] = {}
        self._groups: dict[str, list[int]] = {}
        for row, source in enumerate(flows.sources):
            self._groups.setdefault(source.group, []).append(row)
            if source.end_s is None or source.end_s > source.start_s:
                self._changes.setdefault(source.start_s, []).append((row, True))
                if source.end_s is not None:
                    self._changes.setdefault(source.end_s, []).append((row, False))
        self._times = sorted(self._changes, reverse=True)
        self._clock = clock
        self._timer: Timer | None = None
        self._next()

    def stop(self) -> None:
        """Change nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = self._clock.call_at(self._times[-1], self._change) if self._times else None

    def _change(self) -> None:
        changed: dict[str, None] = {}
        for row, running in self._changes[self._times.pop()]:
            self._flows.start(row, running=running)
            changed[self._flows.sources[row].group] = None
        for group in changed:
            rows = [row for row in self._groups[group] if self._flows.is_running(row)]
            profile = self._flows.sources[self._groups[group][0]].profile
            self._recorder.record(
                "traffic.changed",
                self._cause,
                group=group,
                profile=profile.name,
                count=len(rows),
                active=bool(rows),
                demand_mb_s=round(sum(self._flows.sources[row].demand_mb_s for row in rows), 6),
                malicious=profile.malicious,
            )
        self._engine.wake()
        self._next()
