"""What tests over a real kernel cannot do without, as marks that skip with one line."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest

requires_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

requires_netlink = pytest.mark.skipif(
    find_spec("pyroute2") is None, reason="not installed: pyroute2 (pip install 'phalanx[linux]')"
)


def requires(*tools: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs programs which the system may not have."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
