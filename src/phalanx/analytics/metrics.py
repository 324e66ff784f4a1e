"""Metrics of services over time: the table that collectors fill and detectors and training read.

A gap is NaN and stays one: nothing is made up. Times are in seconds, of the source's clock.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from math import inf, isinf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phalanx.domain.errors import PhalanxError
from phalanx.loading import one_line, open_file, show

Matrix = NDArray[np.float64]

TIMES = "time", "timestamp"
LABELS = "label", "normal/attack"
"""Names, in small letters, of the columns that hold no metric."""
MEANINGS = {"0": "normal", "1": "anomaly"}
LONGEST_LINE = 1 << 20
"""Characters of a line of a CSV file."""
MOST_STEPS = 100_000
"""Between two rows that are resampled; more is taken for a wrong clock."""
_MICRO = 1_000_000
LATEST = 1e11
"""Seconds of the epoch, in the year 5138; a time from here on counts as milliseconds."""


class MetricError(PhalanxError):
    """Metrics cannot be read, or are not what they are said to be; the message is one line."""


@dataclass(frozen=True)
class MetricTable:
    """Metrics of one service or node; a row for each time."""

    times: Matrix
    """Of the rows, in seconds; ascending; (rows,)."""
    names: tuple[str, ...]
    """Of the columns; each once."""
    values: Matrix
    """(rows, columns); NaN: nothing was read."""
    labels: tuple[str, ...] = ()
    """What is going on at each row, such as ``normal``; empty: nobody says."""

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            MetricError: if shapes, names or times are wrong.

        """
        if self.values.shape != (len(self.times), len(self.names)):
            room = f"{len(self.times)} times and {len(self.names)} names"
            raise MetricError(f"{self.values.shape} values for {room}")
        if self.labels and len(self.labels) != len(self.times):
            raise MetricError(f"{len(self.labels)} labels for {len(self.times)} rows")
        if len(set(self.names)) != len(self.names):
            raise MetricError(f"a metric is named twice among {', '.join(self.names)}")
        if not np.isfinite(self.times).all() or (np.diff(self.times) <= 0).any():
            raise MetricError("times do not ascend")

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, start: int, stop: int) -> MetricTable:
        """Return the rows from ``start`` to before ``stop``."""
        part = slice(start, stop)
        return replace(
            self, times=self.times[part], values=self.values[part], labels=self.labels[part]
        )

    def where(self, label: str) -> MetricTable:
        """Return the rows with a label; all, if nobody says what is going on."""
        if not self.labels:
            return self
        kept = np.array([each == label for each in self.labels])
        labels = tuple(each for each in self.labels if each == label)
        return replace(self, times=self.times[kept], values=self.values[kept], labels=labels)

    def columns(self, names: tuple[str, ...]) -> MetricTable:
        """Return these columns, in this order; one that is missing is all gaps."""
        place = {name: column for column, name in enumerate(self.names)}
        values = np.full((len(self), len(names)), np.nan)
        for column, name in enumerate(names):
            if name in place:
                values[:, column] = self.values[:, place[name]]
        return replace(self, names=names, values=values)


def held(values: Matrix) -> Matrix:
    """Return (rows, columns) in which a gap has the last value before it; 0 if there is none."""
    rows = np.where(np.isfinite(values), np.arange(len(values))[:, None], 0)
    filled = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    return np.where(np.isfinite(filled), filled, 0.0)


def joined(tables: Iterable[MetricTable]) -> MetricTable:
    """Return tables that follow each other as one.

    Raises:
        MetricError: if there is none, or their columns or times do not go together.

    """
    parts = list(_alike(tables))
    if not parts:
        raise MetricError("there are no rows")
    return MetricTable(
        np.concatenate([part.times for part in parts]),
        parts[0].names,
        np.concatenate([part.values for part in parts]),
        tuple(chain.from_iterable(part.labels for part in parts)),
    )


def _alike(tables: Iterable[MetricTable]) -> Iterator[MetricTable]:
    names: tuple[str, ...] | None = None
    for table in tables:
        if names not in (None, table.names):
            raise MetricError("a table follows one of other columns")
        names = table.names
        yield table


# -- CSV and Parquet ------------------------------------------------------------------------


def read_table(path: str | Path, step_s: float = 1.0) -> MetricTable:
    """Return the metrics in a CSV file; as ``tables``, all at once."""
    return joined(tables(path, step_s=step_s))


def tables(
    path: str | Path,
    rows: int = 10_000,
    step_s: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> Iterator[MetricTable]:
    """Yield the metrics in a CSV file, part by part; memory does not grow with the file.

    The first line names the columns. ``time`` or ``timestamp`` holds seconds or milliseconds of
    the epoch (from 10^11 on), or ISO 8601, which is UTC unless it says otherwise; times ascend.
    ``label`` or ``Normal/Attack`` holds what is going on, 0 for ``normal`` and 1 for ``anomaly``.
    All else are metrics; an empty field or ``nan`` is a gap.

    Args:
        path: the file: UTF-8, commas between the fields.
        rows: of a part, at most.
        step_s: between rows of a file without a column of times, in seconds.
        progress: told how many octets more have been read, after each part.

    Raises:
        MetricError: with file, line, column and what is allowed; parts before it were yielded.

    """
    lines: Any = None
    try:
        with open_file(path) as octets:
            text = io.TextIOWrapper(octets, "utf-8-sig", newline="")
            lines = csv.reader(_lines(text), skipinitialspace=True)
            form, part, at = _CsvForm(next(lines, []), step_s), [], 0
            for row in lines:
                part.append(form.row(row))
                if len(part) == rows:
                    yield form.table(part)
                    part = []
                    if progress is not None and octets.seekable():
                        progress(octets.tell() - at)
                        at = octets.tell()
            if not form.rows:
                raise MetricError("no row follows the header")
            if part:
                yield form.table(part)
    except OSError as error:
        raise MetricError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError, MetricError) as error:
        binary = isinstance(error, UnicodeDecodeError)
        why = "no UTF-8 text here, or soon after; a compressed file?" if binary else error
        raise MetricError(
            one_line(f"{path}: line {max(lines.line_num + binary, 1)}: {why}")
        ) from None


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise MetricError(f"is longer than {LONGEST_LINE} characters")
        yield line


class _CsvForm:
    """What the columns of a CSV file are. Its errors know the column, not the line."""

    def __init__(self, header: list[str], step_s: float) -> None:
        self.rows = 0
        self._step_s = step_s
        self._header = [name.strip() for name in header]
        self._latest = -inf
        if not 0 < step_s < LATEST:
            raise MetricError("rows without times are more than 0 s apart")
        if not header:
            raise MetricError("the file is empty; names of columns are expected")
        for name, times in Counter(self._header).items():
            if times > 1 or not _is_name(name):
                why = "named twice" if _is_name(name) else "no name; one is expected in each field"
                raise MetricError(f"column {show(name)}: {why}")
        self._time, self._label = self._only(TIMES), self._only(LABELS)
        special = self._time, self._label
        self._metrics = [c for c in range(len(header)) if c not in special]
        self.names = tuple(self._header[c] for c in self._metrics)
        if not self.names:
            raise MetricError("no column holds a metric")

    def row(self, fields: list[str]) -> tuple[float, list[float], str]:
        """Return time, values of all columns (NaN where it is no metric), and label."""
        if len(fields) != len(self._header):
            raise MetricError(f"{len(fields)} fields; the header has {len(self._header)}")
        time, label = self.rows * self._step_s, ""
        if self._time is not None:
            time, fields[self._time] = _moment(fields[self._time].strip()), ""
        if time <= self._latest:
            raise MetricError("the time is not after that of the row before; rows ascend in time")
        if self._label is not None:
            label, fields[self._label] = fields[self._label].strip(), ""
        self.rows += 1
        self._latest = time
        try:
            values = [float(field or "nan") for field in fields]
        except ValueError:
            values = [inf]
        text = "".join(fields)  # Python reads 1_0 as a number, and digits of all scripts
        if inf in values or -inf in values or "_" in text or not text.isascii():
            for name, field in zip(self._header, fields, strict=True):
                if field and not _is_number(field):
                    why = f"{show(field)} is no finite number; a gap is an empty field or nan"
                    raise MetricError(f"column {show(name)}: {why}")
        return time, values, MEANINGS.get(label, label)

    def table(self, rows: list[tuple[float, list[float], str]]) -> MetricTable:
        """Return rows as a table."""
        times, values, labels = zip(*rows, strict=True)
        metrics = np.array(values)[:, self._metrics]
        labels = () if self._label is None else labels
        return MetricTable(np.array(times), self.names, metrics, labels)

    def _only(self, names: Sequence[str]) -> int | None:
        found = [c for c, name in enumerate(self._header) if name.lower() in names]
        if len(found) > 1:
            raise MetricError(f"of the columns {' and '.join(names)} one is allowed")
        return found[0] if found else None


def _moment(text: str) -> float:
    time = nan
    if _is_number(text):
        time = float(text) / (1000 if abs(float(text)) >= LATEST else 1)
    else:
        with suppress(ValueError, OverflowError):
            date = datetime.fromisoformat(text)
            time = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if not abs(time) < LATEST:
        forms = "seconds or milliseconds of the epoch, or ISO 8601"
        raise MetricError(f"column of times: {show(text)} is no time; allowed are {forms}")
    return time


def _is_number(text: str) -> bool:
    try:
        return not isinf(float(text)) and "_" not in text and text.isascii()
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    return text.isprintable() and text == text.strip() != "" and not _is_number(text)


def write_table(tables: MetricTable | Iterable[MetricTable], path: str | Path) -> None:
    """Write metrics into a file, which is there once all of it is: ``.csv`` or ``.parquet``.

    What is written as CSV ``tables`` reads as the same numbers. Tables that follow each other, of
    the same columns, become one file; memory does not grow with their number.

    Raises:
        MetricError: if the file cannot be written, or cannot hold the table.

    """
    path = Path(path)
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in kinds:
        raise MetricError(f"{path}: the name of a file of metrics ends with .csv or .parquet")
    parts = (tables,) if isinstance(tables, MetricTable) else tables
    part = path.with_name(f"{path.name}.part")
    try:
        kinds[path.suffix](map(_writable, _alike(parts)), part)
        part.replace(path)
    except OSError as error:
        raise MetricError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _writable(table: MetricTable) -> MetricTable:
    for name in table.names:
        if name.lower() in TIMES + LABELS or not _is_name(name):
            raise MetricError(f"{show(name)} cannot be the name of a metric in a file")
    if np.isinf(table.values).any():
        raise MetricError("an infinite value cannot be written; a gap is NaN")
    return table


def _write_csv(tables: Iterable[MetricTable], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number, table in enumerate(tables):
            if not number:
                writer.writerow(["time", *table.names, *(["label"] if table.labels else ())])
            rows = zip(table.times.tolist(), table.values.tolist(), strict=True)
            for at, (time, values) in enumerate(rows):
                fields = ("" if isnan(value) else value for value in values)
                writer.writerow([time, *fields, *table.labels[at : at + 1]])


def _write_parquet(tables: Iterable[MetricTable], path: Path) -> None:
    try:
        import pyarrow  # noqa: PLC0415  # an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MetricError("Parquet needs pyarrow: pip install 'phalanx[data]'") from None
    writer: Any = None
    for table in tables:
        columns = {"time": table.times, **dict(zip(table.names, table.values.T, strict=True))}
        made = pyarrow.table(columns | ({"label": list(table.labels)} if table.labels else {}))
        writer = writer or pyarrow.parquet.ParquetWriter(path, made.schema)
        writer.write_table(made)
    writer.close()


# -- resampling -----------------------------------------------------------------------------


def resampled(
    tables: Iterable[MetricTable],
    step_s: float,
    counters: Collection[str] = (),
    hold_s: float | None = None,
) -> Iterator[MetricTable]:
    """Yield what tables that follow each other become with a row for each step.

    The row of time t stands for [t, t + step), with t a multiple of the step. Of a gauge it holds
    the mean, weighted by time, over the part of the step for which a reading is there: a reading
    counts until the next one of its column, for ``hold_s`` at most. Of a counter it holds the
    rate per second: what was added between two readings is spread evenly between them, unless
    they are more than ``hold_s`` and a step apart; then nobody knows when it was added, and it is
    lost. A counter that drops began anew at 0: what it had added since the reading before is
    lost. All else is NaN. A label is that of the last row before the end of the step, which holds
    as a reading does.

    Which parts the rows come in makes no difference, to the bit; those that are kept are some
    steps and one ``hold_s`` long. Times are taken to the microsecond.

    Args:
        tables: with the same columns.
        step_s: from row to row, in seconds; at least 1 ms.
        counters: columns that only grow; all others are gauges.
        hold_s: for which a reading holds, in seconds; None: one step.

    Raises:
        MetricError: if a time goes back, or ahead by more than ``MOST_STEPS`` steps; if a step is
            none, or a counter is no column.

    """
    hold_s = step_s if hold_s is None else hold_s
    if not (0.001 <= step_s < LATEST and 1e-6 <= hold_s < LATEST):
        raise MetricError("a step is at least 0.001 s, and a reading holds for more than 0 s")
    step, hold = round(step_s * _MICRO), round(hold_s * _MICRO)
    rows: MetricTable | None = None
    done: int | None = None
    for table in tables:
        if lost := sorted(set(counters) - set(table.names)):
            raise MetricError(f"no column {', '.join(lost)}; there are {', '.join(table.names)}")
        rows = table if rows is None else joined((rows, table))
        if len(rows):
            cells = _micro(rows.times) // step
            jump = np.diff(cells, append=cells[-1])
            if jump.max() > MOST_STEPS:
                at = f"after {rows.times[jump.argmax()]:.15g} s by {jump.max():,} steps"
                raise MetricError(f"the clock jumps ahead {at}; at most {MOST_STEPS:,} are filled")
            # Later rows change nothing from so long before the last one.
            settled = (_micro(rows.times[-1:])[0] - hold - step) // step
            done = int(cells[0]) if done is None else done
            if settled > done:
                yield _cells(rows, done, settled, step, hold, counters)
                done = settled
                needed = _micro(rows.times) >= settled * step - hold - step
                rows = rows.rows(int(needed.argmax()), len(rows))
    if rows is not None and done is not None:
        yield _cells(rows, done, int(cells[-1]) + 1, step, hold, counters)


def _micro(times: Matrix) -> NDArray[np.int64]:
    return np.rint(times * _MICRO).astype(np.int64)


def _cells(
    rows: MetricTable, first: int, past: int, step: int, hold: int, counters: Collection[str]
) -> MetricTable:
    """Return the steps from ``first`` to before ``past``; lengths in microseconds."""
    times, begins = _micro(rows.times), np.arange(first, past) * step
    weights, sums = np.zeros((2, past - first, len(rows.names)))
    for column, name in enumerate(rows.names):
        there = ~np.isnan(rows.values[:, column])
        start, value = times[there], rows.values[there, column]
        end = np.append(start[1:], past * step)
        if name in counters:
            start, end = start[:-1], end[:-1]
            grown = np.where(value[1:] < value[:-1], value[1:], value[1:] - value[:-1])
            value = grown / np.maximum(end - start, 1) * _MICRO
            near = end - start <= hold + step
            start, end, value = start[near], end[near], value[near]
        else:
            end = np.minimum(end, start + hold)
        start, end = np.maximum(start, first * step), np.minimum(end, past * step)
        parts = np.maximum(-(-end // step) - start // step, 0)
        span = np.repeat(np.arange(len(start)), parts)
        cell = np.arange(len(span)) - (np.cumsum(parts) - parts)[span] + (start // step)[span]
        low, high = np.maximum(start[span], cell * step), np.minimum(end[span], (cell + 1) * step)
        # One by one, in the order of time: so it makes no difference which parts rows come in.
        np.add.at(weights[:, column], cell - first, (high - low) / step)
        np.add.at(sums[:, column], cell - first, (high - low) / step * value[span])
    values = np.divide(sums, weights, where=weights > 0, out=np.full(sums.shape, np.nan))
    labels: list[str] = []
    if rows.labels:
        last = np.searchsorted(times, begins + step) - 1
        held = (last >= 0) & (begins - times[last] < hold)
        labels = [rows.labels[at] if here else "" for at, here in zip(last, held, strict=True)]
    return MetricTable(begins / _MICRO, rows.names, values, tuple(labels))
