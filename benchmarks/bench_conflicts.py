"""Conflicts of policy rules: the analysis beside NumPy on all pairs and z3, in one run.

Run it with ``python benchmarks/bench_conflicts.py``; ``--quick`` draws 1,000 rules and no more.
Sets are drawn as ClassBench describes real ones (Taylor and Turner, INFOCOM 2005): prefixes that
nest in a tree whose branches are unevenly used, few services used often; an access list (few
wildcards, mostly hosts at the target), the same with a last rule that denies all, and a firewall
(one address in fifty is a wildcard). All is seeded; only the times vary. Seconds of the processor
are printed beside those of the clock, since others may use the machine.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from phalanx.policy.boxes import V6, real
from phalanx.policy.conflicts import ConflictAnalysis
from phalanx.policy.overlaps import RuleTranslator
from phalanx.policy.rules import (
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleMatch,
    RuleSet,
    Segment,
)
from tables import QUICK, milliseconds, show

T = TypeVar("T")
PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)
WELL_KNOWN = (20, 21, 22, 23, 25, 53, 80, 110, 123, 143, 389, 443, 445, 993, 1433, 3306, 5432)
RANGES = ((1024, 65_535), (0, 1023), (137, 139), (6000, 6063))
WILD = {"access list": 0.002, "closed list": 0.002, "firewall": 0.02}
UPDATES = 200
Z3_RULES = 60


def prefixes(rng: random.Random, count: int, hosts: float) -> list[str]:
    """Draw prefixes: networks of 16 bits, used unevenly, in them subnets, in these hosts."""
    networks = [rng.getrandbits(16) << 16 for _ in range(max(4, count // 200))]
    weights = [1 / (1 + place) ** 0.5 for place in range(len(networks))]
    found = []
    for network in rng.choices(networks, weights, k=count):
        kind = rng.random()
        length = 32 if kind < hosts else 24 if kind < hosts + 0.3 else rng.randint(16, 31)
        address = (network | rng.getrandbits(16)) >> (32 - length) << (32 - length)
        octets = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
        found.append(f"{octets}/{length}")
    return found


def generated(count: int, kind: str) -> RuleSet:
    """Return a rule set, the same one each time."""
    rng = random.Random(f"{kind} {count}")
    sources, targets = prefixes(rng, count, 0.3), prefixes(rng, count, 0.6)
    ports = [PortRange(port, port) for port in WELL_KNOWN] + [PortRange(*each) for each in RANGES]

    def side(pool: list[str]) -> Segment:
        return Segment() if rng.random() < WILD[kind] else Segment((rng.choice(pool),))

    rules = []
    for number in range(count):
        protocol: Any = rng.choices(("tcp", "udp", "icmp", None), (65, 20, 5, 10))[0]
        chosen = (rng.choice(ports),) if protocol in {"tcp", "udp"} else ()
        match = RuleMatch(side(sources), side(targets), protocol, (), chosen)
        rules.append(PolicyRule(f"r{number}", PERMIT if rng.random() < 0.7 else DENY, match))
    if kind == "closed list":
        rules[-UPDATES - 1] = PolicyRule("last", DENY)
    return RuleSet("generated", tuple(rules), PolicyVerdict.DENY)


def timed(run: Callable[[], T]) -> tuple[T, float, float]:
    """Return what a call returns, with the seconds of the clock and of the processor it took."""
    clock, processor = time.perf_counter(), time.process_time()
    found = run()
    return found, time.perf_counter() - clock, time.process_time() - processor


def all_pairs(rules: RuleSet) -> Counter[str]:
    """Compare each rule with all after it, with NumPy: what one would write first."""
    translator = RuleTranslator()
    made = [real(translator.whole(rule)) for rule in rules.rules]
    fields = (0, 1, 2, 4)  # those that these sets use; each set is one span
    bounds = np.array([[b[f][0] for f in fields] for b in made if b], dtype=object)
    bounds = np.minimum(bounds, V6 + 1).astype(np.int64)
    low, high = bounds[:, :, 0].T.copy(), bounds[:, :, 1].T.copy()
    denied = np.array([rule.action == DENY for rule in rules.rules])
    counts: Counter[str] = Counter()
    for row in range(len(made) - 1):
        rest = slice(row + 1, None)
        meets = (low[:, rest] < high[:, row, None]) & (low[:, row, None] < high[:, rest])
        later = np.nonzero(meets.all(axis=0))[0] + row + 1
        holds = (low[:, later] >= low[:, row, None]) & (high[:, later] <= high[:, row, None])
        held = (low[:, later] <= low[:, row, None]) & (high[:, later] >= high[:, row, None])
        down, up = holds.all(axis=0), held.all(axis=0)
        differ = denied[later] != denied[row]
        clash = later[differ][0] if differ.any() else len(made)
        counts["shadowing"] += int((differ & down).sum())
        counts["generalisation"] += int((differ & up & ~down).sum())
        counts["correlation"] += int((differ & ~up & ~down).sum())
        counts["redundancy"] += int((~differ & (down | (up & (later < clash)))).sum())
    return counts


def with_z3(rules: RuleSet) -> Counter[str]:
    """Ask a solver about each pair: whether they overlap, and whether one has all of the other."""
    import z3  # noqa: PLC0415  # of the group bench

    translator = RuleTranslator()
    made = [real(translator.whole(rule)) for rule in rules.rules]
    names = z3.Ints("source target protocol source_port port")

    def formula(box: Any) -> Any:
        parts = [
            z3.Or(*(z3.And(first <= name, name < after) for first, after in spans))
            for name, spans in zip(names, box, strict=False)
        ]
        return z3.And(*parts)

    formulas = [formula(box) for box in made]
    solver = z3.Solver()

    def possible(*wanted: Any) -> bool:
        solver.push()
        solver.add(*wanted)
        found = solver.check() == z3.sat
        solver.pop()
        return bool(found)

    counts: Counter[str] = Counter()
    clashes: dict[int, list[int]] = {}
    for i, j in combinations(range(len(made)), 2):
        one, other = formulas[i], formulas[j]
        if not possible(one, other):
            continue
        down, up = not possible(other, z3.Not(one)), not possible(one, z3.Not(other))
        if rules.rules[i].action != rules.rules[j].action:
            clashes.setdefault(i, []).append(j)
            kind = "shadowing" if down else "generalisation" if up else "correlation"
            counts[kind] += 1
        elif down or (up and not clashes.get(i)):
            counts["redundancy"] += 1
    return counts


def pairs_only(analysis: ConflictAnalysis) -> dict[str, int]:
    """Return the counts of conflicts of two rules, as the other two count them."""
    counts = Counter(analysis.counts)
    for each in analysis.conflicts():
        if len(each.others) > 1:
            counts[each.kind.value] -= 1
    return {kind: number for kind, number in counts.items() if number}


def spread(changes: list[Callable[[], object]]) -> str:
    """Return the median and the 95th of a hundred of some changes' times in ms of the processor."""
    times = sorted(timed(change)[2] for change in changes)
    return f"{milliseconds(times):.2f} / {1e3 * times[int(0.95 * len(times))]:.1f}"


def updates(analysis: ConflictAnalysis, fresh: list[PolicyRule], size: int) -> list[str]:
    rng = random.Random(size)
    places = [rng.randrange(size) for _ in fresh]
    ids = [rule.id for rule in fresh]
    return [
        spread([partial(analysis.add, *each) for each in zip(fresh, places, strict=True)]),
        spread([partial(analysis.move, *each) for each in zip(ids, places[::-1], strict=True)]),
        spread([partial(analysis.remove, each) for each in ids]),
    ]


def main() -> None:
    sizes = (1_000,) if QUICK else (1_000, 10_000, 100_000)
    rows, changes = [], []
    ConflictAnalysis(generated(1_000, "firewall"))  # what is done once is no matter of size
    for kind in WILD:
        base = 0.0
        for size in sizes:
            drawn = generated(size + UPDATES, kind)
            rules = replace(drawn, rules=drawn.rules[:size])
            analysis, clock, processor = timed(partial(ConflictAnalysis, rules))
            report, _, told = timed(partial(analysis.report, 1_000))
            if size <= 10_000:
                counts, _, base = timed(partial(all_pairs, rules))
                assert dict(+counts) == pairs_only(analysis)
                pairs = f"{base:.2f}"
            else:
                base *= 100
                pairs = f"({base:.0f})"
            ratio = f"{base / processor:.0f}"
            found = f"{sum(report.counts.values())}{'' if report.listed else ' counted'}"
            overlaps = f"{report.overlaps}"
            times = f"{processor:.3f}", f"{clock:.3f}", f"{told:.2f}"
            rows.append([kind, f"{size}", overlaps, found, *times, pairs, ratio])
            if report.listed:
                fresh = list(drawn.rules[size:])
                changes.append([kind, f"{size}", *updates(analysis, fresh, size)])
    show(
        "Analysis of a set, in seconds of the processor",
        (
            "set",
            "rules",
            "overlaps",
            "conflicts",
            "s",
            "s, clock",
            "s, 1,000 told",
            "s, all pairs",
            "ratio",
        ),
        rows,
        "all pairs: NumPy, a rule against all after it; of 100,000 rules a hundred times 10,000",
    )
    show(
        f"Updates in ms of the processor, median / 95 of 100, of {UPDATES}",
        ("set", "rules", "add", "move", "remove"),
        changes,
    )
    rules = replace(drawn, rules=generated(Z3_RULES, "firewall").rules)
    try:
        counts, _, solver = timed(partial(with_z3, rules))
    except ModuleNotFoundError:
        print("z3 is not installed: pip install z3-solver")
        return
    analysis, _, ours = timed(partial(ConflictAnalysis, rules))
    assert dict(+counts) == pairs_only(analysis)
    print(
        f"z3, {Z3_RULES} rules of a firewall: {solver:.2f} s, ours {ours:.4f} s: "
        f"ratio {solver / ours:.0f}; the same conflicts"
    )


if __name__ == "__main__":
    main()
