"""What ``phalanx history`` prints: tables for people, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import amount, out, say
from phalanx.domain.errors import PhalanxError
from phalanx.reporting.event_text import describe
from phalanx.store.causes import CauseBreak, CauseChain
from phalanx.store.database import Database
from phalanx.store.history import EventQuery, History, StoredEvent

_DEEPEST = 24
_SOME = 8

T = TypeVar("T")


class HistoryView:
    """Asks one run of a store and prints the answers."""

    def __init__(self, database: Database, run: str | None, limit: int, as_json: bool) -> None:
        """Prepare to print.

        Args:
            database: the store.
            run: name of the run; None: the only one there is.
            limit: lines to print at most; 0: all.
            as_json: print one JSON object a line.

        """
        self._history = History(database)
        self._label = database.label
        self._name = run
        self._limit = limit or None
        self._as_json = as_json
        self._names = self._history.names()

    @property
    def is_single(self) -> bool:
        """Whether the store has just one run."""
        return len(self._names) == 1

    def runs(self) -> None:
        """Print which runs there are."""
        if self._as_json:
            _json_lines(self._history.runs())
            return
        if not self._names:
            say(out, f"{self._label} keeps no run yet")
            return
        table = _table("run", "events>", "retired>", "agents>", "first received", "last received")
        for run in self._history.runs():
            table.add_row(
                Text(run.name),
                str(run.events),
                str(run.retired),
                str(run.agents),
                _date(run.began),
                _date(run.ended),
            )
        out.print(table)
        say(out, "choose one with --run", "dim")

    def events(self, query: EventQuery) -> None:
        """Print events."""
        found = self._history.entries(self._run(), query)
        if self._as_json:
            _json_lines(map(_flat, self._first(found)))
            return
        grid = _grid()
        for entry in self._first(found):
            grid.add_row(*_cells(entry))
        self._print(grid, found)

    def decisions(self, query: EventQuery) -> None:
        """Print decisions, each with its causes."""
        found = self._history.decisions(self._run(), query)
        if self._as_json:
            _json_lines(
                {
                    **_flat(decision.entry),
                    "causes": [entry.event.id for entry in decision.chain.entries[:-1]],
                    "broken": decision.chain.broken,
                }
                for decision in self._first(found)
            )
            return
        table = _table("time>", "agent", "id", "decided", "because")
        for decision in self._first(found):
            time, agent, event_id, words = _cells(decision.entry)
            table.add_row(time, agent, event_id, words, _because(decision.chain))
        self._print(table, found)

    def causes(self, event_id: str) -> None:
        """Print what led to an event."""
        run = self._run()
        chain = self._history.causes(run, event_id)
        if not chain.entries:
            raise PhalanxError(f"{self._label}: run {run!r} holds no event {event_id!r}")
        if self._as_json:
            _json_lines(map(_flat, chain.entries))
            return
        say(out, f"Why {event_id}: {describe(chain.entries[-1].event)}", "bold")
        if chain.broken is not None:
            say(out, _gap(chain.broken), "yellow")
        grid = _grid()
        for entry in chain.entries:
            grid.add_row(*_cells(entry))
        out.print(grid)

    def effects(self, event_id: str) -> None:
        """Print what followed from an event."""
        found = self._history.effects(self._run(), event_id, self._limit or 100_000)
        if self._as_json:
            _json_lines({"depth": e.depth, **_flat(e.entry)} for e in found.effects)
            return
        if not found.effects:
            say(out, f"nothing followed from {event_id}, as far as it is known")
            return
        say(out, f"What followed from {event_id}", "bold")
        grid = _grid()
        for effect in found.effects:
            grid.add_row(*_cells(effect.entry, effect.depth - 1))
        out.print(grid)
        if found.more:
            say(out, "there is more, further from it; --limit 0 shows all", "dim")

    def metrics(self, name: str, query: EventQuery) -> None:
        """Print the figures of one name, or which names there are."""
        run = self._run()
        series = self._history.series(run)
        if name == "list":
            self._series_names(run)
            return
        if name not in {s.name for s in series}:
            known = sorted({s.name for s in series})
            some = ", ".join(known[:_SOME]) + (", …" if len(known) > _SOME else "")
            raise PhalanxError(
                f"{self._label}: run {run!r} has no figures named {name!r}; "
                + (f"there are: {some}" if known else "there are none")
            )
        found = self._history.metrics(run, name, query)
        if self._as_json:
            _json_lines(
                {**msgspec.to_builtins(m.sample), "received": m.received}
                for m in self._first(found)
            )
            return
        table = _table("time>", "agent", "of", f"{name}>", "scope")
        for measured in self._first(found):
            sample = measured.sample
            table.add_row(
                f"{sample.time:.1f} s",
                Text(sample.agent),
                Text(", ".join(sample.labels.values())),
                amount(sample.value, "" if sample.unit == "1" else sample.unit),
                Text(sample.scope or ""),
            )
        self._print(table, found)

    def knowledge(self, query: EventQuery) -> None:
        """Print what agents believe, as last known."""
        found = self._history.knowledge(self._run(), query.agent, query.scope)
        if self._as_json:
            _json_lines(self._first(found))
            return
        table = _table("agent", "believes", "kept so by", "since>", "event")
        for known in self._first(found):
            table.add_row(
                Text(known.agent),
                Text(f"{'' if known.value else '¬'}{known.predicate}"),
                Text(known.holder or ""),
                f"{known.since:.1f} s",
                Text(known.event),
            )
        self._print(table, found)

    # -- what they share ---------------------------------------------------------------

    def _run(self) -> str:
        if self._name is not None:
            if self._name not in self._names:
                raise PhalanxError(f"{self._label}: no run {self._name!r}; {self._choice()}")
            return self._name
        if not self.is_single:
            raise PhalanxError(f"{self._label}: {self._choice()}; choose one with --run")
        return self._names[0]

    def _choice(self) -> str:
        if not self._names:
            return "it keeps none yet"
        names = self._names[::-1]
        return "it keeps " + ", ".join(names[:_SOME]) + (", …" if len(names) > _SOME else "")

    def _first(self, found: Iterable[T]) -> Iterable[T]:
        return islice(found, self._limit)

    def _print(self, table: Table, rest: Iterator[Any]) -> None:
        if not table.row_count:
            say(out, "nothing matches")
            return
        out.print(table)
        if self._limit is not None and next(rest, None) is not None:
            say(out, f"these are the first {self._limit}; --limit 0 shows all", "dim")

    def _series_names(self, run: str) -> None:
        series = self._history.series(run)
        if self._as_json:
            _json_lines(series)
            return
        table = _table("name", "unit", "series>", "of")
        for name in sorted({s.name for s in series}):
            group = [s for s in series if s.name == name]
            labels = sorted({", ".join(s.labels.values()) for s in group} - {""})
            some = ", ".join(labels[:_SOME]) + (", …" if len(labels) > _SOME else "")
            table.add_row(Text(name), group[0].unit, str(len(group)), Text(some))
        out.print(table)


def _json_lines(items: Iterable[Any]) -> None:
    for item in items:
        typer.echo(msgspec.json.encode(item).decode())


def _flat(entry: StoredEvent) -> dict[str, Any]:
    """Return an entry as one object, its event's fields first."""
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    event: Any = fields.pop("event")
    return {**msgspec.structs.asdict(event), **fields}


def _cells(entry: StoredEvent, depth: int = 0) -> tuple[str, Text, Text, Text]:
    event = entry.event
    words = Text(" " * min(depth, _DEEPEST) + describe(event))
    if entry.cause_retired:
        words.append(" (its cause was retired)", style="dim")
    return f"{event.time:.1f} s", Text(event.agent), Text(event.id), words


def _because(chain: CauseChain[StoredEvent]) -> Text:
    """Return the nearest causes of a decision in words, the nearest first."""
    causes = [entry.event for entry in reversed(chain.entries[:-1])]
    text = Text("; ".join(describe(event) for event in causes[:2]))
    if len(causes) > 2:
        text.append(f"; and {len(causes) - 2} causes before", style="dim")
    if chain.broken is not None:
        text.append(f" ({_gap(chain.broken)})", style="yellow")
    return text


def _gap(broken: CauseBreak) -> str:
    return f"what came before is not known: {broken}"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _table(*columns: str) -> Table:
    """Return a table with these columns; those whose title ends with > stand to the right."""
    table = Table()
    for column in columns:
        table.add_column(
            column.removesuffix(">"),
            justify="right" if column.endswith(">") else "left",
            overflow="fold",
        )
    return table


def _date(moment: float | None) -> str:
    if moment is None:
        return "–"
    return f"{datetime.fromtimestamp(moment, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
