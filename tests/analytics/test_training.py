"""Models that are trained: the same from the same seed, also after an interruption, and right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as with_

from phalanx.analytics.datasets import Run, kinds_of
from phalanx.analytics.forecasting import LoadForecaster
from phalanx.analytics.metrics import MetricError, MetricTable
from phalanx.analytics.profiles import profile_of
from phalanx.analytics.service_models import AutoencoderModel, TwoStages
from tests.analytics.made_runs import METRICS, run, runs

torch = pytest.importorskip("torch", reason="training needs the extra train")

from phalanx.analytics import evaluation, training  # noqa: E402
from phalanx.analytics.training import (  # noqa: E402
    AHEAD,
    REBUILT,
    Origin,
    Schedule,
    train_autoencoder,
    train_classes,
    train_forecaster,
)

ORIGIN = Origin("made", "made up", "")
BRIEF = with_(AHEAD, steps=80, batch=64)
SHORT = Schedule(epochs=6, steps=250)


def detector(
    seed: int = 0,
    resume: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> bytes:
    made = train_classes(
        runs(2), ORIGIN, naming=False, schedule=with_(SHORT, seed=seed),
        resume=resume, progress=progress,
    )  # fmt: skip
    return made.octets


def test_the_seed_tells_the_model_also_after_an_interruption(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def dies(epoch: int, most: int, loss: float) -> None:
        assert epoch <= most
        assert loss > 0
        if epoch == at:
            raise KilledError

    whole = detector()
    assert detector() == whole
    assert detector(seed=1) != whole
    for at in (1, 2):
        state = tmp_path / f"{at}"
        for epoch in range(at, 4):
            at = epoch  # noqa: PLW2901  # killed after each epoch, and once more at its end
            with pytest.raises(KilledError):
                detector(resume=state, progress=dies)
        assert detector(resume=state) == whole
    with pytest.raises(MetricError, match="of another training; remove it"):
        detector(seed=1, resume=state)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(MetricError, match="no training is kept in it"):
        detector(resume=state)


def test_two_stages_find_trouble_and_name_it_in_a_run_they_never_saw() -> None:
    learn = runs(2)
    judge = TwoStages(
        train_classes(learn, ORIGIN, naming=False, schedule=SHORT),
        train_classes(learn, ORIGIN, naming=True, schedule=SHORT),
    )
    assert judge.classifier.card.kinds == ("normal", "flood", "leak")
    new = run("cart", 7, ("flood", "leak"))
    profile = profile_of([run("cart", 7, ()).table.rows(0, 120)], METRICS)
    said = []
    for end in range(judge.rows, len(new.table)):
        verdict = judge("cart", new.table.rows(0, end), profile)
        said.append((verdict, new.table.labels[int(verdict.at_s)]))
    right = np.mean([verdict.kind == label for verdict, label in said])
    assert right > 0.9
    flood = next(v for v, label in said if v.kind == label == "flood")
    assert {cause.metric for cause in flood.causes} <= {"cpu", "requests"}
    leak = next(v for v, label in said if v.kind == label == "leak")
    assert leak.causes[0].metric == "memory"


def test_the_unit_of_a_metric_that_is_zero_without_trouble_comes_from_other_parts() -> None:
    learn = runs(2)
    for each in learn:
        flood = np.array(each.table.labels) == "flood"
        each.table.values[:, 2] = 1e-9 * (1 + each.part) * flood * (each.service == "cart")
    profiles = training.profiles_of(learn, METRICS)
    for service in ("cart", "streamer"):  # the latter has none of its own
        assert [profiles[service, part].scale[2] for part in (0, 1)] == [2e-9, 1e-9]
    card = train_autoencoder(learn, ORIGIN, schedule=with_(REBUILT, epochs=1, steps=1)).card
    assert [usual.scale[2] for usual in card.services.values()] == pytest.approx([1.5e-9] * 2)
    assert training.profiles_of(learn[:2], METRICS)["cart", 0].scale[2] == 1e-9  # one part alone


def test_an_exported_model_says_what_its_network_said() -> None:
    found = evaluation._examples(runs(2), kinds_of(runs(2)), training.CLASSIFIER)
    network = training.fit_classes(found, 3, with_(SHORT, epochs=1))
    card = training._card(runs(2), ORIGIN, "classifier", training.CLASSIFIER, SHORT)[0]
    logits, far = training.exported(network, card)(found.windows[:300])
    with torch.no_grad():
        expected = network(torch.from_numpy(found.windows[:300]))
    assert logits == pytest.approx(expected[0].numpy(), abs=1e-4)
    assert far == pytest.approx(expected[1].numpy(), rel=1e-3, abs=1e-3)


def test_a_kind_that_is_unlike_all_others_is_told_to_be_unknown() -> None:
    learn = runs(3, ("flood", "leak", "stall"))
    found = {one.kind: one for one in evaluation.unknown(learn, SHORT)}
    assert set(found) == {"flood", "leak", "stall"}
    for one in found.values():
        assert one.unknown + one.missed + one.mistaken == pytest.approx(1.0)
        assert one.unknown > 0.6
        assert one.lost < 0.5  # there are four troubles of a kind to learn from
        assert one.false < 0.05


def test_an_autoencoder_needs_no_examples_of_trouble() -> None:
    learn = [each for each in runs(8) if each.normal is not None]
    judge = AutoencoderModel(train_autoencoder(learn, ORIGIN, schedule=REBUILT))
    new, calm = run("cart", 7, ("flood",)), run("cart", 8, ())
    profile = profile_of([run("cart", 7, ()).table.rows(0, 120)], METRICS)

    def alarms(table: MetricTable) -> list[int]:
        ends = range(judge.rows, len(table) + 1)
        kinds = [judge("cart", table.rows(0, end), profile).kind for end in ends]
        return [end - 1 for end, kind in zip(ends, kinds, strict=True) if kind == "trouble"]

    assert len(alarms(calm.table)) < 0.1 * len(calm.table)
    assert 40 <= min(row for row in alarms(new.table) if row >= 40) <= 42
    with pytest.raises(MetricError, match="no run is normal from its beginning to its end"):
        train_autoencoder([new], ORIGIN)


def test_a_forecast_is_believed_as_far_as_it_helped() -> None:
    wave = [each for each in runs(3) if each.normal is not None]
    scores = evaluation.forecasts(wave, {"requests": 10.0}, BRIEF)
    assert {(one.service, one.metric) for one in scores} == {
        ("cart", "requests"),
        ("streamer", "requests"),
    }
    for one in scores:
        assert one.skill is not None
        assert one.skill > 0.3
        assert one.r2 > one.persistence_r2
        assert 0.7 < one.covered <= 1.0
    chance = np.random.default_rng(1)
    walks = []
    for part, each in enumerate([*wave, *wave]):
        table = replace(each.table, values=chance.normal(size=(260, 3)).cumsum(0))
        walks.append(Run("walk", f"walk-{part}", table, part))
    (walk,) = evaluation.forecasts(walks, {"cpu": 5.0}, BRIEF)
    assert walk.skill is not None
    assert walk.skill > -0.1
    model = train_forecaster(wave, ORIGIN, ("cpu", "memory"), (3, 10), schedule=BRIEF)
    told = LoadForecaster(model)("cart", wave[0].table)
    assert [(one.metric, one.ahead_s) for one in told] == [
        ("cpu", 3.0), ("memory", 3.0), ("cpu", 10.0), ("memory", 10.0)
    ]  # fmt: skip
    assert all(one.low <= one.value <= one.high for one in told)


def test_runs_that_cannot_be_learned_from_are_refused() -> None:
    other = run("cart", 0, ("flood",))
    names = replace(other, table=replace(other.table, names=("cpu", "memory", "hits")))
    with pytest.raises(MetricError, match=r"its metrics are cpu, memory, hits; expected are"):
        train_classes([other, names], ORIGIN, naming=False)
    fast = replace(other, name="fast")
    slow = replace(other, name="slow", table=replace(other.table, times=other.table.times * 10))
    with pytest.raises(MetricError, match=r"slow: its rows are 10 s apart, those of others 1 s"):
        train_classes([other, fast, slow], ORIGIN, naming=False)
    with pytest.raises(MetricError, match="cannot be split: name them"):
        list(evaluation.trials([other], [0]))
    silent = replace(other, table=replace(other.table, labels=()))
    with pytest.raises(MetricError, match="it has no column label"):
        train_classes([other, silent], ORIGIN, naming=False)
    brief = replace(other, table=other.table.rows(30, 60))
    with pytest.raises(MetricError, match="cart: 18 rows do not tell what is usual"):
        train_classes([brief], ORIGIN, naming=False)
    calm = run("cart", 0, ())
    calm = replace(calm, table=calm.table.rows(0, 25))
    with pytest.raises(MetricError, match="25 rows are too few to hold some of them back"):
        train_autoencoder([calm], ORIGIN)
    with pytest.raises(MetricError, match="no run has 40 rows"):
        train_forecaster([brief], ORIGIN, ("cpu",), (10,))


def test_the_score_of_a_kind_is_its_harmonic_mean() -> None:
    wanted, found = np.array([0, 1, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    whole, each = evaluation.scores(wanted, found, 4)
    assert each[:3] == pytest.approx([2 / 3, 4 / 5, 1 / 2])
    assert np.isnan(each[3])
    assert whole.accuracy == pytest.approx(4 / 6)
    assert whole.f1 == pytest.approx(np.mean(each[:3]))
    two, _ = evaluation.scores(np.minimum(wanted, 1), np.minimum(found, 1), 2)
    assert (two.precision, two.recall) == pytest.approx((1.0, 4 / 5))
