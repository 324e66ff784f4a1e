"""Files that verbs read and write: refused before the work begins, not after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from msgspec import structs

from phalanx.bdi import Capability
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.events import Event, Sink
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.loading import load_scenario, offences
from phalanx.runtime.scenario import Scenario, Strategy
from phalanx.store import StoreSink, open_store
from phalanx.store.jsonl import JsonlSink


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


def check_writable(path: Path, *inputs: Path) -> None:
    """Refuse a path at which no file can be written, or that is one of the files to be read.

    Raises:
        PhalanxError: with one line.

    """
    folder = path.parent
    try:
        if path.is_dir():
            why = "is a directory; a file is expected"
        elif not folder.is_dir():
            why = f"the directory {folder} does not exist"
        elif not os.access(path if path.exists() else folder, os.W_OK):
            why = "cannot be written: permission denied"
        elif any(path.resolve() == file.resolve() for file in inputs):
            why = "would be overwritten, and is needed; name another file for the output"
        else:
            return
    except (OSError, ValueError) as error:
        why = f"cannot be written: {getattr(error, 'strerror', None) or error}"
    raise PhalanxError(f"{path}: {why}")


class Outputs:
    """Opens everything at once, so that what cannot be written is refused before the run.

    The log appears whole and the store gets the rest when the block ends in order; after an
    exception the log is discarded, and the store keeps the batches that it got.
    """

    def __init__(
        self,
        log: Path | None,
        report: Path | None,
        store: str | None,
        run: str,
        inputs: Iterable[Path] = (),
    ) -> None:
        """Open the outputs; None: not wanted.

        Args:
            log: JSONL file.
            report: HTML file.
            store: URL of an event store.
            run: name of the run in the store; a number is added if it is taken.
            inputs: files that the run reads, which no output may replace.

        Raises:
            PhalanxError: if one of them cannot be written.

        """
        self.report = report
        self.sinks: list[Sink] = []
        self._open = ExitStack()
        self._kept = ""
        self._sink: StoreSink | None = None
        taken = list(inputs)
        for path in filter(None, (log, report)):
            check_writable(path, *taken)
            taken.append(path)
        if store is not None:
            opened = self._open.enter_context(closing(open_store(store)))
            self._kept = _free_name(run, opened.runs())
            self._sink = StoreSink(opened, self._kept)
            self.sinks.append(self._sink)
        if log is not None:
            self.sinks.append(self._open.enter_context(JsonlSink(log)))
        self.log = log

    def write_report(self, events: Sequence[Event]) -> None:
        """Write the report, if one is wanted."""
        if self.report is not None:
            # numpy and the templates take a quarter of a second to import.
            from phalanx.reporting.page import write_report  # noqa: PLC0415

            write_report(events, self.report)

    def lines(self) -> list[str]:
        """Return what was written where, for the user."""
        where = {"log": self.log, "report": self.report}
        lines = [f"{name}: {path}" for name, path in where.items() if path is not None]
        return [*lines, f"kept in the store as {self._kept}"] if self._kept else lines

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sink is not None and kind is None:
            self._open.callback(self._sink.flush)
        self._open.__exit__(kind, error, trace)


def _free_name(name: str, taken: Sequence[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
