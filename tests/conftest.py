"""Property tests are not judged by time; every simulated network proves that it loses nothing.

The log of every run in one process is checked, whatever the test asks of it. Property tests
draw the same examples every time, so that a change is judged by what it changed; ``make
nightly`` draws others, and more. What a verb prints is as wide as the test says, not as the
terminal it is run from.
"""

# ruff: noqa: E402 - the terminal is measured once, on import
import gc
import os
from pathlib import Path

for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)

import pytest
from hypothesis import settings

from phalanx.checking import check
from phalanx.identity import credentials
from phalanx.infrastructure.simulated.fluid import Fluid
from phalanx.runtime.system import System

settings.register_profile("phalanx", deadline=None, derandomize=True, max_examples=5)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile("phalanx")
Fluid.checked = True
credentials._ROUNDS = 2  # of a hundred: a key derived from a passphrase is to cost little here
LONGEST = (
    *("spread", "trust_processes", "process_faults", "trust_calls", "trust_domain", "trust_tpm"),
    *("hostile_clients", "service_processes", "domain", "nats_silence", "kills"),
)
"""Files whose tests wait for minutes begin first, the longest before others: a worker that gets
one last works on alone."""

_run = System._run


def _checked(self, *args):
    result = _run(self, *args)
    if result.events[0].kind == "run.started":
        violations = check(result.events)
        assert violations == [], violations[:5]
    return result


System._run = _checked


def pytest_collection_finish():
    """Look for garbage seldom, and never in what was imported: that took 4 % of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 50)


def pytest_configure(config):
    """Let workers read the modules in different orders: what one has compiled, the others load."""
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    count = worker["workercount"]
    first = int(worker["workerid"].removeprefix("gw"))
    files = sorted(str(path) for path in Path(__file__).parent.rglob("test_*.py"))
    config.args = [file for turn in range(count) for file in files[(first + turn) % count :: count]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.path))
