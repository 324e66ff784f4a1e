"""``phalanx agent``, ``network`` and ``recorder``: the processes of a domain, one each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.terminal import err, out, say
from phalanx.runtime.processes.agent import open_agent
from phalanx.runtime.processes.network import open_network
from phalanx.runtime.processes.process import Process
from phalanx.runtime.processes.spec import AgentSpec, NetworkProcessSpec, RecorderSpec, read_spec

PATIENCE_S = 2.0
"""How long a connection may take before its absence is told, in real seconds."""

Config = Annotated[Path, typer.Option("--config", help="Configuration of the process (TOML).")]


def agent(config: Config) -> None:
    """Run one agent until it is told to leave (SIGTERM) or to stop (SIGINT)."""
    spec = read_spec(AgentSpec, config)
    started = open_agent(spec, lambda line: say(out, line, "dim"))
    _run("agent", spec.bus, started.process, started.run)


def network(config: Config) -> None:
    """Run the network of a plan, simulated or real, for the agents of its PoPs."""
    spec = read_spec(NetworkProcessSpec, config)
    started = open_network(spec, lambda line: say(out, line, "dim"))
    _run("network", spec.bus, started.process, started.run)


def recorder(config: Config) -> None:
    """Record the events of a domain in a store."""
    from phalanx.runtime.processes.recorder import open_recorder  # noqa: PLC0415  # slow: SQL

    spec = read_spec(RecorderSpec, config)
    started = open_recorder(spec)
    _run("recorder", spec.bus, started.process, started.run)


def _run(kind: str, bus: str, process: Process, run: Callable[[], None]) -> None:
    """Run a process; say its name, whether it is connected, and why it ended.

    Args:
        kind: what it is.
        bus: the file that names its brokers.
        process: its connection, clock and identity.
        run: returns when it has ended.

    """
    named = f"{kind} {process.identity.name}"
    say(out, f"{named} of the domain {process.identity.domain}, life {process.incarnation}", "dim")
    _watch_connection(process, bus)
    run()
    say(out, f"{named} ended: {process.stopping}", "dim")


def _watch_connection(process: Process, bus: str) -> None:
    """Say when the brokers cannot be reached, once for each reason, and when they can."""
    client, time, told = process.client, process.clock.loop.time, set[str]()
    begun = time()

    def changed(connected: bool) -> None:
        told.clear()
        if connected:
            say(out, "connected to the brokers", "green")

    def failed(reason: str) -> None:
        late = time() - begun > PATIENCE_S
        if late and not client.connected and reason not in told:
            told.add(reason)
            say(err, f"no connection to a broker of {bus}; tries go on: {reason}", "yellow")

    if client.connected:  # while a site's driver was opened
        changed(connected=True)
    client.on_change(changed)
    client.on_error(failed)
