"""Models of services on the command line: trained, judged, and asked."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.cli.main import app
from tests.analytics.made_runs import runs, written
from tests.analytics.small_models import NAMES
from tests.analytics.test_forecasting import forecaster
from tests.cli.test_bench_smoke import quick


def phalanx(*words: object, code: int = 0) -> Result:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def refused(*words: object) -> str:
    said = phalanx(*words, code=2).stderr
    assert said.count("\n") == 1
    return said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "shops", 3)


def test_a_forecast_is_told_with_its_interval(tmp_path: Path) -> None:
    forecaster()._model.save(tmp_path)
    rows = [",".join(("time", *NAMES)), *(f"{row},{100 + row},100,100" for row in range(8))]
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    words = ("forecast", tmp_path / "shop.csv", "--model", tmp_path / "small.json")
    said = phalanx(*words).stdout
    assert "108" in next(line for line in said.splitlines() if "cpu" in line)
    told = json.loads(phalanx(*words, "--json").stdout)
    assert told[0]["metric"] == "cpu"
    assert (told[0]["low"], told[0]["value"], told[0]["high"]) == pytest.approx((98, 108, 128))
    assert told[0]["service"] == "shop"
    lost = refused("forecast", tmp_path / "shop.csv", "--model", tmp_path / "none.json")
    assert "no model 'none'" in lost
    assert "there are: small" in lost
    (tmp_path / "shop.csv").write_text("time,cpu\n0,1\n")
    assert "1 rows; 5 are needed" in refused(*words)


def test_what_cannot_be_trained_is_refused_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = ("--to", tmp_path / "models")
    assert "--ahead METRIC=S is needed" in refused("train", "forecaster", data, *to)
    assert "for nothing else" in refused("train", "detector", data, *to, "--ahead", "cpu=3")
    assert "no such metric" in refused("train", "forecaster", data, *to, "--ahead", "disk=3")
    for wrong in ("cpu", "cpu=0", "cpu=1e3", "=3", "cpu=-1"):
        assert "not METRIC=SECONDS" in refused("evaluate", "--data", data, "--ahead", wrong)
    assert "no runs" in refused("train", "detector", tmp_path / "models", *to)
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in ("networks", "training", "evaluation"):
        monkeypatch.delitem(sys.modules, f"phalanx.analytics.{module}", raising=False)
    assert "torch is needed: pip install 'phalanx[train]'" in refused(
        "train", "detector", data, *to
    )


def test_a_model_is_trained_judged_and_asked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    from phalanx.analytics import evaluation, training  # noqa: PLC0415

    for module in (evaluation, training):  # as trained as a test needs it
        monkeypatch.setattr(module, "AHEAD", replace(training.AHEAD, steps=80, batch=64))
    to = ("--to", tmp_path / "models")
    said = phalanx("train", "forecaster", data, *to, "--ahead", "requests=10").stdout
    assert "skill over persistence, requests 0." in said.replace("\n", " ")
    card = json.loads((tmp_path / "models" / "forecaster.json").read_text())
    assert card["rebuild"] == (
        "phalanx train forecaster shops --name forecaster --seed 0 --ahead requests=10"
    )
    assert card["figures"]["skill over persistence, requests"] > 0.1
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "forecaster.json",
        "forecaster.onnx",
    ]
    said = phalanx("evaluate", "--data", data, "--ahead", "requests=10").stdout
    assert "mean skill over persistence 0." in said
    assert re.search(r"^\W*cart +0\.", said, re.MULTILINE)
    latest = data / "cart" / "normal-1.csv"
    words = ("forecast", latest, "--model", tmp_path / "models" / "forecaster.json")
    assert "requests" in phalanx(*words, "--service", "cart").stdout
    calm = [each for each in runs(2) if each.normal is None]
    assert calm  # what is told apart needs two kinds
    for path in data.glob("*/flood-leak-*.csv"):
        path.unlink()
    assert "nothing to tell apart" in refused("train", "detector", data, *to)
    assert "nothing to tell apart" in refused("evaluate", "--data", data)


def test_the_benchmark_of_inference_judges_with_models_of_each_role() -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    told = quick("inference")
    for what in ("two stages: normal", "LSTM autoencoder", "LSTM forecast", "services judged"):
        assert what in told


def test_an_evaluation_puts_the_models_beside_each_other(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    from phalanx.analytics import evaluation  # noqa: PLC0415

    monkeypatch.setattr(evaluation, "Schedule", partial(evaluation.Schedule, steps=250, epochs=6))
    words = ("evaluate", "--data", data, "--seeds", 1, "--by-run")
    found = json.loads(phalanx(*words, "--json").stdout)
    assert {(one["task"], one["model"]) for one in found} == {
        (task, model)
        for task in ("detection", "naming")
        for model in ("1D-CNN", "MLP", "Random Forest", "SVM")
    } | {("naming", "two stages")}
    by = {(one["task"], one["model"]): one for one in found}
    assert by["detection", "1D-CNN"]["mean"]["f1"] > 0.9
    assert set(by["naming", "two stages"]["f1"]) == {"normal", "flood", "leak"}


def test_trouble_is_found_without_examples(data: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    said = phalanx("evaluate", "--data", data, "--normal-only").stdout
    assert "false alarms an hour, in 0.22 h" in said
    cells = [line.replace("│", " ").split() for line in said.splitlines() if "flood" in line]
    assert [service for _, service, *_ in cells] == ["cart", "streamer"]
    assert all(found.startswith("3/3") for _, _, found, *_ in cells)
