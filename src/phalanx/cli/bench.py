"""``phalanx bench``: the benchmarks of a source checkout, or those that come with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.terminal import err, out, say
from phalanx.domain.errors import PhalanxError
from phalanx.loading.refusals import nearest

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"ignore_unknown_options": True})
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of benchmarks, such as 'paths'; by default all. What follows the first "
            "option, itself included, is for the benchmark: bench defence --quick."
        ),
    ] = None,
) -> None:
    """Run the benchmarks of a source checkout, or of models.

    Those of models come with the package, too.
    """
    found = benchmarks(_places())
    if not found:
        raise PhalanxError(
            "no benchmarks/bench_*.py here: they come with the source checkout; run this in one"
        )
    words = names or []
    own = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    chosen, options = words[:own] or list(found), words[own:]
    for name in chosen:
        if name not in found:
            raise PhalanxError(
                f"there is no benchmark {name!r}{nearest(name, found)}; known are "
                f"{', '.join(found)}"
            )
    failed = [name for name in chosen if not _run(name, found[name], options)]
    if failed:
        say(err, f"failed: {', '.join(failed)}", "red")
        raise typer.Exit(1)


def benchmarks(places: list[Path]) -> dict[str, Path]:
    """Return the benchmarks of the first place that has any, by name."""
    for place in places:
        found = {f.stem.removeprefix("bench_"): f for f in sorted(place.glob("bench_*.py"))}
        if found:
            return found
    return {}


def _places() -> list[Path]:
    package = Path(__file__).resolve().parents[1]
    checkouts = Path.cwd(), package.parents[1]
    return [folder / "benchmarks" for folder in (*checkouts, package)]


def _run(name: str, file: Path, options: list[str]) -> bool:
    say(out, f"── {name}", "bold")
    # A process of its own: what one benchmark leaves behind does not slow the next.
    return subprocess.run([sys.executable, file, *options], check=False).returncode == 0  # noqa: S603
