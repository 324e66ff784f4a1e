"""How users fare under attack: no defence, the published strategy, Phalanx and an oracle.

Every case of ``defence_cases`` runs four times with the same users, attackers and faults. The
table gives the share that users got of what they wanted over the whole attack, how far Phalanx
was below no defence at worst, and what its measures cost honest users. All runs are those of
``phalanx run`` on virtual time; labels are used for the figures alone, and by the oracle.

``python benchmarks/bench_defence.py`` runs the table; ``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from math import isinf
from pathlib import Path
from statistics import median, quantiles

import msgspec
from rich.console import Console

import defence_cases as cases
from defence_figures import ARMS, GRACE_S, WINDOW_S, Figures, Trace, figures, run_arm
from phalanx.domain.errors import ScenarioError
from phalanx.runtime.scenario import Scenario
from phalanx.store.jsonl import JsonlSink
from tables import QUICK

COMMAND = "phalanx bench defence"
AIM_MEDIAN, AIM_TENTH = 0.90, 0.75
"""Aims for the service relative to the oracle's: in the median, and in the worst tenth."""
WIDTH = 100

Plan = Callable[[], Scenario]
Rows = list[tuple[str, Figures]]


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", default=QUICK, help="a dozen cases")
    parser.add_argument("--large", action="store_true", help="networks of 1,000 PoPs instead")
    parser.add_argument("--case", action="append", default=[], help="this case; may be repeated")
    parser.add_argument(
        "--random", type=int, default=0, metavar="N", help="N cases drawn by --seed"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parser.add_argument("--data", type=Path, help="add the GraphML files of this folder")
    parser.add_argument("--arm", choices=list(ARMS), default="phalanx", help="whose log to write")
    parser.add_argument("--log", type=Path, help="write the log of --arm here; needs one --case")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--page", type=Path, help="write the table as a page (Markdown)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args()
    if given.log and len(given.case) != 1:
        parser.error("--log needs one --case")
    return given


def chosen(given: argparse.Namespace) -> dict[str, Plan]:
    """Return the cases that the options ask for, by name.

    Raises:
        ValueError: with one line, if a case is not known.

    """
    if given.case:
        found = [cases.named(name) for name in given.case]
    elif given.random:
        rng = random.Random(f"cases/{given.seed}")
        found = [cases.random_case(rng) for _ in range(given.random)]
    else:
        found = list(cases.QUICK if given.quick else cases.LARGE if given.large else cases.TABLE)
    return {case.name: partial(cases.scenario, case, given.seed) for case in found}


def graphs(folder: Path, seed: int) -> dict[str, Plan]:
    """Return a case for each GraphML file of a folder, by the file's name."""
    return {
        path.stem: partial(cases.on_graph, path, seed) for path in sorted(folder.glob("*.graphml"))
    }


def run(plans: dict[str, Plan], jobs: int) -> Iterator[tuple[str, Figures | str]]:
    """Yield each case as it ends: its figures, or why it cannot run."""
    traces: dict[str, dict[str, Trace]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {}
        for name, plan in plans.items():
            try:
                scenario = plan()
            except (ScenarioError, ValueError) as error:
                yield name, str(error)
                continue
            for arm in ARMS:
                waiting[pool.submit(run_arm, scenario, arm)] = name, arm, scenario
        while waiting:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                name, arm, scenario = waiting.pop(done)
                own = traces.setdefault(name, {})
                own[arm] = done.result()
                if len(own) == len(ARMS):
                    yield name, figures(scenario, traces.pop(name))


def measure(title: str, plans: dict[str, Plan], jobs: int) -> tuple[Rows, list[str]]:
    """Run cases and show the progress; return their figures by name, and what cannot run."""
    progress = Console(stderr=True)
    found: dict[str, Figures] = {}
    unable = []
    begun = time.monotonic()
    with progress.status(title) as status:
        for number, (name, result) in enumerate(run(plans, jobs), 1):
            if isinstance(result, str):
                unable.append(f"{name}: {result}")
            else:
                found[name] = result
            passed = time.monotonic() - begun
            status.update(f"{title}: {number} of {len(plans)} after {passed:.0f} s, last {name}")
            if not progress.is_terminal and number % 10 == 0:
                print(f"{title}: {number} of {len(plans)} after {passed:.0f} s", file=sys.stderr)
    return [(name, found[name]) for name in plans if name in found], unable


def table(rows: Rows) -> list[str]:
    """Return the table as aligned lines of at most 100 columns."""
    head = ("", "none", "publ.", "Phalanx", "oracle", "ratio", "1 s", "5 s", "t90%", "f.p.")
    body = [
        (
            name,
            *(f"{100 * case.service[arm]:.1f}" for arm in ARMS),
            f"{100 * case.of_oracle:.0f}",
            f"{100 * case.worst_1_s:+.1f}",
            f"{100 * case.worst_5_s:+.1f}",
            "never" if isinf(case.served_after_s) else f"{case.served_after_s:.0f} s",
            f"{100 * case.denied:.1f}",
        )
        for name, case in rows
    ]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *body)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def conclusion(rows: Rows) -> list[str]:
    """Return what all cases come to, and the violations."""
    ratios = sorted(case.of_oracle for _, case in rows)
    tenth = quantiles(ratios, n=10, method="inclusive")[0] if len(ratios) > 1 else ratios[0]
    below = [(name, case) for name, case in rows if case.violations]
    far = [(name, case) for name, case in rows if case.of_oracle < AIM_TENTH]
    lines = [
        f"{len(rows)} cases. Service relative to the oracle: {median(ratios):.1%} in the median "
        f"(aim {AIM_MEDIAN:.0%}),",
        f"{tenth:.1%} in the worst tenth (aim {AIM_TENTH:.0%}), {ratios[0]:.1%} in the worst case.",
        f"False positives: {max(case.denied for _, case in rows):.1%} at most.",
        "",
        f"Violations: {len(below)} of {len(rows)} cases.",
    ]
    for name, case in below:
        lines += [name, *(f"  {reason}" for reason in case.violations)]
    lines += ["", f"Below {AIM_TENTH:.0%} of the oracle: {len(far)} of {len(rows)} cases."]
    lines += [f"  {name}: {case.of_oracle:.0%}" for name, case in far]
    return lines


def unmitigated(rows: Rows) -> list[str]:
    """Return of which graphs the attack was not held off, and what the report says of it."""
    open_still = [(name, case.verdict) for name, case in rows if not case.mitigated]
    lines = [f"Mitigated on {len(rows) - len(open_still)} of {len(rows)} graphs."]
    return [*lines, *(f"  {name}: {verdict}" for name, verdict in open_still)]


LEGEND = f"""\
none, publ., Phalanx, oracle: share in % of what users wanted that they got over the attack,
  without defence, with the published strategy, with the service strategy, and with each attacker
  blocked at its entry at the instant at which it begins
ratio: Phalanx relative to the oracle, in %
1 s, 5 s: Phalanx minus no defence in its worst second during the attack, and in its worst window of
  {WINDOW_S} s in the run, in % of what users wanted; the attack's first {GRACE_S} s do not count
t90%: from the attack's start until users had 90 % of the oracle's service for 10 s
f.p.: false positives, the share in % of honest traffic that measures dropped over the whole run"""


def report(given: argparse.Namespace) -> tuple[list[str], dict[str, Rows]]:
    """Run what the options ask for; return all lines of the report, and the figures."""
    rows, unable = measure("cases", chosen(given), given.jobs)
    lines = [*table(rows), "", *LEGEND.splitlines(), "", *conclusion(rows), *unable]
    found = {"cases": rows}
    if given.data is not None:
        moved, unable = measure("graphs", graphs(given.data, given.seed), given.jobs)
        found["graphs"] = moved
        if moved:
            lines += ["", *table(moved), "", *unmitigated(moved), *conclusion(moved)]
        else:
            lines += ["", "no GraphML files in the folder of --data"]
        lines += unable
    return lines, found


PAGE = """\
# What the defence is worth

The table compares four answers to the same attack: none, the strategy as published, Phalanx with
its service strategy, and an oracle that knows every attacker by its label. All four runs of a case
have the same users, attackers and faults. A case is named by the attack, its shape, the topology
with its number of PoPs, and what is out of the ordinary:

{words}

The attack lasts 120 s unless its shape says otherwise; users want 1.25 MB/s, of which 1 MB/s at a
server behind 6 MB/s, and attackers send 6 MB/s. The table and this page are written by

    {command}

`--case NAME --log FILE` runs one case and writes its log for `phalanx explain` and
`phalanx report`. `--seed` draws other networks under the same names, `--random N` other cases.

```text
{table}
```
"""


def page(given: argparse.Namespace, lines: Sequence[str]) -> str:
    """Return the page with a report on it."""
    known = (cases.PEACE, cases.SHAPES, cases.AIMS, cases.RESOURCES, cases.FAULTS)
    words = "\n".join(f"- `{word}`: {what}" for group in known for word, what in group.items())
    command = " ".join(
        [COMMAND]
        + ["--quick"] * given.quick
        + [f"--case {name}" for name in given.case]
        + [f"--random {given.random}"] * bool(given.random)
        + [f"--seed {given.seed}"] * (given.seed != 1)
        + ["--data DIR"] * (given.data is not None)
        + [f"--page docs/{given.page.name}"]
    )
    return PAGE.format(words=words, command=command, table="\n".join(lines))


def main() -> None:
    given = arguments()
    try:
        if given.log:
            with JsonlSink(given.log) as sink:
                run_arm(next(iter(chosen(given).values()))(), given.arm, [sink])
        lines, found = report(given)
    except ValueError as error:
        sys.exit(f"{COMMAND}: {error}")
    print("\n".join(lines))
    if given.json:
        given.json.write_bytes(msgspec.json.encode(found))
    if given.page:
        given.page.write_text(page(given, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
