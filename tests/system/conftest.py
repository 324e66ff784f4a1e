"""One run of the resilience scenario, looked at by many tests."""

from pathlib import Path

import pytest

from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(scope="session")
def resilience():
    return load_scenario(SCENARIOS / "ddos-resilience.yaml")


@pytest.fixture(scope="session", params=[1, 2, 77])
def run(request, resilience):
    return run_scenario(resilience, seed=request.param)
