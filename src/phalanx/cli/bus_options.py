"""What all commands share that speak with a running domain: whose identity, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import CallBusy, CallError, CallRefused, CallTimedOut, OperationUnknown
from phalanx.runtime.processes.operator import Operator, operator_bus

DOMAIN_HERE = Path("domain.toml")

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
    typer.Option(
        "--domain",
        metavar="DIR",
        envvar="PHALANX_DOMAIN",
        help="The domain's directory; by default the current one, if it is a domain's.",
    ),
]


def operator(bus: Path | None, domain: Path | None) -> Operator:
    """Return a connection under the identity that the options name; it is open in a ``with``.

    Raises:
        PhalanxError: if no domain is named, or the files are not usable.

    """
    if bus is None and domain is None and not DOMAIN_HERE.is_file():
        raise PhalanxError(
            "which domain? Give --domain DIR or --bus FILE, set PHALANX_DOMAIN, "
            "or stand in a domain's directory"
        )
    return Operator(operator_bus(domain or Path()) if bus is None else bus)


def unknown(name: str, domain: str, names: tuple[str, ...]) -> PhalanxError:
    """Return what to raise about a name that the registry does not have."""
    there = f"there are {', '.join(names)}" if names else "the registry is empty"
    return PhalanxError(f"there is no {name!r} in the domain {domain}; {there}")


def why(name: str, error: CallError) -> str:
    """Return in words why a call of ``name`` was not answered as it should be."""
    match error:
        case CallTimedOut(unserved=True):
            return f"{name} does not answer: it does not run, or is cut off"
        case CallTimedOut():
            return f"{name} does not answer: {error.reason}; phalanx status {name} tells more"
        case CallRefused():
            return f"{name}: refused, {error.reason}"
        case OperationUnknown():
            return f"{name} does not do that: {error.reason}"
        case CallBusy():
            return f"{name} is busy: {error.reason}; try again"
    return f"{name}: {error.reason}"
