"""``phalanx guard``: one agent that guards the hosts behind this machine's interfaces."""

from __future__ import annotations

import gc
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from phalanx.cli.files import LogFile, Outputs, StoreUrl
from phalanx.cli.terminal import INCOMPLETE, StopSignal, emit, needs_linux, out, say
from phalanx.domain.events import Event
from phalanx.reporting.event_text import IMPORTANT, describe
from phalanx.runtime.guarding import SiteSpec, load_site

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
    with needs_linux():
        from phalanx.runtime.guarding import plan  # noqa: PLC0415  # an extra

        if dry_run:
            for line in plan(spec):
                say(out, line)
            return
    with Outputs(log, None, store, spec.pop, [site]) as outputs:
        outputs.sinks.append(_show)
        _guard(spec, outputs, for_s)
    for line in outputs.lines():
        say(out, line)
    if outputs.incomplete:
        raise typer.Exit(INCOMPLETE)


def _guard(spec: SiteSpec, outputs: Outputs, for_s: float) -> None:
    from phalanx.runtime.guarding import GuardEnvironment  # noqa: PLC0415  # an extra
    from phalanx.runtime.system import System  # noqa: PLC0415  # takes time to import

    environment = GuardEnvironment(spec, lambda line: say(out, line, "dim"))
    environment.open_state()
    try:
        with StopSignal(signal.SIGTERM) as stop:
            system: System = System(
                spec.to_scenario(for_s),
                sinks=outputs.sinks,
                environment=environment,
                keep_events=KEPT_EVENTS,
                incarnation=environment.incarnation,
            )
            say(out, f"guarding {', '.join(g.name for g in spec.guards)}; Ctrl-C ends it", "dim")
            environment.clock.call_at(0.0, _begins)
            gc.collect()
            gc.freeze()  # what is here stays: to look for garbage in it takes 40 ms of an attack
            system.run(should_stop=lambda: stop.wanted)
            say(out, "ended; its rules and processes are gone", "dim")
    finally:
        environment.close()


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
