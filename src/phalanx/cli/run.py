"""``phalanx run``: run a scenario, watch it, keep its log, end with its figures."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from phalanx.bdi import Capability
from phalanx.cli.figures import print_summary
from phalanx.cli.files import open_scenario
from phalanx.cli.functions import Functions, load_functions
from phalanx.cli.ground import Ground, linux_environment, say_plan
from phalanx.cli.outputs import Outputs
from phalanx.cli.terminal import INTERRUPTED, err, out, say
from phalanx.domain.events import Event, Sink
from phalanx.reporting.event_text import IMPORTANT, describe
from phalanx.runtime.environment import Environment
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import RunResult, run_scenario

_STYLES = {
    "traffic.changed": "magenta",
    "fault.injected": "red",
    "link.changed": "red",
    "agent.crashed": "red",
    "agent.gone": "red",
    "lease.expired": "yellow",
    "auction.failed": "yellow",
    "auction.awarded": "cyan",
    "measure.applied": "green",
    "analysis.done": "blue",
}

RESERVED = {"network", "run"}
"""Processes of a run that is spread out, besides the agents."""


def run(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (YAML).", show_default=False)],
    *,
    function: Functions = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**53, help="Seed; the scenario's if none.", show_default=False),
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(help="Run on the network in this GraphML file.", show_default=False),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write all events here (JSONL).", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report here (HTML).", show_default=False)
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Keep all events here: sqlite:///FILE or postgresql+psycopg://…",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object, nothing else.")
    ] = False,
    until: Annotated[
        float | None,
        typer.Option(
            min=0, max=604_800, help="End after this many seconds of the run.", show_default=False
        ),
    ] = None,
    realtime: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            help="Run by the wall clock, so many seconds of the run a second.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        Ground, typer.Option(help="Simulated flows, or real packets on this machine (root).")
    ] = Ground.SIMULATION,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Each agent in a process of its own, over NATS, by the wall clock "
            "(--realtime says how fast).",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on linux: say what would be made, and end.")
    ] = False,
) -> None:
    """Run a scenario and say what happened, why, and how it ended."""
    functions = load_functions(function)
    loaded = open_scenario(scenario, topology, functions)
    if on is Ground.LINUX and realtime is not None:
        raise typer.BadParameter("real packets keep real time", param_hint="--realtime")
    if spread:
        _check_spread(topology, function, loaded)
    if dry_run:
        _check_dry_run(on, spread=spread)
        say_plan(loaded)
        return
    chosen = loaded.seed if seed is None else seed
    console = err if as_json else out
    quiet = as_json and not err.is_terminal
    with Outputs(log, report, store, f"{loaded.name}-{chosen}") as outputs:
        if not quiet:
            for note in loaded.notes:
                say(console, f"note: {note}", "dim")
        with _watching(console, loaded, outputs.sinks, until, quiet=quiet) as watch:
            if spread:
                tell = partial(say, console, style="dim")
                result = watch.spread(scenario, chosen, until, realtime or 1.0, on, tell)
            else:
                environment = (
                    linux_environment(console, quiet=quiet) if on is Ground.LINUX else None
                )
                result = watch.run(chosen, until, realtime, functions, environment)
    outputs.write_report(result.events)
    if as_json:
        typer.echo(msgspec.json.encode(result.summary).decode())
    else:
        print_summary(result.summary)
        for line in outputs.lines():
            say(out, line)
    if watch.stopped:
        raise typer.Exit(INTERRUPTED)


def _check_spread(topology: Path | None, function: Functions, loaded: Scenario) -> None:
    """Refuse what processes of their own cannot be given."""
    hint = "--spread"
    if topology is not None:
        raise typer.BadParameter("write the network into the scenario file", param_hint=hint)
    if function:
        raise typer.BadParameter(
            "install the function, so that every process finds it", param_hint=hint
        )
    if RESERVED & {pop.name for pop in loaded.network.pops}:
        raise typer.BadParameter(f"no PoP may be named {' or '.join(RESERVED)}", param_hint=hint)


def _check_dry_run(on: Ground, *, spread: bool) -> None:
    """Refuse to say what would be made where nothing is, or something else."""
    hint = "--dry-run"
    if on is not Ground.LINUX:
        raise typer.BadParameter("a simulation touches nothing", param_hint=hint)
    if spread:
        raise typer.BadParameter(
            "leave --spread out: it makes the same, but for the overlay", param_hint=hint
        )


class _Watch:
    """Shows a run while it goes, and ends it in order at the first Ctrl-C."""

    def __init__(
        self,
        console: Console,
        progress: Progress,
        scenario: Scenario,
        sinks: list[Sink],
        *,
        total: float,
        quiet: bool,
    ) -> None:
        self.stopped = False
        self._console = console
        self._scenario = scenario
        self._sinks = sinks if quiet else [*sinks, self._show]
        self._active: set[object] = set()
        self._sizes: dict[object, int] = {group.name: group.count for group in scenario.traffic}
        self._progress = progress
        self._task = progress.add_task(scenario.name, total=total)

    def run(
        self,
        seed: int,
        until: float | None,
        realtime: float | None,
        functions: list[type[Capability]],
        environment: Environment | None,
    ) -> RunResult:
        return run_scenario(
            self._scenario,
            seed=seed,
            sinks=self._sinks,
            until=until,
            on_progress=self._advance,
            should_stop=lambda: self.stopped,
            realtime=realtime,
            functions=functions,
            environment=environment,
        )

    def spread(
        self,
        plan: Path,
        seed: int,
        until: float | None,
        speed: float,
        on: Ground,
        tell: Callable[[str], None],
    ) -> RunResult:
        # Certificates and the broker take time to import; other runs do without.
        from phalanx.runtime.processes.spread import Spread  # noqa: PLC0415

        spread = Spread(self._scenario, plan, seed, self._sinks, speed=speed, on=on.value, say=tell)
        return spread.run(until, self._advance, lambda: self.stopped)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def _advance(self, now: float) -> None:
        self._progress.update(self._task, completed=now)

    def _show(self, event: Event) -> None:
        if event.kind not in IMPORTANT or self._is_ramp(event):
            return
        line = Text.assemble(
            (f"{event.time:8.1f} s  ", "dim"),
            (f"{event.agent:<10} ", "bold"),
            (describe(event), _STYLES.get(event.kind, "")),
        )
        self._console.print(line, soft_wrap=True)

    def _is_ramp(self, event: Event) -> bool:
        """Whether a group that started is still growing: of that, begin and end are enough."""
        if event.kind != "traffic.changed":
            return False
        group, active = event.data.get("group"), bool(event.data.get("active"))
        grows = active and group in self._active
        if active:
            self._active.add(group)
        else:
            self._active.discard(group)
        return grows and event.data.get("count") != self._sizes.get(group)


@contextmanager
def _watching(
    console: Console, scenario: Scenario, sinks: list[Sink], until: float | None, *, quiet: bool
) -> Iterator[_Watch]:
    total = scenario.duration_s if until is None else until
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        watch = _Watch(console, progress, scenario, sinks, total=total, quiet=quiet)
        before = signal.signal(signal.SIGINT, watch.stop)
        try:
            yield watch
        finally:
            signal.signal(signal.SIGINT, before)
