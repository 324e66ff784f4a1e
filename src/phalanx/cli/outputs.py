"""Where a run's events go: a log file, a store, a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from phalanx.cli.files import check_writable
from phalanx.domain.events import Event, Sink
from phalanx.store import EventStore
from phalanx.store.jsonl import JsonlSink

if TYPE_CHECKING:
    from phalanx.store.sql import StoreSink


class Outputs:
    """Opens everything at once, so that what cannot be written is refused before the run.

    The log appears whole and the store gets the rest when the block ends in order; after an
    exception the log is discarded, and the store keeps the batches that it got.
    """

    def __init__(self, log: Path | None, report: Path | None, store: str | None, run: str) -> None:
        """Open the outputs; None: not wanted.

        Args:
            log: JSONL file.
            report: HTML file.
            store: URL of an event store.
            run: name of the run in the store; a number is added if it is taken.

        Raises:
            PhalanxError: if one of them cannot be written.

        """
        self.report = report
        self.store = store
        self.run = run
        self.sinks: list[Sink] = []
        self._log: JsonlSink | None = None
        self._store: EventStore | None = None
        self._kept: StoreSink | None = None
        for path in (log, report):
            if path is not None:
                check_writable(path)
        if store is not None:
            # SQLAlchemy takes a quarter of a second to import, and most runs do without it.
            from phalanx.store.sql import SqlEventStore, StoreSink  # noqa: PLC0415

            self._store = SqlEventStore(store)
            self.run = _free_name(run, self._store.runs())
            self._kept = StoreSink(self._store, self.run)
            self.sinks.append(self._kept)
        if log is not None:
            self._log = JsonlSink(log)
            self.sinks.append(self._log)
        self.log = log

    def write_report(self, events: Sequence[Event]) -> None:
        """Write the report, if one is wanted."""
        if self.report is not None:
            # numpy and the templates take a quarter of a second to import.
            from phalanx.reporting import write_report  # noqa: PLC0415

            write_report(events, self.report)

    def lines(self) -> list[str]:
        """Return what was written where, for the user."""
        where = {"log": self.log, "report": self.report}
        lines = [f"{name}: {path}" for name, path in where.items() if path is not None]
        return lines if self.store is None else [*lines, f"kept in the store as {self.run}"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._log is not None and kind is not None:
                self._log.discard()
            elif self._log is not None:
                self._log.close()
            if self._kept is not None and kind is None:
                self._kept.flush()
        finally:
            if self._store is not None:
                self._store.close()


def _free_name(name: str, taken: Sequence[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
