"""Events as verbs print them: a styled line while they happen, rows of a grid afterwards."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from phalanx.cli.terminal import ReadableTable
from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe, describe_whole

_DEEPEST = 24
_STYLES = {
    "access.refused": "yellow",
    "agent.crashed": "red",
    "agent.differs": "yellow",
    "agent.gone": "red",
    "agent.returned": "green",
    "analysis.done": "blue",
    "auction.awarded": "cyan",
    "auction.failed": "yellow",
    "connection.lost": "yellow",
    "fault.injected": "red",
    "lease.expired": "yellow",
    "link.changed": "red",
    "measure.applied": "green",
    "memory.unusable": "yellow",
    "outbox.shed": "yellow",
    "process.ended": "yellow",
    "service.given_up": "red",
    "service.restarted": "yellow",
    "traffic.changed": "magenta",
}


def styled(event: Event) -> Text:
    """Return the text of an event in the colour of its kind."""
    return Text(describe(event), style=_STYLES.get(event.kind, "default"))


def event_grid() -> Table:
    """Return a grid for rows of time, agent, id and text."""
    grid = ReadableTable.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def event_cells(event: Event, depth: int = 0, note: str = "") -> tuple[str, Text, Text, Text]:
    """Return time, agent, id and text of an event, the text indented and followed by a note."""
    text = Text(" " * min(depth, _DEEPEST) + describe_whole(event))
    text.append(note, style="dim")
    return f"{event.time:.1f} s", Text(event.agent), Text(event.id), text
