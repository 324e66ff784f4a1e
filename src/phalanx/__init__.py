"""Phalanx: autonomous agents that keep network services alive under attack.

The names in ``__init__.pyi`` are what you may rely on: to write a network function, to run a
scenario, to read its log. ``phalanx.testing`` has what a test of a function needs. Each is
imported when it is asked for, so ``import phalanx`` costs nothing.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path


@cache
def _homes() -> dict[str, str | None]:
    """Return the module of each public name, as the stub has them."""
    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    found = (node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module for node in found for alias in node.names}


def __getattr__(name: str) -> object:
    if name == "__all__":
        return [*_homes()]
    if name == "__version__":
        name = "VERSION"
    home = None if name.startswith("__") else _homes().get(name)
    if home is None:
        raise AttributeError(f"module 'phalanx' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*_homes()]
