"""The agent on its bench, as tests ask for it."""

from __future__ import annotations

import pytest
from contract_bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
