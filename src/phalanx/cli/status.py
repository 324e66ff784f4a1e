"""``phalanx status``: which processes run in a domain, and how they are."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from phalanx.cli.bus_options import Bus, DomainFolder, operator, unknown
from phalanx.cli.terminal import AsJson, ReadableTable, counted, emit, err, out
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.directory import Appraise, unattested
from phalanx.fabric.registration import END_TO_END, Appraisal, Registration, Tier
from phalanx.fabric.status import OverallStatus, StatusReport, StatusRow, report, to_json
from phalanx.runtime.processes.operator import Operator, Survey

WIDE = 100
"""Terminals with so many columns have room between those of the table."""
PIPED = 240
"""Columns where there is no terminal: the reader can cut it."""
AGAIN_S = 1.0
"""How often those who are watched are asked."""
_STYLES = {
    "well": "green",
    "attention": "yellow",
    "down": "red",
    "serving": "green",
    "starting": "cyan",
    "draining": "yellow",
    "stale": "yellow",
    "gone": "red",
    "left": "dim",
    "ok": "green",
    "degraded": "yellow",
    "failing": "red",
    "unknown": "dim",
}
TIERS = {"trusted": Tier.AFFIRMING, "silent": Tier.WARNING, "quarantined": Tier.CONTRAINDICATED}
"""By the standing that an agent has by a ledger; any other is unattested."""
EXITS = {"well": 0, "attention": 1, "down": 3}


def status(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these processes.")
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    ledger: Annotated[
        str | None, typer.Option(metavar="URL", help="Show who is trusted by this ledger, too.")
    ] = None,
) -> None:
    """Show the processes of a domain, how they are, and whether all is well.

    The exit code is 0 if all is well, 1 if something needs attention, 3 if no agent
    serves, or nobody sees to a duty.
    """
    if watch and ledger is not None:
        raise PhalanxError("--ledger is read once; it does not go with --watch")
    appraise = unattested if ledger is None else _appraise_by(ledger)
    with operator(bus, domain) as connected:
        view = _View(connected, tuple(names or ()), appraise, as_json=as_json)
        if watch:
            view.watch()
            return
        verdict = view.show()
    raise typer.Exit(EXITS[verdict.value])


def _appraise_by(url: str) -> Appraise:
    """Return how far services are to be trusted by what a ledger says now."""
    from phalanx.cli.ledger import reading  # noqa: PLC0415  # slow, and seldom asked
    from phalanx.cli.trust import LedgerReader  # noqa: PLC0415

    with reading(url) as (ledger, seen, _):
        found = LedgerReader(ledger, seen)

    def appraise(service: Registration) -> Appraisal:
        member, last = found.register.members.get(service.owner), found.verified.get(service.owner)
        tier = None if member is None else TIERS.get(member.standing.value)
        return Appraisal() if tier is None else Appraisal(tier, ", ".join(last.by if last else ()))

    return appraise


class _View:
    """Finds out how services are, and prints it.

    Args:
        connected: whose identity asks.
        only: the services that it is about; none: all.
        appraise: how far to trust a service.
        as_json: print JSON, nothing else.

    Raises:
        PhalanxError: by its methods, with one line, if there is no service of a name.

    """

    def __init__(
        self, connected: Operator, only: tuple[str, ...], appraise: Appraise, *, as_json: bool
    ) -> None:
        self._connected = connected
        self._only = only
        self._as_json = as_json
        self._survey = Survey(connected, appraise)

    def show(self) -> OverallStatus:
        """Print how they are now, once there were signs of life, and return the verdict."""
        self._settle()
        found = self._report()
        if self._as_json:
            emit(to_json(found).decode())
        else:
            width = None if out.is_terminal else PIPED
            out.print(view(found, whole=not self._only), width=width, crop=False)
        return found.verdict

    def watch(self) -> None:
        """Go on printing how they are, until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            self._settle()
            if self._as_json:
                while not out.quiet:
                    emit(to_json(self._report(), indent=0).decode())
                    self._ask_again()
                return
            with Live(console=out, auto_refresh=False) as live:
                while not out.quiet:
                    live.update(self._live(), refresh=True)
                    self._ask_again()

    def _settle(self) -> None:
        with err.status("waiting for signs of life"):
            self._survey.settle(self._only)
        for name in self._only:
            if name not in self._survey.names:
                raise unknown(name, self._connected.identity.domain, self._survey.names)

    def _report(self) -> StatusReport:
        survey = self._survey
        return report(
            survey.registry.entries(),
            survey.answers,
            self._connected.clock.now(),
            only=self._only,
            silent=survey.silent,
            storage=survey.storage,
        )

    def _ask_again(self) -> None:
        self._survey.ask()
        self._connected.until(lambda: False, AGAIN_S)

    def _live(self) -> Group:
        shown = view(self._report(), whole=not self._only)
        if self._connected.exchange.connected:
            return shown
        cut = Text("no connection to the brokers; this is what was last known", style="red")
        return Group(shown, cut)


def view(found: StatusReport, *, whole: bool = True) -> Group:
    """Return a report, of the whole domain or not, for people: a table, words, and the verdict."""
    notes = [Text(line, style="dim") for line in found.notes]
    findings = [Text(line, style=_STYLES[found.verdict.value]) for line in found.findings]
    return Group(_table(found.rows), *notes, *findings, _verdict(found, whole=whole))


def _table(rows: tuple[StatusRow, ...]) -> Table:
    gap = 2 if out.width >= WIDE else 1
    table = ReadableTable(box=None, padding=(0, gap, 0, 0), header_style="bold")
    scopes = any(row.scope != str(END_TO_END) for row in rows)
    for column in ("name", "role", "state", "health"):
        table.add_column(column, no_wrap=True)
    for column in ("lease", "life", "load", "refused", "shed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("trust", no_wrap=True)
    if scopes:
        table.add_column("scope", overflow="fold", min_width=8)
    for row in rows:
        table.add_row(
            Text(row.agent),
            row.role,
            Text(row.state, style=_STYLES[row.state]),
            Text(row.health, style=_STYLES[row.health]),
            f"{row.lease_left_s:.1f} s" if row.lease_left_s else "–",
            str(row.incarnation),
            "–" if row.load is None else f"{row.load:.0%}",
            "–" if row.refusals is None else str(row.refusals),
            "–" if row.sheds is None else str(row.sheds),
            row.trust.partition(":")[0],
            *([row.scope] if scopes else []),
        )
    return table


def _verdict(found: StatusReport, *, whole: bool) -> Text:
    known = [row for row in found.rows if row.role == "agent"]
    noun = "agent"
    if not known and not whole:
        noun, known = "service", list(found.rows)
    serving = sum(row.state == "serving" for row in known)
    of = f"{serving} of {counted(len(known), noun)} serving" if known else "there is no agent"
    return Text(f"{found.verdict.value}: {of}", style=f"bold {_STYLES[found.verdict.value]}")
