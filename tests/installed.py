"""A package of one file with entry points, installed as pip would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install(
    patch: pytest.MonkeyPatch, folder: Path, module: str, source: str, entry_points: str
) -> None:
    """Install a module of that source; it is gone, also from ``sys.modules``, with ``patch``."""
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    patch.setitem(sys.modules, module, None)
    del sys.modules[module]
    patch.syspath_prepend(folder)
