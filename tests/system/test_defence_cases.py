"""The cases of the defence benchmark: what they are, how they are judged, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.runtime.loading import offences
from phalanx.runtime.system import System
from tests.nightly import at_night, sample

ROOT = Path(__file__).resolve().parents[2]

import bench_defence  # noqa: E402
import defence_cases as cases  # noqa: E402
from defence_figures import ARMS, Trace, attack_span, figures, run_arm  # noqa: E402
from rings import mitigate, ring_scenario  # noqa: E402

SMALL = "syn/steady/line-4"


@pytest.fixture(scope="module")
def traces():
    plan = cases.scenario(cases.named(SMALL), 1)
    return {arm: run_arm(plan, arm) for arm in ARMS}


def test_the_table_has_cases_of_every_kind_and_each_is_a_valid_scenario():
    names = [case.name for case in cases.TABLE]
    assert len(set(names)) == len(names) >= 60
    for words in (
        cases.ATTACKS,
        cases.PEACE,
        cases.SHAPES,
        cases.FAMILIES,
        cases.AIMS,
        cases.RESOURCES,
        cases.FAULTS,
    ):
        for word in words:
            assert any(
                part == word or part.startswith(f"{word}-") for n in names for part in n.split("/")
            ), word
    for case in sample(cases.TABLE, 3):
        assert cases.named(case.name) == case
        assert [*offences(cases.scenario(case, 7))] == []


def test_a_seed_makes_a_case_and_another_seed_another():
    case = cases.named("udp/waves/mesh-24/scarce/cut")
    assert cases.scenario(case, 3) == cases.scenario(case, 3)
    assert cases.scenario(case, 3).network != cases.scenario(case, 4).network


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sin/steady/ring-6", "no attack 'sin'"),
        ("syn/steady/ring", "a ring needs a size"),
        ("syn/steady/ring-6/crush", "no circumstance 'crush'"),
        ("syn/steady/ring-6/cut/crash", "only one of"),
    ],
)
def test_an_unknown_case_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        cases.named(name)


@at_night
def test_nothing_else_happens_to_users_than_what_defends_them(traces):
    plan = cases.scenario(cases.named(SMALL), 1)
    start = int(attack_span(plan)[0])
    wanted = [[row[2] for row in trace.rows()] for trace in traces.values()]
    assert all(one == wanted[0] for one in wanted)
    before = [[row[1] for row in trace.rows()][: start - 1] for trace in traces.values()]
    assert all(one == before[0] for one in before)


def test_an_oracle_gives_users_all_and_an_attack_without_defence_does_not(traces):
    service = figures(cases.scenario(cases.named(SMALL), 1), traces).service
    assert service["oracle"] > 0.99
    assert service["none"] < 0.9
    assert sum(traces["oracle"].denied) == sum(traces["none"].denied) == 0


def test_honest_traffic_that_a_limit_drops_is_counted(traces):
    trace = traces["published"]
    worst = max(range(len(trace.times)), key=lambda second: trace.denied[second])
    _, got, wanted = trace.rows()[worst]
    assert 0.1 < trace.denied[worst] <= wanted - 0.5 * got


ALL = int(os.environ.get("PHALANX_PLANS", "100")) > 100
JUDGED = (
    [*cases.TABLE, *cases.LARGE]
    if ALL
    else [
        *cases.QUICK[6:7],
        cases.named("syn/steady/ring-6/neighbour"),
    ]
)


@pytest.mark.parametrize("name", [case.name for case in JUDGED])
def test_users_are_never_worse_off_than_without_defence_and_nearly_as_well_as_with_an_oracle(name):
    plan = cases.scenario(cases.named(name), 1)
    case = figures(plan, {arm: run_arm(plan, arm) for arm in ("none", "phalanx", "oracle")})
    assert case.violations == ()
    assert case.of_oracle > bench_defence.AIM_TENTH
    assert case.denied < 0.01


TWO = ("phalanx", "oracle")


@at_night
def test_two_hundred_agents_hold_an_attack_off_within_seconds():
    plan = replace(cases.scenario(cases.named("syn/steady/mesh-200"), 1), duration_s=50.0)
    ours, theirs = (sum(got for _, got, _ in run_arm(plan, arm).rows()[30:]) for arm in TWO)
    assert ours > 0.95 * theirs > 0


def dipped(trace: Trace, first: int, last: int, host: str) -> Trace:
    """Return a trace in which a host's users get nothing for some seconds."""
    own = tuple(
        0.0 if first <= second < last else got for second, got in enumerate(trace.got[host])
    )
    return replace(trace, got={**trace.got, host: own})


def judged(traces, ours: Trace):
    plan = cases.scenario(cases.named(SMALL), 1)
    return figures(plan, {**traces, "phalanx": ours}).violations


def test_a_defence_worse_than_none_is_a_violation(traces):
    none = traces["none"]
    assert judged(traces, none) == ()
    assert judged(traces, dipped(none, 20, 25, "server")) == (), "the first five seconds"
    for first in (5, 60, 150):  # before, during and after the attack
        (violation,) = judged(traces, dipped(none, first, first + 3, "server"))
        assert violation.startswith("users below no defence")


def test_harm_to_one_host_is_a_violation_even_if_another_gains(traces):
    gained = replace(
        traces["none"], got={**traces["none"].got, "server": traces["oracle"].got["server"]}
    )
    (violation,) = judged(traces, dipped(gained, 60, 70, "office"))
    assert violation.startswith("users of office below no defence")


def test_the_report_is_at_most_100_columns_wide(traces):
    plan = cases.scenario(cases.named(SMALL), 1)
    longest = max((case.name for case in cases.TABLE), key=len)
    lines = bench_defence.table([(longest, figures(plan, traces))])
    assert max(map(len, [*lines, *bench_defence.LEGEND.splitlines()])) <= 100


@at_night
def test_one_case_is_run_again_by_its_name(tmp_path):
    log, page = tmp_path / "case.jsonl", tmp_path / "defence.md"
    command = [sys.executable, "-m", "phalanx", "bench", "defence", "--case", SMALL]
    done = subprocess.run(
        [*command, "--log", str(log), "--page", str(page), "--jobs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"{SMALL}  ")]
    assert row in page.read_text(encoding="utf-8")
    assert f"phalanx bench defence --case {SMALL} --page docs/defence.md" in page.read_text()
    assert b'"run.ended"' in log.read_bytes()


def test_the_attack_of_the_memory_benchmark_is_stopped() -> None:
    mitigate(System(ring_scenario(6)))  # raises otherwise
