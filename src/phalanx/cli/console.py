"""``phalanx console``: serves the page of a recorded log, or of a domain that runs."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from phalanx.cli.terminal import err, out, say
from phalanx.console.feed import follow, part_of, thinning_of
from phalanx.console.server import PORT, Address, ConsoleServer, open_browser
from phalanx.console.sessions import RoleName, Sessions, session_key
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

Bus = Annotated[
    Path | None,
    typer.Option(
        "--bus",
        metavar="FILE",
        help="bus.toml of the identity to use; by default that of the domain's operator.",
    ),
]
DomainFolder = Annotated[
    Path | None,
    typer.Option("--domain", metavar="DIR", help="The directory of a domain that runs."),
]
FOR_EVER_S = 1e8

Host = Annotated[
    str, typer.Option(help="Address to serve at; any other than loopback is open to the network.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at; 0: a free one.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--session-key",
        metavar="FILE",
        help="Key that tokens and sessions are made from, made at the first start; by default "
        "console.key in the user's state folder.",
    ),
]


def console(
    log: Annotated[
        Path | None, typer.Argument(metavar="LOG", help="Event log (JSONL) of a run, or of one "
                                    "that still writes it.")
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    certificate: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Serve over TLS: PEM.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, unless it is there.")
    ] = None,
    session: KeyFile = None,
) -> None:  # fmt: skip
    """Serve the console: the page that shows what the agents see, do and trust, and why.

    Give a log, or a domain that runs (--domain). For a run in this process: phalanx run --console.
    """
    if (log is not None) is (domain is not None or bus is not None):
        raise PhalanxError("give either a log or --domain DIR")
    address = Address(host, port, certificate, key)
    sessions = new_sessions(session)
    if log is not None:
        path = part_of(log)
        # Of a log that grows any sample may turn out to be a cause.
        thinning = thinning_of(path) if path == log else None
        if thinning is not None and thinning.note:
            say(out, thinning.note, "yellow")
        server = ConsoleServer(address, sessions, live=False, thinning=thinning)
        reading = threading.Thread(
            target=follow, args=(server.feed, path, lambda: server.stopping, server.add)
        )
        reading.daemon = True
        reading.start()
        announce(server, sessions, str(log), acts=False, opens=open_)
        server.serve()
        if server.feed.trouble:
            raise PhalanxError(server.feed.trouble)
        return
    _serve_domain(address, sessions, bus, domain, opens=open_)


def _serve_domain(
    address: Address, sessions: Sessions, bus: Path | None, domain: Path | None, *, opens: bool
) -> None:
    """Serve the console of a domain until Ctrl-C."""
    # What speaks with a domain takes seconds to import, which a recorded log does without.
    from phalanx.cli.bus_options import operator  # noqa: PLC0415
    from phalanx.console.controls import FabricControls  # noqa: PLC0415
    from phalanx.console.services import DomainServices  # noqa: PLC0415
    from phalanx.runtime.processes.operator import Tail  # noqa: PLC0415

    with operator(bus, domain) as connected:
        services = None if domain is None else DomainServices(domain)
        controls = FabricControls(connected.clock, connected.client, services=services)
        server = ConsoleServer(address, sessions, controls=controls, live=True)
        first: list[float] = []

        def told(event: Event, received: float) -> None:
            first[:] = first or [received]  # each process has a clock of its own; the brokers one
            server.add(replace(event, time=received - first[0]))

        tail = Tail(connected, told)
        name = f"domain {connected.identity.domain}"
        announce(server, sessions, name, acts=True, opens=opens)
        with server.beside(), suppress(KeyboardInterrupt):
            connected.until(lambda: server.stopping, FOR_EVER_S)
        if tail.unreadable:
            say(err, f"{tail.unreadable} entries of the stream were no events", "yellow")


def new_sessions(file: Path | None) -> Sessions:
    """Return what checks who asks, and have what is done told on stderr."""
    audit = logging.getLogger("phalanx.console.audit")
    if not audit.handlers:
        audit.addHandler(_Audit())
        audit.setLevel(logging.INFO)
        audit.propagate = False
    return Sessions(session_key(file), time.time)


def announce(
    server: ConsoleServer, sessions: Sessions, what: str, *, acts: bool, opens: bool
) -> None:
    """Say where the console is, and with which tokens."""
    role: RoleName = "operator" if acts else "viewer"
    code = sessions.code(role)
    say(out, f"the console of {what}: {server.address.url}#login={code}", "bold")
    say(out, f"token of a viewer: {sessions.token('viewer')}")
    if acts:
        say(out, f"token of an operator: {sessions.token('operator')}")
    if not server.address.loopback and server.address.certificate is None:
        say(err, "tokens and events travel in the clear; --tls-cert protects them", "yellow")
    say(out, "Ctrl-C ends it", "dim")
    if opens:
        open_browser(server.address.url, code)


class _Audit(logging.Handler):
    """Prints what is done and refused, with the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        say(err, f"{moment} {record.getMessage()}", style)
