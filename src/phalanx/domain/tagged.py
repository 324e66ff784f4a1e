"""Values of the domain read from JSON, whatever predicates stand in them.

msgspec tells the members of a closed union apart by their tags. Predicates are an open family:
a network function may bring its own, and a tag stands for whichever subclass of ``Predicate``
this process knows by it. What is read is never imported, called or evaluated; it fills in types
that are there, or is refused. (Writing needs nothing of this: ``msgspec.json.encode`` does it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct, structs
from msgspec.json import Decoder

from phalanx.domain.goals import Predicate

Octets = Raw | bytes | memoryview
Reader = Callable[[Octets], Any]

UNREADABLE = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)
"""What a reader raises of octets that are no value of its type."""


@cache
def reader(kind: Any) -> Reader:
    """Return what makes a value of the type ``kind`` from its JSON; it raises ``UNREADABLE``.

    Raises:
        ValueError: if a predicate stands in ``kind`` where it cannot be read.

    """
    if kind is Predicate:
        return _read_predicate
    if not _leads_to_predicate(kind):
        return Decoder(kind).decode
    if isclass(kind) and issubclass(kind, Struct):
        return _struct_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[1:] == (...,):
        return partial(_read_tuple, reader(arguments[0]))
    if origin in (Union, UnionType):
        options = [option for option in arguments if option is not NoneType]
        if len(options) == 1:
            return partial(_read_optional, reader(options[0]))
        if len(options) == len(arguments) and all(isclass(o) for o in options):
            return partial(_read_union, {o.__struct_config__.tag: reader(o) for o in options})
    raise ValueError(f"{kind} cannot travel: a predicate stands in a field, a tuple or an optional")


# -- the open family of predicates ----------------------------------------------------------


class _Family:
    """The predicates that this process knows, by tag."""

    def __init__(self) -> None:
        self._classes: list[type[Predicate]] = []
        self._by_tag: dict[str | int | None, list[type[Predicate]]] = {}

    def named(self, tag: str | int) -> type[Predicate]:
        """Return the predicate with this tag; of a class that was loaded anew, the new one.

        Raises:
            ValueError: if there is none, or if two functions gave theirs the same name.

        """
        classes = list(_descendants(Predicate))
        if classes != self._classes:
            self._learn(classes)
        found = self._by_tag.get(tag, [])
        if not found:
            raise ValueError(f"no predicate {tag!r} is known here")
        if len(found) > 1:
            modules = " and ".join(sorted(kind.__module__ for kind in found))
            raise ValueError(f"predicate {tag!r} is ambiguous: {modules} define it")
        return found[0]

    def _learn(self, classes: list[type[Predicate]]) -> None:
        latest = {(kind.__module__, kind.__qualname__): kind for kind in classes}
        self._by_tag = {}
        for kind in latest.values():
            self._by_tag.setdefault(kind.__struct_config__.tag, []).append(kind)
        self._classes = classes


def _descendants(kind: type[Predicate]) -> Iterator[type[Predicate]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


_FAMILY = _Family()


# -- readers: octets into the types of the domain -------------------------------------------
# msgspec reads whatever leads to no predicate, since it knows closed unions only. Of a struct
# that leads to one, it reads a twin that leaves those fields as they are on the wire.


class _Tagged(Struct):
    """What tells a content or a predicate from its siblings."""

    type: str | int


_TAGGED = Decoder(_Tagged)
_ITEMS = Decoder(list[Raw])


def _leads_to_predicate(kind: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a value of this type may hold a predicate of any class."""
    if kind is Predicate:
        return True
    if isclass(kind) and issubclass(kind, Struct):
        if kind in seen:
            return False
        parts = [field.type for field in structs.fields(kind)]
        seen |= {kind}
    else:
        parts = list(get_args(kind))
    return any(_leads_to_predicate(part, seen) for part in parts)


def _struct_reader(kind: type[Struct]) -> Reader:
    """Return the reader of a struct, of which some fields lead to predicates."""
    open_fields: dict[str, Reader] = {}
    columns: list[tuple[str, Any, Any]] = []
    for field in structs.fields(kind):
        opens = _leads_to_predicate(field.type)
        default: dict[str, Any] = {
            "default": field.default,
            "default_factory": field.default_factory,
        }
        if opens:
            open_fields[field.name] = reader(field.type)
            default = {} if field.required else {"default": Raw()}
        column = msgspec.field(name=field.encode_name, **default)
        columns.append((field.name, Raw if opens else field.type, column))
    config = kind.__struct_config__
    twin = msgspec.defstruct(
        kind.__name__, columns, tag=config.tag, tag_field=config.tag_field, kw_only=True
    )
    return partial(_read_struct, kind, Decoder(twin), open_fields)


def _read_struct(
    kind: type[Struct],
    twin: Decoder[Any],
    open_fields: dict[str, Reader],
    octets: Octets,
) -> Struct:
    values = structs.asdict(twin.decode(octets))
    for name, read in open_fields.items():
        raw = values.pop(name)
        if raw:  # else left out: it takes its default
            values[name] = read(raw)
    return kind(**values)


def _read_predicate(octets: Octets) -> Predicate:
    predicate: Predicate = reader(_FAMILY.named(_TAGGED.decode(octets).type))(octets)
    return predicate


def _read_union(readers: dict[str | int | None, Reader], octets: Octets) -> Any:
    tag = _TAGGED.decode(octets).type
    if tag not in readers:
        raise ValueError(f"{tag!r} is no content that is known here")
    return readers[tag](octets)


def _read_tuple(read: Reader, octets: Octets) -> tuple[Any, ...]:
    return tuple(map(read, _ITEMS.decode(octets)))


def _read_optional(read: Reader, octets: Octets) -> Any:
    return None if bytes(octets) == b"null" else read(octets)
