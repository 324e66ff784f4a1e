"""``phalanx bench``: the benchmarks of a source checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.terminal import err, out, say
from phalanx.domain.errors import PhalanxError
from phalanx.loading.refusals import nearest


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of benchmarks, such as 'paths'; by default all."),
    ] = None,
) -> None:
    """Run the benchmarks of a source checkout."""
    found = benchmarks(_places())
    if not found:
        raise PhalanxError(
            "no benchmarks/bench_*.py here: they come with the source checkout, not with the "
            "installed package; run this in a checkout"
        )
    chosen = names or list(found)
    for name in chosen:
        if name not in found:
            raise PhalanxError(
                f"there is no benchmark {name!r}{nearest(name, found)}; known are "
                f"{', '.join(found)}"
            )
    failed = [name for name in chosen if not _run(name, found[name])]
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
    checkout = Path(__file__).resolve().parents[3]
    return [Path.cwd() / "benchmarks", checkout / "benchmarks"]


def _run(name: str, file: Path) -> bool:
    say(out, f"── {name}", "bold")
    # A process of its own: what one benchmark leaves behind does not slow the next.
    return subprocess.run([sys.executable, str(file)], check=False).returncode == 0  # noqa: S603
