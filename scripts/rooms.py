"""Check the house: code by room against its budget, doubled class names, circles of imports.

``python scripts/rooms.py`` prints the table and fails where the whole is over its limit, where
two public classes share a name, or where modules import each other in a circle (imports that
only a type checker sees are counted). Code is counted with imports, without blank lines,
comments and docstrings; budgets are in ``pyproject.toml``, ``[tool.phalanx.rooms]``.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "phalanx"
BLANK = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(source: str) -> int:
    """Return how many lines of ``source`` hold code: no blank line, comment or docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in BLANK:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        for statement in _body(node):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                lines.difference_update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return len(lines)


def _body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", None)
    return body if isinstance(body, list) else []


def modules() -> dict[str, Path]:
    """Return the package's files by the name of their module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.Module, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in known else node.module
                if name in known:
                    yield name


def circle(trees: dict[str, ast.Module], known: dict[str, Path]) -> list[str]:
    """Return one circle of imports, its first module named again at its end; empty: none."""
    graph = {name: set(imported(tree, known)) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def doubled(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Return the public classes whose name stands in more than one module, with these."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def main() -> int:
    """Print the table and what is wrong; return the exit code."""
    budgets: dict[str, int] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["phalanx"]["rooms"]
    known = modules()
    sources = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    code: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for name, source in sources.items():
        path = known[name].relative_to(PACKAGE)
        room = path.parts[0] if len(path.parts) > 1 else "phalanx"
        code[room] += code_lines(source)
        files[room] += 1
    wrong: list[str] = []
    print(f"{'room':<16}{'code':>7}{'budget':>8}{'files':>7}")
    for room in sorted(code):
        budget = budgets.get(room)
        over = budget is None or code[room] > budget
        print(
            f"{room:<16}{code[room]:>7,}{budget or '-':>8}{files[room]:>7}{' over' if over else ''}"
        )
    whole, limit, most = code.total(), budgets["whole"], budgets["files"]
    print(f"{'whole':<16}{whole:>7,}{limit:>8}{files.total():>7} of {most}")
    if whole > limit or files.total() > most:
        wrong.append(f"the house is larger than its limit of {limit} lines in {most} files")
    for name, found in doubled(trees).items():
        wrong.append(f"two public classes are called {name}: {', '.join(found)}")
    round_trip = circle(trees, known)
    if round_trip:
        wrong.append(f"imports go in a circle: {' -> '.join(round_trip)}")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
