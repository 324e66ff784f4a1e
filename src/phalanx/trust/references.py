"""Reference values of a package: from its files, and from a fresh start that is trusted.

Files tell which native code may be mapped and which Python code may stand in a module. What names
are bound to, and code that is made while modules are imported, exists only live; so a model of the
agent is started, which imports every module of the package and does nothing else, and measured
with the same walk that measures agents later (seed 001, 3.B, step 4).

The model is started from the files that are there: what was altered before is taken for genuine.
Make references where the package was built, and sign them (``hardening``).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from msgspec.structs import replace

from phalanx.trust.elf import text_digest
from phalanx.trust.measurement import (
    MeasurementError,
    ModuleReference,
    ProcessMeasurement,
    PythonDetail,
    ReferenceValues,
)
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.processes import HASH_SEED, safe_environment
from phalanx.trust.python_layout import code_digest
from phalanx.trust.python_stacks import Call, listed_code

_LOADER = "/lib64/ld-linux-x86-64.so.2"
_NOT_WANTED = {
    "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data",
    "site-packages", "__pycache__", "antigravity", "this", "lib-dynload", "__phello__", "turtle",
    "__main__",
}  # fmt: skip
"""Folders of the standard library that no agent imports from."""


def reference_of(
    package: str,
    version: str,
    *,
    minimum_version: str = "",
    path: Path | None = None,
    late: Iterable[str] | None = None,
    options: Iterable[str] = (),
    calls: bool = False,
    hash_seed: str | None = None,
) -> ReferenceValues:
    """Return the reference values of a Python package on this machine's interpreter.

    Args:
        package: what is imported, such as ``phalanx``.
        version: of the package.
        minimum_version: the oldest one that is not out of date.
        path: folder that the package is imported from; None: it is installed.
        late: modules that an agent may import beside those that the package does; None: all of
            the standard library, which makes reference values twice as long.
        options: of the interpreter that agents are started with, such as ``-I``.
        calls: whether calls are to be sampled: then all code is listed that runs while modules
            are imported, and ``with_calls`` adds what calls what.
        hash_seed: that agents are started with; None: that of this process's environment.

    Raises:
        MeasurementError: if it cannot be imported, or the model cannot be measured.

    """
    names = library() if late is None else late
    with _model(package, path, names, options, hash_seed, calls) as (model, folders, codes):
        seen = model.look()
        empty = ReferenceValues(package, version, minimum_version)
        reference = learned(empty, seen, model.details())
    main = _file_code(Path(folder) / "__main__.py" for folder in folders)
    modules = {**(reference.modules or {}), "__main__": ModuleReference(file_code=main)}
    reference = replace(reference, modules=modules)
    if calls:
        reference = with_calls(reference, (), codes)
    return reference


def reference_of_program(
    path: Path, software: str, version: str, *, minimum_version: str = "", counts: bool = True
) -> ReferenceValues:
    """Return the reference values of a native program and the libraries that it needs.

    Args:
        path: of the ELF file.
        software: its name.
        version: its version.
        minimum_version: the oldest one that is not out of date.
        counts: whether it has a progress counter.

    Raises:
        MeasurementError: if a file cannot be read, or a library is missing.

    """
    program = str(path.resolve())
    environment = safe_environment("")
    told = subprocess.run(  # noqa: S603  # the loader lists libraries and runs nothing
        [_LOADER, "--list", program], capture_output=True, text=True, check=False, env=environment
    )
    names = {program, os.path.realpath(_LOADER)}
    for line in told.stdout.splitlines():
        found = line.rpartition("=>")[2].split()  # without it: linked by its path
        if found and found[0].startswith("/"):
            names.add(os.path.realpath(found[0]))
        elif "not found" in line:
            raise MeasurementError(f"{path}: {line.strip()}")
    objects: dict[str, tuple[str, ...]] = {n: (text_digest(n),) for n in sorted(names)}
    return ReferenceValues(software, version, minimum_version, objects, counts=counts)


def learned(
    reference: ReferenceValues, seen: ProcessMeasurement, details: Mapping[str, PythonDetail]
) -> ReferenceValues:
    """Return reference values to which a trusted process was added.

    Args:
        reference: what is known.
        seen: a full look at a process that is known to be genuine.
        details: ``ProcessMeasurer.details`` after that look.

    Raises:
        MeasurementError: if the look was thin, or could not see all.

    """
    if seen.thin or seen.gaps:
        raise MeasurementError(f"nothing is learned of a look with gaps: {', '.join(seen.gaps)}")
    objects = dict(reference.objects)
    for path, thing in seen.objects.items():
        objects[path] = _with(objects.get(path, ()), thing.text)
    modules = reference.modules
    if seen.modules is not None:
        modules = dict(modules or {})
        for name, module in seen.modules.items():
            known = modules.get(name, ModuleReference())
            if module not in known.seen:
                detail = details[name]
                modules[name] = replace(
                    known,
                    seen=(*known.seen, module),
                    code=_merged(known.code, detail.code),
                    bindings=_merged(known.bindings, detail.bindings),
                    optional=_optional(known, detail),
                )
    unbacked = tuple(sorted({*reference.unbacked, *seen.unbacked}))
    seed = {n: value for n, value in seen.environment.items() if n == HASH_SEED}
    found = replace(reference, objects=objects, modules=modules, unbacked=unbacked)
    return replace(found, environment={**reference.environment, **seed})


def with_calls(
    reference: ReferenceValues, calls: Iterable[Call], codes: Iterable[str] = ()
) -> ReferenceValues:
    """Return reference values to which calls, and code, of a trusted process were added."""
    found = {caller: {*callees} for caller, callees in (reference.calls or {}).items()}
    for caller, callee in calls:
        found.setdefault(caller, set()).add(callee)
    graph = {caller: tuple(sorted(callees)) for caller, callees in found.items()}
    more = {*codes} - listed_code(reference)
    return replace(reference, calls=graph, codes=(*reference.codes, *sorted(more)))


@contextmanager
def _model(
    package: str,
    path: Path | None,
    late: Iterable[str],
    options: Iterable[str],
    hash_seed: str | None,
    codes: bool,
) -> Iterator[tuple[ProcessMeasurer, list[str], list[str]]]:
    """Run a process that imports a package and waits.

    Yields:
        Its measurer, the package's folders, and digests of code that ran, if ``codes`` says so.

    """
    words = [sys.executable, *options, "-c", _PROGRAM, "codes" * codes, str(path or "")]
    words += [package, *late]
    environment = safe_environment(hash_seed)
    with subprocess.Popen(  # noqa: S603  # our own interpreter
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise MeasurementError(f"{package}: cannot be imported, or is no package")
        run = process.stdout.readline().split()
        with ProcessMeasurer(process.pid, package, "") as measurer, process.stdin:
            yield measurer, line.rstrip("\n").split(os.pathsep), run


_PROGRAM = """
import sys
run, early = [], []
if sys.argv.pop(1):
    early += sys.modules.items()
    sys.addaudithook(lambda event, given: event == "exec" and run.append(given[0]))
sys.path[0:1] = filter(None, sys.argv[1:2])
from phalanx.trust.references import all_digests, import_all
print(import_all(sys.argv[2], sys.argv[3:]), flush=True)
print(*all_digests(run, early), flush=True)
sys.stdin.read()
"""


def import_all(package: str, late: Iterable[str]) -> str:
    """Import every module of a package that can be, and others; return the package's folders."""
    root = importlib.import_module(package)
    folders = list(getattr(root, "__path__", []))
    parts = pkgutil.walk_packages(folders, f"{package}.", onerror=lambda _: None)
    for name in (*(found.name for found in parts), *late):
        if not name.endswith("__main__"):
            with contextlib.suppress(Exception):  # an extra that is not installed
                importlib.import_module(name)
    modules: list[object] = list(sys.modules.values())  # whatever was put there
    for module in modules:
        for thing in list(vars(module).values()) if isinstance(module, ModuleType) else ():
            if isinstance(thing, type):
                getattr(thing, "__mro__", None)  # native classes get their members with this
    return os.pathsep.join(folders)


def all_digests(run: Iterable[CodeType], modules: Iterable[tuple[str, Any]]) -> set[str]:
    """Return the digests of code that was run, that of modules, and of all code in these."""
    codes: list[CodeType | None] = list(run)
    for name, module in modules:
        with contextlib.suppress(Exception):  # a native one, or one that was made otherwise
            codes.append(module.__spec__.loader.get_code(name))
    return {code_digest(part) for code in filter(None, codes) for part in _all_code(code)}


def library() -> tuple[str, ...]:
    """Return the modules of the standard library that an agent may import."""
    folder, found = Path(sysconfig.get_path("stdlib")), set(sys.stdlib_module_names)
    for file in folder.rglob("*.py"):
        found.add(".".join(file.relative_to(folder).with_suffix("").parts))
    return tuple(sorted(n.removesuffix(".__init__") for n in found if _wanted(n)))


def _wanted(module: str) -> bool:
    return _NOT_WANTED.isdisjoint(module.split("."))


def _file_code(files: Iterable[Path]) -> tuple[str, ...]:
    """Return the digests of all code in source files, of those that are there."""
    found: set[str] = set()
    for file in files:
        if file.is_file():
            code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
            found.update(map(code_digest, _all_code(code)))
    return tuple(sorted(found))


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_code(constant)


def _with(known: tuple[str, ...], one: str) -> tuple[str, ...]:
    return known if one in known else (*known, one)


def _merged(
    known: Mapping[str, tuple[str, ...]], seen: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    return {**known, **{path: _with(known.get(path, ()), one) for path, one in seen.items()}}


def _optional(known: ModuleReference, detail: PythonDetail) -> tuple[str, ...]:
    """Return the names that some trusted process had and another had not."""
    if not known.seen:
        return known.optional
    before, now = {*known.code, *known.bindings}, {*detail.code, *detail.bindings}
    return tuple(sorted({*known.optional, *(before ^ now)}))
