"""Trained models: a file for onnxruntime, and a card beside it that says what it is.

The card holds the digest of both. A model whose octets are not those of its card does not load,
so a flipped bit is an error and never a score.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnxruntime
from msgspec import Struct
from msgspec.structs import replace

from phalanx.analytics.metrics import Matrix, MetricError, MetricTable
from phalanx.analytics.profiles import ServiceProfile, Windows
from phalanx.domain.errors import PhalanxError

FOLDER = Path(__file__).with_name("trained")
"""The models that come with the package."""
LARGEST = 4 << 20
"""Octets of a model at most."""
MOST_GAPS = 0.5
"""Share of a window's values that may be missing; of more nothing is said."""
_encode = msgspec.json.Encoder(order="deterministic").encode
Role = Literal["detector", "classifier", "autoencoder", "forecaster"]


class ModelError(PhalanxError):
    """A model cannot be had, or is not what its card says; the message is one line."""


class Level(Struct, frozen=True, omit_defaults=True):
    """Where the metrics of a service are, and how far they go from there."""

    names: tuple[str, ...]
    middle: tuple[float, ...]
    """Means, in the metrics' units."""
    spread: tuple[float, ...]
    """Standard deviations."""
    trust: tuple[float, ...] = ()
    """As on the card, for this service alone; empty: as on the card."""
    errors: tuple[tuple[float, float], ...] = ()


class RebuildErrors(Struct, frozen=True):
    """How well an autoencoder rebuilds what is normal of a service."""

    largest: tuple[float, ...]
    """The error of each metric with which a row counts 1, if it has no other error. The worst
    two rows in a row of normal runs that were held back both count 1 at least."""
    usual: float
    """What half of their rows count at most."""


class ModelCard(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model is, what it was made of, and how well it did on what it had not seen."""

    name: str
    role: Role
    metrics: tuple[str, ...]
    """That it takes, in this order."""
    rows: int
    """Of a window."""
    step_s: float
    """Between two rows."""
    data: str
    """What it was trained on."""
    split: str
    """What it was judged on."""
    figures: dict[str, float]
    """How well, by name."""
    seed: int
    rebuild: str
    """The command that makes it again."""
    after: int = 0
    """Rows of a window that come after the one it is about."""
    kinds: tuple[str, ...] = ()
    """What a classifier tells apart, in the order of its outputs; the first is ``normal``."""
    threshold: float = 0.0
    """Of a detector's certainty, an autoencoder's score, or how far from all that a classifier
    knows something may be."""
    horizons: tuple[int, ...] = ()
    """Rows ahead that a forecaster tells."""
    targets: tuple[str, ...] = ()
    """Metrics that it tells."""
    trust: tuple[float, ...] = ()
    """For each of its outputs: how much of the change that it tells is believed, 0 to 1."""
    errors: tuple[tuple[float, float], ...] = ()
    """For each of its outputs: quantiles (5 % and 95 %) of what is missed, in spreads."""
    rebuilt: dict[str, RebuildErrors] = {}
    """By service, what an autoencoder's errors are measured in."""
    levels: dict[str, Level] = {}
    """Mean and spread for the services that a forecaster was trained on."""
    services: dict[str, ServiceProfile] = {}
    """What is usual for the services that it was trained on."""
    digest: str = ""
    """SHA-256 of the model's octets and of all the rest of this, in hexadecimal."""

    def outputs(self) -> list[tuple[int, str]]:
        """Return what a forecaster's outputs are: rows ahead, and the metric."""
        return [(ahead, target) for ahead in self.horizons for target in self.targets]

    def latest(self, service: str, table: MetricTable, rows: int) -> MetricTable:
        """Return the last rows of a table, as the model takes them.

        Raises:
            MetricError: if there are too few, or too many gaps in them, or they are not as far
                apart as those that the model was trained on.

        """
        if len(table) < rows:
            raise MetricError(f"{service}: {len(table)} rows; {rows} are needed")
        last = table.rows(len(table) - rows, len(table)).columns(self.metrics)
        apart = np.diff(last.times)
        odd = apart[np.abs(apart - self.step_s) > self.step_s / 2]
        if len(odd):
            raise MetricError(
                f"{service}: two rows are {odd[0]:g} s apart; model {self.name} takes one each "
                f"{self.step_s:g} s (phalanx collect --step makes them so)"
            )
        if np.isinf(last.values).any():
            raise MetricError(f"{service}: a metric is infinite")
        missing = float(np.isnan(last.values).mean())
        if missing > MOST_GAPS:
            raise MetricError(f"{service}: {missing:.0%} of the latest values are missing")
        return last

    def sealed(self, octets: bytes) -> ModelCard:
        """Return the card with the digest that belongs to a model's octets."""
        plain = replace(self, digest="")
        return replace(plain, digest=sha256(octets + _encode(plain)).hexdigest())


class Model:
    """A trained model, ready for windows; may be used from one thread at a time."""

    def __init__(self, card: ModelCard, octets: bytes) -> None:
        """Take a card and the model it belongs to.

        Raises:
            ModelError: if the octets are not the card's, or no model.

        """
        if card.sealed(octets).digest != card.digest:
            raise ModelError(f"model {card.name}: it is not what its card says; make it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.card, self.octets = card, octets
        try:
            self._session: Any = onnxruntime.InferenceSession(
                octets, options, providers=["CPUExecutionProvider"]
            )
            self(np.zeros((1, card.rows, len(card.metrics) + 1), np.float32))
        except Exception as fault:  # its errors share no base
            raise ModelError(f"model {card.name}: {str(fault).splitlines()[0]}") from None

    def __call__(self, windows: Windows) -> list[Matrix]:
        """Return the model's outputs for windows of (n, rows, metrics + 1)."""
        found = self._session.run(None, {"window": windows})
        return [np.asarray(output, dtype=np.float64) for output in found]

    def of(self, card: ModelCard) -> Model:
        """Return the same model with another card."""
        return Model(card.sealed(self.octets), self.octets)

    def save(self, folder: Path) -> None:
        """Write ``NAME.onnx`` and ``NAME.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.card.name}.onnx").write_bytes(self.octets)
        card = msgspec.json.format(_encode(self.card), indent=1)
        (folder / f"{self.card.name}.json").write_bytes(card + b"\n")


def load_model(name: str, folder: Path = FOLDER) -> Model:
    """Return a model of a folder; without one, of those that come with the package.

    Raises:
        ModelError: if there is none of that name, or it is not what its card says.

    """
    path = folder / f"{name}.json"
    try:
        card = msgspec.json.decode(path.read_bytes(), type=ModelCard)
        with path.with_suffix(".onnx").open("rb") as file:
            octets = file.read(LARGEST + 1)
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in folder.glob("*.json"))) or "none"
        raise ModelError(f"no model {name!r} in {folder}; there are: {known}") from None
    except (OSError, ValueError, msgspec.MsgspecError) as fault:
        raise ModelError(f"{path}: not a model's card: {fault}") from None
    if len(octets) > LARGEST:
        raise ModelError(f"{path.with_suffix('.onnx')}: over {LARGEST} octets")
    return Model(card, octets)
