"""``phalanx logs``: what happened in a domain, in plain words, and what happens now."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from phalanx.cli.bus_options import Bus, DomainFolder, operator
from phalanx.cli.event_lines import styled
from phalanx.cli.terminal import AsJson, duration, emit_json, err, out, say
from phalanx.domain.events import Event
from phalanx.reporting.event_text import is_important
from phalanx.runtime.processes.operator import Operator, Tail

_TURN_S = 3600.0
"""How long to wait at a time for what may never come."""


def logs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Only events that these processes recorded."),
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only events of the last 90s, 10m, 2h, 7d, by the brokers' clock."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K",
            help="Only events of this kind or family of kinds, such as auction.bid or auction.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every event, not only the important ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened in a domain, one event a line, with the time of its receipt.

    With --follow it begins with new events, or with --since that long ago. What a recorder has
    stored shows phalanx history.
    """
    since_s = None if since is None else duration(since, m=True)
    lines = _Lines(tuple(names or ()), tuple(kind or ()), everything, as_json)
    past = not follow or since is not None
    with operator(bus, domain) as connected:
        _from_brokers(connected, lines, follow=follow, past=past, since_s=since_s)
    if not (follow or lines.count or as_json):
        say(err, lines.nothing(), "dim")


class _Lines:
    """Prints the events that are wanted."""

    def __init__(
        self, names: tuple[str, ...], kinds: tuple[str, ...], everything: bool, as_json: bool
    ) -> None:
        self.names = names
        self.count = 0
        """Events that were printed."""
        self._kinds = kinds
        self._everything = everything
        self._as_json = as_json
        self._width = max(map(len, names), default=8)

    def tell(self, event: Event, received: float) -> None:
        """Print an event, if it is wanted."""
        if self._wants(event):
            self.count += 1
            if self._as_json:
                emit_json({**msgspec.structs.asdict(event), "received": received})
            else:
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
        return self._everything or is_important(event)

    def _print(self, event: Event, received: float) -> None:
        moment = datetime.fromtimestamp(received, UTC).astimezone()
        self._width = max(self._width, len(event.agent))
        line = Text(f"{moment:%H:%M:%S} ", style="dim")
        line.append(f"{event.agent:<{self._width}} ", style="cyan")
        line.append(styled(event))
        out.print(line, soft_wrap=True)


def _from_brokers(
    connected: Operator, lines: _Lines, *, follow: bool, past: bool, since_s: float | None
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


def _follow(connected: Operator) -> None:
    """Go on until the output is closed; say when the connection is lost and regained."""
    client = connected.exchange
    while not out.quiet:
        connected.until(lambda: out.quiet or not client.connected, _TURN_S)
        if not client.connected:
            say(err, "no connection to the brokers; waiting for one", "yellow")
            while not connected.until(lambda: client.connected, _TURN_S):
                pass
            say(err, "connected again", "dim")
