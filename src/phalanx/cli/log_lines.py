"""What ``phalanx logs`` does: reads events from brokers or a store, and prints the wanted ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

import msgspec
import typer
from rich.text import Text

from phalanx.cli.terminal import err, out, say
from phalanx.domain.events import Event
from phalanx.reporting.event_text import IMPORTANT, describe
from phalanx.runtime.processes.operator import Operator, Tail
from phalanx.store.database import Database
from phalanx.store.history import EventQuery, History

_TURN_S = 3600.0
"""How long to wait at a time for what may never come."""
_STYLES = {
    "access.refused": "yellow",
    "agent.crashed": "red",
    "agent.differs": "yellow",
    "agent.gone": "red",
    "agent.returned": "green",
    "auction.awarded": "cyan",
    "auction.failed": "yellow",
    "fault.injected": "red",
    "lease.expired": "yellow",
    "link.changed": "red",
    "measure.applied": "green",
    "memory.unusable": "yellow",
    "connection.lost": "yellow",
    "outbox.shed": "yellow",
    "process.ended": "yellow",
    "service.given_up": "red",
    "service.restarted": "yellow",
    "traffic.changed": "magenta",
}


class Lines:
    """Prints the events that are wanted."""

    def __init__(
        self,
        names: tuple[str, ...],
        kinds: tuple[str, ...],
        everything: bool,
        as_json: bool,
    ) -> None:
        self.names = names
        self.count = 0
        """Events that were printed."""
        self._kinds = kinds
        self._everything = everything
        self._print: Callable[[Event, float], None] = self._json if as_json else self._words
        self._width = max(map(len, names), default=8)

    def tell(self, event: Event, received: float) -> None:
        """Print an event, if it is wanted."""
        if self._wants(event):
            self.count += 1
            self._print(event, received)

    def nothing(self) -> str:
        """Return what to say if nothing was printed."""
        whose = f" of {', '.join(self.names)}" if self.names else ""
        hint = "" if self._everything or self._kinds else "; --all shows details as well"
        return f"nothing to tell{whose}{hint}"

    def _wants(self, event: Event) -> bool:
        if self.names and event.agent not in self.names:
            return False
        if self._kinds:
            return any(event.kind == k or event.kind.startswith(f"{k}.") for k in self._kinds)
        return self._everything or event.kind in IMPORTANT

    def _words(self, event: Event, received: float) -> None:
        moment = datetime.fromtimestamp(received, UTC).astimezone()
        self._width = max(self._width, len(event.agent))
        line = Text(f"{moment:%H:%M:%S} ", style="dim")
        line.append(f"{event.agent:<{self._width}} ", style="cyan")
        line.append(describe(event), style=_STYLES.get(event.kind, "default"))
        out.print(line, soft_wrap=True)

    def _json(self, event: Event, received: float) -> None:
        fields = {**msgspec.structs.asdict(event), "received": received}
        typer.echo(msgspec.json.encode(fields).decode())


def from_brokers(
    connected: Operator, lines: Lines, *, follow: bool, past: bool, since_s: float | None
) -> None:
    """Tell what the brokers keep, and with ``follow`` what comes, until Ctrl-C.

    Args:
        connected: whose identity reads it.
        lines: prints it.
        follow: go on with what comes.
        past: begin with what is kept.
        since_s: of that, only what the brokers took in the last so many seconds, by their clock.

    Raises:
        NotPermittedError: if the identity may not read it.
        BrokerError: if the brokers do not tell what they keep.

    """
    agent = lines.names[0] if len(lines.names) == 1 else None
    present = "that was until now; Ctrl-C ends it" if past else "from now on; Ctrl-C ends it"
    tail = Tail(
        connected,
        lines.tell,
        agent=agent,
        past=past,
        since_s=since_s,
        caught_up=partial(say, err, present, "dim") if follow else None,
    )
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(connected)
    else:
        tail.catch_up()
    if tail.unreadable:
        say(err, f"{tail.unreadable} entries of the stream were no events", "yellow")


def _follow(connected: Operator) -> NoReturn:
    """Go on for ever, also without a connection, and say when there is none."""
    exchange = connected.exchange
    while True:
        connected.until(lambda: not exchange.connected, _TURN_S)
        if not exchange.connected:
            say(err, "no connection to the brokers; waiting for one", "yellow")
            while not connected.until(lambda: exchange.connected, _TURN_S):
                pass
            say(err, "connected again", "dim")


def from_store(store: str, lines: Lines, since_s: float | None) -> None:
    """Tell the events of the run that a store got last.

    Args:
        store: a file of SQLite or a URL.
        lines: prints them.
        since_s: only those that came so many seconds before the last one, or later.

    Raises:
        StoreError: if it cannot be read.

    """
    agent = lines.names[0] if len(lines.names) == 1 else None
    url = store if "://" in store else f"sqlite:///{store}"
    with Database(url, create=False) as database:
        history = History(database)
        runs = history.names()
        for run in runs[-1:]:
            begin = None if since_s is None else _last(history, run) - since_s
            for entry in history.entries(run, EventQuery(agent=agent, received_since=begin)):
                lines.tell(entry.event, entry.received)
        if len(runs) > 1:
            others = f"of {runs[-1]}; phalanx history {store} shows the other runs"
            say(err, others, "dim")


def _last(history: History, run: str) -> float:
    """Return when the last event of a run was received: by no other clock than the store's."""
    return next((r.ended for r in history.runs() if r.name == run and r.ended is not None), 0.0)
