"""``phalanx fuzz``: random plans, run and judged until one fails."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from enum import Enum
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer
import yaml
from msgspec import structs
from rich.progress import Progress, TextColumn

from phalanx.checking.fuzz import (
    MANY_EVENTS,
    Failure,
    Ran,
    Trial,
    judge,
    shrink,
    states,
)
from phalanx.checking.plans import Document, Mode, random_plan
from phalanx.cli.terminal import StopSignal, amount, duration, emit_json, err, out, say, table_of
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.events import Event
from phalanx.infrastructure.reservations.allocations import InvariantError
from phalanx.reporting.event_text import describe
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System
from phalanx.store.jsonl import write_jsonl

LIMIT_S = 120
"""Seconds of the processor after which a plan hangs."""
SPEED = 2.0
"""Seconds of a run over processes in a second."""
SETTLING_S = 20.0
"""In the last seconds of such a run, so many, agents and network must come to agree."""


class Modes(Enum):
    """What plans are drawn for."""

    SAFETY = "safety"
    LIVENESS = "liveness"
    BOTH = "both"


class Found(msgspec.Struct, frozen=True):
    """A plan that failed."""

    seed: int
    mode: Mode
    failures: tuple[Failure, ...]
    file: str | None = None
    """The plan, shrunk if that was asked for."""


class _HangError(BaseException):
    """A plan took too long; no error of a function, which an agent would contain."""


def fuzz(
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**52, help="First plan; default: a random one.")
    ] = None,
    plans: Annotated[int | None, typer.Option(min=1, help="How many; default: 100.")] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="For so long, such as 10min.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    mode: Annotated[Modes, typer.Option(help="What plans are drawn for.")] = Modes.BOTH,
    replay: Annotated[
        int | None, typer.Option(min=0, metavar="SEED", help="Run one plan, twice, and compare.")
    ] = None,
    shrinking: Annotated[
        bool, typer.Option("--shrink", help="Reduce plans that fail to what it takes.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where plans that fail are written.")
    ] = None,
    topologies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run every other plan on a GraphML file.")
    ] = None,
    processes: Annotated[
        bool, typer.Option("--processes", help="In real time: agents are processes, over NATS.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run random plans against the rules of phalanx check.

    Exit code 1 if one is broken.

    In safety mode nothing may be over-committed, be lost, hang or raise an error. In liveness mode
    users must be served again while the attack goes on, once all faults are over. A plan is drawn
    from one number, and every run of it is the same; not so with --processes, where agents and
    brokers are killed (kill -9) in real time. Ctrl-C tells of the plans so far.
    """
    if processes and (shrinking or topologies is not None or mode is not Modes.BOTH):
        raise typer.BadParameter("goes with no --shrink, --topologies and --mode")
    if plans is not None and lasting is not None:
        raise typer.BadParameter("give --plans or --for", param_hint="--for")
    graphs = _graphs(topologies)
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PhalanxError(f"--keep: {keep}: {error.strerror}") from None
    stop = StopSignal(signal.SIGTERM, impatient=True)
    usual: tuple[Mode, ...] = ("processes",) if processes else ("safety", "liveness")
    modes = usual if mode is Modes.BOTH else (mode.value,)
    first = secrets.randbelow(2**40) if seed is None else seed
    if replay is not None:
        work: Iterator[tuple[int, Mode]] = iter([(replay, each) for each in modes])
    else:
        until = time.monotonic() + (duration(lasting) if lasting is not None else float("inf"))
        number = plans if plans is not None else 100 if lasting is None else 2**52
        turns = range(first, first + number)
        work = (
            (turn, modes[turn % len(modes)])
            for turn in takewhile(lambda _: time.monotonic() < until and not stop.wanted, turns)
        )
    began = time.monotonic()
    found: list[Found] = []
    rare: Counter[str] = Counter()
    ran = Counter[str]()
    column = TextColumn("{task.description}")
    shown = Progress(column, console=err, transient=True, disable=not err.is_terminal)
    with stop, shown as progress:
        task = progress.add_task("begins")
        for turn, drawn, trial in _trials(work, jobs, graphs):
            ran[drawn] += 1
            rare.update(trial.rare)
            if trial.failures:
                one = _keep(turn, drawn, trial, keep, graphs, shrinking=shrinking)
                found.append(one)
                _tell(one)
            speed = ran.total() / (time.monotonic() - began) * 60
            progress.update(
                task,
                description=f"{ran.total()} plans, {len(found)} failed, {speed:.0f} a minute",
            )
    seconds = time.monotonic() - began
    again = () if replay is None or processes else modes
    digests = {each: _replayed(replay or 0, each, graphs) for each in again}
    _report(first if replay is None else replay, ran, found, rare, seconds, digests, as_json)
    if found:
        raise typer.Exit(1)


def _graphs(folder: Path | None) -> tuple[str, ...]:
    """Return the GraphML files of a folder.

    Raises:
        PhalanxError: if there are none.

    """
    if folder is None:
        return ()
    if graphs := tuple(str(file) for file in sorted(folder.glob("*.graphml"))):
        return graphs
    raise PhalanxError(f"--topologies: {folder} holds no *.graphml")


def _trials(
    work: Iterator[tuple[int, Mode]], jobs: int, graphs: tuple[str, ...]
) -> Iterator[tuple[int, Mode, Trial]]:
    """Run plans, some at a time, and yield what came of each."""
    if jobs == 1:
        for seed, mode in work:
            yield seed, mode, trial(seed, mode, graphs)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting: dict[Future[Trial], tuple[int, Mode]] = {}
        more = True
        while more or waiting:
            while more and len(waiting) < 2 * jobs:
                turn = next(work, None)
                more = turn is not None
                if turn is not None:
                    waiting[pool.submit(trial, *turn, graphs)] = turn
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield *waiting.pop(future), future.result()


def trial(seed: int, mode: Mode, graphs: tuple[str, ...] = ()) -> Trial:
    """Draw, run and judge one plan."""
    run = run_processes if mode == "processes" else run_plan
    return judge(plan_of(seed, mode, graphs), mode, run)


def plan_of(seed: int, mode: Mode, graphs: tuple[str, ...] = ()) -> Document:
    """Return the plan of a number; every other one on one of the GraphML files."""
    document = random_plan(seed, mode)
    if not graphs or seed % 4 < 2:
        return document
    # networkx takes a quarter of a second to import, and most runs do without it.
    from phalanx.runtime.topology import from_graphml  # noqa: PLC0415

    moved = from_graphml(graphs[seed // 4 % len(graphs)], msgspec.convert(document, Scenario))
    plain: Document = msgspec.to_builtins(structs.replace(moved, notes=()))
    given: Document = _given(plain)
    return given


def _given(value: Any) -> Any:
    """Return plain data without the fields that are None."""
    if isinstance(value, dict):
        return {key: _given(each) for key, each in value.items() if each is not None}
    return [_given(each) for each in value] if isinstance(value, list | tuple) else value


def as_yaml(document: Document) -> str:
    """Return a plan as the text of a scenario file."""
    alone = msgspec.json.decode(msgspec.json.encode(document))  # shared lists would be anchors
    return str(yaml.safe_dump(alone, sort_keys=False, width=100))


def run_plan(document: Document) -> Ran:
    """Run a plan on virtual time; what it raises is a failure of it."""
    try:
        scenario = msgspec.convert(document, Scenario)
        for field, why in offences(scenario):
            raise ScenarioError(f"{field}: {why}")
        system = System(scenario)
    except (ScenarioError, msgspec.ValidationError, ValueError) as error:
        return Ran((), (Failure("document", str(error)),))
    before = signal.signal(signal.SIGVTALRM, _hangs)
    # Again and again: what a handler raises in a callback of the garbage collector is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S, 1.0)
    try:
        result = system.run(
            on_progress=lambda _: system.infrastructure.check(),
            should_stop=lambda: len(system.log) > MANY_EVENTS,
        )
        system.infrastructure.check()
    except InvariantError as error:
        return Ran(system.log.events, (Failure("over-committed", str(error), system.clock.now()),))
    except _HangError:
        failure = Failure("hangs", f"no end after {LIMIT_S} s", system.clock.now())
        return Ran(system.log.events, (failure,))
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        text = f"{type(error).__name__}: {error} ({place})"
        return Ran(system.log.events, (Failure("traceback", text, system.clock.now()),))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return Ran(result.events, tuple(_after(system, result.defects)))


def run_processes(document: Document) -> Ran:
    """Run a plan over processes, in real time; what is left of them is a failure of it."""
    failures: list[Failure] = []
    events: list[Event] = []
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="phalanx-fuzz-", ignore_cleanup_errors=True) as place:
        tempfile.tempdir = place
        plan = Path(place) / "plan.yaml"
        plan.write_text(as_yaml(document))
        try:
            scenario, told = load_scenario(plan), (events.append,)
            result = Spread(scenario, plan, None, told, speed=SPEED, settling_s=SETTLING_S).run()
            failures += [Failure("traceback", defect) for defect in result.defects]
            failures += [Failure("measures", line) for line in result.unsettled]
        except Exception as error:
            failures.append(Failure("run", f"{type(error).__name__}: {error}"))
        finally:
            tempfile.tempdir = usual
        failures += [Failure("left behind", each) for each in _left_in(Path(place), plan)]
    crashes = [e for e in events if e.kind == "agent.crashed" and e.cause == events[0].id]
    failures += [Failure("crash", f"{e.data['pop']} ended by itself", e.time) for e in crashes]
    return Ran(events, tuple(failures))


def _left_in(place: Path, plan: Path) -> Iterator[str]:
    """Find what a run left whose files stand in ``place``; end its processes."""
    for process in Path("/proc").glob("[0-9]*"):  # each has the path of its file as an argument
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(place) in words:
                yield f"process {process.name}: {words!r}"
                os.kill(int(process.name), signal.SIGKILL)
    yield from (str(file) for file in place.iterdir() if file != plan)


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise _HangError


def _after(system: System, defects: tuple[str, ...]) -> Iterator[Failure]:
    """Find what the log does not show."""
    for defect in defects:
        yield Failure("traceback", defect)
    if len(system.log) > MANY_EVENTS:
        yield Failure("rest", f"more than {MANY_EVENTS} events by {system.clock.now():.0f} s")
    bus: Any = system.bus
    gone = bus.delivered + bus.lost + sum(bus.shed.values())
    if sum(bus.sent.values()) != gone + bus.queued:
        yield Failure("messages", f"{sum(bus.sent.values())} sent, {gone} accounted for")


def _keep(
    seed: int,
    mode: Mode,
    failed: Trial,
    folder: Path | None,
    graphs: tuple[str, ...],
    *,
    shrinking: bool,
) -> Found:
    """Write a plan that failed, smaller if that is wanted."""
    document = plan_of(seed, mode, graphs)
    rule = failed.failures[0].rule
    if shrinking:

        def fails(candidate: Document) -> bool:
            return any(each.rule == rule for each in judge(candidate, mode, run_plan).failures)

        document = shrink(document, fails)
    path = None
    if folder is not None:
        path = folder / f"{mode}-{seed}.yaml"
        about = "".join(f"# {each.rule}: {each.text}\n" for each in failed.failures[:5])
        if failed.log:  # what happened when differs from run to run
            write_jsonl(failed.log, path.with_suffix(".jsonl"))
            faults = [e for e in failed.log if e.kind == "fault.injected"]
            about += "".join(f"# at {e.time:.3f} s: {describe(e)}\n" for e in faults)
            about += f"# again: phalanx run {path.name} --spread --realtime {SPEED:g}\n"
        path.write_text(about + as_yaml(document))
    return Found(seed, mode, failed.failures, None if path is None else str(path))


def _tell(found: Found) -> None:
    """Print a plan that failed."""
    first = found.failures[0]
    at = "" if first.time is None else f" at {first.time:.1f} s"
    say(err, f"plan {found.seed} ({found.mode}): {first.rule}{at}: {first.text}", "red")


def digest(seed: int, mode: Mode, graphs: tuple[str, ...] = ()) -> str:
    """Return the BLAKE2 of the log of a plan, as hexadecimal digits."""
    log = msgspec.json.Encoder().encode_lines(run_plan(plan_of(seed, mode, graphs)).events)
    return blake2b(log, digest_size=16).hexdigest()


def _replayed(seed: int, mode: Mode, graphs: tuple[str, ...]) -> str:
    first, second = (digest(seed, mode, graphs) for _ in range(2))
    if first != second:
        raise PhalanxError(f"plan {seed} ({mode}): two runs of it differ: {first}, {second}")
    return first


def _report(
    first: int,
    ran: Counter[str],
    found: list[Found],
    rare: Counter[str],
    seconds: float,
    digests: dict[Mode, str],
    as_json: bool,
) -> None:
    """Print what was run, what failed, and which rare states were reached."""
    reached = {name: rare.get(name, 0) for name in states()}
    if as_json:
        emit_json(
            {
                "seed": first,
                "plans": dict(ran),
                "seconds": round(seconds, 1),
                "failed": found,
                "reached": reached,
                "never": [name for name, number in reached.items() if not number],
                "digests": digests,
            }
        )
        return
    table = table_of("rare state", "times>")
    for name, number in reached.items():
        table.add_row(name, str(number) if number else "never")
    out.print(table)
    for mode, text in digests.items():
        say(out, f"log of plan {first} ({mode}): {text}, twice")
    plans = ", ".join(f"{number} for {mode}" for mode, number in ran.items())
    speed = amount(ran.total() / seconds * 60)
    say(out, f"{plans}, from plan {first} on; {len(found)} failed; {speed} a minute")
