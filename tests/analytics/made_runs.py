"""Runs of services that were made up: loads that come and go, and troubles that are plain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from phalanx.analytics.datasets import NORMAL, Run
from phalanx.analytics.metrics import MetricTable, write_table

METRICS = "cpu", "memory", "requests"
LASTS = 12
"""Rows of a trouble."""


def run(service: str, part: int, kinds: tuple[str, ...], rows: int = 260) -> Run:
    """Return a run of a service whose load is a slow wave, with each trouble one after another."""
    chance = np.random.default_rng([part, len(service), len(kinds)])
    load = 1 + 0.3 * np.sin(2 * np.pi * (np.arange(rows) + chance.integers(60)) / 60)
    size = float(len(service))
    values = np.stack([load, 3 + 0 * load, 5 * load], 1) * size
    values *= chance.lognormal(0, 0.05, values.shape)
    labels = np.array([NORMAL] * rows, object)
    for number, kind in enumerate(kinds):
        rows_of = slice(40 + 50 * number, 40 + 50 * number + LASTS)
        labels[rows_of] = kind
        if kind == "flood":
            values[rows_of, 2] *= 8
            values[rows_of, 0] *= 3
        if kind == "leak":
            values[rows_of, 1] *= np.linspace(1.5, 4, LASTS)
        if kind == "stall":
            values[rows_of] *= 0.02
    name = f"{'-'.join(kinds) or NORMAL}-{part + 1}"
    return Run(
        service,
        name,
        MetricTable(np.arange(float(rows)), METRICS, values, tuple(labels.tolist())),
        part,
    )


def runs(parts: int = 3, kinds: tuple[str, ...] = ("flood", "leak")) -> list[Run]:
    """Return normal runs and runs with troubles of two services."""
    return [
        run(service, part, which)
        for service in ("cart", "streamer")
        for part in range(parts)
        for which in ((), kinds)
    ]


def written(folder: Path, *args: object) -> Path:
    """Write such runs as SERVICE/RUN.csv."""
    for each in runs(*args):  # type: ignore[arg-type]
        path = folder / each.service / f"{each.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(each.table, path)
    return folder
