"""Values of the domain read from JSON, whatever predicates stand in them.

msgspec tells the members of a closed union apart by their tags. Predicates are an open family:
a network function may bring its own, and a tag stands for whichever subclass of ``Predicate``
this process knows by it. What is read is never imported, called or evaluated; it fills in types
that are there, or is refused. (Writing needs nothing of this: ``msgspec.json.encode`` does it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial, reduce
from inspect import isclass
from operator import or_
from types import GenericAlias, NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, Struct, structs
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
    twin, make = _twin(kind)
    if twin is Raw:
        return make
    decode = Decoder(twin).decode
    return decode if make is _itself else lambda octets: make(decode(octets))


# -- the open family of predicates ----------------------------------------------------------


class _Family:
    """The predicates that this process knows, by tag."""

    def __init__(self) -> None:
        self._learnt = 0
        self._by_tag: dict[str | int | None, list[type[Predicate]]] = {}

    def named(self, tag: str | int) -> type[Predicate]:
        """Return the predicate with this tag; of a class that was loaded anew, the new one.

        Raises:
            ValueError: if there is none, or if two functions gave theirs the same name.

        """
        if self._learnt != Predicate.classes:
            self._learn()
        found = self._by_tag.get(tag, [])
        if not found:
            raise ValueError(f"no predicate {tag!r} is known here")
        if len(found) > 1:
            modules = " and ".join(sorted(kind.__module__ for kind in found))
            raise ValueError(f"predicate {tag!r} is ambiguous: {modules} define it")
        return found[0]

    def _learn(self) -> None:
        self._learnt = Predicate.classes
        latest = {(kind.__module__, kind.__qualname__): kind for kind in _descendants(Predicate)}
        self._by_tag = {}
        for kind in latest.values():
            self._by_tag.setdefault(kind.__struct_config__.tag, []).append(kind)


def _descendants(kind: type[Predicate]) -> Iterator[type[Predicate]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


_FAMILY = _Family()


# -- readers: octets into the types of the domain -------------------------------------------
# msgspec reads whatever leads to no predicate, since it knows closed unions only. What leads to
# one has a twin, a type that leaves predicates as they are on the wire: msgspec reads that in one
# go, and the value is made of it.

_Make = Callable[[Any], Any]
"""Makes the value of its twin."""


class _Tagged(Struct):
    """What tells a predicate from its siblings."""

    type: str | int


_TAGGED = Decoder(_Tagged)


def _itself(value: Any) -> Any:
    return value


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


@cache
def _twin(kind: Any) -> tuple[Any, _Make]:
    """Return the twin of a type, and what makes a value of the type of one of the twin's."""
    if kind is Predicate:
        return Raw, _read_predicate
    if not _leads_to_predicate(kind):
        return kind, _itself
    if isclass(kind) and issubclass(kind, Struct):
        return _twin_of_struct(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[1:] == (...,):
        item, make = _twin(arguments[0])
        return GenericAlias(tuple, (item, ...)), partial(_make_tuple, make)
    if origin in (Union, UnionType):
        options = [option for option in arguments if option is not NoneType]
        twins = dict(map(_twin, options))
        if len(options) == 1:
            ((twin, make),) = twins.items()
            if twin is Raw:
                return Raw, partial(_read_optional, make)
            return twin | None, partial(_make_optional, make)
        if len(options) == len(arguments) and Raw not in twins and all(map(isclass, options)):
            return reduce(or_, twins), partial(_make_one, twins)
    raise ValueError(f"{kind} cannot travel: a predicate stands in a field, a tuple or an optional")


def _twin_of_struct(kind: type[Struct]) -> tuple[type[Struct], _Make]:
    makers: list[tuple[str, _Make]] = []
    columns: list[tuple[str, Any, Any]] = []
    for field in structs.fields(kind):
        twin, make = _twin(field.type)
        default: dict[str, Any] = {
            "default": field.default,
            "default_factory": field.default_factory,
        }
        if make is not _itself:
            makers.append((field.name, make))
            default = {} if field.required else {"default": UNSET}
        columns.append((field.name, twin, msgspec.field(name=field.encode_name, **default)))
    config = kind.__struct_config__
    twin = msgspec.defstruct(
        kind.__name__, columns, tag=config.tag, tag_field=config.tag_field, kw_only=True
    )
    return twin, partial(_make_struct, kind, makers)


def _make_struct(kind: type[Struct], makers: list[tuple[str, _Make]], twin: Struct) -> Struct:
    values = structs.asdict(twin)
    for name, make in makers:
        value = values[name]
        if value is UNSET:  # left out: it takes its default
            del values[name]
        else:
            values[name] = make(value)
    return kind(**values)


def _make_one(makers: dict[type[Struct], _Make], twin: Struct) -> Any:
    return makers[type(twin)](twin)


def _make_tuple(make: _Make, twins: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(make, twins))


def _make_optional(make: _Make, twin: Any) -> Any:
    return None if twin is None else make(twin)


def _read_predicate(octets: Octets) -> Predicate:
    predicate: Predicate = reader(_FAMILY.named(_TAGGED.decode(octets).type))(octets)
    return predicate


def _read_optional(read: Reader, octets: Octets) -> Any:
    return None if bytes(octets) == b"null" else read(octets)
