"""Models and their cards: what is not as it was made does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.analytics.metrics import MetricError
from phalanx.analytics.models import LARGEST, Model, ModelError, load_model
from tests.analytics.small_models import NAMES, card, model, steps
from tests.nightly import examples

SMALL = model(card("detector"), np.ones((5, 4, 2)), (0.0, 1.0))


def test_a_model_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    SMALL.save(tmp_path)
    loaded = load_model("small", tmp_path)
    assert loaded.card == SMALL.card
    windows = np.random.default_rng(0).random((7, 5, 4), np.float32)
    assert loaded(windows)[0] == pytest.approx(np.array(SMALL(windows)[0]))
    assert loaded(windows)[0][:, 1] - loaded(windows)[0][:, 0] == pytest.approx(1.0)


@settings(max_examples=examples(24), deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_model_or_card_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("model")
    SMALL.save(folder)
    path = folder / data.draw(st.sampled_from(["small.onnx", "small.json"]))
    octets = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(octets) - 1))
    octets[bit // 8] ^= 1 << bit % 8
    path.write_bytes(octets)
    try:
        loaded = load_model("small", folder)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:  # white space of the card's layout may differ, nothing else
        assert (loaded.card, loaded.octets) == (SMALL.card, SMALL.octets)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'small' in .*; there are: none"):
        load_model("small", tmp_path)
    SMALL.save(tmp_path)
    with pytest.raises(ModelError, match=r"no model 'other' in .*; there are: small"):
        load_model("other", tmp_path)
    (tmp_path / "small.onnx").unlink()
    with pytest.raises(ModelError, match="no model 'small'"):
        load_model("small", tmp_path)
    with (tmp_path / "small.onnx").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ModelError, match="over 4194304 octets"):
        load_model("small", tmp_path)
    fields = json.loads((tmp_path / "small.json").read_text()) | {"note": "mine"}
    (tmp_path / "small.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"not a model's card: .*`note`"):
        load_model("small", tmp_path)
    with pytest.raises(ModelError, match=r"^model small: "):
        Model(card("detector").sealed(b"no graph"), b"no graph")
    for wrong in ({"rows": 4}, {"metrics": NAMES[:2]}):
        with pytest.raises(ModelError, match=r"^model small: .*window"):
            SMALL.of(card("detector", **wrong))


def test_rows_are_taken_as_the_model_takes_them() -> None:
    taken = card("detector", step_s=10.0)
    rows = steps(9).columns(("memory", "new", "cpu"))
    with pytest.raises(MetricError, match="shop: 4 rows; 5 are needed"):
        taken.latest("shop", rows.rows(0, 4), 5)
    with pytest.raises(MetricError, match=r"two rows are 1 s apart; .* one each 10 s"):
        taken.latest("shop", rows, 5)
    taken = card("detector")
    latest = taken.latest("shop", rows, 5)
    assert (latest.names, latest.times.tolist()) == (NAMES, [4.0, 5.0, 6.0, 7.0, 8.0])
    assert np.isnan(latest.values[:, 2]).all()
    with pytest.raises(MetricError, match="67% of the latest values are missing"):
        taken.latest("shop", rows.columns(("memory",)), 5)
    rows.values[-1, 0] = np.inf
    with pytest.raises(MetricError, match="a metric is infinite"):
        taken.latest("shop", rows, 5)
    rows.times[-1] += 100.0
    with pytest.raises(MetricError, match="two rows are 101 s apart"):
        taken.latest("shop", rows, 5)


def test_the_base_package_needs_none_of_the_libraries_of_training() -> None:
    code = """
import sys
import phalanx, phalanx.cli.main, phalanx.cli.train, phalanx.cli.evaluate
import phalanx.analytics.service_models, phalanx.analytics.forecasting
print({"torch", "sklearn", "shap", "lime", "pandas", "onnx", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
