"""A testbed of processes on this machine: a domain of their own and its brokers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import asdict

from phalanx.domain.errors import PhalanxError
from phalanx.identity.names import Role
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.processes.spec import RunSpec

HOST = "127.0.0.1"
PHALANX = (sys.executable, "-m", "phalanx")
"""The program of every process."""


class ProcessTestbed:
    """A throw-away domain with brokers on the loopback, and processes that belong to it."""

    def __init__(
        self, folder: Path, members: Iterable[tuple[str, Role]], *, brokers: int = 1
    ) -> None:
        """Make the domain and start its brokers.

        Args:
            folder: of the domain and of all that its processes keep; must exist.
            members: name and role of each process.
            brokers: how many; an odd number.

        Raises:
            PhalanxError: with one line, if it cannot be made or a broker does not start.

        """
        self.folder = folder
        self.environment: Mapping[str, str] = {}
        """Variables that processes are started with, beside ours."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(2 * brokers)
        specs = tuple(
            BrokerSpec(f"broker{number}", HOST, port, cluster_port=meets_at)
            for number, port, meets_at in zip(
                range(1, brokers + 1), ports[::2], ports[1::2], strict=True
            )
        )
        self.domain = Domain.create(folder / "domain", DomainSpec("run", specs))
        for name, role in members:
            self.domain.add(name, role)
        self.brokers = Brokers(self.domain)
        self.brokers.start()
        try:
            self.brokers.prepare()
        except PhalanxError:
            self.brokers.stop()
            raise

    def bus(self, name: str) -> Path:
        """Return the ``bus.toml`` of a member."""
        return self.domain.bundle(name) / "bus.toml"

    def state(self, name: str) -> Path:
        """Return the directory in which a member keeps what survives it."""
        return self.folder / "state" / name

    def log(self, name: str) -> Path:
        """Return the log file of a member's process."""
        return self.folder / f"{name}.log"

    def start(
        self,
        verb: str,
        name: str,
        settings: Mapping[str, str],
        run: RunSpec | None = None,
        *,
        trust: Mapping[str, str] | None = None,
        program: Sequence[str] = PHALANX,
    ) -> None:
        """Start the process of a member; its config stands in a file of its own.

        Args:
            verb: what it is.
            name: of the member.
            settings: fields of its config beside its identity and state.
            run: that it is part of, if any.
            trust: fields of its ``TrustFiles``, if it takes part in attestation.
            program: what takes the verb and ``--config``.

        """
        config = self.folder / f"{name}.toml"
        fields = {"bus": str(self.bus(name)), "state": str(self.state(name)), **settings}
        lines = [f"{field} = {json.dumps(value)}" for field, value in fields.items()]
        if run is not None:
            agreed = {field: value for field, value in asdict(run).items() if value is not None}
            lines += [
                "[run]",
                *(f"{field} = {json.dumps(value)}" for field, value in agreed.items()),
            ]
        if trust is not None:
            lines += ["[trust]", *(f"{field} = {json.dumps(v)}" for field, v in trust.items())]
        config.write_text("\n".join(lines) + "\n")
        former = self._processes.get(name)
        if former is not None:
            former.wait()  # it has ended
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603  # our own interpreter
                [*program, verb, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                start_new_session=True,  # Ctrl-C is for the process that started the run
            )

    def lives(self, name: str) -> bool:
        """Whether the process of a member runs."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        """Return the number of a member's process, the last one that was started."""
        return self._processes[name].pid

    def ended(self) -> dict[str, int]:
        """Return the exit codes of the processes that have ended, by member."""
        return {n: c for n, p in self._processes.items() if (c := p.poll()) is not None}

    def end_of(self, name: str) -> str:
        """Return the signal that ended a member's process, else the last line of its log."""
        code = self.ended().get(name, 0)
        if code < 0:
            return f"signal {-code}"
        lines = self.log(name).read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def tracebacks(self) -> tuple[str, ...]:
        """Return the last words of each member whose process has told of an error in its code."""
        told = ((name, self.log(name).read_text(errors="replace")) for name in self._processes)
        return tuple(f"{n}: {' '.join(t.split())[-800:]}" for n, t in told if "Traceback" in t)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process of a member, if it runs."""
        if self.lives(name):
            self._processes[name].send_signal(number)

    def wait(self, name: str, within_s: float) -> bool:
        """Wait for the end of a member's process; whether it came in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[name].wait(within_s)
        return not self.lives(name)

    def kill(self, name: str) -> None:
        """End the process of a member as kill -9 does."""
        if self.lives(name):
            self._processes[name].kill()
            self._processes[name].wait()

    def close(self, within_s: float = 10.0) -> None:
        """End every process and the brokers; what does not end in time is killed."""
        for name in self._processes:
            self.signal(name, signal.SIGINT)
        for name in self._processes:
            if not self.wait(name, within_s):
                self.kill(name)
        self.brokers.stop()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses at the moment; all are held until the last is known."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
