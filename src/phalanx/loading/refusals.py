"""Words for data that a schema refuses: where it is, what it is, and what is allowed.

``msgspec.convert`` decides; this only finds the first offence again and says it so that the
writer of the file can mend it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from msgspec import Meta, inspect

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=64)]
"""What people call a thing in files."""

_UNITS = {
    "mb_s": "in MB/s",
    "ms": "in ms",
    "s": "of seconds",
    "gb": "in GB",
    "mb": "in MB",
    "cores": "of cores",
}
_UNIT = re.compile(r"(?:^|_)(mb_s|ms|s|gb|mb|cores)\Z")
_NUMBER_WITH_UNIT = re.compile(r"\s*[-+]?[0-9][0-9.,_]*\s*[A-Za-z%/]+.*\Z", re.DOTALL)
_SHOWN = 40
_PATTERN_WORDS = {
    "[A-Za-z0-9]": "a name of letters, digits, '.', '_' and '-' (at most 64)",
    "(?!0": "an address of a host such as 10.0.6.10 or 2001:db8::10",
    "[A-Za-z0-9._-]+>": "a link such as pop1>pop2",
    "([A-Z]": "a goal such as LinkRateLimited, or default",
    "[a-z_]": "a name of small letters and '_'",
    "[0-9A-Fa-f]{6}": "six hexadecimal digits, in quotes",
    "20[0-9]": "a date such as 2026-01-31",
    "sha256:": "a digest such as sha256:9f86d0… (64 hexadecimal digits)",
}

Offence = tuple[str, str]
"""(path such as ``network.pops[0].cores``, what was wrong and what is allowed)"""


def first_offence(data: Any, schema: type) -> Offence | None:
    """Return what ``schema`` refuses first in ``data``; None if the types are all right."""
    return next(_offences(data, inspect.type_info(schema), ""), None)


def show(value: Any) -> str:
    """Return ``value`` for a message: short, on one line, without control characters."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "…"
    return f"{text!r}" if isinstance(value, str) else text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known word, or nothing."""
    match = difflib.get_close_matches(word[:64], list(known), 1)
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return that there is no ``what`` of this name, with the nearest of those that there are."""
    names = list(known)
    hint = nearest(name, names)
    if not hint:
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        hint = f"; known are {shown}" if names else "; there is none"
    return f"there is no {what} {show(name)}{hint}"


def twice(path: str, names: Iterable[str], what: str = "") -> Iterator[Offence]:
    """Yield an offence for each of the ``names`` (of the entries of ``path``) met before."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            yield f"{path}[{index}]{what}", f"{show(name)} is already that of {path}[{seen[name]}]"
        seen.setdefault(name, index)


def join(path: str, key: str) -> str:
    """Return the path of ``key`` in the mapping at ``path``; odd keys are shown quoted."""
    shown = key if re.match(r"[\w.>-]{1,64}\Z", key) else show(key)
    return f"{path}.{shown}" if path else shown


def _offences(value: Any, kind: inspect.Type, path: str) -> Iterator[Offence]:
    match kind:
        case inspect.StructType():
            yield from _in_struct(value, kind, path)
        case inspect.DictType() if isinstance(value, dict):
            for key, item in value.items():
                yield from _offences(key, kind.key_type, path)
                yield from _offences(item, kind.value_type, join(path, key))
            yield from _wrong_length(value, kind, path)
        case inspect.VarTupleType() if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _offences(item, kind.item_type, f"{path}[{index}]")
            yield from _wrong_length(value, kind, path)
        case inspect.TupleType() if isinstance(value, list) and len(value) == len(kind.item_types):
            for index, (item, item_type) in enumerate(zip(value, kind.item_types, strict=True)):
                yield from _offences(item, item_type, f"{path}[{index}]")
        case inspect.UnionType():
            yield from _in_union(value, kind, path)
        case _ if not _fits(value, kind):
            yield path, _not_allowed(value, kind, path)


def _in_struct(value: Any, kind: inspect.StructType, path: str) -> Iterator[Offence]:
    if kind.array_like and isinstance(value, list) and len(value) <= len(kind.fields):
        value = {field.encode_name: each for field, each in zip(kind.fields, value, strict=False)}
    elif kind.array_like or not isinstance(value, dict):
        yield path, _not_allowed(value, kind, path)
        return
    fields = {field.encode_name: field for field in kind.fields}
    for key, item in value.items():
        if key == kind.tag_field:
            continue
        if key not in fields:
            hint = nearest(key, fields) or f"; allowed are {', '.join(fields)}"
            yield join(path, key), f"unknown field{hint}"
            return
        yield from _offences(item, fields[key].type, join(path, key))
    for name, field in fields.items():
        if field.required and name not in value:
            yield join(path, name), f"missing; expected {describe(field.type, name)}"


def _in_union(value: Any, kind: inspect.UnionType, path: str) -> Iterator[Offence]:
    tagged = [t for t in kind.types if isinstance(t, inspect.StructType) and t.tag_field]
    if tagged and isinstance(value, dict):
        field = tagged[0].tag_field or ""
        found = [each for each in tagged if each.tag == value.get(field)]
        tags = inspect.LiteralType(tuple(str(each.tag) for each in tagged))
        yield from (
            _in_struct(value, found[0], path)
            if found
            else _offences(value.get(field), tags, join(path, field))
        )
        return
    if any(next(_offences(value, option, path), None) is None for option in kind.types):
        return
    # Go on into the alternative of the same shape; else name all of them.
    shapes = (inspect.StructType, inspect.DictType, inspect.VarTupleType, inspect.TupleType)
    for option in kind.types:
        if isinstance(value, dict | list) and isinstance(option, shapes):
            yield from _offences(value, option, path)
            return
    yield path, _not_allowed(value, kind, path)


def _wrong_length(value: Any, kind: Any, path: str) -> Iterator[Offence]:
    if kind.min_length is not None and len(value) < kind.min_length:
        yield path, f"has {len(value)} entries; at least {kind.min_length} expected"
    if kind.max_length is not None and len(value) > kind.max_length:
        yield path, f"has {len(value)} entries; at most {kind.max_length} allowed"


def _fits(value: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.IntType():
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool) and _in_range(value, kind)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _in_range(value, kind)
        case inspect.StrType():
            return (
                isinstance(value, str)
                and (kind.max_length is None or len(value) <= kind.max_length)
                and (kind.pattern is None or re.search(kind.pattern, value) is not None)
            )
        case inspect.LiteralType() | inspect.EnumType():
            return value in _choices(kind)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.NoneType():
            return value is None
    return False  # a mapping or list is expected, and the value is none


def _choices(kind: inspect.LiteralType | inspect.EnumType) -> list[Any]:
    if isinstance(kind, inspect.EnumType):
        return [each.value for each in kind.cls]
    return list(kind.values)


def _in_range(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _not_allowed(value: Any, kind: inspect.Type, path: str) -> str:
    name = re.sub(r"\[\d+\]", "", path).rpartition(".")[2]
    expected = describe(kind, name)
    if isinstance(value, str) and "number" in expected and _NUMBER_WITH_UNIT.match(value):
        expected += ", without a unit"
    if isinstance(kind, inspect.StrType) and isinstance(value, int | float):
        expected += ", in quotes if it is meant as text"
    return f"{show(value)} is not allowed; expected {expected}"


def describe(kind: inspect.Type, name: str = "") -> str:
    """Return what the type of the field ``name`` allows, in words."""
    match kind:
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            unit = _UNIT.search(name)
            return f"a number{f' {_UNITS[unit[1]]}' if unit else ''}{_range(kind)}"
        case inspect.StrType():
            pattern = kind.pattern or ""
            for begin, words in _PATTERN_WORDS.items():
                if pattern.startswith(f"^{begin}"):
                    return words
            return "text" if kind.max_length is None else f"text of at most {kind.max_length} signs"
        case inspect.LiteralType() | inspect.EnumType():
            return f"one of {', '.join(map(str, _choices(kind)))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "nothing"
        case inspect.TupleType():
            inner = kind.item_types[0]
            return f"a list of {len(kind.item_types)} entries, each {describe(inner)}"
        case inspect.VarTupleType():
            return f"a list (each entry {describe(kind.item_type, name)})"
        case inspect.UnionType():
            options = [describe(t, name) for t in kind.types if not isinstance(t, inspect.NoneType)]
            return " or ".join(options)
        case inspect.StructType():
            shape = "list of" if kind.array_like else "mapping with"
            return f"a {shape} {', '.join(field.encode_name for field in kind.fields)}"
    return "a mapping"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = kind.ge if kind.gt is None else kind.gt
    high = kind.le if kind.lt is None else kind.lt
    if low is None or high is None:
        return ""
    return (
        f" {'from' if kind.gt is None else 'above'} {_plain(low)}"
        f" {'to' if kind.lt is None else 'to below'} {_plain(high)}"
    )


def _plain(number: float) -> str:
    return f"{number:g}".replace("e+0", "e") if abs(number) >= 1e6 else f"{number:.15g}"


def one_line(text: str) -> str:
    """Return ``text`` without line breaks and other control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
