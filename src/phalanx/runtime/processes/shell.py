"""What every process has: an identity on the bus, a clock, a state directory, events, an end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from phalanx.bus.client import BrokerClient
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.domain.version import VERSION
from phalanx.fabric.access import AccessPolicy
from phalanx.fabric.join import LEASE_S, Fabric
from phalanx.fabric.operations import STOP, Accepted, StopRequest
from phalanx.fabric.provider import Call
from phalanx.fabric.registration import END_TO_END, Area
from phalanx.identity.names import Identity
from phalanx.runtime.processes.spec import RunSpec
from phalanx.runtime.processes.stream import PAUSE_S, EventStream
from phalanx.store.outbox import SHED, Outbox, Shed
from phalanx.store.state import StateFile

FOR_EVER_S = 1e9
FLUSH_S = 5.0
"""How long a process that ends waits for its last events to be acknowledged, in real seconds."""

Connect = Callable[[WallClock], AbstractContextManager[BrokerClient]]


def run_clock(run: RunSpec | None) -> WallClock:
    """Return a clock that shows the seconds since the run began, or since 1970 without one.

    It is read from the machine's clock once; later steps of that one do not move it.
    """
    if run is None:
        return WallClock(begin=time.time())
    return WallClock(run.speed, (time.time() - run.epoch_s) * run.speed)


class Shell:
    """The parts that all processes share, made in the order in which they need each other.

    Make it, give it what the process is for, then ``run`` it. It ends when ``end`` was called,
    by an operation, a signal or the process itself.

    Args:
        clock: of this process; closed at the end.
        connect: makes the exchange.
        state: directory of what is kept across restarts.
        cause: root of all causes; None: the start of this process is one.
        policy: who may call what.
        scope: what the process cares for.
        speed: seconds of ``clock`` per second.

    Raises:
        PhalanxError: if the state directory cannot be used or another process uses it.

    """

    def __init__(
        self,
        clock: WallClock,
        connect: Connect,
        state: Path,
        *,
        cause: str | None,
        policy: AccessPolicy,
        capabilities: tuple[str, ...] = (),
        scope: Area = END_TO_END,
        speed: float = 1.0,
    ) -> None:
        self.clock = clock
        self.stopping: str | None = None
        """Why the process ends; None: it does not."""
        self.figures: Callable[[], dict[str, Any]] = dict
        """What ``process.ended`` says besides."""
        self._stack = ExitStack()
        self._speed = speed
        self._on_signal: dict[signal.Signals, Callable[[], None]] = {}
        try:
            self._stack.callback(clock.close)
            self.state = self._stack.enter_context(StateFile(state))
            self.incarnation = self.state.begin()
            self.outbox = Outbox(self.state, on_shed=self._note_shed)
            self._stack.callback(self.outbox.close)
            self.exchange = self._stack.enter_context(connect(clock))
        except BaseException:
            self._stack.close()
            raise
        me = self.exchange.identity
        self.identity: Identity = me
        epoch_s = time.time() - clock.now() / speed
        self.stream = EventStream(
            self.exchange,
            self.outbox,
            clock,
            epoch_s=epoch_s,
            pause_s=PAUSE_S * speed,
        )
        self.recorder = Recorder(me.name, self.stream, clock.now, f"{me.name}.{self.incarnation}.0")
        self.cause = self.recorder.record(
            "process.started",
            cause,
            role=me.role.value,
            incarnation=self.incarnation,
            version=VERSION,
            process=os.getpid(),
        )
        self.fabric = Fabric(
            self.exchange,
            clock,
            self.recorder.record,
            self.cause,
            incarnation=self.incarnation,
            policy=policy,
            capabilities=capabilities,
            area=scope,
            lease_s=LEASE_S * speed,
            on_superseded=lambda other: self.end(
                f"incarnation {other.incarnation} of {me.name} runs elsewhere"
            ),
        )
        self.audit = self.fabric.audit
        self.checks = self.fabric.checks
        self.provider = self.fabric.provider
        self.registry = self.fabric.registry
        self.registrar = self.fabric.registrar
        self.provider.serve(STOP, self._stop)

    def serving(self) -> None:
        """Say in the registry that the process does its work now."""
        self.fabric.serving()

    def on_signal(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """Make ``call``, by the clock, when the process gets the signal."""
        self._on_signal[number] = call

    def on_close(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the end, while the clock and the exchange are still there."""
        self._stack.callback(call)

    def end(self, why: str) -> None:
        """End the process in order, once what is going on now is done."""
        if self.stopping is None:
            self.stopping = why
            self.clock.call_soon(lambda: None)  # so that the clock asks

    def run(self) -> None:
        """Run until the end, send the last events, and give everything back.

        Raises:
            PhalanxError: what made the process end before its time.

        """
        loop = self.clock.loop
        for number, call in self._on_signal.items():
            loop.add_signal_handler(number, self.clock.call_soon, call)
        try:
            self.fabric.start()
            self.clock.run(self.clock.now() + FOR_EVER_S, lambda: self.stopping is not None)
            self._leave()
        finally:
            for number in self._on_signal:
                loop.remove_signal_handler(number)
            self._stack.close()

    def _stop(self, call: Call[StopRequest, Accepted]) -> None:
        call.done(Accepted("it ends; what it holds stays under its leases"))
        self.end(call.request.reason or f"told to by {call.caller.name}")

    def _leave(self) -> None:
        """Withdraw from the registry, and wait a little for the stream to have every event."""
        self.recorder.record("process.ended", self.cause, reason=self.stopping, **self.figures())
        self.fabric.leave()
        until = self.clock.now() + FLUSH_S * self._speed
        self.clock.run(until, lambda: not self.stream.waiting or not self.exchange.connected)

    def _note_shed(self, shed: Shed) -> None:
        self.recorder.record(
            SHED,
            self.cause,
            count=shed.count,
            octets=shed.octets,
            first=shed.first,
            last=shed.last,
            why=shed.why,
        )
