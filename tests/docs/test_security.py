"""docs/security.md claims nothing that no test carries out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def rows(heading: str) -> list[str]:
    """Return the rows of the table below a heading."""
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n##")[0]
    return re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(PAGE)
    assert len(named) > 60
    assert [f"{path}::{name}" for path, name in named if name not in defined_in(path)] == []


def test_every_attack_names_a_test() -> None:
    found, missed = rows("Found or refused"), rows("Not seen")
    assert len(found) >= 40
    for row in (*found, *missed, *rows("Not punished")):
        assert TEST.search(row), row


def test_every_miss_that_a_test_shows_is_told() -> None:
    shown = {
        name
        for folder in ("trust", "ledger", "system")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for name in defined_in(str(path.relative_to(ROOT)))
        if name.startswith("test_missed")
    }
    assert shown == {name for _, name in TEST.findall(PAGE) if name.startswith("test_missed")}
