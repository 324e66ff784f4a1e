"""The ``phalanx`` command: one verb a module, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from phalanx.cli.terminal import Group, out, readable, say
from phalanx.domain.version import VERSION

VERBS = {
    "run": "Run a scenario; print what happens, and its figures at the end.",
    "guard": "Guard the hosts behind this machine's interfaces until stopped.",
    "agent": "Run one agent until it is told to leave (SIGTERM) or to stop (SIGINT).",
    "network": "Run the network of a plan, simulated or real, for the agents of its PoPs.",
    "recorder": "Record the events of a domain in a store.",
    "status": "Show the processes of a domain, how they are, and whether all is well.",
    "logs": "Show what happened in a domain, one event a line, with the time of its receipt.",
    "stop": "Make agents hand over their work and leave; print how it goes until they are gone.",
    "beliefs": "Show what an agent believes now.",
    "inventory": "Show the VNFs that an agent runs and the measures that it keeps in force.",
    "measures": "Show the measures that are in force now: what, against whom, and why.",
    "release": "Take a measure back; it comes again if the attack goes on.",
    "loops": "Show the closed loops of slices: what each does, and what it passed on and why.",
    "validate": "Check a scenario file and print what it holds.",
    "place": "Show what every agent would bid for a goal, and who would win.",
    "explain": "Show the chain of causes that led to an event, from the log alone.",
    "console": "Serve the console: the page that shows what the agents see, do and trust, and why.",
    "report": "Write the report on a run as one self-contained HTML page.",
    "check": "Look in a log for what a correct run can never have recorded.",
    "audit": "Verify that a log is what its agents recorded.",
    "detect": "Find attacks in a capture, or in what routers export: targets, sources, reasons.",
    "policy": "Find conflicts of security rules, exchange and compare rules, run rules on traffic.",
    "collect": "Collect metrics of services into CSV or Parquet, from Prometheus or from CSV.",
    "evaluate": "Train models on some runs of a data set, and judge them on the others.",
    "train": "Train a model of services on recorded runs.",
    "forecast": "Forecast the load of a service from its latest metrics, with intervals.",
    "fuzz": "Run random plans against the rules of phalanx check.",
    "bench": "Run the benchmarks of a source checkout, or of models.",
    "harden": "Make the protected variant of an agent: signed, checked at load, measured.",
    "doctor": "Show what a run on real packets would use here; exit code 1 if it cannot run.",
    "clean": "Remove what ended runs left: processes, namespaces, rules, control groups, folders.",
    "ledger": "Show a ledger, or serve one to the processes of this machine.",
    "trust": "Show who is trusted and why, as a ledger has it; enrol and revoke agents.",
    "intent": "Check intents, say what they mean, and make agreements and rules of them.",
    "tla": "Check a Trust Level Agreement (TLA), and show what it asks and attests.",
    "ssla": "Show how the security agreements (SSLA) of a run were kept.",
    "history": "Ask a store what happened, who decided it and why; retire what is old.",
    "domain": "Make a domain, manage its identities, and run its brokers.",
    "slice": "Deploy network slices with their closed loops, change them, remove them.",
    "service": "Deploy the agents that guard a network service, change them, remove them.",
}
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
