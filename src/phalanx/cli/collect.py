"""``phalanx collect``: metrics of services, from Prometheus or a file, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from time import time
from typing import Annotated, Literal

import numpy as np
import typer

from phalanx.analytics.metrics import MetricTable, resampled, tables, write_table
from phalanx.analytics.prometheus import Prometheus, load_queries
from phalanx.cli.files import CSV, PARQUET, check_writable
from phalanx.cli.terminal import duration, err, file_progress, out, progress, say
from phalanx.domain.errors import PhalanxError

SERVICE = "{service}"
"""Where the name of the output takes that of a service."""
Kind = Literal["service", "node"]


def collect(
    source: Annotated[str, typer.Argument(help="URL of a Prometheus server, or CSV file.")],
    output: Annotated[str, typer.Argument(help="File to write: .csv or .parquet.")],
    *,
    service: Annotated[list[str] | None, typer.Option(help="Of the server; repeatable.")] = None,
    kind: Annotated[
        Kind, typer.Option(help="What services are: containers, or nodes.")
    ] = "service",
    since: Annotated[str, typer.Option("--from", help="Date and time, or how long ago.")] = "1h",
    until: Annotated[str, typer.Option("--to", help="In the same form.")] = "0s",
    step: Annotated[float | None, typer.Option(help="Seconds from row to row.")] = None,
    queries: Annotated[Path | None, typer.Option(help="File (TOML): more queries.")] = None,
    credentials: Annotated[Path | None, typer.Option(help="Token, or USER:PASSWORD.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates (PEM) of the server.")] = None,
    counter: Annotated[list[str] | None, typer.Option(help="Of a file; repeatable.")] = None,
    hold: Annotated[float | None, typer.Option(help="Seconds a file's reading holds.")] = None,
    row_step: Annotated[float, typer.Option(help="Seconds between rows without times.")] = 1.0,
) -> None:
    """Collect metrics of services into CSV or Parquet, from Prometheus or from CSV.

    Where the name of the output holds {service}, each service has a file. The exit code is 1 if a
    metric had no value, or the server said that something is missing.
    """
    url = source.startswith(("http://", "https://"))
    of_urls = {"--service": service, "--queries": queries, "--credentials": credentials, "--ca": ca}
    of_files = {"--counter": counter, "--hold": hold}
    for option, given in (of_files if url else of_urls).items():
        if given:
            raise PhalanxError(f"{option} is for {'files' if url else 'servers'} as a source")
    names = (service or ()) if url else [""]
    paths = {name: Path(output.replace(SERVICE, name.replace("/", "_"))) for name in names}
    if not paths or len(set(paths.values())) < len(paths):
        raise PhalanxError(f"--service: name one, or several and an output with {SERVICE} in it")
    inputs = [queries, credentials, ca] if url else [Path(source)]
    for path in paths.values():
        begins = PARQUET if path.suffix == ".parquet" else CSV
        check_writable(path, begins, *filter(None, inputs))
    if not url:
        with file_progress(source) as advance:
            rows: Iterable[MetricTable] = tables(source, step_s=row_step, progress=advance)
            if step is not None:
                rows = resampled(rows, step, counter or (), hold)
            elif counter or hold is not None:
                raise PhalanxError("--counter and --hold are for rows that --step makes")
            _write(rows, paths[""])
        return
    asked = load_queries(kind, queries)
    start, end, step = _moment(since), _moment(until), 10.0 if step is None else step
    server = Prometheus(source, credentials, ca)
    with closing(server), progress(len(paths) * (end - start)) as advance:
        for name, path in paths.items():
            _write(server.range(asked, name, start, end, step), path, advance)
    for line, times in server.notes.items():
        say(err, f"{line}{f' ({times} times)' if times > 1 else ''}", "yellow")
    if server.notes:
        raise typer.Exit(1)


def _moment(text: str) -> float:
    """Return seconds of the epoch, of a date and time or of so long ago."""
    with suppress(typer.BadParameter):
        return time() - duration(text)
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        forms = "a duration (90s, 12h, 7d) nor a date and time (2026-01-31T08:00)"
        raise PhalanxError(f"{text!r} is neither {forms}") from None


def _write(
    parts: Iterable[MetricTable], path: Path, advance: Callable[[float], None] | None = None
) -> None:
    """Write the tables; print what they hold, and what they lack."""
    rows, gaps = 0, np.array(0)
    last: MetricTable | None = None

    def counted() -> Iterator[MetricTable]:
        nonlocal rows, gaps, last
        for last in parts:
            rows += len(last)
            gaps = gaps + np.isnan(last.values).sum(axis=0)
            if advance is not None:
                advance(float(np.ptp(last.times)))
            yield last

    write_table(counted(), path)
    names = last.names if last is not None else ()
    say(out, f"{path}: {rows:,} rows of {len(names)} metrics")
    missing = zip(names, gaps.tolist(), strict=True)
    found = [f"{name} ({'all' if gap == rows else f'{gap:,}'})" for name, gap in missing if gap]
    if found:
        say(out, f"gaps: {', '.join(found)}")
