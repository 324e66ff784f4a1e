"""``phalanx stop``: has agents hand over and leave, or end at once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from phalanx.bus.client import NotPermittedError
from phalanx.cli.bus_options import Bus, DomainFolder, operator, unknown, why
from phalanx.cli.terminal import counted, err, out, refuse, say
from phalanx.domain.events import Event
from phalanx.fabric.calls import CallError
from phalanx.fabric.directory import RegistryChange
from phalanx.fabric.operations import (
    DRAIN,
    INVENTORY,
    STOP,
    Accepted,
    DrainRequest,
    InventoryAnswer,
    InventoryRequest,
    StopRequest,
)
from phalanx.fabric.registration import ServiceState
from phalanx.reporting.event_text import describe
from phalanx.runtime.processes.operator import Operator, Survey

GRACE_S = 10.0
"""How much longer than it was given an agent may take to be gone from the registry."""
NOW_S = 15.0
"""How long a process that ends at once may take to be gone from it."""
LAST_S = 2.0
"""How long its last events may take to come once it is gone."""
LOOK_S = 2.0
"""How often it is asked what it still keeps."""
_FAILED = 1


def stop(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names of the processes.")],
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="End the process at once; its leases and its state stay for a restart."
        ),
    ] = False,
    within: Annotated[
        float,
        typer.Option(
            metavar="S",
            min=1,
            max=3600,
            help="Seconds for handing over; what is left then is dropped.",
        ),
    ] = 60.0,
) -> None:
    """Make agents hand over their work and leave; print how it goes until they are gone."""
    with operator(bus, domain) as connected:
        leaving = _Leaving(connected, now=now, within_s=within)
        leaving.check(names)
        for name in dict.fromkeys(names):
            leaving.ask(name)
        leaving.wait()
    if leaving.failed:
        raise typer.Exit(_FAILED)


class _Leaving:
    """Agents that were asked to go, until they are gone."""

    def __init__(self, connected: Operator, *, now: bool, within_s: float) -> None:
        self.failed = False
        """Whether one of them did not go as it was asked to."""
        self._connected = connected
        self._now = now
        self._within_s = within_s
        self._open: dict[str, dict[str, Event]] = {}
        """Who was asked and has not ended yet, with what it recorded about its end, by kind."""
        self._gone: dict[str, float] = {}
        """Who has left the registry, and when."""
        self._kept: dict[str, tuple[int, int]] = {}
        """How many measures and VNFs each still keeps."""
        self._survey = Survey(connected)
        self._survey.registry.watch(self._changed)

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that nobody in the registry has.

        Raises:
            PhalanxError: with one line that says who there is.

        """
        self._survey.read()
        for name in names:
            if name not in self._survey.names:
                raise unknown(name, self._connected.identity.domain, self._survey.names)

    def ask(self, name: str) -> None:
        """Ask one to go; what it records from then on is told."""
        self._open[name] = {}
        with suppress(NotPermittedError):  # an identity that may not read it may not do it either
            self._connected.hear(name, partial(self._heard, name))
        say(out, f"{name} is asked to {'end' if self._now else 'hand over and leave'}")
        if self._now:
            reason = f"told to by {self._connected.identity.name}"
            answer = self._connected.call(name, STOP, StopRequest(reason))
        else:
            answer = self._connected.call(name, DRAIN, DrainRequest(self._within_s))
        if not isinstance(answer, Accepted):
            del self._open[name]
            self._fail(why(name, answer))

    def wait(self) -> None:
        """Run until all have ended, or the time is over; tell what each still keeps."""
        clock = self._connected.clock
        end = clock.now() + (NOW_S if self._now else self._within_s + GRACE_S)
        with err.status("waiting for the end"):
            while self._open and clock.now() < end:
                self._connected.until(self._concluded, min(LOOK_S, end - clock.now()))
                for name in self._open:
                    if not self._now and name not in self._gone:
                        self._look(name)
        for name in self._open:
            self._fail(f"{name} is still there; phalanx status {name} tells how it is")

    def _concluded(self) -> bool:
        """Say how those have ended that have, with their last events; whether these were all."""
        now = self._connected.clock.now()
        for name, gone in tuple(self._gone.items()):
            if name in self._open and ("process.ended" in self._open[name] or now > gone + LAST_S):
                self._conclude(name, self._open.pop(name))
        return not self._open

    def _heard(self, name: str, event: Event) -> None:
        if event.kind == "goal.ended" and event.data.get("outcome") == "taken over":
            say(out, f"{name}: {describe(event)}")
        elif name in self._open:
            self._open[name][event.kind] = event

    def _changed(self, change: RegistryChange) -> None:
        if change.entry.state is ServiceState.LEFT and change.entry.owner in self._open:
            self._gone[change.entry.owner] = self._connected.clock.now()

    def _look(self, name: str) -> None:
        self._connected.client.invoke(
            name, INVENTORY, InventoryRequest(), partial(self._seen, name), timeout_s=LOOK_S
        )

    def _seen(self, name: str, answer: InventoryAnswer | CallError) -> None:
        if not isinstance(answer, InventoryAnswer):
            return
        kept = len(answer.measures), len(answer.instances)
        if kept != self._kept.get(name) and any(kept):
            measures, vnfs = counted(kept[0], "measure"), counted(kept[1], "VNF")
            say(out, f"{name} keeps {measures} in force and {vnfs} until others have taken over")
        self._kept[name] = kept

    def _conclude(self, name: str, told: dict[str, Event]) -> None:
        """Say how one has ended."""
        if "agent.left" in told:
            data = told["agent.left"].data
            count, ended = data.get("handed_over", 0), data.get("ended") or ()
            handed = f"{counted(count, 'task')} handed over" if count else ""
            dropped = f"ended with it: {', '.join(map(str, ended))}" if ended else ""
            rest = "; ".join(filter(None, (handed, dropped))) or "there was nothing to hand over"
            say(out, f"{name} has left: {rest}", "green")
        elif self._now:
            say(out, f"{name} has ended; started again, it continues from its saved state", "green")
        else:
            ending = told.get("process.ended")
            reason = "it gave no reason" if ending is None else ending.data.get("reason")
            self._fail(f"{name} has ended before all was handed over: {reason}")

    def _fail(self, line: str) -> None:
        self.failed = True
        refuse(line)
