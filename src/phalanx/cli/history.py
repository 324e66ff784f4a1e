"""``phalanx history``: asks a store what happened and why, and retires what is old."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from phalanx.cli.event_lines import event_cells, event_grid
from phalanx.cli.terminal import AsJson, amount, duration, emit_json, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.reporting.event_text import describe
from phalanx.store.causes import CauseBreak, CauseChain
from phalanx.store.database import Database
from phalanx.store.history import EventQuery, History, MetricSeries, StoredEvent
from phalanx.store.retention import Retention, RetentionPolicy

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_OCTETS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

_LINES = 200
_SOME = 8

T = TypeVar("T")


class _StoreFirst(TyperGroup):
    """Reads ``history STORE`` as ``history show STORE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the verb ``show`` where none is given."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_StoreFirst,
    add_completion=False,
    no_args_is_help=True,
    help="Ask a store what happened, who decided it and why; retire what is old. "
    "'phalanx history STORE' is short for 'phalanx history show STORE'.",
)

Store = Annotated[str, typer.Argument(help="SQLite file, sqlite:///FILE or postgresql+psycopg://…")]


def _moment(text: str) -> tuple[float | None, float | None]:
    """Return seconds of the run, or a moment in seconds since 1970, whichever ``text`` is."""
    try:
        return float(text), None
    except ValueError:
        pass
    try:
        return None, datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither seconds of the run (12.5) nor a date and time (2026-01-31T08:00)"
        ) from None


def _octets(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size such as 500MB, 1GB or 2GiB")
    return int(float(found[1]) * _OCTETS[found[2]])


@app.command()
def show(
    store: Store,
    *,
    run: Annotated[
        str | None, typer.Option(help="Name of the run; not needed if the store has only one.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only events that this agent recorded.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only events of this slice or service.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Start: seconds of the run (12.5), or date and time of receipt "
            "(2026-01-31T08:00).",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="End, in the same form.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only events of this kind; may be repeated.")
    ] = None,
    causes: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Show the chain of causes that led to this event."),
    ] = None,
    effects: Annotated[
        str | None, typer.Option(metavar="ID", help="Show what followed from this event.")
    ] = None,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions", help="Show what agents decided, and what caused each decision."
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show the metric of this name; 'list' shows the names."),
    ] = None,
    knowledge: Annotated[
        bool, typer.Option("--knowledge", help="Show what each agent believed last.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Show at most this many lines; 0 shows all. The default is 200, with --json all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a store keeps: runs, events, decisions, metrics, knowledge."""
    questions = [causes is not None, effects is not None, decisions, bool(metrics), knowledge]
    if sum(questions) > 1:
        raise typer.BadParameter(
            "--causes, --effects, --decisions, --metrics and --knowledge exclude each other"
        )
    time_since, received_since = (None, None) if since is None else _moment(since)
    time_until, received_until = (None, None) if until is None else _moment(until)
    query = EventQuery(
        tuple(kind or ()), agent, scope, time_since, time_until, received_since, received_until
    )
    with _opened(store) as database:
        shown = (0 if as_json else _LINES) if limit is None else limit
        view = _View(database, run, shown, as_json)
        if run is None and query == EventQuery() and not any(questions) and not view.is_single:
            view.runs()
        elif causes is not None:
            view.causes(causes)
        elif effects is not None:
            view.effects(effects)
        elif decisions:
            view.decisions(query)
        elif metrics is not None:
            view.metrics(metrics, query)
        elif knowledge:
            view.knowledge(query)
        else:
            view.events(query)


@app.command()
def retain(
    store: Store,
    *,
    keep: Annotated[
        str | None, typer.Option(metavar="TIME", help="Keep events of the last 12h, 7d, 4w.")
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Keep decisions and beliefs for this time instead."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="TIME", help="Keep metrics for this time instead.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep the store below this size: 500MB, 1GB.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be retired, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Retire what is old, the oldest first, while agents go on writing.

    An event that stays says when its cause was retired, so that no chain of causes breaks
    silently.
    """
    if keep is None and decisions is None and metrics is None and size is None:
        raise typer.BadParameter("say what to keep: --keep 7d, --size 1GB, or both")
    policy = RetentionPolicy(
        events_s=None if keep is None else duration(keep),
        decisions_s=None if decisions is None else duration(decisions),
        metrics_s=None if metrics is None else duration(metrics),
        octets=None if size is None else _octets(size),
    )
    with _opened(store) as database:
        retention = Retention(database, policy)
        retired = retention.dry_run() if dry_run else retention.run()
    if as_json:
        emit_json(retired)
        return
    verb = "would be retired" if dry_run else "retired"
    say(out, f"{retired.events} events {verb}")
    if retired.marked:
        say(out, f"{retired.marked} events were marked: their cause was retired")
    before, after = retired.octets_before / 1e6, retired.octets_after / 1e6
    say(out, f"{before:.1f} MB before, {after:.1f} MB after")


def _opened(store: str) -> Database:
    """Open a store that is there; a plain path is that of a file."""
    return Database(store if "://" in store else f"sqlite:///{store}", create=False)


class _View:
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
        if not self._names and not self._as_json:
            say(out, f"{self._label} keeps no run yet")
            return
        columns = "run", "events>", "retired>", "agents>", "first received", "last received"
        self._answer(
            iter(self._history.runs()),
            lambda run: run,
            table_of(*columns, framed=True),
            lambda run: (
                run.name,
                str(run.events),
                str(run.retired),
                str(run.agents),
                _date(run.began),
                _date(run.ended),
            ),
        )
        if not self._as_json:
            say(out, "choose one with --run", "dim")

    def events(self, query: EventQuery) -> None:
        """Print events."""
        self._answer(self._history.entries(self._run(), query), _flat, event_grid(), _cells)

    def decisions(self, query: EventQuery) -> None:
        """Print decisions, each with its causes."""
        self._answer(
            self._history.decisions(self._run(), query),
            lambda decision: {
                **_flat(decision.entry),
                "causes": [entry.event.id for entry in decision.chain.entries[:-1]],
                "broken": decision.chain.broken,
            },
            table_of("time>", "agent", "id", "decided", "because", framed=True),
            lambda decision: (*_cells(decision.entry), _because(decision.chain)),
        )

    def causes(self, event_id: str) -> None:
        """Print what led to an event."""
        run = self._run()
        chain = self._history.causes(run, event_id)
        if not chain.entries:
            raise PhalanxError(f"{self._label}: run {run!r} holds no event {event_id!r}")
        if not self._as_json:
            say(out, f"Why {event_id}: {describe(chain.entries[-1].event)}", "bold")
            if chain.broken is not None:
                say(out, _gap(chain.broken), "yellow")
        self._limit = None
        self._answer(iter(chain.entries), _flat, event_grid(), _cells)

    def effects(self, event_id: str) -> None:
        """Print what followed from an event."""
        found = self._history.effects(self._run(), event_id, self._limit or 100_000)
        if not self._as_json:
            if not found.effects:
                say(out, f"no effect of {event_id} is known")
                return
            say(out, f"What followed from {event_id}", "bold")
        self._limit = None
        self._answer(
            iter(found.effects),
            lambda effect: {"depth": effect.depth, **_flat(effect.entry)},
            event_grid(),
            lambda effect: _cells(effect.entry, effect.depth - 1),
        )
        if found.more and not self._as_json:
            say(out, "there are further effects; --limit 0 shows all", "dim")

    def metrics(self, name: str, query: EventQuery) -> None:
        """Print the metric of one name, or which names there are."""
        run = self._run()
        series = self._history.series(run)
        known = sorted({s.name for s in series})
        if name == "list":
            self._names_of(series)
            return
        if name not in known:
            raise PhalanxError(
                f"{self._label}: run {run!r} has no metric {name!r}; "
                + (f"there are: {_some(known)}" if known else "there are none")
            )
        self._answer(
            self._history.metrics(run, name, query),
            lambda found: {**msgspec.to_builtins(found.sample), "received": found.received},
            table_of("time>", "agent", "of", f"{name}>", "scope", framed=True),
            lambda found: (
                f"{found.sample.time:.1f} s",
                found.sample.agent,
                ", ".join(found.sample.labels.values()),
                amount(found.sample.value, "" if found.sample.unit == "1" else found.sample.unit),
                found.sample.scope or "",
            ),
        )

    def _names_of(self, series: tuple[MetricSeries, ...]) -> None:
        if self._as_json:
            for one in series:
                emit_json(one)
            return
        table = table_of("name", "unit", "series>", "of", framed=True)
        for name, group in groupby(series, key=lambda s: s.name):
            found = list(group)
            labels = sorted({", ".join(s.labels.values()) for s in found} - {""})
            table.add_row(Text(name), found[0].unit, str(len(found)), Text(_some(labels)))
        out.print(table)

    def knowledge(self, query: EventQuery) -> None:
        """Print what agents believed last."""
        self._answer(
            self._history.knowledge(self._run(), query.agent, query.scope),
            lambda known: known,
            table_of("agent", "believes", "kept so by", "since>", "event", framed=True),
            lambda known: (
                known.agent,
                f"{'' if known.value else '¬'}{known.predicate}",
                known.holder or "",
                f"{known.since:.1f} s",
                known.event,
            ),
        )

    def _answer(
        self,
        found: Iterator[T],
        plain: Callable[[T], Any],
        table: Table,
        row: Callable[[T], tuple[str | Text, ...]],
    ) -> None:
        """Print what was found, up to the limit: a JSON object a line, or a row of ``table``."""
        for one in islice(found, self._limit):
            if self._as_json:
                emit_json(plain(one))
            else:
                table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row(one)))
        if self._as_json:
            return
        if not table.row_count:
            say(out, "nothing matches")
            return
        out.print(table)
        if self._limit is not None and next(found, None) is not None:
            say(out, f"these are the first {self._limit}; --limit 0 shows all", "dim")

    def _run(self) -> str:
        if self._name is not None:
            if self._name not in self._names:
                raise PhalanxError(f"{self._label}: no run {self._name!r}; {self._choice()}")
            return self._name
        if not self.is_single:
            raise PhalanxError(f"{self._label}: {self._choice()}; choose one with --run")
        return self._names[0]

    def _choice(self) -> str:
        return f"it keeps {_some(self._names[::-1])}" if self._names else "it keeps none yet"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (", …" if len(names) > _SOME else "")


def _flat(entry: StoredEvent) -> dict[str, Any]:
    """Return an entry as one object, its event's fields first."""
    fields: dict[str, Any] = msgspec.structs.asdict(entry)
    event: Any = fields.pop("event")
    return {**msgspec.structs.asdict(event), **fields}


def _cells(entry: StoredEvent, depth: int = 0) -> tuple[str | Text, ...]:
    note = " (its cause was retired)" if entry.cause_retired else ""
    return event_cells(entry.event, depth, note)


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


def _date(moment: float | None) -> str:
    if moment is None:
        return "–"
    return f"{datetime.fromtimestamp(moment, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
