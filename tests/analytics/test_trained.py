"""The models that come with the package: what their cards say, and made again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.analytics.datasets import read_runs
from phalanx.analytics.models import FOLDER, ModelCard, load_model
from phalanx.analytics.service_models import AutoencoderModel
from phalanx.cli.main import app

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "vcdn.tar.xz"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
TOLERANCE = {"false alarms an hour": 0.5}
"""Figures of a model that is made again differ by this at most; shares by 0.15."""


@pytest.fixture(scope="module")
def vcdn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the recorded runs."""
    if not DATA.exists():
        pytest.skip("the recorded runs come with the source checkout")
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(DATA) as archive:
        archive.extractall(folder, filter="data")
    return folder / "vcdn"


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_comes_with_the_package_is_small_and_says_what_it_is(name: str) -> None:
    assert NAMES
    model = load_model(name)
    assert len(model.octets) <= 300_000
    card = model.card
    assert card.name == name
    assert card.figures
    assert all((card.data, card.split, card.rebuild.startswith("phalanx train ")))
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(NAMES)


def test_the_autoencoder_finds_the_floods_it_was_never_shown(vcdn: Path) -> None:
    judge = AutoencoderModel(load_model("vcdn-autoencoder"))
    run = next(r for r in read_runs(vcdn) if r.service == "streamer" and r.normal is None)
    labels = run.table.labels
    assert "http flood" in labels
    begun = labels.index("http flood")
    profile = judge.model.card.services["streamer"]
    said = [
        judge("streamer", run.table.rows(0, end), profile).kind
        for end in range(begun - 20, begun + 4)
    ]
    assert "trouble" not in said[:21]  # the last of these ends with the row before the flood
    assert "trouble" in said[21:]


def test_a_model_made_again_has_the_figures_of_its_card(vcdn: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    card = load_model("vcdn-autoencoder").card
    words = card.rebuild.replace(" vcdn ", f" {vcdn} ").split()[1:]
    done = CliRunner().invoke(app, [*words, "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    again: ModelCard = load_model(card.name, tmp_path).card
    assert set(again.figures) == set(card.figures)
    for name, figure in again.figures.items():
        assert figure == pytest.approx(card.figures[name], abs=TOLERANCE.get(name, 0.15)), name
    assert again.threshold == pytest.approx(card.threshold, rel=0.1)
