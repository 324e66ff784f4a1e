"""One's own models of simulated services, known to the last figure."""

from __future__ import annotations

from pathlib import Path

from tests.analytics.small_models import two_stages

METRICS = "requests_s", "memory_share", "rtt_ms"
KINDS = "normal", "user spike", "memory", "network delay"


def save_models(folder: Path) -> Path:
    """Write two stages that find what is much more than usual, and name it by its metric."""
    judge = two_stages(names=METRICS, kinds=KINDS)
    judge.detector.save(folder)
    judge.classifier.save(folder)
    return folder
