"""The ``phalanx`` command: one verb a module, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from phalanx.cli.terminal import Group, out, say
from phalanx.domain.version import VERSION

VERBS = {
    "run": "run:run",
    "guard": "guard:guard",
    "agent": "agent:agent",
    "network": "agent:network",
    "recorder": "agent:recorder",
    "status": "status:status",
    "logs": "logs:logs",
    "stop": "stop:stop",
    "beliefs": "beliefs:beliefs",
    "inventory": "beliefs:inventory",
    "validate": "validate:validate",
    "place": "place:place",
    "explain": "explain:explain",
    "report": "report:report",
    "detect": "detect:detect",
    "bench": "bench:bench",
    "doctor": "doctor:doctor",
    "clean": "clean:clean",
    "history": "history:app",
    "domain": "domain:app",
    "service": "service:app",
}
"""Where each verb is: a module of this package and a function or a group of verbs in it."""


class VerbGroup(Group):
    """Imports a verb's module when the verb is called: no verb waits for what others need."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        return list(VERBS)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """Return a verb by name; None if there is none."""
        if cmd_name in VERBS and cmd_name not in self.commands:
            module, _, name = VERBS[cmd_name].partition(":")
            app = getattr(import_module(f"phalanx.cli.{module}"), name)
            if not isinstance(app, typer.Typer):
                verb, app = app, typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                app.command()(verb)
            command = typer.main.get_command(app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that ``args`` begin with; an unknown one is refused with a suggestion."""
        if args[0] not in VERBS:
            for name in VERBS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="phalanx",
    cls=VerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Autonomous agents that keep network services alive under attack.",
)


def _version(wanted: bool) -> None:
    if wanted:
        say(out, f"phalanx {VERSION}")
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
