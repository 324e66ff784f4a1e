"""What all commands share that speak with a running domain: whose identity, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phalanx.domain.errors import PhalanxError

if TYPE_CHECKING:
    from phalanx.fabric.calls import CallError
    from phalanx.runtime.processes.operator import Operator

DOMAIN_HERE = Path("domain.toml")

Bus = Annotated[
    Path | None,
    typer.Option(
        "--bus",
        metavar="FILE",
        help="Whose identity: its bus.toml. The operator's of the domain if none is given.",
        show_default=False,
    ),
]
DomainFolder = Annotated[
    Path | None,
    typer.Option(
        "--domain",
        metavar="DIR",
        envvar="PHALANX_DOMAIN",
        help="The domain's directory; this one if it is one.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def operator(bus: Path | None, domain: Path | None) -> Operator:
    """Return a connection under the identity that the options name; it is open in a ``with``.

    Raises:
        PhalanxError: if no domain is named, or the files are not usable.

    """
    # The bus and the certificates take time to import; other verbs do without.
    from phalanx.runtime.processes.operator import Operator, operator_bus  # noqa: PLC0415

    if bus is None and domain is None and not DOMAIN_HERE.is_file():
        raise PhalanxError(
            "which domain? Give --domain DIR or --bus FILE, set PHALANX_DOMAIN, "
            "or stand in a domain's directory"
        )
    return Operator(operator_bus(domain or Path()) if bus is None else bus)


def unknown(name: str, domain: str, names: tuple[str, ...]) -> PhalanxError:
    """Return what to raise about a name that nobody in the registry has."""
    there = f"there are {', '.join(names)}" if names else "nobody is"
    return PhalanxError(f"there is no {name!r} in the domain {domain}; {there}")


def why(name: str, error: CallError) -> str:
    """Return in words why a call of ``name`` was not answered as it should be."""
    from phalanx.fabric.calls import CallBusy, CallRefused, CallTimedOut, OperationUnknown  # noqa: PLC0415  # as above

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


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: ``1 agent``, ``2 agents``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
