from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nats_lab import Ground
from socket_bench import Bench

from phalanx.bus.nats.audit import BrokerAudit


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """Return where clients of one NATS server meet."""
    with Ground.at_servers(tmp_path) as made:
        yield made


@pytest.fixture
def audit(ground: Ground) -> Iterator[BrokerAudit]:
    """Return what the server of ``ground`` logs of refusals from here on."""
    made = BrokerAudit(ground.lab.servers[0].settings.log)
    yield made
    made.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)
