"""Models that are known to the last figure: sums and weights, in the format of trained ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from phalanx.analytics.metrics import MetricTable
from phalanx.analytics.models import Level, Model, ModelCard
from phalanx.analytics.profiles import ServiceProfile
from phalanx.analytics.service_models import TwoStages

NAMES = "cpu", "memory", "latency"
USUAL = ServiceProfile(NAMES, (0.5, 1e8, 0.02), (0.7, 0.7, 0.7), (0.1, 0.1, 0.1))
"""Each metric is usually about its scale."""
KINDS = "normal", "cpu", "memory"


def card(role: str, rows: int = 5, **settings: object) -> ModelCard:
    """Return the card of a small model."""
    plain = ModelCard("small", "detector", NAMES, rows, 1.0, "", "", {}, 0, "")
    return replace(plain, role=role, **settings)


def model(of: ModelCard, weights: np.ndarray, bias: Sequence[float], far: float = 0.0) -> Model:
    """Return a model whose outputs are sums of the weighed values of a window.

    Args:
        of: its card.
        weights: (rows, metrics + 1, outputs).
        bias: of each output.
        far: of a classifier: how far each window is from all that it knows.

    """
    channels = len(of.metrics) + 1
    flat = weights.reshape(of.rows * channels, -1).astype(np.float32)
    constants = {
        "flat": np.array([-1, of.rows * channels], np.int64),
        "weights": flat,
        "bias": np.array(bias, np.float32),
        "far": np.array([far], np.float32),
        "none": np.zeros((flat.shape[0], 1), np.float32),
        "one": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["window", "flat"], ["values"]),
        helper.make_node("Gemm", ["values", "weights", "bias"], ["out0"]),
        helper.make_node("Gemm", ["values", "none", "far"], ["column"]),
        helper.make_node("Reshape", ["column", "one"], ["out1"]),
    ]
    return _built(of, nodes, constants, {"out0": ("n", len(bias)), "out1": ("n",)})


def two_stages(
    far: float = 0.0, names: tuple[str, ...] = NAMES, kinds: tuple[str, ...] = KINDS
) -> TwoStages:
    """A detector of what is high in the last row, and a classifier of which metric that is.

    The row that a classifier's window is about is the last but one. Each kind but the first is
    that of one metric, in their order.
    """
    alarm, naming = np.zeros((5, 4, 2)), np.zeros((6, 4, len(kinds)))
    alarm[-1, :3, 1] = 1.0
    for number in range(1, len(kinds)):
        naming[-2, number - 1, number] = 4.0
    first = card("detector", threshold=0.5, name="first", metrics=names)
    second = card("classifier", 6, after=1, kinds=kinds, threshold=5.0, metrics=names)
    bias = (0.5, *(0.0,) * (len(kinds) - 1))
    return TwoStages(model(first, alarm, (0.0, -1.0)), model(second, naming, bias, far))


def rebuilds_what_is_usual(of: ModelCard) -> Model:
    """Return an autoencoder to which all is always as usual."""
    constants = {"zero": np.zeros(1, np.float32), "starts": np.array([0], np.int64)}
    constants |= {"ends": np.array([len(of.metrics)], np.int64), "axes": np.array([2], np.int64)}
    nodes = [
        helper.make_node("Slice", ["window", "starts", "ends", "axes"], ["values"]),
        helper.make_node("Mul", ["values", "zero"], ["out0"]),
    ]
    return _built(of, nodes, constants, {"out0": ("n", of.rows, len(of.metrics))})


def steps(count: int, **columns: float | Sequence[float]) -> MetricTable:
    """Return a row for each second; a metric that is not given is as usual."""
    usual = dict(zip(NAMES, USUAL.scale, strict=True)) | columns
    values = np.array([np.broadcast_to(usual[name], count) for name in NAMES], float).T
    return MetricTable(np.arange(float(count)), NAMES, values)


def levels(**services: float) -> dict[str, Level]:
    """Return services by the mean of their metrics, which spread by a tenth of it."""
    return {name: Level(NAMES, (mean,) * 3, (mean / 10,) * 3) for name, mean in services.items()}


def _built(
    of: ModelCard,
    nodes: list[object],
    constants: dict[str, np.ndarray],
    outputs: dict[str, tuple[object, ...]],
) -> Model:
    shape = ["n", of.rows, len(of.metrics) + 1]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    octets = made.SerializeToString()
    return Model(of.sealed(octets), octets)
