"""Models of services: time of one verdict on one core, beside the same networks in torch.

Networks have random weights: what they say means nothing here, what it takes does. A verdict is
all of it: the latest rows measured against what is usual, windows, and the models.

Run it with ``python benchmarks/bench_inference.py [--quick]``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from phalanx.analytics.forecasting import LoadForecaster, level_of
from phalanx.analytics.metrics import MetricTable
from phalanx.analytics.models import ModelCard, RebuildErrors
from phalanx.analytics.profiles import profile_of
from phalanx.analytics.service_models import AutoencoderModel, TwoStages
from tables import QUICK, console, extra, show

METRICS = tuple(f"metric {number}" for number in range(12))
SERVICES = 200 if QUICK else 2_000
torch = extra("torch")
from phalanx.analytics import networks  # noqa: E402
from phalanx.analytics.training import exported  # noqa: E402


def card(role: Any, rows: int, **settings: Any) -> ModelCard:
    """Return the card of an untrained model."""
    return ModelCard(
        name=role, role=role, metrics=METRICS, rows=rows, step_s=1.0, data="", split="",
        figures={}, seed=0, rebuild="", **settings,
    )  # fmt: skip


def timed(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Return median and 99th percentile of what one call takes, in milliseconds."""
    each = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        each.append((time.perf_counter() - begun) * 1000)
    return statistics.median(each), statistics.quantiles(each, n=100)[98]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chance = np.random.default_rng(0)
    table = MetricTable(np.arange(200.0), METRICS, chance.lognormal(0, 0.3, (200, 12)))
    profile, level = profile_of([table], METRICS), level_of([table], METRICS)
    known: dict[str, Any] = {"kinds": ("normal", "a", "b", "c", "d", "e"), "threshold": 1e9}
    nets: dict[str, Any] = {
        "detector": networks.Detector1D(13),
        "classifier": networks.Classifier1D(13, 6),
        "autoencoder": networks.Autoencoder(13),
        "forecaster": networks.Forecaster1D(13, 4),
    }
    cards = {
        "detector": card("detector", 5, threshold=2.0),  # never an alarm
        "classifier": card("classifier", 6, after=1, **known),
        "autoencoder": card(
            "autoencoder", 10, threshold=1e9, rebuilt={"s": RebuildErrors((1.0,) * 12, 0.5)}
        ),
        "forecaster": card(
            "forecaster", 30, targets=METRICS[:2], horizons=(3, 10), trust=(1.0,) * 4,
            errors=((-1.0, 1.0),) * 4,
        ),
    }  # fmt: skip
    models = {role: exported(net, cards[role]) for role, net in nets.items()}
    alarmed = exported(nets["detector"], card("detector", 5, threshold=-1.0))  # always one
    calm = TwoStages(models["detector"], models["classifier"])
    named = TwoStages(alarmed, models["classifier"])
    rebuild, ahead = AutoencoderModel(models["autoencoder"]), LoadForecaster(models["forecaster"])
    whole = {
        "two stages: normal": lambda: calm("s", table, profile),
        "two stages: an alarm, its kind and causes": lambda: named("s", table, profile),
        "LSTM autoencoder": lambda: rebuild("s", table, profile),
        "LSTM forecast, 2 metrics, 2 horizons": lambda: ahead("s", table, level),
    }
    times = 100 if QUICK else 1_000
    rows = []
    for name, work in whole.items():
        median, late = timed(work, times)
        rows.append([name, f"{median:.3f}", f"{late:.3f}", f"{60_000 / median:,.0f}"])
    show("a verdict, one core", ["what", "median ms", "p99 ms", "services a minute"], rows)
    rows = []
    for role, net in nets.items():
        net.eval()
        window = chance.normal(size=(1, cards[role].rows, 13)).astype(np.float32)
        tensor = torch.from_numpy(window)
        mine, _ = timed(partial(models[role], window), times)
        with torch.no_grad():
            theirs, _ = timed(partial(net, tensor), times)
        size = f"{len(models[role].octets) / 1000:.0f}"
        rows.append([role, size, f"{mine:.3f}", f"{theirs:.3f}", f"{theirs / mine:.1f}"])
    show("one window, one core", ["model", "kB", "onnxruntime ms", "torch ms", "ratio"], rows)
    begun = time.perf_counter()
    for _ in range(SERVICES):
        calm("s", table, profile)
        ahead("s", table, level)
    took = time.perf_counter() - begun
    console.print(
        f"{SERVICES:,} services judged and forecast one after the other in {took:.1f} s: "
        f"{SERVICES / took * 60:,.0f} a minute in one process"
    )


if __name__ == "__main__":
    main()
