"""Files that verbs read and write: refused before the work begins, not after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from msgspec import structs

from phalanx.bdi.capability import Capability
from phalanx.cli.terminal import counted, err, say
from phalanx.domain.errors import LogError, PhalanxError, ScenarioError
from phalanx.domain.events import Event, Sink
from phalanx.loading import nearest, not_a_file
from phalanx.store import HistorySink, open_store
from phalanx.store.jsonl import JsonlSink, decode_line, read_log

if TYPE_CHECKING:
    from phalanx.runtime.scenario import Scenario, Strategy


def open_scenario(
    path: Path,
    topology: Path | None = None,
    functions: Sequence[type[Capability]] = (),
    strategy: Strategy | None = None,
) -> Scenario:
    """Return the scenario in ``path``, on another network if ``topology`` names a GraphML file.

    Args:
        path: scenario file.
        topology: GraphML file; None: the scenario's own network.
        functions: capabilities beside the installed ones.
        strategy: replaces the scenario's; None keeps that.

    Raises:
        ScenarioError: with one line, also if it names a function that cannot be had.

    """
    # They take a quarter of a second to import, and verbs that read logs do without.
    from phalanx.runtime.catalogue import load_catalogue  # noqa: PLC0415
    from phalanx.runtime.loading import load_scenario, offences  # noqa: PLC0415

    scenario = load_scenario(path)
    if strategy is not None:
        scenario = structs.replace(scenario, strategy=strategy)
        for field, why in offences(scenario):
            raise ScenarioError(f"{path} with --strategy {strategy}: {field}: {why}")
    try:
        load_catalogue(scenario, functions)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None
    if topology is None:
        return scenario
    # networkx takes a quarter of a second to import, and most runs do without it.
    from phalanx.runtime.topology import from_graphml  # noqa: PLC0415

    return from_graphml(topology, scenario)


@contextmanager
def open_log(path: Path) -> Iterator[list[Event]]:
    """Give the events of a log as far as its lines are whole; say on stderr what is left out.

    Raises:
        LogError: with one line, if it cannot be read, no line is an event, or an event does not
            hold what the block looks for: one octet may have been another key.

    """
    reading = read_log(path)
    if (note := reading.note(path)) is not None:
        say(err, note, "yellow")
    with damage_named(path):
        yield reading.events


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise LogError, with one line, for what the block raises over an event of a damaged log."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise LogError(f"{path}: an event does not hold what its kind needs ({why})") from error


def scenarios() -> dict[str, Path]:
    """Return the scenarios that come with Phalanx, by name such as ``linux/slow-http``."""
    package = Path(__file__).parents[1]
    for folder in (package / "scenarios", package.parents[1] / "scenarios"):  # or in a checkout
        if folder.is_dir():
            files = sorted(f for f in folder.rglob("*.yaml") if "services" not in f.parts)
            return {str(file.relative_to(folder).with_suffix("")): file for file in files}
    return {}


def _named(given: Path) -> Path:
    if given.suffix or len(given.parts) > 2 or os.path.exists(given):  # noqa: PTH110  # never raises
        return given
    found = scenarios()
    if str(given) not in found:
        raise PhalanxError(
            f"there is no file and no scenario {str(given)!r}{nearest(str(given), found)}; "
            f"the scenarios are {', '.join(found)}"
        )
    return found[str(given)]


ScenarioFile = Annotated[
    Path,
    typer.Argument(
        help="Scenario file (YAML), or the name of one that comes with Phalanx.",
        callback=_named,
        autocompletion=lambda incomplete: [n for n in scenarios() if n.startswith(incomplete)],
    ),
]

LogFile = Annotated[Path | None, typer.Option(help="Write all events here (JSONL).")]
StoreUrl = Annotated[
    str | None, typer.Option(help="Keep all events here: sqlite:///FILE or postgresql+psycopg://…")
]
Functions = Annotated[
    list[str] | None,
    typer.Option(
        "--function",
        metavar="FILE.py:CLASS",
        help="Add a network function that is not installed; may be repeated.",
    ),
]


def load_functions(names: list[str] | None) -> list[type[Capability]]:
    """Return the classes that ``FILE.py:Class`` names. Their modules are run, as any import does.

    Raises:
        PhalanxError: with one line, if one of them cannot be had or is no network function.

    """
    found: dict[str, type[Capability]] = {}
    for name in names or ():
        function = _load(name)
        if found.setdefault(function.name, function) is not function:
            raise PhalanxError(f"--function {name}: there is another function {function.name!r}")
    return list(found.values())


def function_files(names: list[str] | None) -> list[Path]:
    """Return the files that ``load_functions`` reads."""
    return [Path(name.rpartition(":")[0]) for name in names or ()]


def _load(name: str) -> type[Capability]:
    file, colon, wanted = name.rpartition(":")
    if not (colon and file.endswith(".py") and wanted.isidentifier()):
        raise PhalanxError(f"--function {name}: FILE.py:Class is expected")
    found = getattr(_module(Path(file)), wanted, None)
    if found is None:
        raise PhalanxError(f"--function {name}: {file} has no {wanted}")
    if not (isinstance(found, type) and issubclass(found, Capability)):
        raise PhalanxError(f"--function {name}: {wanted} is no Capability")
    if found.vnfd is None or found.vnfd.name != found.name:
        raise PhalanxError(f"--function {name}: {wanted} needs a name, and a vnfd of that name")
    return found


def _module(path: Path) -> object:
    # The same file twice is one module: its predicates must be the same classes.
    name = f"phalanx_function_{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PhalanxError(f"--function: {path} cannot be read: there is no such file")
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # typed structs look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as fault:
        del sys.modules[name]
        line = " ".join(str(fault).split())
        raise PhalanxError(
            f"--function: {path} cannot be loaded: {type(fault).__name__}: {line}"
        ) from None
    return module


_SQLITE = "sqlite:///"
LOG = b'{"id":'
PAGE = b"<!doctype html>"
CSV, PARQUET = b"time,", b"PAR1"
"""What these begin with: only such files, and empty ones, are replaced."""


def check_writable(path: Path, begins: bytes, *inputs: Path) -> None:
    """Refuse a path at which no file can be written, or where one stands that must stay.

    Args:
        path: of a file to be written.
        begins: what the files begin with that may be replaced.
        inputs: files that are read, or written too; also under another name.

    Raises:
        PhalanxError: with one line.

    """
    folder = path.parent
    try:
        there = path.exists()
        if there and not path.is_file():
            why = not_a_file(path.stat().st_mode)
        elif not folder.is_dir():
            why = f"the directory {folder} does not exist"
        elif not os.access(path if there else folder, os.W_OK):
            why = "cannot be written: permission denied"
        elif any(_same(path, file) for file in inputs):
            why = "would be overwritten, and is needed; name another file for the output"
        elif there and not begins.startswith(_beginning(path, len(begins))):
            what = {LOG: "log", PAGE: "page"}.get(begins, "table of metrics")
            why = f"is there already and is no {what}; name another file for the output"
        else:
            return
    except (OSError, ValueError) as error:
        why = f"cannot be written: {getattr(error, 'strerror', None) or error}"
    raise PhalanxError(f"{path}: {why}")


def _same(path: Path, other: Path) -> bool:
    both = path.exists() and other.exists()
    return path.samefile(other) if both else path.resolve() == other.resolve()


def _beginning(path: Path, octets: int) -> bytes:
    with path.open("rb") as file:
        return file.read(octets)


class Outputs:
    """Opens everything at once, so that what cannot be written is refused before the run.

    The log gets its name when the block ends in order and nothing is missing at its end; else
    what was written stays in its part.
    """

    def __init__(
        self,
        log: Path | None,
        report: Path | None,
        store: str | None,
        run: str,
        inputs: Iterable[Path] = (),
        *,
        patient: bool = False,
    ) -> None:
        """Open the outputs; None: not wanted.

        Args:
            log: JSONL file.
            report: HTML file.
            store: URL of an event store.
            run: name of the run in the store; a number is added if it is taken.
            inputs: files that the run reads, which no output may replace.
            patient: the run waits for a slow disk.

        Raises:
            PhalanxError: if one of them cannot be written.

        """
        self.report = report
        self.sinks: list[Sink] = []
        self.incomplete: list[str] = []
        """What is missing in the log and in the store, a line each; known at the end."""
        self._open = ExitStack()
        self._kept = ""
        self._log: JsonlSink | None = None
        self._histories: list[tuple[str, HistorySink]] = []
        taken = list(inputs)
        if store is not None and store.startswith(_SQLITE):
            taken.append(Path(store.removeprefix(_SQLITE)))
        for path, begins in ((log, LOG), (report, PAGE)):
            if path is not None:
                check_writable(path, begins, *taken)
                taken.append(path)
        if store is not None:
            opened = self._open.enter_context(closing(open_store(store)))
            self._kept = _free_name(run, opened.runs())

            def append(lines: list[bytes]) -> None:
                opened.append(self._kept, map(decode_line, lines))

            self._keep("the store", append, patient=patient)
        if log is not None:
            self._log = JsonlSink(log)
            self._keep(str(log), self._log.write, patient=patient)
        self.log = log

    def _keep(self, name: str, keep: Callable[[list[bytes]], None], *, patient: bool) -> None:
        sink = HistorySink(keep, patient=patient, say=lambda line: say(err, line, "red"))
        self._histories.append((name, sink))
        self.sinks.append(sink)

    def write_report(self, events: Sequence[Event]) -> None:
        """Write the report, if one is wanted."""
        if self.report is not None:
            # The page is read from files, which other runs do without.
            from phalanx.console.report import write_report  # noqa: PLC0415

            write_report(events, self.report)

    def lines(self) -> list[str]:
        """Return what was written where, for the user."""
        where = {"log": self.log, "report": self.report}
        lines = [f"{name}: {path}" for name, path in where.items() if path is not None]
        return [*lines, f"kept in the store as {self._kept}"] if self._kept else lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            for name, sink in self._histories:
                sink.close()
                if sink.missing or sink.gaps:
                    why = sink.trouble or f"{sink.gaps} gaps are marked"
                    missing = counted(sink.missing, "event")
                    self.incomplete.append(f"{name} is incomplete: {missing} missing ({why})")
            if self._log is not None:
                self._end_log(self._log, named=kind is None and not self._histories[-1][1].trouble)
        for line in self.incomplete:
            say(err, line, "red")

    def _end_log(self, log: JsonlSink, *, named: bool) -> None:
        try:
            if named:
                log.close()
        except LogError as error:
            self.incomplete.append(str(error))
        log.leave()
        if log.part.exists():
            self.incomplete.append(f"what was written of {self.log} is in {log.part}")
            self.log = None


def _free_name(name: str, taken: Sequence[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
