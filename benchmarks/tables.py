"""What all benchmarks share: quick runs, tables, and a clear word where an extra is missing."""

from __future__ import annotations

import importlib
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

QUICK = "--quick" in sys.argv or os.environ.get("PHALANX_BENCH_QUICK") == "1"
"""A few seconds instead of minutes: shows that a benchmark works, its figures mean little."""

OUT = Path("out")
"""Where pictures go."""

MISSING = "{}: run `make bench`, or `pip install -r requirements/bench.txt`"

console = Console(width=110, highlight=False)


def extra(module: str) -> Any:
    """Return a module that only benchmarks need, or end with one clear line."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = str(error).partition("\n")[0].rstrip(".")
        console.print(MISSING.format(why), style="yellow", soft_wrap=True)
        sys.exit(0 if QUICK else 1)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if note:
        console.print(note)
    console.print()


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median in ms."""
    return 1e3 * statistics.median(seconds)
