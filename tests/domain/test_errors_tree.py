"""The tree of errors in ``domain.errors`` is the tree that there is."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager

import phalanx
from phalanx.domain import errors
from phalanx.domain.errors import PhalanxError


def drawn() -> dict[str, str]:
    """Return the parent of each error in the drawing."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(  |$)", line)
        if match:
            del path[len(match["branch"]) // 4 :]
            if path:
                parents[match["name"]] = path[-1]
            path.append(match["name"])
    return parents


def below(error: type[PhalanxError]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in error.__subclasses__():
        if kind.__module__.startswith("phalanx."):
            found |= {kind.__name__: error.__name__} | below(kind)
    return found


@contextmanager
def suppress_missing(*extras: str) -> Iterator[None]:
    """Leave out a module that needs an extra which is not installed; it has no errors."""
    try:
        yield
    except ModuleNotFoundError as fault:
        if fault.name not in extras:
            raise


def test_the_tree_is_drawn_as_it_is() -> None:
    for module in pkgutil.walk_packages(phalanx.__path__, "phalanx."):
        if not module.name.endswith("__main__"):
            with suppress_missing("torch", "sklearn", "art"):
                importlib.import_module(module.name)
    assert drawn() == below(PhalanxError)
