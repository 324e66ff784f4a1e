"""``phalanx stop``: has agents hand over and leave, or end at once."""

from __future__ import annotations

from typing import Annotated

import typer

from phalanx.cli.bus_options import Bus, DomainFolder, operator

_FAILED = 1


def stop(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Whom.", show_default=False)],
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="End the process at once; its leases and its memory stay for a restart.",
        ),
    ] = False,
    within: Annotated[
        float,
        typer.Option(
            metavar="S", min=1, max=3600, help="After so many seconds the rest is given up."
        ),
    ] = 60.0,
) -> None:
    """Have agents hand over what they do and leave; tells how it goes, and when it is done."""
    from phalanx.cli.leaving import Leaving  # noqa: PLC0415  # the bus takes time to import

    with operator(bus, domain) as connected:
        leaving = Leaving(connected, now=now, within_s=within)
        leaving.check(names)
        for name in dict.fromkeys(names):
            leaving.ask(name)
        leaving.wait()
    if leaving.failed:
        raise typer.Exit(_FAILED)
