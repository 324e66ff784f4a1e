"""A trained model as a detector: what it learns, what it says beside the rules, what it may not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from shutil import copytree

import pytest
from msgspec.structs import replace

from phalanx.analytics.detectors import DetectorError, Finding, detector_class, load_detector
from phalanx.analytics.model_detector import (
    CONFIRMED,
    MEANS,
    PROFILED,
    UNUSUAL_DELAY,
    UNUSUAL_LOAD,
    UNUSUAL_MEMORY,
    ModelDetector,
)
from phalanx.analytics.service_models import AutoencoderModel, TwoStages
from phalanx.analytics.service_rules import (
    HIGH_CPU,
    NETWORK_DELAY,
    NOT_JUDGED,
    RELIEVED,
)
from phalanx.domain.series import TimeSeries, TrafficWindow
from tests.analytics.small_models import (
    NAMES,
    USUAL,
    rebuilds_what_is_usual,
    two_stages,
)
from tests.analytics.test_service_models import REBUILDS

IP, ENTRY = "10.0.0.10", "west"
FIRST = PROFILED[0]
Rows = list[dict[str, float]]


def row(**changes: float) -> dict[str, float]:
    return {**dict(zip(NAMES, USUAL.scale, strict=True)), **changes}


def watched(judge: TwoStages | AutoencoderModel) -> ModelDetector:
    of = judge.detector if isinstance(judge, TwoStages) else judge.model
    return ModelDetector(judge, of.card, "small")


def said(
    detector: ModelDetector, rows: Rows, ip: str = IP, step_s: float = 1.0, begin: int = 0
) -> list[list[Finding]]:
    """Return what is found after each row; ``rtt_ms`` is of an entry."""
    found = []
    for end in range(begin + 1, len(rows) + 1):
        shown = list(enumerate(rows[:end]))[-60:]
        names = dict.fromkeys(name for _, each in shown for name in each)
        series = []
        for name in names:
            told = [(at * step_s, each[name]) for at, each in shown if name in each]
            subject = ENTRY if name == "rtt_ms" else ip
            series.append(TimeSeries(name, subject, "", *map(tuple, zip(*told, strict=True))))
        found.append(detector.examine(TrafficWindow(60, tuple(series))))
    return found


def kinds(found: Iterable[list[Finding]]) -> list[list[str]]:
    return [[finding.kind for finding in each] for each in found]


CALM: Rows = [row() for _ in range(FIRST)]


def test_until_it_knows_what_is_usual_the_model_says_that_it_does_not_judge() -> None:
    found = said(watched(two_stages()), [*CALM, row(), row()])
    assert kinds(found) == [[NOT_JUDGED]] * FIRST + [[], []]
    assert f"has not been well for {FIRST} rows yet" in found[0][0].reason


def test_a_kind_comes_with_certainty_causes_and_the_figures_behind_it() -> None:
    busy = [row(cpu=5.0, cpu_share=0.6) for _ in range(1 + CONFIRMED)]
    calm = [row(cpu_share=0.6) for _ in range(FIRST)]
    *before, last = said(watched(two_stages()), [*calm, *busy])
    (finding,) = last
    assert before[-1] == [], "one verdict is none"
    assert (finding.kind, finding.target, finding.source) == (HIGH_CPU, IP, None)
    assert 0.5 < finding.certainty < 1
    assert finding.evidence == {"cpu": 5.0}
    assert finding.reason.startswith("is that to model small, ")
    assert "cpu is 5, usually 0.5 (100%)" in finding.reason


def test_what_nothing_may_be_done_about_on_a_model_s_word_has_a_word_of_its_own() -> None:
    idle = [row(cpu=5.0, cpu_share=0.3) for _ in range(1 + CONFIRMED)]
    assert kinds(said(watched(two_stages()), [*CALM, *idle]))[-1] == [UNUSUAL_LOAD]
    leak = [row(memory=9e8) for _ in range(1 + CONFIRMED)]
    assert kinds(said(watched(two_stages()), [*CALM, *leak]))[-1] == [UNUSUAL_MEMORY]
    alike = [row(latency=9.0) for _ in range(1 + CONFIRMED)]
    assert kinds(said(watched(two_stages()), [*CALM, *alike]))[-1] == ["false alarm"]
    assert kinds(said(watched(two_stages(far=6.0)), [*CALM, row(), row()]))[-1] == ["unknown"]
    odd = watched(AutoencoderModel(rebuilds_what_is_usual(REBUILDS)))
    assert kinds(said(odd, [*CALM, *idle, *idle]))[-1] == ["trouble"]
    told = {UNUSUAL_LOAD, UNUSUAL_MEMORY, UNUSUAL_DELAY, "false alarm", "unknown", "trouble"}
    assert not told & {*RELIEVED}
    assert {*MEANS.values()} <= {*RELIEVED} | told


def test_a_slow_way_is_that_of_the_entry_that_is_slowest() -> None:
    names = "cpu", "rtt_ms", "latency"
    judge = two_stages(names=names, kinds=("normal", "cpu", NETWORK_DELAY))
    rows = [row(rtt_ms=20.0)] * FIRST + [row(rtt_ms=65.0)] * (1 + CONFIRMED)
    (finding,) = said(watched(judge), rows)[-1]
    assert (finding.kind, finding.target) == (NETWORK_DELAY, ENTRY)
    assert finding.evidence == {"rtt_ms": 65.0}


def test_the_rules_go_on_beside_it_and_have_the_last_word() -> None:
    full = [row(cpu=9.0, cpu_share=0.95) for _ in range(4)]
    learning = said(watched(two_stages()), [row(cpu_share=0.4) for _ in range(15)] + full)[-1]
    assert [finding.kind for finding in learning] == [HIGH_CPU, NOT_JUDGED]
    (finding,) = said(watched(two_stages()), [row(cpu_share=0.4) for _ in range(40)] + full)[-1]
    assert (finding.kind, finding.reason) == (HIGH_CPU, "uses at least 95% of its processors")


def test_rows_in_which_something_is_wrong_are_not_learned_from() -> None:
    early = [row(cpu_share=0.4)] * 10 + [row(cpu=5.0, cpu_share=0.95)] * 40
    after = [row(cpu_share=0.4)] * (FIRST + 15) + [row(cpu=5.0, cpu_share=0.45)] * 3
    detector = watched(two_stages())
    found = kinds(said(detector, early + after))
    assert found[49] == [HIGH_CPU, NOT_JUDGED], "so many rows, and still it does not judge"
    assert found[-1] == [HIGH_CPU], "after it, what was wrong is not usual"
    # Once it judges, what follows a trouble is not learned either: somebody may be at work on it.
    after = [row(cpu_share=0.4)] * FIRST + [row(cpu_share=0.95)] * 3
    relieved = [row(cpu=0.1, cpu_share=0.2)] * 100 + [row(cpu_share=0.45)] * 3
    assert kinds(said(watched(two_stages()), after + relieved))[-1] == []
    # What the model finds by itself is not learned from either, however long it lasts.
    long = said(watched(two_stages()), [*CALM, *[row(memory=9e8)] * 200])
    assert kinds(long)[-1] == [UNUSUAL_MEMORY]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row(), {"cpu": 0.5, "latency": 0.02}] * 30, ""),
        ([{"cpu": 0.5, "memory": 1e8}] * 40, "is judged without latency: not read"),
        ([{"cpu": 0.5}] * 40, "of the latest values are missing"),
        ([{"disk": 0.5}] * 40, "100% of the latest values are missing"),
    ],
)
def test_metrics_that_are_missing_are_told_and_never_scored_in_silence(
    rows: Rows, why: str
) -> None:
    last = said(watched(two_stages()), rows)[-1]
    assert [finding.kind for finding in last] == [NOT_JUDGED] * bool(why)
    assert all(why in finding.reason for finding in last)


def test_rows_too_far_apart_and_figures_that_are_none_are_told() -> None:
    slow = said(watched(two_stages()), [*CALM, row(), row()], step_s=3.0)[-1]
    assert "two rows are 3 s apart; model first takes one each 1 s" in slow[0].reason
    odd = said(watched(two_stages()), [*CALM, row(memory=float("inf"))])[-1]
    assert "a metric is infinite" in odd[0].reason
    assert kinds(said(watched(two_stages()), [row(memory=float("inf")), *CALM, row()]))[-1] == []


def test_what_is_usual_for_one_service_is_not_for_another() -> None:
    detector, high = watched(two_stages()), [row(cpu=5.0)] * (FIRST + 5)
    assert kinds(said(detector, high, "10.0.0.20"))[-1] == []
    assert kinds(said(detector, CALM + high[:3]))[-1] == [UNUSUAL_LOAD]
    assert kinds(said(detector, high, "10.0.0.20", begin=len(high) - 1))[-1] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a detector and a classifier."""
    judge = two_stages()
    judge.detector.save(tmp_path / "models")
    judge.classifier.save(tmp_path / "models")
    return tmp_path / "models"


def test_a_model_is_named_by_its_folder_and_each_watcher_has_a_detector(folder: Path) -> None:
    one, other = load_detector(f"model:{folder}/"), load_detector(f"model:{folder}/")
    assert one is not other
    assert kinds(said(one, [*CALM, row(memory=9e8), *[row(memory=9e8)] * CONFIRMED]))[-1] == [  # type: ignore[arg-type]
        UNUSUAL_MEMORY
    ]
    assert kinds(said(other, [row()])) == [[NOT_JUDGED]]  # type: ignore[arg-type]
    assert isinstance(load_detector("model:vcdn"), ModelDetector)


def _flip(folder: Path) -> None:
    octets = bytearray((folder / "small.onnx").read_bytes())
    octets[len(octets) // 2] ^= 4
    (folder / "small.onnx").write_bytes(octets)


def _third(folder: Path) -> None:
    same = two_stages().classifier
    same.of(replace(same.card, name="third")).save(folder)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_flip, "model small: it is not what its card says; make it again"),
        (lambda f: (f / "small.onnx").unlink(), "no model 'small' in"),
        (lambda f: (f / "first.json").unlink(), "no detector and classifier, and no autoencoder"),
        (lambda f: (f / "small.json").write_text("{"), "not a model's card"),
        (_third, "two models of the role classifier"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used_are_refused_in_one_line(
    folder: Path, harm: Callable[[Path], object], why: str
) -> None:
    harmed = Path(copytree(folder, folder.with_name("harmed")))
    harm(harmed)
    with pytest.raises(DetectorError, match=why) as refused:
        load_detector(f"model:{harmed}/")
    assert "\n" not in str(refused.value)


def test_a_name_that_no_model_has_is_refused() -> None:
    for name in ("model:nobody", "model:vc", "model:./nowhere/"):
        with pytest.raises(DetectorError, match="found: none"):
            load_detector(name)
    detector_class.cache_clear()
