"""Network functions from a file: ``--function FILE.py:Class``, for those that are not installed."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import typer

from phalanx.bdi import Capability
from phalanx.domain.errors import PhalanxError

Functions = Annotated[
    list[str] | None,
    typer.Option(
        "--function",
        metavar="FILE.py:CLASS",
        help="Add a network function that is not installed; may be given several times.",
        show_default=False,
    ),
]


def load_functions(names: list[str] | None) -> list[type[Capability]]:
    """Return the classes that ``FILE.py:Class`` names. Their modules are run, as any import does.

    Raises:
        PhalanxError: with one line, if one of them cannot be had or is no network function.

    """
    found: dict[str, type[Capability]] = {}
    for name in names or ():
        function = _load(name)
        if found.setdefault(function.name, function) is not function:
            raise PhalanxError(f"--function {name}: there is another function {function.name!r}")
    return list(found.values())


def _load(name: str) -> type[Capability]:
    file, colon, wanted = name.rpartition(":")
    if not (colon and file.endswith(".py") and wanted.isidentifier()):
        raise PhalanxError(f"--function {name}: FILE.py:Class is expected")
    found = getattr(_module(Path(file)), wanted, None)
    if found is None:
        raise PhalanxError(f"--function {name}: {file} has no {wanted}")
    if not (isinstance(found, type) and issubclass(found, Capability)):
        raise PhalanxError(f"--function {name}: {wanted} is no Capability")
    if found.vnfd is None or found.vnfd.name != found.name:
        raise PhalanxError(f"--function {name}: {wanted} needs a name, and a vnfd of that name")
    return found


def _module(path: Path) -> object:
    # The same file twice is one module: its predicates must be the same classes.
    name = f"phalanx_function_{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PhalanxError(f"--function: {path} cannot be read: there is no such file")
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # typed structs look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as fault:
        del sys.modules[name]
        line = " ".join(str(fault).split())
        raise PhalanxError(
            f"--function: {path} cannot be loaded: {type(fault).__name__}: {line}"
        ) from None
    return module
