"""The auditor: tells the domain what the brokers of this machine refuse.

A broker writes to its log alone whom it did not let in and what it did not let pass. The
auditor runs beside it, as long as it does, and makes events of that (``access.refused``), with
the broker's identity. A recorder has them like all others, wherever it runs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from phalanx import __version__
from phalanx.bus.identities import Credentials, Files
from phalanx.bus.nats import Audit as BrokerLog
from phalanx.bus.nats import NatsServer, Refused
from phalanx.bus.permissions import Role
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Recorder
from phalanx.fabric.audit import Audit, Refusal
from phalanx.runtime.domain import Bundle, Domain
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.processes.start import connected
from phalanx.runtime.processes.stream import PAUSE_S, EventStream
from phalanx.store.memories import Memories
from phalanx.store.outbox import Outbox

LOOK_S = 0.5
"""How often the logs are read."""
FOLDER = "audit"
"""Where the auditor keeps what is not told yet, beside the broker's certificate."""
UNPROVEN = "?"
"""Stands before the address of whoever has not proven who it is."""


def start_auditor(domain: Domain, names: Sequence[str]) -> int:
    """Start the auditor of brokers that run as a process of its own, which ends with them.

    Where there is one already, the second ends at once. Returns its process id.
    """
    told = [argument for name in names for argument in ("--broker", name)]
    verb = ["domain", "audit", str(domain.folder), *told]
    with (domain.broker(names[0]) / "auditor.log").open("wb") as said:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "phalanx", *verb],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
            ],
            setsid=True,  # it goes on until its brokers end, as they do
        )


def audit(brokers: Brokers) -> None:
    """Tell what the brokers refuse, until none of them runs.

    Raises:
        StoreError: if another process does it already, or what it keeps cannot be used.
        IdentityError: if a broker's certificate is not usable.

    """
    clock = WallClock(begin=time.time())
    with ExitStack() as stack:
        stack.callback(clock.close)
        servers = tuple((broker.host, broker.port) for broker in brokers.domain.spec.brokers)
        witnesses = [
            _Witness(server, brokers.domain.broker(server.settings.name), servers, clock, stack)
            for server in brokers.servers
        ]

        running = True
        while running:
            running = bool(brokers.running)
            for witness in witnesses:  # once more after the end
                witness.look()
            clock.run(clock.now() + LOOK_S)


class _Witness:
    """Reads the log of one broker."""

    def __init__(
        self,
        server: NatsServer,
        folder: Path,
        servers: tuple[tuple[str, int], ...],
        clock: WallClock,
        stack: ExitStack,
    ) -> None:
        files = Files.of(folder)
        credentials = Credentials.read(files)
        me = credentials.identity
        incarnation = stack.enter_context(Memories(folder / FOLDER)).begin()
        outbox = stack.enter_context(Outbox(folder / FOLDER / "outbox.db"))
        bundle = Bundle(me, servers, credentials)
        exchange = stack.enter_context(connected(bundle, files, clock))
        self.stream = EventStream(exchange, outbox, clock, epoch_s=0.0, pause_s=PAUSE_S)
        recorder = Recorder(me.name, self.stream, clock.now, f"{me.name}.{incarnation}")
        started = recorder.record(
            "process.started",
            None,
            role=Role.BROKER.value,
            incarnation=incarnation,
            version=__version__,
            process=os.getpid(),
        )
        self._name = me.name
        self._audit = Audit(clock, recorder.record, started)
        self._log = BrokerLog(server.settings.log, from_start=incarnation == 1)
        stack.callback(self._log.close)

    def look(self) -> None:
        """Tell what is new in the log."""
        for one in self._log.read():
            self._audit(_refusal(one, self._name))


def _refusal(one: Refused, broker: str) -> Refusal:
    who = f"{UNPROVEN} {one.address or 'unknown'}" if one.who is None else one.who.split("/")[-1]
    what = one.what if one.subject is None else f"{one.what} {one.subject}"
    return Refusal(who, what, broker, f"{one.count} times: {one.detail}")
