"""What ``pyproject.toml`` asks for is pinned in the files that environments are made from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[A-Za-z0-9._-]+")


def names(requirements: list[str]) -> set[str]:
    """Return the names of requirements, as package indexes compare them."""
    found = [NAME.match(line) for line in requirements]
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_each_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    asked = {
        "base.txt": project["project"]["dependencies"],
        "dev.txt": [*project["project"]["dependencies"], *groups["test"], *groups["lint"]],
        "bench.txt": groups["bench"],
    }
    for file, wanted in asked.items():
        pinned = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
        assert names(wanted) <= names([line for line in pinned if "==" in line]), file
