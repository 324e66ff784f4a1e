"""``phalanx run``: run a scenario, watch it, keep its log, end with its figures."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from time import sleep
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from phalanx.cli.event_lines import styled
from phalanx.cli.files import (
    Functions,
    LogFile,
    Outputs,
    ScenarioFile,
    StoreUrl,
    function_files,
    load_functions,
    open_scenario,
)
from phalanx.cli.terminal import (
    INCOMPLETE,
    INTERRUPTED,
    AsJson,
    ReadableTable,
    StopSignal,
    amount,
    counted,
    emit_json,
    err,
    needs_linux,
    out,
    say,
)
from phalanx.clock.wall import WallClock
from phalanx.domain.events import Event, Sink
from phalanx.reporting.event_text import is_important
from phalanx.reporting.response import Response
from phalanx.reporting.summary import Summary
from phalanx.runtime.course import RunResult
from phalanx.runtime.environment import Environment, check_linux, infrastructures, open_environment
from phalanx.runtime.scenario import Scenario, Strategy
from phalanx.runtime.system import System, run_scenario, simulated

RESERVED = {"network", "run"}
"""Processes of a run that is spread out, besides the agents."""


_RETURNED = {True: "all given back", False: "not all given back", None: "in use, as the attack is"}
_MITIGATED = {True: ": mitigated", False: ": not mitigated", None: ": no host was reached"}


def _known(on: str) -> str:
    """Refuse an infrastructure that is not installed."""
    if on not in (known := infrastructures()):
        raise typer.BadParameter(f"{on!r} is not one of {', '.join(sorted(known))}")
    return on


def run(
    scenario: ScenarioFile,
    *,
    function: Functions = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**53, help="Seed of everything random; the scenario's by default."
        ),
    ] = None,
    topology: Annotated[
        Path | None, typer.Option(help="Run on the network in this GraphML file.")
    ] = None,
    strategy: Annotated[
        Strategy | None,
        typer.Option(help="How the agents defend; the scenario's strategy by default."),
    ] = None,
    log: LogFile = None,
    report: Annotated[Path | None, typer.Option(help="Write the report here (HTML).")] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
    until: Annotated[
        float | None,
        typer.Option(min=0, max=604_800, help="End after this many seconds of the run."),
    ] = None,
    realtime: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            help="Run by the wall clock, this many seconds of the run per second.",
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="The infrastructure: simulation; linux, for real packets on this machine (root); "
            "or another one that is installed.",
            callback=_known,
        ),
    ] = "simulation",
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Run each agent in its own process, over NATS and by the wall clock "
            "(--realtime sets the speed).",
        ),
    ] = False,
    console_: Annotated[
        bool,
        typer.Option(
            "--console",
            help="Serve the page of phalanx console while it runs, by the wall clock, and after.",
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of --console; 0: a free one.")
    ] = 8420,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on linux: print what would be made, and end.")
    ] = False,
) -> None:
    """Run a scenario; print what happens, and its figures at the end.

    The exit code says whether the run went well, not the defence: it is 0 also where an attack was
    not mitigated. --json has mitigated, and for each host its verdict and the causes.
    """
    functions = load_functions(function)
    loaded = open_scenario(scenario, topology, functions, strategy)
    if on == "linux" and realtime is not None:
        raise typer.BadParameter("real packets keep real time", param_hint="--realtime")
    realtime = _pace(realtime, on, console_=console_, spread=spread)
    if spread:
        _check_spread(topology, strategy, function, loaded)
    if dry_run:
        _check_dry_run(on, spread=spread)
        with needs_linux():
            from phalanx.runtime.linux_environment import plan  # noqa: PLC0415  # an extra
        for line in plan(loaded):
            say(out, line)
        return
    chosen = loaded.seed if seed is None else seed
    console = err if as_json else out
    quiet = as_json and not err.is_terminal
    inputs = [scenario, *filter(None, [topology]), *function_files(function)]
    name = f"{loaded.name}-{chosen}"
    patient = realtime is None and on == "simulation" and not spread
    with Outputs(log, report, store, name, inputs, patient=patient) as outputs:
        if not quiet:
            for note in loaded.notes:
                say(console, f"note: {note}", "dim")
        with _Watch(console, loaded, outputs.sinks, until, quiet=quiet) as watch:
            if spread:
                # Certificates and the broker take time to import; other runs do without.
                from phalanx.runtime.processes.spread import Spread  # noqa: PLC0415

                tell = partial(say, console, style="dim")
                spread_out = Spread(
                    loaded, scenario, chosen, watch.sinks, speed=realtime or 1.0, on=on, say=tell
                )
                result = spread_out.run(until, watch.advance, lambda: watch.stopped)
            elif console_:
                environment = _environment(on, console, quiet=quiet) or simulated(realtime)
                with closing(environment):
                    result = _run_with_console(
                        System(
                            loaded,
                            chosen,
                            watch.sinks,
                            functions=functions,
                            environment=environment,
                        ),
                        port,
                        until,
                        watch,
                    )
            else:
                result = run_scenario(
                    loaded,
                    seed=chosen,
                    sinks=watch.sinks,
                    until=until,
                    on_progress=watch.advance,
                    should_stop=lambda: watch.stopped,
                    realtime=realtime,
                    functions=functions,
                    environment=_environment(on, console, quiet=quiet),
                )
    outputs.write_report(result.events)
    if as_json:
        emit_json(result.summary)
    else:
        _print_summary(result.summary)
        for line in outputs.lines():
            say(out, line)
    _end(result, stopped=watch.stopped and not watch.ended, incomplete=bool(outputs.incomplete))


def _run_with_console(system: System, port: int, until: float | None, watch: _Watch) -> RunResult:
    """Run a system with the console beside it, which stays until Ctrl-C."""
    from phalanx.cli.console import announce, new_sessions  # noqa: PLC0415  # a web server
    from phalanx.console.controls import FabricControls, PlaceRequest  # noqa: PLC0415
    from phalanx.console.server import Address, ConsoleServer  # noqa: PLC0415
    from phalanx.runtime.whatif import what_now  # noqa: PLC0415

    clock = system.clock
    assert isinstance(clock, WallClock)

    def link(a: str, b: str, up: bool, by: str) -> None:
        what = "link up" if up else "link down"
        if not any({a, b} == {each.a, each.b} for each in system.network.links):
            raise LookupError(f"{a}-{b}")
        system.recorder.record(
            "operator.acted", system.cause, action=what, subject=f"{a}-{b}", by=by
        )
        (system.mend if up else system.cut)(a, b)

    def place(asked: PlaceRequest) -> tuple[str, ...]:
        return what_now(system, asked.goal, asked.at, asked.traffic_mb_s).sentences()

    controls = FabricControls(clock, system.calls("console"), link=link, place=place)
    sessions = new_sessions(None)
    server = ConsoleServer(Address(port=port), sessions, controls=controls, live=True)
    for event in system.log.events:
        server.add(event)
    system.log.listen(server.add)
    announce(server, sessions, system.scenario.name, acts=True, opens=False)
    with server.beside():
        result = system.run(until, watch.advance, lambda: watch.stopped)
        if not watch.stopped:
            say(out, "the run has ended; the console stays until Ctrl-C", "dim")
        watch.wait()
    watch.ended = bool(result.events) and result.events[-1].data.get("reason") == "finished"
    return result


def _end(result: RunResult, *, stopped: bool, incomplete: bool) -> None:
    """End with the exit code: 4, history is missing; 130, interrupted; 1, a function failed."""
    for defect in result.defects:
        say(err, f"function failed: {defect}", "red")
    if incomplete:
        raise typer.Exit(INCOMPLETE)
    if stopped:
        raise typer.Exit(INTERRUPTED)
    if result.defects:
        raise typer.Exit(1)


def _environment(on: str, console: Console, *, quiet: bool) -> Environment | None:
    """Return the environment to run in, which tells ``console`` what it makes.

    None is the simulated one, on the clock that the run asks for.

    Raises:
        PhalanxError: with one line, if it cannot be loaded.

    """
    if on == "simulation":
        return None
    if on == "linux":
        check_linux(overlay=True)
    return open_environment(
        on, (lambda _: None) if quiet else (lambda line: say(console, line, "dim"))
    )


def _pace(realtime: float | None, on: str, *, console_: bool, spread: bool) -> float | None:
    """Return the speed of a run, which by the wall clock is as fast as that if it is watched."""
    if console_ and spread:
        raise typer.BadParameter(
            "watch processes of their own with phalanx console LOG", param_hint="--console"
        )
    return 1.0 if console_ and realtime is None and on == "simulation" else realtime


def _check_spread(
    topology: Path | None, strategy: str | None, function: Functions, loaded: Scenario
) -> None:
    """Refuse what processes of their own cannot be given."""
    hint = "--spread"
    for given, what in (topology, "network"), (strategy, "strategy"):
        if given is not None:
            raise typer.BadParameter(f"write the {what} into the scenario file", param_hint=hint)
    if function:
        raise typer.BadParameter(
            "install the function, so that every process finds it", param_hint=hint
        )
    if RESERVED & {pop.name for pop in loaded.network.pops}:
        raise typer.BadParameter(f"no PoP may be named {' or '.join(RESERVED)}", param_hint=hint)


def _check_dry_run(on: str, *, spread: bool) -> None:
    """Refuse to say what would be made where nothing is, or something else."""
    hint = "--dry-run"
    if on != "linux":
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
        scenario: Scenario,
        sinks: list[Sink],
        until: float | None,
        *,
        quiet: bool,
    ) -> None:
        self._stop = StopSignal(signal.SIGTERM, impatient=True)
        self.ended = False
        """Whether Ctrl-C ended only what came after the run."""
        self.sinks = sinks if quiet else [*sinks, self._show]
        self._console = console
        self._active: set[object] = set()
        self._sizes: dict[object, int] = {group.name: group.count for group in scenario.traffic}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        total = scenario.duration_s if until is None else until
        self._task = self._progress.add_task(scenario.name, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        self._stop.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.__exit__(*error)
        self._progress.stop()

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C asked for the end."""
        return self._stop.wanted

    def wait(self) -> None:
        """Wait until Ctrl-C."""
        while not self.stopped:
            sleep(0.1)

    def advance(self, now: float) -> None:
        """Show how far the run is, in its seconds."""
        self._progress.update(self._task, completed=now)

    def _show(self, event: Event) -> None:
        if not is_important(event) or self._is_ramp(event):
            return
        begin = (f"{event.time:8.1f} s  ", "dim"), (f"{event.agent:<10} ", "bold")
        self._console.print(Text.assemble(*begin, styled(event)), soft_wrap=True)

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


def _print_summary(summary: Summary) -> None:
    """Print how the hosts fared, and what the agents did."""
    if summary.hosts:
        out.print(_hosts(summary))
    for host in summary.hosts:
        if host.mitigated is False:
            say(out, host.reason)
            for cause in host.causes:
                say(out, f"- {cause}")
    out.print(_facts(summary))


def _hosts(summary: Summary) -> Table:
    table = ReadableTable(title="Traffic that reached the hosts, in MB/s")
    table.add_column("host")
    if summary.attack_start_s is None:
        titles = ["users, at the end"]
    else:
        titles = ["users before", "late", "attack peak", "late", "worst", "mean"]
        table.caption = (
            "late: in the attack's last 10 s; worst (second) and mean: share of what users wanted "
            "that they got while it lasted"
        )
    for title in titles:
        table.add_column(title, justify="right")
    for host in summary.hosts:
        rates = (host.before_mb_s, host.after_mb_s, host.attack_peak_mb_s, host.attack_after_mb_s)
        shares = ("–" if s is None else f"{s:.1%}" for s in (host.worst_share, host.mean_share))
        cells = (*map(amount, rates), *shares)
        table.add_row(host.host, *cells[: len(titles)])
    return table


def _facts(summary: Summary) -> Table:
    table = ReadableTable(show_header=False, box=None, padding=(0, 2, 0, 0))
    placed = Counter(
        f"{p.vnf} at {p.pop}" + (f" ({p.units} units)" if p.units > 1 else "")
        for p in summary.placements
    )
    places = [what + (f" {times} times" if times > 1 else "") for what, times in placed.items()]
    lifted = sum(limit.lifted is not None for limit in summary.limits)
    for name, text in (
        ("outcome", f"{summary.reason} at {summary.ended_s:.1f} s, seed {summary.seed}"),
        ("attack", _attack(summary)),
        ("response", _response(summary.response)),
        ("limited", _limited(summary.response)),
        ("trust", summary.trust.line if summary.trust else ""),
        ("placements", ", ".join(places) or "none"),
        (
            "auctions",
            f"{summary.auctions} called, {summary.awarded} awarded, "
            f"{summary.failed_auctions} without a winner",
        ),
        ("measures", f"{len(summary.limits)} applied, {lifted} lifted"),
        ("withheld", "; ".join(summary.withheld)),
        ("resources", _RETURNED[summary.returned]),
        ("agreements", _agreed(summary)),
        ("energy", "" if summary.energy_wh is None else f"{summary.energy_wh:.1f} Wh"),
        (
            "messages",
            f"{sum(summary.messages.values())} sent, {summary.lost} lost, {summary.shed} shed; "
            f"{summary.events} events",
        ),
    ):
        if text:
            table.add_row(name, text)
    return table


def _agreed(summary: Summary) -> str:
    terms = summary.agreements
    if not terms:
        return ""
    breaches = sum(len(term.breaches) for term in terms)
    least = min(terms, key=lambda term: term.kept_share)
    worst = f"; least kept {least.agreement}/{least.term}, {least.kept_share:.1%}" * bool(breaches)
    owed = sum(term.credit > 0 for term in terms)
    words = f"{counted(len(terms), 'term')}, {breaches} times broken{worst}"
    return words + (f"; {counted(owed, 'term')} with credits owed" if owed else "")


def _attack(summary: Summary) -> str:
    if summary.attack_start_s is None:
        return "none"
    moments = [f"from {summary.attack_start_s:.1f} s"]
    for words, time in (
        ("alarm", summary.alarm_s),
        ("first limit", summary.first_limit_s),
        ("last limit", summary.last_limit_s),
        ("over", summary.attack_end_s),
    ):
        if time is not None:
            moments.append(f"{words} at {time:.1f} s")
    return ", ".join(moments) + _MITIGATED[summary.mitigated]


def _response(response: Response) -> str:
    """Return how long after the start of the attack what was done against it."""
    moments = (
        ("alarm", response.alarm_after_s),
        ("first limit", response.throttle_after_s),
        ("attackers named", response.named_after_s),
        ("last block", response.blocked_after_s),
    )
    return ", ".join(f"{word} after {s:.2f} s" for word, s in moments if s is not None)


def _limited(response: Response) -> str:
    """Return how many attackers and users the measures limited."""
    words = []
    if response.attackers:
        words.append(f"{response.attackers_limited} of {response.attackers} attackers")
    if response.users:
        words.append(f"{response.users_limited} of {response.users} users at the end")
    return ", ".join(words)
