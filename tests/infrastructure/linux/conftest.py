"""What the tests over a real kernel share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from linux_needs import netns, requires, requires_root, run
from vnf_lab import Lab, lab_in

if TYPE_CHECKING:
    from driver_bench import Bench

__all__ = ["netns", "requires", "requires_root", "run"]


@pytest.fixture
def lab(netns: Callable[[str], str]) -> Iterator[Lab]:  # a fixture
    """A PoP between clients and a server."""
    with lab_in(netns) as made:
        yield made


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A driver over a small testbed of its own."""
    from driver_bench import Bench  # noqa: PLC0415  # needs the extra 'linux'

    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()
