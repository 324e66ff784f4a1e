from __future__ import annotations

import pytest
from fabric_lab import Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()
