from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client_contract import ExchangeContract
from nats_lab import Ground, needs_server

needs_server()
pytestmark = pytest.mark.nats


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with Ground.of_one(tmp_path) as made:
        yield made


class TestNatsExchange(ExchangeContract):
    """The contract, over a server with mutual TLS and permissions."""
