"""``phalanx logs``: what happened in a domain, in plain words, and what happens now."""

from __future__ import annotations

from typing import Annotated

import typer

from phalanx.cli.bus_options import AsJson, Bus, DomainFolder, operator
from phalanx.cli.durations import duration
from phalanx.cli.terminal import err, say


def logs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Only what these recorded.", show_default=False),
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C."),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only of the last 90s, 10m, 2h, 7d: before now by the brokers' clock, or with "
            "--from before the store's last event.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K",
            help="Only events of this kind, or family of kinds: auction.bid, auction.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every event, not only those that tell the story.")
    ] = False,
    as_json: AsJson = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STORE",
            help="Read a recorder's store instead of the brokers: a file of SQLite or a URL.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell what happened in a domain, in plain words; each line has the time of its receipt.

    With --follow it begins with what happens now, or with --since some time ago.
    """
    if store is not None and follow:
        raise typer.BadParameter("a store is not followed; leave --from out to follow the brokers")
    from phalanx.cli.log_lines import Lines, from_brokers, from_store  # noqa: PLC0415  # takes time

    since_s = None if since is None else duration(since, m=True)
    lines = Lines(tuple(names or ()), tuple(kind or ()), everything, as_json)
    if store is not None:
        from_store(store, lines, since_s)
    else:
        past = not follow or since is not None
        with operator(bus, domain) as connected:
            from_brokers(connected, lines, follow=follow, past=past, since_s=since_s)
    if not (follow or lines.count or as_json):
        say(err, lines.nothing(), "dim")
