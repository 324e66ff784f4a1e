"""Values of every type that messages, actions, outcomes and percepts are made of."""

from __future__ import annotations

from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType, structs

from phalanx.auction.contracts import ContractFulfilled
from phalanx.auction.outlook import Gone
from phalanx.domain import predicates
from phalanx.domain.goals import Predicate

PREDICATES = [
    *(k for k in vars(predicates).values() if isinstance(k, type) and issubclass(k, Predicate)),
    Gone,
    ContractFulfilled,
]
PREDICATES.remove(Predicate)


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of values of a type."""
    if kind is Predicate:
        return st.deferred(lambda: st.one_of(*map(values, PREDICATES)))
    if kind in (str, bool):
        return st.from_type(kind)
    if kind is UnsetType:
        return st.just(UNSET)
    if kind is bytes:
        return st.binary(max_size=40)
    if kind is int:
        return st.integers(-(2**63), 2**63 - 1)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    if isinstance(kind, type) and issubclass(kind, Struct):
        fields = {field.name: values(field.type) for field in structs.fields(kind)}
        return st.builds(kind, **fields)
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        least, most = arguments[1].ge, arguments[1].le
        return values(arguments[0]).filter(lambda value: least <= value <= most) | st.just(least)
    if get_origin(kind) in (Union, UnionType):
        return st.one_of(*(st.none() if a is NoneType else values(a) for a in arguments))
    if get_origin(kind) is dict:
        return st.dictionaries(*map(values, arguments), max_size=3)
    assert get_origin(kind) is tuple, kind
    if arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    return st.tuples(*map(values, arguments))
