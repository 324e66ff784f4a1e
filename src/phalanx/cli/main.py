"""The ``phalanx`` command: one verb a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from phalanx import __version__
from phalanx.cli.agent import agent, network, recorder
from phalanx.cli.beliefs import beliefs, inventory
from phalanx.cli.bench import bench
from phalanx.cli.clean import clean
from phalanx.cli.detect import detect
from phalanx.cli.doctor import doctor
from phalanx.cli.domain import app as domain
from phalanx.cli.explain import explain
from phalanx.cli.guard import guard
from phalanx.cli.history import history
from phalanx.cli.logs import logs
from phalanx.cli.place import place
from phalanx.cli.report import report
from phalanx.cli.run import run
from phalanx.cli.service import app as service
from phalanx.cli.status import status
from phalanx.cli.stop import stop
from phalanx.cli.terminal import Group, out, say
from phalanx.cli.validate import validate

app = typer.Typer(
    name="phalanx",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Autonomous agents that keep network services alive under attack.",
)
VERBS: tuple[Callable[..., None], ...] = (
    run,
    guard,
    agent,
    network,
    recorder,
    status,
    logs,
    stop,
    beliefs,
    inventory,
    validate,
    place,
    explain,
    report,
    detect,
    bench,
    doctor,
    clean,
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(history, name="history")
app.add_typer(domain, name="domain")
app.add_typer(service, name="service")


def _version(wanted: bool) -> None:
    if wanted:
        say(out, f"phalanx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Autonomous agents that keep network services alive under attack."""


def main() -> None:
    """Run the command line; bad input ends it with exit code 2 and one line on stderr."""
    app()
