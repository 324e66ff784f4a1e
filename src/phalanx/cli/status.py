"""``phalanx status``: who runs in a domain, and how they are."""

from __future__ import annotations

from typing import Annotated

import typer

from phalanx.cli.bus_options import AsJson, Bus, DomainFolder, operator

EXITS = {"well": 0, "attention": 1, "down": 3}


def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Only these.", show_default=False),
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Show who runs where, how they are, and whether all is well.

    Ends with 0 if all is well, 1 if something needs a look, 3 if no agent serves.
    """
    from phalanx.cli.status_view import StatusView  # noqa: PLC0415  # the bus takes time to import

    with operator(bus, domain) as connected:
        view = StatusView(connected, tuple(names or ()), as_json=as_json)
        if watch:
            view.watch()
            return
        verdict = view.show()
    raise typer.Exit(EXITS[verdict.value])
