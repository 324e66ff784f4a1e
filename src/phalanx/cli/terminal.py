"""What all verbs share: where they print, how errors end them, how durations are written."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, Self

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from phalanx.domain.errors import PhalanxError

BAD_INPUT = 2
INTERRUPTED = 130
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


class Terminal(Console):
    """Prints on; once nobody reads any more (``| head``), what is printed is dropped."""

    def on_broken_pipe(self) -> None:
        """Drop this and all further output; the verb goes on with its work."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


out = Terminal(highlight=False)
err = Console(stderr=True, highlight=False)


class Group(TyperGroup):
    """Turns what verbs raise on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen verb."""
        try:
            return super().invoke(ctx)
        except PhalanxError as error:
            refuse(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            refuse("interrupted")
            raise typer.Exit(INTERRUPTED) from None


def refuse(line: str) -> None:
    """Print one red line on stderr, however long; text of others is not read as markup."""
    err.print(Text(line, style="red"), soft_wrap=True)


def say(console: Console, text: str, style: str = "") -> None:
    """Print one line as it is, however long."""
    console.print(Text(text, style=style), soft_wrap=True)


def emit(line: str) -> None:
    """Print one line on stdout without any styling, at once."""
    if not out.quiet:
        try:
            print(line, file=out.file, flush=True)
        except BrokenPipeError:
            out.on_broken_pipe()


def emit_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    emit(msgspec.json.encode(value).decode())


def table_of(*columns: str, framed: bool = False) -> Table:
    """Return a table with these columns; those whose title ends with > stand to the right."""
    table = Table() if framed else Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.endswith(">")
        table.add_column(
            column.removesuffix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


def amount(value: float | None, unit: str = "") -> str:
    """Return a figure for a table; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}{f' {unit}' if unit else ''}"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: ``1 agent``, ``2 agents``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(text: str, *, m: bool = False) -> float:
    """Return a duration, such as ``90s``, ``15min``, ``12h``, ``7d`` or ``4w``, in seconds.

    Args:
        text: what was written.
        m: take ``m`` for minutes as well; not where a month that is meant would be dear.

    Raises:
        typer.BadParameter: if it is none.

    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or (found[2] == "m" and not m):
        raise typer.BadParameter(f"{text!r} is no duration such as 90s, 15min, 12h, 7d or 4w")
    return float(found[1]) * _SECONDS[found[2]]


class StopSignal:
    """Whether Ctrl-C or another signal asked for the end, inside of a ``with``.

    Args:
        signals: that ask for it besides SIGINT.
        impatient: the second Ctrl-C raises ``KeyboardInterrupt``.

    """

    def __init__(self, *signals: signal.Signals, impatient: bool = False) -> None:
        self.wanted = False
        self._signals = signal.SIGINT, *signals
        self._impatient = impatient

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._want) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _want(self, number: int, _frame: FrameType | None) -> None:
        if self.wanted and self._impatient and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True


@contextmanager
def needs_linux() -> Iterator[None]:
    """Say how to get the packages that real packets need, where an import does not find them.

    Raises:
        PhalanxError: with one line.

    """
    try:
        yield
    except ModuleNotFoundError as missing:
        raise PhalanxError(
            f"real packets need {missing.name}: pip install 'phalanx[linux]'"
        ) from None
