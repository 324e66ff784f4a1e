"""The ``phalanx`` command: one verb a module, imported when it is called."""

from __future__ import annotations

import tomllib
from importlib import import_module
from importlib.resources import files
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from phalanx.cli.terminal import Group, out, readable, say
from phalanx.domain.version import VERSION

VERBS: dict[str, str] = tomllib.loads(
    files(__package__).joinpath("verbs.toml").read_text(encoding="utf-8")
)
"""The verbs and their lines in the list of them: listing them imports none."""

MODULES = {
    "forecast": "train",
    "inventory": "beliefs",
    "network": "agent",
    "recorder": "agent",
    "release": "measures",
}
"""Where verbs are whose module has another name."""


class VerbGroup(Group):
    """Imports a verb's module when the verb is called: no verb waits for what others need."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """Return the names of the verbs."""
        return list(VERBS)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """Return a verb by name; None if there is none."""
        if cmd_name in VERBS and cmd_name not in self.commands:
            module = import_module(f"phalanx.cli.{MODULES.get(cmd_name, cmd_name)}")
            app = getattr(module, "app", None)
            if app is None:
                app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                app.command()(getattr(module, cmd_name))
            command = typer.main.get_command(app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return readable(self.commands.get(cmd_name))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the verbs."""
        self._name_only()
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that ``args`` begin with; an unknown one is refused with a suggestion."""
        if args[0] not in VERBS:
            self._name_only()
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete the name of a verb."""
        self._name_only()
        return super().shell_complete(ctx, incomplete)

    def _name_only(self) -> None:
        self.commands = {name: TyperCommand(name, help=line) for name, line in VERBS.items()}


app = typer.Typer(
    name="phalanx",
    cls=VerbGroup,
    no_args_is_help=True,
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
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise SystemExit(0) from None  # the reader has what it wanted, as in ``| head``
        raise
