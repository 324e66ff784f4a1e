"""From a file to its text, and from YAML or TOML text to a Struct."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from phalanx.domain.errors import ScenarioError
from phalanx.loading.refusals import first_offence, one_line
from phalanx.loading.yamltree import Tree, TreeError, read_tree

MAX_BYTES = 1 << 20

T = TypeVar("T", bound=msgspec.Struct)

_WHERE = re.compile(r" \(at line (\d+), column \d+\)\Z")


def parse_as(
    kind: type[T], text: str, name: str, prepare: Callable[[Any], Any] | None = None
) -> tuple[T, Tree]:
    """Return the ``kind`` that ``text`` (YAML) describes, and where its fields stand.

    ``name`` stands for the file in errors. ``prepare`` is given the plain data and returns what
    is held against the schema.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    try:
        tree = read_tree(text)
    except TreeError as error:
        raise _error(name, error.field, error.line, error.why) from None
    data = tree.data if prepare is None else prepare(tree.data)
    try:
        return msgspec.convert(data, kind), tree
    except msgspec.ValidationError as error:
        field, why = first_offence(data, kind) or ("", str(error))
        raise refusal(name, tree, field, why) from None


def read_toml(kind: type[T], path: str | Path) -> T:
    """Return the ``kind`` that the TOML file ``path`` describes.

    Raises:
        ScenarioError: with one line ``FILE: FIELD: what is wrong; what is allowed``.

    """
    return parse_toml_as(kind, read_text(path), str(path))


def parse_toml_as(kind: type[T], text: str, name: str) -> T:
    """Return the ``kind`` that ``text`` (TOML) describes; ``name`` stands for it in errors.

    Raises:
        ScenarioError: as ``read_toml``.

    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = str(error) or "is nested too deeply"
        line = _WHERE.search(why)
        where = f" line {line[1]}:" if line else ""
        raise ScenarioError(one_line(f"{name}:{where} no TOML: {_WHERE.sub('', why)}")) from None
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        field, why = first_offence(data, kind) or ("", str(error))
        raise ScenarioError(one_line(f"{name}: {field}{': ' if field else ''}{why}")) from None


def refusal(name: str, tree: Tree, field: str, why: str) -> ScenarioError:
    """Return the error for ``field`` of the file ``name``; ``why`` says what is allowed too."""
    return _error(name, field, _line(tree, field), why)


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Return the UTF-8 text of a file of at most ``limit`` bytes.

    Raises:
        ScenarioError: if it is missing, a directory, empty, too large or no text.

    """
    name = str(path)
    try:
        # No more than the limit is read, whatever the file claims (or grows) to be.
        with open_file(path) as stream:
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None)
        raise _error(name, "", 0, f"cannot be read: {why}" if why else str(error)) from None
    if len(raw) > limit:
        raise _error(name, "", 0, f"is larger than {limit // 1024} KiB, the most allowed")
    if not raw.strip():
        raise _error(name, "", 0, "the file is empty")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(name, "", 0, f"byte {error.start} is no UTF-8; text is expected") from None
    if "\0" in text:
        raise _error(name, "", 0, f"byte {raw.index(0)} is zero; text is expected")
    return text


def open_file(path: str | Path) -> BinaryIO:
    """Open a file to read; a device, and a named pipe that nothing may ever write to, is refused.

    A pipe that the shell passes, as ``<(zcat run.jsonl.gz)`` or ``/dev/stdin``, is opened.

    Raises:
        OSError: if it cannot be opened; without ``strerror`` if it is no file.

    """
    mode = Path(path).stat().st_mode
    passed = stat.S_ISFIFO(mode) and os.path.realpath(path).startswith("/proc/")
    if not (stat.S_ISREG(mode) or passed):
        raise OSError(not_a_file(mode))
    return Path(path).open("rb")


def not_a_file(mode: int) -> str:
    """Return what stands where a file is expected, from its ``st_mode``."""
    kinds = (stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket")
    kind = next((word for test, word in kinds if test(mode)), "device")
    return f"is a {kind}; a file is expected"


def _line(tree: Tree, field: str) -> int:
    """Return the line of ``field``, or of what should hold it where it is missing."""
    while field and field not in tree.lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return tree.lines.get(field, 0) if field else 0


def _error(name: str, field: str, line: int, why: str) -> ScenarioError:
    where = f" {field}" if field else ""
    if line:
        where += f" (line {line})" if field else f" line {line}"
    return ScenarioError(one_line(f"{name}:{where}{':' if where else ''} {why}"))
