"""One run of the resilience scenario, looked at by many tests."""

from pathlib import Path

import pytest

from phalanx.runtime.system import run_scenario
from tests.nightly import sample
from tests.published import load_published

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(scope="session")
def resilience():
    return load_published(SCENARIOS / "ddos-resilience.yaml")


@pytest.fixture(scope="session", params=sample([77, 1, 2], 3))
def run(request, resilience):
    return run_scenario(resilience, seed=request.param)
