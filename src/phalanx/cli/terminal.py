"""What all verbs share: where they print, and how errors end them."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from phalanx.domain.errors import PhalanxError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BAD_INPUT = 2
INTERRUPTED = 130


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


def amount(value: float | None, unit: str = "") -> str:
    """Return a figure for a table; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}{f' {unit}' if unit else ''}"
