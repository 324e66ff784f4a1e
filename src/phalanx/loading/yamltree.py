"""A YAML reader for files from strangers: plain data and line numbers, nothing else.

It builds dicts, lists, strings, numbers, booleans and null from the parser's events, by the
core schema of YAML 1.2 (so ``yes`` and ``12:30`` are text). Anchors and aliases (with which
a small file can become a huge or endless one), tags, repeated keys, several documents and
numbers that are not finite are refused; so is nesting deeper than ``MAX_DEPTH``.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from msgspec import Struct

from phalanx.loading.refusals import join

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
