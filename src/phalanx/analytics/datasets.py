"""Data sets: folders of recorded runs of services, with what was going on where it is known.

The layout of one's own is ``SERVICE/RUN.csv``, with a column ``label`` that says ``normal`` or
what was wrong. Two public sets are read as they come: that of the iAnomaly toolkit (Fernando et
al., UCC 2024) and the faults of the Sock Shop that ``rcd`` collected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from phalanx.analytics.metrics import MetricError, MetricTable, read_table

NORMAL = "normal"
SPIKE_ROWS = 8
"""iAnomaly: a user load that is higher for at most so many rows is a spike, for more a step."""
_IANOMALY = re.compile(r"(.+)_(normal|other_anoms|usersurge)\d*\Z")
_NUMBER = re.compile(r"\d+\Z")
_ORDER = ("cpu", "memory", "network delay")
"""iAnomaly: the anomalies of a file without user surges, in the order in which they were made."""


@dataclass(frozen=True)
class Run:
    """One recorded run of one service."""

    service: str
    name: str
    """Of the run, such as its file's."""
    table: MetricTable
    part: int = 0
    """Runs that were made together have the same: they are trained on, or judged on, as one."""

    @property
    def normal(self) -> MetricTable | None:
        """The run, if nothing was wrong in any row of it; without labels its name says so."""
        labels = set(self.table.labels) or {NORMAL if self.name.startswith(NORMAL) else ""}
        return self.table if labels == {NORMAL} else None


def read_runs(folder: Path) -> list[Run]:
    """Return all runs of a data set.

    Raises:
        MetricError: if the folder holds none, or a file is not one.

    """
    if (folder / "normal_data").is_dir() and (folder / "anomaly_data").is_dir():
        runs = list(_ianomaly(folder))
    elif any(folder.glob("*/*/anomalous.csv")):
        runs = list(_sockshop(folder))
    else:
        paths = sorted(folder.glob("*/*.csv"))
        runs = _parts([Run(path.parent.name, path.stem, read_table(path)) for path in paths])
    if not runs:
        raise MetricError(f"{folder}: no runs; they are expected as SERVICE/RUN.csv")
    return runs


def by_service(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Yield services in order of name, with their runs."""
    for service, found in groupby(sorted(runs, key=lambda r: r.service), lambda r: r.service):
        yield service, list(found)


def kinds_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what goes on in runs: ``normal`` first, then the rest by name."""
    return (NORMAL, *sorted({label for run in runs for label in run.table.labels} - {NORMAL}))


def _parts(runs: list[Run]) -> list[Run]:
    """Put runs of one service with the same number at the end of their names into one part."""

    def number(run: Run) -> int:
        found = _NUMBER.search(run.name)
        return int(found[0]) if found else 1

    found = []
    for _, own in by_service(runs):
        numbers = sorted({number(run) for run in own})
        found += [replace(run, part=numbers.index(number(run))) for run in own]
    return found


def _ianomaly(folder: Path) -> Iterator[Run]:
    runs = []
    for path in sorted(folder.glob("*/*.csv")):
        match = _IANOMALY.match(path.stem)
        if match is None:
            raise MetricError(
                f"{path}: its name is not SERVICE_normal, SERVICE_other_anoms or SERVICE_usersurge"
            )
        table = read_table(path, step_s=10.0)
        labels = list(table.labels or (NORMAL,) * len(table))
        count = start = 0
        for label, rows in groupby(list(labels)):
            length = len(list(rows))
            if label != NORMAL:
                kind = "user spike" if length <= SPIKE_ROWS else "user step"
                if match[2] == "other_anoms":
                    kind = _ORDER[min(count, 2)]
                labels[start : start + length] = [kind] * length
                count += 1
            start += length
        runs.append(Run(match[1], path.stem, replace(table, labels=tuple(labels))))
    yield from _parts(runs)


def _sockshop(folder: Path) -> Iterator[Run]:
    for path in sorted(folder.glob("*/*/*.csv")):
        table = read_table(path)
        fault, trial = path.parent.parent.name, path.parent.name
        labels = (NORMAL if path.stem == NORMAL else "fault",) * len(table)
        for service in (name[:-4] for name in table.names if name.endswith("_cpu")):
            values = table.columns((f"{service}_cpu", f"{service}_mem")).values
            own = MetricTable(table.times, ("cpu", "mem"), values, labels)
            name = f"{fault}-{trial}-{path.stem}"
            yield Run(service, name, own, int(trial) if trial.isdigit() else 0)
