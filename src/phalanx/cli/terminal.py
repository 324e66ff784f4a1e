"""What all verbs share: where they print, how errors end them, how durations are written."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FrameType
from typing import Annotated, Any, Self

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from phalanx.domain.errors import PhalanxError

BAD_INPUT = 2
INTERRUPTED = 130
INCOMPLETE = 4
"""The run went on, but not all of its history could be kept."""
NARROW = 60
"""Terminals with fewer columns get tables as lines, and help without panels."""
LONG = 20_000_000
"""Octets from which on reading a file takes long enough for a progress bar."""
_ANY_WIDTH = 10_000
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


class ReadableTable(Table):
    """A table; where a terminal is too narrow for its words, some lines for each row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give what is printed."""
        unbounded = options.update(max_width=_ANY_WIDTH)
        least = Measurement.get(console, unbounded, self).minimum
        if least <= options.max_width:
            self._fit(console, unbounded, options.max_width - least)
        if options.max_width >= NARROW or least <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title), style="italic")
        heads = [str(column.header) for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            cells = [console.render_str(c) if isinstance(c, str) else c for c in row]
            if not self.show_header:  # the last one is a sentence
                yield Text(" ").join(cells[:-1])
                yield Padding(cells[-1], (0, 0, 0, 2))
                continue
            yield Text.assemble((f"{heads[0]}: ", "bold"), cells[0])
            for head, cell in zip(heads[1:], cells[1:], strict=True):
                if cell.plain:
                    yield Padding(Text.assemble((f"{head}: ", "bold"), cell), (0, 0, 0, 2))
        if self.caption:
            yield Text(str(self.caption), style="dim")

    def _fit(self, console: Console, unbounded: ConsoleOptions, spare: int) -> None:
        """Give each column its longest word, and what is spare where most is missing.

        Rich would break words of one column before it wraps another one further.
        """
        wanted = {}
        for column in self.columns:
            cells = (column.header, *column.cells) if self.show_header else column.cells
            sizes = [Measurement.get(console, unbounded, cell) for cell in cells]
            wanted[id(column)] = max((size.maximum for size in sizes), default=0)
            column.width = max((size.minimum for size in sizes), default=0)
            if column.no_wrap:
                spare -= wanted[id(column)] - column.width
                column.width = wanted[id(column)]
        for _ in range(spare):
            column = max(self.columns, key=lambda each: wanted[id(each)] - (each.width or 0))
            column.width = min((column.width or 0) + 1, wanted[id(column)])


def readable(command: Any) -> Any:
    """Return a command whose help is plain text on a terminal too narrow for panels."""
    if command is not None and out.width < NARROW:
        command.rich_markup_mode = None
        plain = command.format_help

        def format_help(ctx: Any, formatter: Any) -> None:
            formatter.width = out.width
            formatter.write_dl = partial(formatter.write_dl, col_max=2)
            plain(ctx, formatter)

        command.format_help = format_help
        command.get_short_help_str = lambda _=0: (command.help or "").partition("\n\n")[0]
    return command


class Group(TyperGroup):
    """Turns what verbs raise on purpose into one line and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        readable(self)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; None if there is none."""
        return readable(super().get_command(ctx, cmd_name))

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


def group(about: str) -> typer.Typer:
    """Return a verb that has verbs of its own, with what its help says about it."""
    return typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, help=about)


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


def table_of(*columns: str, framed: bool = False) -> ReadableTable:
    """Return a table with these columns; those whose title ends with > stand to the right."""
    padding = (0, 2, 0, 0)
    plain = ReadableTable(box=None, padding=padding, header_style="bold")
    table = ReadableTable() if framed else plain
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


@contextmanager
def progress(total: float | None) -> Iterator[Callable[[float], None] | None]:
    """Draw a bar on a terminal; give what moves it on. 0: no end is known; None: no bar."""
    if total is None or not err.is_terminal:
        yield None
        return
    from rich.progress import Progress  # noqa: PLC0415  # most verbs do without it

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("", total=total or None)
        yield lambda more: bar.advance(task, more)


def file_progress(path: str) -> AbstractContextManager[Callable[[float], None] | None]:
    """Draw a bar while a file is read, by octets; none for one that takes no second."""
    size = os.path.getsize(path) if os.path.isfile(path) else 0  # noqa: PTH113, PTH202  # never raises
    return progress(size if not size or size >= LONG else None)


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
