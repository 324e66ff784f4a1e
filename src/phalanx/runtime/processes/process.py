"""What every process has: an identity on the bus, a clock, a state directory, events, an end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient
from phalanx.bus.transports import Access, open_broker
from phalanx.clock import Clock, Timer
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Event, Recorder, Sink
from phalanx.domain.version import VERSION
from phalanx.fabric.access import STANDARD_POLICY, load_policy
from phalanx.fabric.envelope import from_event, to_json
from phalanx.fabric.join import LEASE_S, Fabric
from phalanx.fabric.operations import STOP, Accepted, AgentCounters, StopRequest
from phalanx.fabric.provider import Call
from phalanx.fabric.registration import END_TO_END, Area
from phalanx.identity.credentials import Credentials, LiveCredentials
from phalanx.identity.names import IdentityError, Role
from phalanx.runtime.domain.spec import Bundle, read_bundle
from phalanx.runtime.environment import open_metrics
from phalanx.runtime.processes.spec import ProcessSpec, RunSpec
from phalanx.store.outbox import SHED, Outbox, Shed, Waiting
from phalanx.store.state import StateFile

IN_FLIGHT = 256
"""Events that are sent and not acknowledged at a time."""
PAUSE_S = 0.5
"""Before what was not taken is sent again, in real seconds."""


FOR_EVER_S = 1e9
FLUSH_S = 5.0
"""How long a process that ends waits for its last events to be acknowledged, in real seconds."""

LEAST_DEAF_S = 0.5
"""A broker may be silent for as long, in real seconds, however short the plan's times are."""
LOOK_S = 2.0
"""How often the files are looked at, in real seconds: four ``stat``."""
_DAY = timedelta(days=1)


class EventStream:
    """A ``Sink``: each event waits in the outbox until the stream EVENTS has acknowledged it.

    What an earlier life of the process left in the outbox goes first. The stream knows an
    event by its id, so that one sent twice is kept once.
    """

    def __init__(
        self, client: BrokerClient, outbox: Outbox, clock: Clock, *, epoch_s: float, pause_s: float
    ) -> None:
        """Begin to send what waits.

        Args:
            client: of the identity that records.
            outbox: of this process alone.
            clock: makes the turns.
            epoch_s: when ``clock`` showed zero, in seconds since 1970.
            pause_s: as ``PAUSE_S``, in seconds of ``clock``.

        """
        self.heard: Sink = lambda _: None
        """Told of each event as it is recorded."""
        self._client = client
        self._outbox = outbox
        self._clock = clock
        self._epoch_s = epoch_s
        self._pause_s = pause_s
        self._after = 0
        self._in_flight: dict[str, int] = {}
        self._kept: list[str] = []
        self._failed_from: int | None = None
        """The first place of what was not taken: sending goes back to it."""
        self._turning = False
        self._pause: Timer | None = None
        self._unwritten: Timer | None = None
        client.on_change(self._changed)
        self._soon()

    def __call__(self, event: Event) -> None:
        """Take an event; it is on disk, and sent, at the end of this turn of the clock."""
        self._outbox(event)
        self.heard(event)
        self._soon()

    @property
    def waiting(self) -> int:
        """How many events are not acknowledged yet."""
        return len(self._outbox) - len(self._kept)

    def _soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._clock.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._kept:
            kept, self._kept = self._kept, []
            self._outbox.acknowledge(kept)
        if not self._outbox.flush() and self._unwritten is None:  # there may be room later
            self._unwritten = self._clock.call_at(self._clock.now() + self._pause_s, self._write)
        if not self._client.connected or self._pause is not None:
            return
        if self._failed_from is not None and not self._in_flight:
            self._after, self._failed_from = self._failed_from - 1, None
        if self._failed_from is None:
            self._send()

    def _send(self) -> None:
        room = IN_FLIGHT - len(self._in_flight)
        if room <= 0:
            return
        for waiting in self._outbox.pending(self._after):
            self._append(waiting)
            room -= 1
            if room == 0:
                break

    def _append(self, waiting: Waiting) -> None:
        event, self._after = waiting.event, waiting.seq
        domain = self._client.identity.domain
        subject = subjects.event(domain, self._client.identity.name, event.kind)
        payload = to_json(from_event(event, domain, epoch_s=self._epoch_s))
        self._in_flight[event.id] = waiting.seq
        self._client.append(subject, payload, event.id, partial(self._done, event.id))

    def _done(self, event_id: str, refusal: str | None) -> None:
        seq = self._in_flight.pop(event_id)
        if refusal is None:
            self._kept.append(event_id)
            self._soon()
            return
        self._failed_from = seq if self._failed_from is None else min(seq, self._failed_from)
        if self._pause is None:
            self._pause = self._clock.call_at(self._clock.now() + self._pause_s, self._go_on)

    def _write(self) -> None:
        self._unwritten = None
        self._soon()

    def _go_on(self) -> None:
        self._pause = None
        self._soon()

    def _changed(self, connected: bool) -> None:
        if connected:
            self._soon()


class Certificates:
    """Has a process use the certificate, key and revocation list that stand in its files.

    It looks at them every two seconds, and when a connection has ended, so that the next one is
    opened with what is there then. What it sees it records:

    ======================  ===============================================================
    event                   when
    ======================  ===============================================================
    ``certificate.holds``   at the begin, and when another certificate is in use
    ``certificate.ends``    once a day when it ends soon, or has ended
    ``certificate.unused``  the files hold something that is not used
    ``revocations.known``   a newer list of those who were revoked is in use
    ======================  ===============================================================
    """

    def __init__(
        self,
        live: LiveCredentials,
        client: BrokerClient,
        clock: Clock,
        record: Callable[..., Any],
        cause: str,
        *,
        speed: float = 1.0,
    ) -> None:
        """Begin to look.

        Args:
            live: the process's credentials, which the client connects with.
            client: of the process.
            clock: makes the turns.
            record: ``record(kind, cause, **data)``, as ``domain.events.Recorder.record``.
            cause: id of the event under which all this stands.
            speed: seconds of ``clock`` per second.

        """
        self._live = live
        self._clock = clock
        self._record = record
        self._cause = cause
        self._pause_s = LOOK_S * speed
        self._used = live.present
        self._told: str | None = None
        """The trouble that was recorded."""
        self._day: int | None = None
        """The day before the end that was recorded last."""
        live.on_change(self._changed)
        client.on_change(self._connected)
        self._say("certificate.holds")
        self._turn()

    def wrong(self) -> str | None:
        """Return what needs a look, in words; a health check."""
        live = self._live
        if live.trouble is not None:
            return f"not used: {live.trouble}"
        if live.ends_soon:
            name = live.present.identity.name
            verb = "ends" if live.left > timedelta() else "ended"
            return f"{verb} on {live.until:%Y-%m-%d %H:%M} UTC; phalanx domain renew DIR {name}"
        return None

    def _turn(self) -> None:
        self._look()
        self._clock.call_at(self._clock.now() + self._pause_s, self._turn)

    def _connected(self, connected: bool) -> None:
        if not connected:
            self._look()

    def _look(self) -> None:
        live = self._live
        live.look()
        if live.trouble != self._told:
            self._told = live.trouble
            if live.trouble is not None:
                self._record("certificate.unused", self._cause, reason=live.trouble)
        if live.ends_soon and (day := live.left // _DAY) != self._day:
            self._day = day
            self._say("certificate.ends")

    def _changed(self, fresh: Credentials) -> None:
        before, self._used = self._used, fresh
        if fresh.trust.number != before.trust.number:
            self._record("revocations.known", self._cause, number=fresh.trust.number)
        if fresh.certificate != before.certificate:
            self._day = None
            self._say("certificate.holds")

    def _say(self, kind: str) -> None:
        live = self._live
        self._record(
            kind,
            self._cause,
            until=f"{live.until:%Y-%m-%dT%H:%M:%SZ}",
            days=round(live.left / _DAY, 2),
        )


def run_clock(run: RunSpec | None) -> WallClock:
    """Return a clock that shows the seconds since the run began, or since 1970 without one.

    It is read from the machine's clock once; later steps of that one do not move it.
    """
    if run is None:
        return WallClock(begin=time.time(), going=True)
    return WallClock(run.speed, (time.time() - run.epoch_s) * run.speed, going=True)


class RecordingClient:
    """An identity on the bus that records events: its connection, and what survives it on disk."""

    def __init__(
        self,
        stack: ExitStack,
        bundle: Bundle,
        state: Path,
        clock: WallClock,
        run: RunSpec | None = None,
        *,
        deaf_s: float | None = None,
        on_shed: Callable[[Shed], object] | None = None,
    ) -> None:
        """Begin a life of it; it connects as soon as the clock runs.

        Args:
            stack: closes everything.
            bundle: who it is.
            state: directory of what it keeps; of this process alone.
            clock: makes all calls.
            run: that it is part of; None: its clock shows seconds since 1970 or of its own.
            deaf_s: as that of ``connected``.
            on_shed: told of events that its outbox had no room for.

        Raises:
            PhalanxError: with one line, if the directory cannot be used, or another process
                uses it, or the broker cannot be had.

        """
        speed = 1.0 if run is None else run.speed
        epoch_s = time.time() - clock.now() if run is None else run.epoch_s
        self.identity = bundle.identity
        self.state = stack.enter_context(StateFile(state))
        self.incarnation = self.state.begin()
        self.outbox = stack.enter_context(Outbox(self.state, on_shed=on_shed))
        self.client = stack.enter_context(connected(bundle, clock, deaf_s))
        pause_s = PAUSE_S * speed
        self.stream = EventStream(self.client, self.outbox, clock, epoch_s=epoch_s, pause_s=pause_s)
        self._now = clock.now

    def started(
        self, role: str, cause: str | None = None, part: str = ".0"
    ) -> tuple[Recorder, str]:
        """Record that it has started; return what records by its name, and the event's id."""
        name, incarnation = self.identity.name, self.incarnation
        recorder = Recorder(name, self.stream, self._now, f"{name}.{incarnation}{part}")
        about = {"role": role, "incarnation": incarnation, "version": VERSION}
        return recorder, recorder.record("process.started", cause, **about, process=os.getpid())


class Process(RecordingClient):
    """The parts that all processes share, made in the order in which they need each other.

    Make it, give it what the process is for, then ``run`` it. It ends when ``end`` was called,
    by an operation, a signal or the process itself.

    Args:
        spec: what it was started with.
        bundle: its identity.
        capabilities: what it is registered with.
        area: what it looks after.
        silence_s: when others would take it for dead, in seconds of the run; a broker that
            hangs is left in half of that. None: nobody would.

    Raises:
        PhalanxError: with one line, if a file or the state directory cannot be used, or another
            process uses it.

    """

    def __init__(
        self,
        spec: ProcessSpec,
        bundle: Bundle,
        *,
        capabilities: tuple[str, ...],
        area: Area = END_TO_END,
        silence_s: float | None = None,
    ) -> None:
        self.stopping: str | None = None
        """Why the process ends; None: it does not."""
        self.figures: Callable[[], dict[str, Any]] = dict
        """What ``process.ended`` says besides."""
        self.closing: Callable[[], None] = lambda: None
        """Called once nothing more is done, while there is a connection."""
        policy = STANDARD_POLICY if spec.access is None else load_policy(spec.access)
        self._speed = speed = 1.0 if spec.run is None else spec.run.speed
        deaf_s = None if silence_s is None else max(LEAST_DEAF_S, silence_s / 2 / speed)
        self._on_signal: dict[signal.Signals, Callable[[], None]] = {}
        self.clock = clock = run_clock(spec.run)
        with ExitStack() as stack:
            stack.callback(clock.close)
            state = Path(spec.state)
            super().__init__(
                stack, bundle, state, clock, spec.run, deaf_s=deaf_s, on_shed=self._note_shed
            )
            self.counters: Callable[[], AgentCounters] = AgentCounters
            """What went through it since it started."""
            if spec.metrics is not None:
                counted = lambda: self.counters()  # noqa: E731, PLW0108  # it is replaced
                name, waiting = self.identity.name, lambda: self.stream.waiting
                metrics = open_metrics(name, clock, counted, waiting)
                stack.callback(metrics.serve(spec.metrics))
                self.stream.heard = metrics
            self._stack = stack.pop_all()
        me = self.identity
        root = None if spec.run is None else spec.run.cause
        self.recorder, self.cause = self.started(me.role.value, root)
        record = self.recorder.record
        self.fabric = Fabric(
            self.client,
            clock,
            record,
            self.cause,
            incarnation=self.incarnation,
            policy=policy,
            capabilities=capabilities,
            area=area,
            lease_s=LEASE_S * speed,
            on_superseded=lambda other: self.end(
                f"incarnation {other.incarnation} of {me.name} runs elsewhere"
            ),
        )
        self.fabric.provider.serve(STOP, self._stop)
        certificates = Certificates(
            bundle.live, self.client, clock, record, self.cause, speed=speed
        )
        self.fabric.checks.add("certificate", certificates.wrong)

    def on_signal(self, number: signal.Signals, call: Callable[[], None]) -> None:
        """Make ``call``, by the clock, when the process gets the signal."""
        self._on_signal[number] = call

    def on_close(self, call: Callable[[], None]) -> None:
        """Make ``call`` at the end, while the clock and the client are still there."""
        self._stack.callback(call)

    def close(self) -> None:
        """Give everything back without having run."""
        self._stack.close()

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
        self.closing()
        self.recorder.record("process.ended", self.cause, reason=self.stopping, **self.figures())
        self.fabric.leave()
        until = self.clock.now() + FLUSH_S * self._speed
        self.clock.run(until, lambda: not self.stream.waiting or not self.client.connected)

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


@contextmanager
def connected(
    bundle: Bundle, clock: WallClock, deaf_s: float | None = None, *, flush_s: float = FLUSH_S
) -> Iterator[BrokerClient]:
    """Have a client of an identity, which connects as soon as the clock runs.

    Another broker is tried after ``deaf_s`` real seconds of silence, at most. What waits to be
    sent at the end is sent within ``flush_s`` real seconds, if there is a connection.

    Raises:
        BrokerError: if the transport of its ``bus.toml`` is not installed, or refuses the servers.

    """
    access = Access(bundle.live.tls, bundle.credentials.secret, deaf_s)
    client = open_broker(bundle.url, clock).join(bundle.identity, access)
    try:
        yield client
    finally:
        client.finish(flush_s)


def bundle_of(spec: ProcessSpec, role: Role) -> Bundle:
    """Return who the process is.

    Raises:
        IdentityError: if it is not of this role, or its files are not usable.

    """
    if not Path(spec.bus).is_file():
        raise IdentityError(
            f"{spec.bus}: there is no such file; phalanx domain add DIR NAME --role {role.value} "
            "makes it, in a directory of which a copy belongs here"
        )
    bundle = read_bundle(Path(spec.bus))
    if bundle.identity.role is not role:
        raise IdentityError(
            f"{spec.bus}: {bundle.identity.name} has the role {bundle.identity.role.value}; "
            f"this process needs {role.value}"
        )
    return bundle
