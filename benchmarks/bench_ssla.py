"""Security agreements: each metric is broken once on purpose, found, and repaired.

``scenarios/isolated-slices.yaml`` runs on virtual time, and again for each metric with nothing but
``notify`` and ``log`` as remedies for it: what the breach comes to when nobody repairs it. The
table shows for each metric what broke it and when, how long it took until the loop of the slice
found it, until the remedy was done, and how long the term was broken with remedies and without.

Run it with ``python benchmarks/bench_ssla.py [--seed N]``, or ``phalanx bench ssla``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec.structs import replace

from phalanx.policy.ssla import GuaranteeTerm, Remediation
from phalanx.reporting.ssla import TermStory
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import run_scenario
from tables import show

SCENARIO = Path(__file__).parents[1] / "scenarios" / "isolated-slices.yaml"
CAUSES = {
    "deploy-delay": (0.0, "the repository is away"),
    "foreign-sources": (30.0, "a rule is removed"),
    "clear-text": (45.0, "the encryption is removed"),
    "availability": (70.0, "more sensors than the hub can take"),
    "geolocation": (110.0, "a replica stands abroad"),
    "gtp-tunnels": (130.0, "a subscriber opens 60 tunnels"),
    "analysis-interval": (140.0, "the probe hangs"),
    "patch-delay": (152.0, "a patch is not applied"),
    "reconfigure-delay": (165.0, "a change is not applied"),
    "revoke-delay": (185.0, "the rule against a revoked camera is removed"),
    "switch-delay": (210.0, "the controller has no memory left"),
}
"""What the scenario breaks each metric by, and when, in s."""


NOTE = "unrepaired: for how long it is broken in a run in which nothing is done about this metric"


def only_told(plan: Scenario, metric: str) -> Scenario:
    """Return the plan with agreements that have nothing done about one metric."""
    assert plan.policy is not None
    told = (Remediation.NOTIFY, Remediation.LOG)

    def of(term: GuaranteeTerm) -> GuaranteeTerm:
        return replace(term, remediation=told) if term.metric.value == metric else term

    agreements = tuple(
        replace(each, terms=tuple(map(of, each.terms))) for each in plan.policy.agreements
    )
    return replace(plan, policy=replace(plan.policy, agreements=agreements))


def by_metric(plan: Scenario, seed: int) -> dict[str, TermStory]:
    """Run a plan; return how the terms were kept, by metric."""
    return {term.metric: term for term in run_scenario(plan, seed).summary.agreements}


def broken_s(term: TermStory, since: float) -> float:
    """Return for how long a term was broken since a time, in s."""
    breaches = (each for each in term.breaches if each.at_s >= since)
    return sum(term.until_s - b.at_s if b.lasted_s is None else b.lasted_s for b in breaches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the same: it takes some seconds")
    seed = parser.parse_args().seed
    plan = load_scenario(SCENARIO)
    with_remedies = by_metric(plan, seed)
    rows = []
    for metric, (at_s, why) in CAUSES.items():
        term = with_remedies[metric]
        breach = next((each for each in term.breaches if each.at_s >= at_s), None)
        if breach is None or breach.remedied_s is None:
            rows.append([metric, why, f"{at_s:g}", "never", "never", "", "", ""])
            continue
        found = breach.at_s - at_s
        figures = found, found + breach.remedied_s, broken_s(term, at_s)
        rest = broken_s(by_metric(only_told(plan, metric), seed)[metric], at_s)
        shown = (*(f"{each:.2f}" for each in figures), f"{rest:.1f}")
        rows.append([metric, why, f"{at_s:g}", *shown, breach.remedy])
    titles = ("metric", "broken by", "at s", "found", "repaired", "broken", "unrepaired", "by")
    show("Each metric of an agreement, broken on purpose; s after that", titles, rows, NOTE)


if __name__ == "__main__":
    main()
