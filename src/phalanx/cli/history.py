"""``phalanx history``: asks a store what happened and why, and lets go of what is old."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from phalanx.cli.durations import duration
from phalanx.cli.terminal import out, say

if TYPE_CHECKING:
    from phalanx.store.database import Database

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_OCTETS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

_LINES = 200


class _StoreFirst(TyperGroup):
    """Takes what is no verb of its own for the store to be shown."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in that goes without saying."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


history = typer.Typer(
    cls=_StoreFirst,
    no_args_is_help=True,
    help="Ask a store what happened, who decided it and why; retire what is old. "
    "'phalanx history STORE' is short for 'phalanx history show STORE'.",
)

Store = Annotated[
    str,
    typer.Argument(
        help="A file of SQLite, sqlite:///FILE or postgresql+psycopg://…", show_default=False
    ),
]


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


@history.command()
def show(
    store: Store,
    *,
    run: Annotated[
        str | None, typer.Option(help="Which run; none needed if there is one.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="Only what this agent recorded.", show_default=False)
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Only of this slice or service.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="From here on: seconds of the run, or the date and time of receipt.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Up to here, likewise.", show_default=False)
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only events of this kind; may be repeated.", show_default=False),
    ] = None,
    causes: Annotated[
        str | None,
        typer.Option(metavar="ID", help="What led to this event.", show_default=False),
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option(metavar="ID", help="What followed from this event.", show_default=False),
    ] = None,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="What agents decided, and what caused it.")
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The figures of this name; 'list' tells names.", show_default=False
        ),
    ] = None,
    knowledge: Annotated[
        bool, typer.Option("--knowledge", help="What agents believe, as last known.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Lines to show at most; 0: all. 200 if none is given, with --json all.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, nothing else.")
    ] = False,
) -> None:
    """Show what a store keeps: runs, events, decisions, metrics, knowledge."""
    # SQLAlchemy takes a quarter of a second to import.
    from phalanx.cli.history_view import HistoryView  # noqa: PLC0415
    from phalanx.store.history import EventQuery  # noqa: PLC0415

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
        view = HistoryView(database, run, shown, as_json)
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


@history.command()
def retain(
    store: Store,
    *,
    keep: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Keep what came since: 12h, 7d, 4w.", show_default=False),
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Keep what agents decided so long instead.", show_default=False
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Keep figures so long instead.", show_default=False),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Keep at most so much: 500MB, 1GB.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and touch nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.")
    ] = False,
) -> None:
    """Retire what is old, the oldest first; agents may go on writing meanwhile.

    What stays and whose cause goes says so: no chain of causes is broken silently.
    """
    from phalanx.store.retention import Retention, RetentionPolicy  # noqa: PLC0415  # as above

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
        typer.echo(msgspec.json.encode(retired).decode())
        return
    verb = "would be retired" if dry_run else "retired"
    say(
        out,
        f"{retired.events} events, {retired.metrics} figures and {retired.knowledge} forgotten "
        f"beliefs {verb}",
    )
    if retired.marked:
        say(out, f"{retired.marked} events were marked: their cause was retired")
    before, after = retired.octets_before / 1e6, retired.octets_after / 1e6
    say(out, f"{before:.1f} MB before, {after:.1f} MB after")


def _opened(store: str) -> Database:
    """Open a store that is there; a plain path is that of a file."""
    from phalanx.store.database import Database  # noqa: PLC0415  # as above

    return Database(store if "://" in store else f"sqlite:///{store}", create=False)
