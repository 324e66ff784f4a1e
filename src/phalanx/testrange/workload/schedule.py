"""When the sources of a scenario start and stop, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from phalanx.clock import Clock, Timer
from phalanx.domain.events import Recorder
from phalanx.domain.traffic import Source
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.tasks import Tasks
from phalanx.testrange.workload.attackers import Attack
from phalanx.testrange.workload.processes import Process

_WATCH_S = 0.002
"""Pause between two looks whether an attack tool has begun to send, in seconds."""
_SILENT_S = 3.0
"""A tool that sends nothing for this long after its start does not work, in seconds."""
_DIGITS = 6


class Schedule:
    """Launches and ends attacks, and tells of each group that changes.

    Users keep their times themselves; an attack counts from its first packets on.

    Args:
        clock: when.
        tasks: watches the attacks begin.
        recorder: where ``traffic.changed`` goes.
        cause: id of the event that began the run.
        sources: users and attackers.
        launch: starts the attack of a source.
        failed: told in one line if an attack does not begin.

    """

    def __init__(
        self,
        clock: Clock,
        tasks: Tasks,
        recorder: Recorder,
        cause: str,
        *,
        sources: Sequence[Source],
        launch: Callable[[Source], Attack],
        failed: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._recorder = recorder
        self._cause = cause
        self._sources = sources
        self._launch = launch
        self._failed = failed
        self._profiles = {source.group: source.profile for source in sources}
        self._running: dict[str, dict[str, Source]] = {group: {} for group in self._profiles}
        self._attacks: dict[str, Attack] = {}
        self._ended: list[Process] = []
        self._timers: list[Timer] = []

    def start(self) -> None:
        """Ask the clock for all changes."""
        changes: dict[float, list[tuple[Source, bool]]] = {}
        for source in self._sources:
            changes.setdefault(source.start_s, []).append((source, True))
            if source.end_s is not None:
                changes.setdefault(source.end_s, []).append((source, False))
        for when, change in sorted(changes.items(), key=lambda item: item[0]):
            self._timers.append(self._clock.call_at(when, partial(self._change, change)))

    def stop(self) -> list[Process]:
        """Change nothing any more; return the attacks' processes, for the caller to end."""
        for timer in self._timers:
            timer.cancel()
        return [*self._ended, *(attack.process for attack in self._attacks.values())]

    def wanted_mb_s(self, address: str) -> float:
        """Return what the running users want of a host, in MB/s."""
        return sum(
            source.demand_mb_s
            for group in self._running.values()
            for source in group.values()
            if source.target == address and not source.profile.malicious
        )

    def _change(self, changes: Sequence[tuple[Source, bool]]) -> None:
        attackers: dict[str, list[Attack]] = {}
        changed: dict[str, None] = {}
        for source, running in changes:
            if not running:
                changed[source.group] = None
                self._end(source)
            elif source.profile.malicious:
                attack = self._attacks[source.name] = self._launch(source)
                attackers.setdefault(source.group, []).append(attack)
            else:
                changed[source.group] = None
                self._running[source.group][source.name] = source
        for group in changed:
            self._tell(group)
        for group, attacks in attackers.items():
            self._tasks.forget(self._watch(group, attacks), self._failed)

    def _end(self, source: Source) -> None:
        self._running[source.group].pop(source.name, None)
        attack = self._attacks.pop(source.name, None)
        if attack is not None:
            attack.process.signal()
            self._ended.append(attack.process)

    async def _watch(self, group: str, attacks: list[Attack]) -> None:
        """Tell of a group when the first of its new attacks sends, and when all of them do.

        Raises:
            KernelError: if one does not.

        """
        deadline = self._clock.now() + _SILENT_S
        while attacks:
            count = len(self._running[group])
            quiet = []
            for attack in attacks:
                source = attack.source
                if self._attacks.get(source.name) is not attack:
                    continue  # its time is over
                if attack.sending:
                    self._running[group][source.name] = source
                elif attack.process.ended or self._clock.now() > deadline:
                    raise KernelError(
                        f"{source.name} does not attack: {attack.process.complaint()}"
                    )
                else:
                    quiet.append(attack)
            now = len(self._running[group])
            if now > count and (count == 0 or not quiet):
                self._tell(group)
            attacks = quiet
            await asyncio.sleep(_WATCH_S)

    def _tell(self, group: str) -> None:
        sources = self._running[group].values()
        profile = self._profiles[group]
        self._recorder.record(
            "traffic.changed",
            self._cause,
            group=group,
            profile=profile.name,
            count=len(sources),
            active=bool(sources),
            demand_mb_s=round(sum(source.demand_mb_s for source in sources), _DIGITS),
            malicious=profile.malicious,
        )
