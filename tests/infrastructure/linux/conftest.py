"""What the tests over a real kernel share. Everything they make begins with ``phxt-``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from linux_needs import requires, requires_root

from phalanx.infrastructure.linux.kernel import namespaces

if TYPE_CHECKING:
    from driver_bench import Bench

__all__ = ["requires", "requires_root"]


@pytest.fixture
def netns() -> Iterator[Callable[[str], str]]:
    """A function that makes a namespace and returns its name; all are removed at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    made: list[str] = []
    mark = secrets.token_hex(3)

    def make(name: str = "a") -> str:
        full = f"phxt-{mark}-{name}"
        namespaces.create(full)
        made.append(full)
        return full

    try:
        yield make
    finally:
        for name in made:
            namespaces.delete(name)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A driver over a small testbed of its own."""
    from driver_bench import Bench  # noqa: PLC0415  # needs the extra 'linux'

    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()
