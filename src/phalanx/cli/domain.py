"""``phalanx domain``: makes a domain, says who belongs to it, and runs its brokers."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from phalanx.bus.client import BrokerError
from phalanx.cli.terminal import StopSignal, err, group, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.identity.credentials import VARIABLE, check_passphrase, read_passphrase
from phalanx.runtime.domain.brokers import Brokers, is_here
from phalanx.runtime.domain.directory import Domain, Member, Standing
from phalanx.runtime.domain.spec import (
    BrokerSpec,
    DomainSpec,
    domain_text,
    parse_domain,
    role_named,
    split_server,
)
from phalanx.runtime.processes import auditor

LOOK_S = 0.2
BEGIN_S = 30.0
"""How long a cluster may take to become one."""
ATTEMPT_S = 3.0
DAY = timedelta(days=1)
SOON = 14 * DAY
"""Certificates that end within this time are shown in yellow."""
_STYLES = {"valid": "green", "expired": "red", "revoked": "dim"}

app = group("Make a domain, manage its identities, and run its brokers.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The domain's directory.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        envvar=VARIABLE,
        help="File with the passphrase of the authority's key; without it, the terminal asks.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--broker", help="Only this broker; by default all brokers of this machine."),
]


@app.command()
def init(
    folder: Folder,
    name: Annotated[
        str | None, typer.Option(help="The domain's name; by default the directory's.")
    ] = None,
    broker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Address at which agents reach a broker; one, or an odd number for a cluster. "
            "By default 127.0.0.1:4222.",
        ),
    ] = None,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Encrypt the authority's key with a passphrase.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a domain: its authority, its brokers' certificates, an operator, a recorder."""
    brokers = tuple(
        BrokerSpec(f"broker{number}", *split_server(server, f"--broker {server}"))
        for number, server in enumerate(broker or ["127.0.0.1"], 1)
    )
    spec = DomainSpec(folder.resolve().name if name is None else name, brokers)
    parsed = parse_domain(domain_text(spec), "phalanx domain init")
    given = sealed or passphrase_file is not None
    passphrase = _new_passphrase(passphrase_file) if given else None
    domain = Domain.create(folder, parsed, passphrase=passphrase)
    say(out, f"{folder}: the domain {domain.spec.name}", "green")
    out.print(_table(domain.members()))
    key = folder / "authority" / "ca-key.pem"
    holder = "anyone who has it and the passphrase" if given else "anyone who has it"
    say(out, f"Keep {key} safe: {holder} can issue any identity.", "yellow")
    say(out, f"Next: phalanx domain up {folder}", "dim")
    say(out, f"      phalanx domain add {folder} pop1 --role agent", "dim")


@app.command()
def add(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the identity; for an agent, its PoP's.")],
    role: Annotated[str, typer.Option(help="Role of the identity, such as agent.")] = "agent",
    host: Annotated[
        list[str] | None,
        typer.Option(help="For a broker: a further name or address beside that in domain.toml."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an identity and a directory with all that its process needs."""
    domain = _open(folder, passphrase_file)
    path = domain.add(name, role_named(role), tuple(host or ()))
    say(out, f"{name} belongs to the domain {domain.spec.name} now, as {role}", "green")
    _reload(domain)
    say(out, f"Copy {path} to the machine where it will run (the key is for it alone).", "dim")


@app.command("list")
def list_(folder: Folder) -> None:
    """Show the identities of the domain and how long their certificates are valid."""
    domain = _open(folder)
    table = _table(domain.members())
    say(out, f"domain {domain.spec.name}")
    out.print(table)


@app.command()
def revoke(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names of the identities.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Revoke identities: brokers disconnect them, agents refuse their messages."""
    domain = _open(folder, passphrase_file)
    for name in names:
        domain.revoke(name)
        say(out, f"{name} was revoked", "yellow")
    if not _reload(domain):
        say(out, "No broker runs on this machine; brokers elsewhere need this directory.", "dim")
    say(out, "Agents elsewhere refuse its messages once the new crl.pem is there.", "dim")
    say(out, "The name is free: phalanx domain add gives it a new key.", "dim")


@app.command()
def renew(
    folder: Folder,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Names of the identities; by default all of the domain."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Renew certificates, with the same keys; running processes load them."""
    domain = _open(folder, passphrase_file)
    members = [m.identity.name for m in domain.members() if m.standing is not Standing.REVOKED]
    for name in names or members:
        path = domain.renew(name)
        say(out, f"{name}: {path / 'cert.pem'} is new; copy it to the machine where {name} runs")
    _reload(domain)


@app.command()
def passphrase(
    folder: Folder,
    passphrase_file: PassphraseFile = None,
    new_file: Annotated[
        Path | None,
        typer.Option(help="File with the new passphrase; without it, the terminal asks."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Remove the passphrase: the key file is then enough.")
    ] = False,
) -> None:
    """Set, change or remove the passphrase of the authority's key."""
    domain = _open(folder, passphrase_file)
    domain.seal(None if none else _new_passphrase(new_file))
    key = folder / "authority" / "ca-key.pem"
    say(
        out,
        f"{key} is {'not encrypted' if none else 'encrypted'} now",
        "yellow" if none else "green",
    )
    say(out, "Earlier copies of the file keep their old protection.", "dim")


@app.command()
def up(
    folder: Folder,
    broker: Only = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once they run; phalanx domain down stops them.")
    ] = False,
) -> None:
    """Run the brokers of this machine until stopped, and create the domain's streams there."""
    brokers = _brokers(_open(folder), broker)
    with StopSignal(signal.SIGTERM) as stop:
        started = brokers.start()
        if len(started) < len(brokers.specs):
            brokers.reload()  # who belongs to the domain may have changed since they started
        watcher = auditor.start_auditor(brokers.domain, brokers.running)
        for spec in brokers.specs:
            state = "runs" if spec.name in started else "runs already"
            say(out, f"{spec.name} {state} at {spec.server}", "green")
        try:
            _prepare(brokers, stop, patient=bool(started) and not detach)
        except PhalanxError:
            brokers.stop(started)
            raise
        if detach or not started:
            say(out, f"phalanx domain down {folder} stops them", "dim")
            return
        say(out, "Ctrl-C ends it", "dim")
        try:
            while not stop.wanted and set(started) <= set(brokers.running):
                time.sleep(LOOK_S)
            ended = [name for name in started if name not in brokers.running]
        finally:
            brokers.stop(started)
            if set(started) == {spec.name for spec in brokers.specs}:
                os.waitpid(watcher, 0)  # it ends with the last of them
        if ended and not stop.wanted:
            raise PhalanxError(f"{ended[0]} ended by itself; see {brokers.log(ended[0])}")
    say(out, "ended", "dim")


@app.command()
def audit(folder: Folder, broker: Only = None) -> None:
    """Record what the brokers of this machine refuse, while they run (domain up starts it)."""
    auditor.audit(_brokers(_open(folder), broker))


@app.command()
def down(folder: Folder, broker: Only = None) -> None:
    """Stop the brokers of this machine."""
    stopped = _brokers(_open(folder), broker).stop()
    for name in stopped:
        say(out, f"{name} was stopped")
    if not stopped:
        say(out, "no broker of this machine runs", "green")


def _prepare(brokers: Brokers, stop: StopSignal, *, patient: bool) -> None:
    """Make the streams; a cluster whose other brokers do not run yet is waited for."""
    give_up = time.monotonic() + BEGIN_S
    told = False
    while not stop.wanted:
        try:
            return brokers.prepare(within_s=ATTEMPT_S)
        except BrokerError as error:
            late = time.monotonic() > give_up
            if late and brokers.complete:
                raise
            if not told and not brokers.complete:
                say(err, f"waiting for the other brokers of the cluster: {error}", "yellow")
                told = True
            if late and not patient:
                say(err, "once they run, phalanx domain up once more completes it", "yellow")
                return None
    return None


def _open(folder: Path, passphrase_file: Path | None = None) -> Domain:
    return Domain.open(folder, ask=_asking(passphrase_file))


def _brokers(domain: Domain, names: list[str] | None) -> Brokers:
    return Brokers(domain, names or ())


def _reload(domain: Domain) -> bool:
    """Tell the brokers of this machine that run; whether there is one."""
    if not any(is_here(broker.listen or broker.host) for broker in domain.spec.brokers):
        return False
    told = Brokers(domain).reload()
    if told:
        say(out, f"{', '.join(told)} loaded the change", "dim")
    return bool(told)


def _table(members: tuple[Member, ...]) -> Table:
    table = table_of("name", "role", "certificate", "until", "hosts")
    now = datetime.now(UTC)
    for member in members:
        standing = member.standing.value
        left = member.until - now
        until = f"{member.until:%Y-%m-%d} ({max(round(left / DAY), 0)} days)"
        soon = standing == "valid" and left < SOON
        table.add_row(
            member.identity.name,
            member.identity.role.value,
            Text(standing, style=_STYLES[standing]),
            Text(until, style="yellow" if soon else ""),
            ", ".join(member.hosts),
        )
    return table


def _asking(file: Path | None) -> Callable[[], bytes]:
    """Return what asks for the passphrase of the authority's key.

    Args:
        file: holds it; None: the terminal is asked.

    """
    return lambda: (
        read_passphrase(file) if file is not None else _ask("passphrase of the authority's key: ")
    )


def _new_passphrase(file: Path | None) -> bytes:
    """Return a new passphrase: that of ``file``, or what was typed twice.

    Raises:
        PhalanxError: if the file is not usable, there is no terminal, what was typed differs, or
            it is too short.

    """
    if file is not None:
        return read_passphrase(file)
    passphrase = _ask("new passphrase of the authority's key: ")
    check_passphrase(passphrase)
    if _ask("once more: ") != passphrase:
        raise PhalanxError("the two passphrases differ")
    return passphrase


def _ask(what: str) -> bytes:
    if not sys.stdin.isatty():
        raise PhalanxError(
            "the passphrase of the authority's key is asked on a terminal, and there is none; "
            f"name a file that holds it: --passphrase-file or {VARIABLE}"
        )
    try:
        return getpass(what).encode()
    except (EOFError, KeyboardInterrupt):
        raise PhalanxError("no passphrase was given") from None
