"""``phalanx domain``: makes a domain, says who belongs to it, and runs its brokers."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.passphrase import VARIABLE, asking, new_passphrase
from phalanx.cli.terminal import Group, err, out, say
from phalanx.domain.errors import PhalanxError

if TYPE_CHECKING:
    from phalanx.runtime.domain import Domain, Member
    from phalanx.runtime.domain.brokers import Brokers

LOOK_S = 0.2
BEGIN_S = 30.0
"""How long a cluster may take to become one."""
ATTEMPT_S = 3.0
DAY = timedelta(days=1)
SOON = 14 * DAY
"""Certificates that end within this time are shown in yellow."""
_STYLES = {"valid": "green", "expired": "red", "revoked": "dim"}

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Make a domain, say who belongs to it, and run its brokers.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The domain's directory.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        envvar=VARIABLE,
        help="Holds the passphrase of the authority's key; asked on the terminal if none is given.",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--broker", help="Only this broker; all of this machine if none is named."),
]


@app.command()
def init(
    folder: Folder,
    name: Annotated[
        str | None, typer.Option(help="The domain's name; the directory's if none is given.")
    ] = None,
    broker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Where agents reach a broker; one, or an odd number for a cluster. "
            "127.0.0.1:4222 if none is given.",
        ),
    ] = None,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Seal the authority's key by a passphrase.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a domain: its authority, its brokers' certificates, an operator and a recorder."""
    # The certificates' library takes time to import; other verbs do without.
    from phalanx.runtime.domain import (  # noqa: PLC0415
        BrokerSpec,
        Domain,
        DomainSpec,
        parse_domain,
        split_server,
    )
    from phalanx.runtime.domain.spec import domain_text  # noqa: PLC0415

    brokers = tuple(
        BrokerSpec(f"broker{number}", *split_server(server, f"--broker {server}"))
        for number, server in enumerate(broker or ["127.0.0.1"], 1)
    )
    spec = DomainSpec(folder.resolve().name if name is None else name, brokers)
    parsed = parse_domain(domain_text(spec), "phalanx domain init")
    given = sealed or passphrase_file is not None
    passphrase = new_passphrase(passphrase_file) if given else None
    domain = Domain.create(folder, parsed, passphrase=passphrase)
    say(out, f"{folder}: the domain {domain.spec.name}", "green")
    out.print(_table(domain.members()))
    key = folder / "authority" / "ca-key.pem"
    whoever = "who has it and the passphrase" if given else "who has it"
    say(out, f"Keep {key} safe: {whoever} can be anybody.", "yellow")
    say(out, f"Next: phalanx domain up {folder}", "dim")
    say(out, f"      phalanx domain add {folder} pop1 --role agent", "dim")


@app.command()
def add(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the identity; of an agent, its PoP's.")],
    role: Annotated[str, typer.Option(help="What it is for, such as agent.")] = "agent",
    host: Annotated[
        list[str] | None,
        typer.Option(help="Of a broker: a name or address beside that in domain.toml."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an identity, and a directory with all that its process needs."""
    from phalanx.runtime.domain import role_named  # noqa: PLC0415

    domain = _open(folder, passphrase_file)
    path = domain.add(name, role_named(role), tuple(host or ()))
    say(out, f"{name} belongs to the domain {domain.spec.name} now, as {role}", "green")
    _reload(domain)
    say(out, f"Copy {path} to the machine where it will run (the key is for it alone).", "dim")


@app.command("list")
def list_(folder: Folder) -> None:
    """Show who belongs to the domain, and until when."""
    domain = _open(folder)
    say(out, f"domain {domain.spec.name}")
    out.print(_table(domain.members()))


@app.command()
def revoke(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Whom.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take identities back: brokers cut them off, agents do not take their messages."""
    domain = _open(folder, passphrase_file)
    for name in names:
        domain.revoke(name)
        say(out, f"{name} was revoked", "yellow")
    if not _reload(domain):
        say(out, "No broker of this machine runs; those elsewhere need this directory.", "dim")
    say(out, "Agents elsewhere refuse its messages once the new crl.pem is there.", "dim")
    say(out, "The name is free: phalanx domain add gives it a new key.", "dim")


@app.command()
def renew(
    folder: Folder,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME…]", help="Whom; all who belong to it if none is named."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Give identities new certificates for the keys that they have; what runs takes them."""
    from phalanx.runtime.domain import Standing  # noqa: PLC0415

    domain = _open(folder, passphrase_file)
    members = [m.identity.name for m in domain.members() if m.standing is not Standing.REVOKED]
    for name in names or members:
        path = domain.renew(name)
        say(out, f"{name}: {path / 'cert.pem'} is new; copy it to where {name} runs")
    _reload(domain)


@app.command()
def passphrase(
    folder: Folder,
    passphrase_file: PassphraseFile = None,
    new_file: Annotated[
        Path | None,
        typer.Option(help="Holds the new one; asked on the terminal if none is given."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Take it away: the key's file alone will do.")
    ] = False,
) -> None:
    """Seal the authority's key by a passphrase, or by another one."""
    domain = _open(folder, passphrase_file)
    domain.seal(None if none else new_passphrase(new_file))
    key = folder / "authority" / "ca-key.pem"
    say(out, f"{key} is {'open' if none else 'sealed'}", "yellow" if none else "green")
    say(out, "Copies of the file that were made before are as they were.", "dim")


@app.command()
def up(
    folder: Folder,
    broker: Only = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once they run; domain down stops them.")
    ] = False,
) -> None:
    """Run the brokers of this machine until stopped, and make what the domain keeps at them."""
    from phalanx.runtime.processes.auditor import start_auditor  # noqa: PLC0415

    brokers = _brokers(_open(folder), broker)
    with _Stop() as stop:
        started = brokers.start()
        if len(started) < len(brokers.specs):
            brokers.reload()  # who belongs to the domain may have changed since they started
        auditor = start_auditor(brokers.domain, brokers.running)
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
                os.waitpid(auditor, 0)  # it ends with the last of them
        if ended and not stop.wanted:
            raise PhalanxError(f"{ended[0]} ended by itself; see {brokers.log(ended[0])}")
    say(out, "ended", "dim")


@app.command()
def audit(folder: Folder, broker: Only = None) -> None:
    """Tell the domain what the brokers of this machine refuse, while they run (up starts it)."""
    # Of what is imported here much belongs to processes alone.
    from phalanx.runtime.processes import auditor  # noqa: PLC0415

    auditor.audit(_brokers(_open(folder), broker))


@app.command()
def down(folder: Folder, broker: Only = None) -> None:
    """Stop the brokers of this machine."""
    stopped = _brokers(_open(folder), broker).stop()
    for name in stopped:
        say(out, f"{name} was stopped")
    if not stopped:
        say(out, "no broker of this machine runs", "green")


class _Stop:
    """Whether somebody wants an end: Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._want) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _want(self, _signal: int, _frame: FrameType | None) -> None:
        self.wanted = True


def _prepare(brokers: Brokers, stop: _Stop, *, patient: bool) -> None:
    """Make the streams; a cluster whose other brokers do not run yet is waited for."""
    from phalanx.bus.client import BrokerError  # noqa: PLC0415

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
    from phalanx.runtime.domain import Domain  # noqa: PLC0415

    return Domain.open(folder, ask=asking(passphrase_file))


def _brokers(domain: Domain, names: list[str] | None) -> Brokers:
    from phalanx.runtime.domain.brokers import Brokers  # noqa: PLC0415

    return Brokers(domain, names or ())


def _reload(domain: Domain) -> bool:
    """Tell the brokers of this machine that run; whether there is one."""
    from phalanx.runtime.domain.brokers import Brokers, is_here  # noqa: PLC0415

    if not any(is_here(broker.listen or broker.host) for broker in domain.spec.brokers):
        return False
    told = Brokers(domain).reload()
    if told:
        say(out, f"{', '.join(told)} know{'s' if len(told) == 1 else ''} of it", "dim")
    return bool(told)


def _table(members: tuple[Member, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "role", "certificate", "until", "hosts"):
        table.add_column(column, no_wrap=column != "hosts")
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
