"""``phalanx agent``, ``network`` and ``recorder``: the processes of a domain, one each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from phalanx.cli.terminal import err, out, say

if TYPE_CHECKING:
    from phalanx.runtime.processes.shell import Shell

PATIENCE_S = 2.0
"""How long a connection may take before its absence is told, in real seconds."""

Config = Annotated[Path, typer.Option("--config", help="What to run (TOML).", show_default=False)]


class Process(Protocol):
    """What the three have in common."""

    shell: Shell

    def run(self) -> None:
        """Live until the process is told to end."""


def agent(config: Config) -> None:
    """Run one PoP's agent until it is told to leave (SIGTERM) or to stop (SIGINT)."""
    # The processes take time to import; other verbs do without.
    from phalanx.runtime.processes.agent import open_agent  # noqa: PLC0415
    from phalanx.runtime.processes.spec import AgentSpec, read_spec  # noqa: PLC0415

    spec = read_spec(AgentSpec, config)
    _run("agent", spec.bus, open_agent(spec))


def network(config: Config) -> None:
    """Serve a plan's network, simulated or of real packets, to the agents of its PoPs."""
    from phalanx.runtime.processes.network import open_network  # noqa: PLC0415
    from phalanx.runtime.processes.spec import NetworkSpec, read_spec  # noqa: PLC0415

    spec = read_spec(NetworkSpec, config)
    _run("network", spec.bus, open_network(spec, lambda line: say(out, line, "dim")))


def recorder(config: Config) -> None:
    """Keep the history of a domain in a store."""
    from phalanx.runtime.processes.recorder import open_recorder  # noqa: PLC0415
    from phalanx.runtime.processes.spec import RecorderSpec, read_spec  # noqa: PLC0415

    spec = read_spec(RecorderSpec, config)
    _run("recorder", spec.bus, open_recorder(spec))


def _run(kind: str, bus: str, process: Process) -> None:
    """Run a process, and tell who it is, whether it is connected, and why it ended.

    Args:
        kind: what it is.
        bus: the file that names its brokers.
        process: ready to run.

    """
    shell = process.shell
    named = f"{kind} {shell.identity.name}"
    say(out, f"{named} of the domain {shell.identity.domain}, life {shell.incarnation}", "dim")
    _Link(shell, bus)
    process.run()
    say(out, f"{named} ended: {shell.stopping}", "dim")


class _Link:
    """Tells when there is no connection to the brokers, once for each reason, and when there is."""

    def __init__(self, shell: Shell, bus: str) -> None:
        from phalanx.bus.nats import NatsClient  # noqa: PLC0415  # as above

        self._shell = shell
        self._bus = bus
        self._patient = True
        self._told: set[str] = set()
        exchange = shell.exchange
        exchange.on_change(self._changed)
        if isinstance(exchange, NatsClient):
            exchange.on_error(self._complained)
        shell.clock.loop.call_later(PATIENCE_S, self._wait_no_longer)

    def _changed(self, connected: bool) -> None:
        self._told.clear()
        if connected:
            say(out, "connected to the brokers", "green")

    def _complained(self, why: str) -> None:
        if not (self._patient or self._shell.exchange.connected or why in self._told):
            self._told.add(why)
            say(err, f"no connection to a broker of {self._bus}; tries go on: {why}", "yellow")

    def _wait_no_longer(self) -> None:
        self._patient = False
