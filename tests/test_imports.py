"""What is imported when: verbs start fast, and an agent loads no code that references lack."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "phalanx"
NEVER_IN_AGENTS = {"lief": "trust/elf.py", "pyarrow": "analytics/metrics.py"}
"""Libraries that functions alone import, and where: to harden programs, to read Parquet files."""


@pytest.mark.parametrize(
    ("verbs", "without"),
    [
        (("check", "explain", "report"), {"sqlalchemy", "numpy", "eth_abi"}),
        (("agent", "status"), {"sqlalchemy"}),
        (("run",), {"sqlalchemy", "eth_abi"}),
    ],
)
def test_verbs_start_without_what_they_do_not_need(
    verbs: tuple[str, ...], without: set[str]
) -> None:
    modules = ", ".join(f"phalanx.cli.{verb}" for verb in verbs)
    look = f"import sys, {modules}; print({without} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def statements(block: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a block and in the blocks in it; expressions import nothing."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for node in getattr(block, name, ()):
            yield node
            yield from statements(node)


def libraries(block: ast.AST) -> Iterator[str]:
    """Yield the libraries of others that a block imports."""
    for node in statements(block):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names.append(node.module)
        tops = {name.partition(".")[0] for name in names} - {"phalanx"}
        yield from tops - sys.stdlib_module_names


def test_references_have_what_a_function_imports() -> None:
    """They are made of a process that imports modules; what it lacks expels an attested agent."""
    by_modules: set[str] = set()
    by_functions: dict[str, str] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        where = str(file.relative_to(SOURCE))
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                by_functions.update(dict.fromkeys(libraries(node), where))
                node.body = []
        by_modules.update(libraries(tree))
    missing = {name: where for name, where in by_functions.items() if name not in by_modules}
    assert missing == NEVER_IN_AGENTS
