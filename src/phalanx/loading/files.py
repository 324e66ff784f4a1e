"""From a file to its text, and from YAML or TOML text to a Struct.

A YAML reader for files from strangers: plain data and line numbers, nothing else.

It builds dicts, lists, strings, numbers, booleans and null from the parser's events, by the
core schema of YAML 1.2 (so ``yes`` and ``12:30`` are text). Anchors and aliases (with which
a small file can become a huge or endless one), tags, repeated keys, several documents and
numbers that are not finite are refused; so is nesting deeper than ``MAX_DEPTH``.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from xml.etree.ElementTree import Element, ParseError, TreeBuilder  # read with defusedxml

import msgspec
import yaml
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from msgspec import Struct

from phalanx.domain.errors import ScenarioError
from phalanx.loading.refusals import first_offence, join, one_line

MAX_DEPTH = 32

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True} | {
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT = re.compile(r"[-+]?[0-9]+\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z", re.ASCII)
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z", re.ASCII)
_SAFE_DIGITS = 15


class TreeError(Exception):
    """The text is not usable: at which line (from 1; 0: none), in which field, and why."""

    def __init__(self, line: int, field: str, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.field = field
        self.why = why


class Tree(Struct, frozen=True):
    """What a file says, and the line on which each field begins."""

    data: Any
    lines: dict[str, int]
    """By path, such as ``network.pops[0].cores``; lines count from 1."""


def read_tree(text: str) -> Tree:
    """Return the one document of ``text``.

    Raises:
        TreeError: if it is no YAML or uses what is not allowed.

    """
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark else ""
        raise TreeError(
            mark.line + 1 if mark else 0, "", f"no YAML: {_why(error)}{where}"
        ) from None
    except yaml.YAMLError as error:
        raise TreeError(0, "", f"no YAML: {_why(error)}") from None
    if builder.documents == 0:
        raise TreeError(0, "", "the file is empty")
    return Tree(builder.data, builder.lines)


def _why(error: yaml.YAMLError) -> str:
    parts = (getattr(error, name, None) for name in ("context", "problem", "reason"))
    return ", ".join(str(part) for part in parts if part) or "it cannot be read"


class _Frame:
    """A mapping or a list that is being filled."""

    __slots__ = ("key", "path", "values")

    def __init__(self, values: dict[str, Any] | list[Any], path: str) -> None:
        self.values = values
        self.path = path
        self.key: str | None = None

    def next_path(self) -> str:
        if isinstance(self.values, list):
            return f"{self.path}[{len(self.values)}]"
        return join(self.path, self.key) if self.key is not None else self.path


class _Builder:
    """Turns parser events into data, refusing what is not allowed as soon as it is met."""

    def __init__(self) -> None:
        self.data: Any = None
        self.lines: dict[str, int] = {}
        self.documents = 0
        self._stack: list[_Frame] = []

    def take(self, event: yaml.Event) -> None:
        """Take the next event."""
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.NodeEvent):
            self._node(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise TreeError(line, "", "a second document begins; one is allowed")

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        frame = self._stack[-1] if self._stack else None
        path = frame.next_path() if frame else ""
        if event.anchor is not None:
            raise TreeError(line, path, "anchors and aliases (& and *) are not allowed")
        if getattr(event, "tag", None) not in (None, "!"):
            raise TreeError(line, path, "tags (!) are not allowed")
        if frame is not None and isinstance(frame.values, dict) and frame.key is None:
            self._key(frame, frame.values, event, line)
            return
        if path not in self.lines:
            self.lines[path] = line
        if isinstance(event, yaml.ScalarEvent):
            self._put(_scalar(event, line, path))
            return
        if len(self._stack) == MAX_DEPTH:
            raise TreeError(line, path, f"nested deeper than {MAX_DEPTH} levels")
        values: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(values)
        self._stack.append(_Frame(values, path))

    def _key(self, frame: _Frame, values: dict[str, Any], event: yaml.NodeEvent, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise TreeError(line, frame.path, "a key must be a plain word")
        frame.key = event.value
        path = frame.next_path()
        if event.value in values:
            raise TreeError(line, path, f"given twice; the first is on line {self.lines[path]}")
        self.lines[path] = line

    def _put(self, value: Any) -> None:
        if not self._stack:
            self.data = value
            return
        frame = self._stack[-1]
        if isinstance(frame.values, list):
            frame.values.append(value)
        else:
            frame.values[frame.key or ""] = value
            frame.key = None


def _scalar(event: yaml.ScalarEvent, line: int, path: str) -> Any:
    text = event.value
    if not event.implicit[0]:  # quoted, or a block of text
        return text
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INT.match(text) and len(text) <= _SAFE_DIGITS:
        return int(text)
    if _FLOAT.match(text) and math.isfinite(number := float(text)):
        return number
    if _FLOAT.match(text) or _NOT_FINITE.match(text):
        raise TreeError(line, path, f"{text[:20]} is not allowed; a finite number is expected")
    return text


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


class _BoundedTree(TreeBuilder):
    """Builds a tree of a document, as long as it is not too deep or too large."""

    def __init__(self, deepest: int, most: int) -> None:
        super().__init__()
        self.deepest, self.most, self.left, self.open = deepest, most, most, 0

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> Element:
        """Open an element."""
        self.open, self.left = self.open + 1, self.left - 1
        if self.open > self.deepest:
            raise ValueError(f"nested deeper than {self.deepest} elements, the most allowed")
        if self.left < 0:
            raise ValueError(f"more than {self.most:,} elements, the most allowed")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        """Close an element."""
        self.open -= 1
        return super().end(tag)


def read_xml(raw: str | bytes, deepest: int = 64, most: int = 200_000) -> Element:
    """Return the root of an XML document. One that declares a DTD or entities is refused.

    Raises:
        ValueError: with one line; if elements nest deeper or are more than allowed, too.

    """
    parser = DefusedXMLParser(target=_BoundedTree(deepest, most), forbid_dtd=True)
    try:
        parser.feed(raw)
        root: Element = parser.close()
    except DefusedXmlException:
        raise ValueError("a DTD and entities are not allowed") from None
    except (ParseError, LookupError) as error:
        raise ValueError(f"no XML that is taken: {error}") from None
    return root


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
