"""What tests over a real kernel cannot do without, and namespaces that begin with ``phxt-``."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator

import pytest

from phalanx.infrastructure.linux.kernel import namespaces, runs

requires_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")


def requires(*tools: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs programs which the system may not have."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


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
def run() -> Iterator[str]:
    """The id of a new run, whose folder is removed at the end."""
    name = runs.new_run()
    yield name
    runs.remove(runs.folder(name))
