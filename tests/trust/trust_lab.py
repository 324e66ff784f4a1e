"""What tests of measurement share; the processes that they measure are those of the benchmarks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence

import pytest

from live_targets import PROGRAM, Agent, agent, compiled, running, started, write_agent
from phalanx.domain.trust import Deviation

__all__ = ["NEEDS_C", "PROGRAM", "Agent", "agent", "compiled", "kinds", "running", "started",
           "until", "write_agent"]  # fmt: skip

NEEDS_C = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def kinds(found: Sequence[Deviation]) -> set[str]:
    return {deviation.kind for deviation in found}
