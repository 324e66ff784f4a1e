"""Judge models of services on networks, loads and users that they were not trained on.

``python scripts/service_judge.py DIR --models OUT`` trains two stages for each network of a data
set that ``service_data.py`` made, on the other ones; then each run is read as an agent reads
it, by the fixed rules alone and with the model beside them (docs/service-models.md). Models that
are in ``OUT`` are not trained again. Needs the extra train, and twelve minutes on one core.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

from phalanx.analytics.datasets import NORMAL, Run, by_service, read_runs
from phalanx.analytics.detectors import Detector, Finding
from phalanx.analytics.model_detector import RTT_MS, model_detector
from phalanx.analytics.service_rules import NOT_JUDGED, OVERLOADED, RELIEVED, ServiceRules
from phalanx.analytics.training import Origin, train_classes
from phalanx.domain.series import TimeSeries, TrafficWindow
from phalanx.functions.service_analyst import SAMPLES

AFTER_S = 15.0
"""A trouble is over, for the count of false alarms, so long after its last row."""
SERVICE, ENTRY = "10.0.0.10", "entry"
RULES, BESIDE, TOLD = "rules alone", "model beside them", "told, too"
"""The last counts what a model tells and nothing is done about as well."""


def windows(run: Run) -> Iterator[TrafficWindow]:
    """Yield what an agent's detector is given after each row of a run."""
    table = run.table
    times = table.times.tolist()
    columns = [*zip(table.names, table.values.T.tolist(), strict=True)]
    for end in range(1, len(times) + 1):
        part = slice(max(0, end - SAMPLES), end)
        series = (
            TimeSeries(n, ENTRY if n == RTT_MS else SERVICE, "", tuple(times[part]), tuple(v[part]))
            for n, v in columns
        )
        yield TrafficWindow(SAMPLES, tuple(series))


def fits(finding: Finding, label: str) -> bool:
    """Return whether what is done about a finding is right for a trouble."""
    return finding.kind == label or {finding.kind, label} <= {*OVERLOADED}


class Count:
    """What one method found."""

    def __init__(self) -> None:
        self.delays: dict[str, list[float | None]] = defaultdict(list)
        """Seconds until each trouble was found, by kind; None: it was not."""
        self.false: Counter[str] = Counter()
        """Alarms that began while nothing was wrong, by kind."""
        self.hours = 0.0
        """In which nothing was wrong."""

    def add(self, run: Run, said: Sequence[list[Finding]], *, told: bool = False) -> None:
        """Count a run, by what was said after each row."""
        rows = [*zip(run.table.times.tolist(), run.table.labels, said, strict=True)]
        calm_from, alarmed = 0.0, False
        for kind, group in groupby(rows, lambda row: row[1]):
            span = [(time, found) for time, _, found in group]
            start = span[0][0]
            if kind != NORMAL:
                hits = (t - start for t, f in span if any(told or fits(one, kind) for one in f))
                self.delays[kind].append(next(hits, None))
                calm_from, alarmed = span[-1][0] + AFTER_S, False
                continue
            for time, found in span:
                if time > calm_from:
                    self.hours += 1 / 3600
                    if found and not alarmed:
                        self.false[found[0].kind] += 1
                    alarmed = bool(found)


def judge(runs: list[Run], model: Callable[[], Detector], counts: dict[str, Count]) -> None:
    """Have runs read by the rules, and by a model beside them."""
    for run in runs:
        for name, make in ((RULES, ServiceRules), (BESIDE, model)):
            detector: Detector = make()
            said = [
                [one for one in detector.examine(window) if one.kind != NOT_JUDGED]
                for window in windows(run)
            ]
            acted = [[one for one in found if one.kind in RELIEVED] for found in said]
            counts[name].add(run, acted)
            if name == BESIDE:
                counts[TOLD].add(run, said, told=True)


def show(counts: dict[str, Count]) -> None:
    """Print what was found, how soon, and what was no trouble."""
    for name, count in counts.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(count.false.items())) or "none"
        print(f"{name}: false alarms in {count.hours:.1f} h: {kinds}")
        for kind, delays in sorted(count.delays.items()):
            hit = [delay for delay in delays if delay is not None]
            soon = f"after {median(hit):.0f} s (median), {max(hit):.0f} s at worst" if hit else ""
            print(f"  {kind:18} {len(hit):3} of {len(delays):2} found {soon}")


def main() -> None:
    """Train, judge, print."""
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    options.add_argument("--models", type=Path, required=True)
    given = options.parse_args()
    runs = read_runs(given.data)
    counts: dict[str, Count] = defaultdict(Count)
    for network, own in by_service(runs):
        folder = given.models / f"without-{network}"
        others = [run for run in runs if run.service != network]
        for role in ("detector", "classifier"):
            if not (folder / f"{role}.json").exists():
                origin = Origin(role, given.data.name, "python scripts/service_judge.py")
                train_classes(others, origin, naming=role == "classifier").save(folder)
        judge(own, model_detector(f"{folder}/"), counts)
        print(f"{network} judged", flush=True)
    show(counts)


if __name__ == "__main__":
    main()
