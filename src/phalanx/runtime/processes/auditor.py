"""The auditor: tells the domain what the brokers of this machine refuse, and what they admit.

Only the log of a broker says which clients and messages it refused. The
auditor runs beside it, as long as it does, and makes events of that (``access.refused``), with
the broker's identity. A recorder has them like all others, wherever it runs.

It tells, too, when a broker has learnt that a key may connect (``identity.admitted``) or may
not any more (``identity.revoked``), so that the log says from when on each broker held to it.
Started again it goes on where it stopped: what the log held meanwhile is told then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.bus.nats.audit import BrokerAudit, BrokerRefusal, LogPosition
from phalanx.bus.nats.config import keys_in
from phalanx.bus.nats.server import NatsServer
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import StoreError
from phalanx.fabric.audit import AccessAudit, AccessRefusal
from phalanx.identity.authority import IssuedRecord, read_issued
from phalanx.identity.credentials import Files, LiveCredentials
from phalanx.identity.names import IdentityError, Role
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import Bundle
from phalanx.runtime.processes.process import Certificates, RecordingClient
from phalanx.store.state import StateFile

LOOK_S = 0.5
"""How often the logs are read."""
FOLDER = "audit"
"""Where the auditor keeps what is not told yet, beside the broker's certificate."""
UNPROVEN = "?"
"""Stands before the address of a client that has not proven its identity."""


class Told(Struct, frozen=True):
    """What the next life of an auditor has to know."""

    place: LogPosition | None = None
    """How far the broker's log was told."""
    keys: frozenset[str] | None = None
    """Those that the broker let in then; None: it was not looked at yet."""


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
    clock = WallClock(begin=time.time(), going=True)
    with ExitStack() as stack:
        stack.callback(clock.close)
        witnesses = [_Witness(server, brokers.domain, clock, stack) for server in brokers.servers]

        running = True
        while running:
            running = bool(brokers.running)
            for witness in witnesses:  # once more after the end
                witness.look()
            clock.run(clock.now() + LOOK_S)


class _Witness:
    """Reads the log of one broker."""

    def __init__(
        self, server: NatsServer, domain: Domain, clock: WallClock, stack: ExitStack
    ) -> None:
        folder = domain.broker(server.settings.name)
        live = LiveCredentials(Files.of(folder))
        me = live.present.identity
        servers = tuple((broker.host, broker.port) for broker in domain.spec.brokers)
        own = RecordingClient(stack, Bundle(me, servers, live), folder / FOLDER, clock)
        self._state, self._outbox = own.state, own.outbox
        self._told = _recall(self._state)
        recorder, self._started = own.started(Role.BROKER.value, part="")
        self._record = recorder.record
        Certificates(live, own.client, clock, self._record, self._started)
        self._name = me.name
        self._server = server
        self._issued = _Issued(domain.folder / "authority")
        self._audit = AccessAudit(clock, self._record, self._started)
        self._log = BrokerAudit(
            server.settings.log, after=self._told.place, from_start=own.incarnation == 1
        )
        stack.callback(self._log.close)
        self._reloads = -1
        """As far as the keys were compared; the first time in any case."""

    def look(self) -> None:
        """Tell what is new in the log."""
        found = self._log.read()
        for one in found:
            self._audit(self._refusal(one))
        keys = self._told.keys
        if self._log.reloads != self._reloads:
            self._reloads = self._log.reloads
            keys = self._compare(keys)
        if found or keys != self._told.keys:
            self._told = Told(self._log.place, keys)
            # Killed in between it tells some of it twice, and never nothing.
            self._outbox.flush()
            self._state.save(msgspec.json.encode(self._told))

    def _compare(self, before: frozenset[str] | None) -> frozenset[str]:
        """Tell which identities the broker admits, or no longer admits, since ``before``."""
        keys = keys_in(self._server.settings.configuration)
        if before is not None:
            for kind, changed in (
                ("identity.admitted", keys - before),
                ("identity.revoked", before - keys),
            ):
                for key in sorted(changed):
                    record = self._issued.get(key)
                    name, role = (record.name, record.role.value) if record else (UNPROVEN, None)
                    self._record(kind, self._started, name=name, role=role, key=key)
        return keys

    def _refusal(self, one: BrokerRefusal) -> AccessRefusal:
        record = None if one.key is None else self._issued.get(one.key)
        why = f"{one.count} times: {one.detail}"
        if one.who is not None:
            who = one.who.split("/")[-1]
        elif record is not None:  # the handshake came so far: it has the key
            who, why = record.name, f"{one.count} times: with a key that was taken back"
        else:
            who = f"{UNPROVEN} {one.address or 'unknown'}"
        what = one.what if one.subject is None else f"{one.what} {one.subject}"
        return AccessRefusal(who, what, self._name, why)


class _Issued:
    """Whose the keys are that the authority has certified."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[str, IssuedRecord] = {}

    def get(self, key: str) -> IssuedRecord | None:
        """Return the last certificate of a key, if the list in this machine's copy has it."""
        if key not in self._records:
            try:
                self._records = {record.key: record for record in read_issued(self._folder)}
            except IdentityError:  # it is just being copied here
                return None
        return self._records.get(key)


def _recall(state: StateFile) -> Told:
    try:
        found = state.load()
        return Told() if found is None else msgspec.json.decode(found.octets, type=Told)
    except (StoreError, msgspec.MsgspecError):  # then it begins at the log's end
        return Told()
