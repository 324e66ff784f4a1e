"""``phalanx guard``: one agent that guards the hosts behind this machine's interfaces."""

from __future__ import annotations

import gc
import signal
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace
from rich.text import Text

from phalanx.cli.files import LogFile, Outputs, StoreUrl
from phalanx.cli.terminal import INCOMPLETE, StopSignal, emit, needs_linux, out, say
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.reporting.event_text import IMPORTANT, describe
from phalanx.runtime.environment import open_metrics
from phalanx.runtime.guarding import SiteSpec, control_of, load_site

if TYPE_CHECKING:
    from phalanx.runtime.system import System

FOR_EVER_S = 1e9
KEPT_EVENTS = 10_000
"""Events held in memory; the log file and the store get all of them."""

SHOWN = IMPORTANT - {"run.started", "run.ended", "auction.awarded", "contract.ended"}
"""A single agent awards everything to itself."""


def guard(
    site: Annotated[Path, typer.Argument(help="Site file (YAML).")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be touched and done, and end.")
    ] = False,
    observe: Annotated[
        bool,
        typer.Option("--observe", help="Decide all, enforce nothing, and say what would be done."),
    ] = False,
    log: LogFile = None,
    store: StoreUrl = None,
    for_s: Annotated[
        float,
        typer.Option(
            "--for",
            min=0,
            max=FOR_EVER_S,
            help="End after this many seconds.",
            show_default="until stopped",
        ),
    ] = FOR_EVER_S,
) -> None:
    """Guard the hosts behind this machine's interfaces until stopped."""
    spec = load_site(site)
    spec = replace(spec, mode="observe") if observe else spec
    with needs_linux():
        from phalanx.runtime.guarding import plan  # noqa: PLC0415  # an extra

        if dry_run:
            for line in plan(spec):
                say(out, line)
            return
    with Outputs(log, None, store, spec.pop, [site]) as outputs:
        outputs.sinks.append(_show)
        _guard(spec, site, outputs, for_s)
    for line in outputs.lines():
        say(out, line)
    if outputs.incomplete:
        raise typer.Exit(INCOMPLETE)


def _guard(spec: SiteSpec, path: Path, outputs: Outputs, for_s: float) -> None:
    from phalanx.runtime.control import serve_control  # noqa: PLC0415  # of a guard alone
    from phalanx.runtime.guarding import GuardEnvironment  # noqa: PLC0415  # an extra
    from phalanx.runtime.system import System  # noqa: PLC0415  # takes time to import

    environment = GuardEnvironment(spec, lambda line: say(out, line, "dim"))
    environment.open_state()
    try:
        with ExitStack() as ending, StopSignal(signal.SIGTERM) as stop:
            sinks = [*outputs.sinks]
            if spec.metrics is not None:
                metrics = open_metrics(spec.pop, environment.clock)
                ending.callback(metrics.serve(spec.metrics))
                sinks.append(metrics)
            system: System = System(
                spec.to_scenario(for_s),
                sinks=sinks,
                environment=environment,
                keep_events=KEPT_EVENTS,
                incarnation=environment.incarnation,
            )
            operator = environment.clock, system.calls(), spec.pop, control_of(spec)
            ending.callback(serve_control(*operator))
            environment.clock.loop.add_signal_handler(signal.SIGHUP, _reload, system, path, spec)
            if spec.mode == "observe":
                say(out, "mode is observe: nothing is enforced")
            say(out, f"guarding {', '.join(g.name for g in spec.guards)}; Ctrl-C ends it", "dim")
            environment.clock.call_at(0.0, _begins)
            gc.collect()
            gc.freeze()  # what is here stays: to look for garbage in it takes 40 ms of an attack
            system.run(should_stop=lambda: stop.wanted)
            say(out, "ended; its rules and processes are gone", "dim")
    finally:
        environment.close()


def _reload(system: System, path: Path, spec: SiteSpec) -> None:
    """Read the site's allow list again; all else needs another start."""
    try:
        read = load_site(path)
        if replace(read, allow=(), mode=spec.mode) != replace(spec, allow=()):
            raise PhalanxError(f"{path}: only allow can change while the guard runs")
    except PhalanxError as error:
        say(out, f"the allow list stays as it is: {error}", "yellow")
        return
    system.allow(read.allow)
    say(out, f"the allow list has {len(read.allow)} prefixes now", "dim")


def _begins() -> None:
    now = datetime.now(UTC).astimezone()
    say(out, f"second 0 of the log is {now.isoformat(timespec='milliseconds')}", "dim")


def _show(event: Event) -> None:
    """Print what matters by the time of day, which other logs of the machine have too."""
    if event.kind in SHOWN:
        now = datetime.now(UTC).astimezone().time().isoformat(timespec="milliseconds")
        if out.is_terminal:
            out.print(Text.assemble((f"{now}  ", "dim"), describe(event)), soft_wrap=True)
        else:  # in the midst of an attack: styling what nobody sees takes ten times as long
            emit(f"{now}  {describe(event)}")
