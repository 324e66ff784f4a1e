"""What all nodes of a descriptor share: SOL006 names, and the leaves that are passed over.

The names are those of the YANG modules of ETSI GS NFV-SOL006 (v3.7.1). A node types what
Phalanx uses; ``passed_over.yaml`` lists the standard's other leaves, which may stand in a file and
change nothing. Anything else is a typo, or would mean something that is not done (nested
services, physical functions), and is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, ClassVar, Protocol

import yaml
from msgspec import Meta, Struct, inspect
from msgspec.structs import fields

from phalanx.loading import Name, Offence, twice, unknown

Id = Name
Text = Annotated[str, Meta(max_length=4000)]
Label = Annotated[str, Meta(max_length=200)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Amount = Annotated[float, Meta(ge=0, le=1e9)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=10_000)]


class DescriptorNode(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A node of a descriptor; a field is the leaf of the same name, with hyphens."""

    key: ClassVar[str] = "id"
    """Field by which the nodes of a list are told apart, as the standard's ``key`` has it."""


class Instances(Protocol):
    """How many there may be of something."""

    @property
    def min_number_of_instances(self) -> int:
        """At least."""

    @property
    def max_number_of_instances(self) -> int:
        """At most."""


def doubled(node: DescriptorNode, at: str) -> Iterator[Offence]:
    """Yield the keys and values that stand twice in a list below ``node``, whose path is ``at``.

    A YANG list tells its nodes apart by a key, a leaf-list has each value once (RFC 7950, 7.7
    and 7.8).
    """
    for leaf in fields(node):
        path, value = f"{at}.{leaf.encode_name}", getattr(node, leaf.name)
        if isinstance(value, DescriptorNode):
            yield from doubled(value, path)
        if not isinstance(value, tuple) or not value:
            continue
        first = value[0]
        if not isinstance(first, DescriptorNode):
            yield from twice(path, value)
        elif hasattr(first, first.key):
            key = f".{first.key.replace('_', '-')}"
            yield from twice(path, (getattr(item, item.key) for item in value), key)
        for place, item in enumerate(value):
            if isinstance(item, DescriptorNode):
                yield from doubled(item, f"{path}[{place}]")


def refers(at: str, what: str, name: str | None, known: Collection[str]) -> Iterator[Offence]:
    """Yield that ``name`` at the path ``at`` leads nowhere; None is no reference."""
    if name is not None and name not in known:
        yield at, unknown(what, name, known)


def bounds(at: str, profile: Instances) -> Iterator[Offence]:
    """Yield that a profile has a least number of instances above its greatest."""
    low, high = profile.min_number_of_instances, profile.max_number_of_instances
    if low > high:
        yield f"{at}.min-number-of-instances", f"{low} is above max-number-of-instances ({high})"


def within(at: str, number: int, profile: Instances) -> Iterator[Offence]:
    """Yield that a level has a number of instances that its profile does not allow."""
    low, high = profile.min_number_of_instances, profile.max_number_of_instances
    if not low <= number <= high:
        why = f"{number} is not from {low} to {high}, as the profile has it"
        yield f"{at}.number-of-instances", why


@cache
def passed_over() -> dict[str, list[str]]:
    """Return the standard leaves that may stand in a node and are not used, by its class."""
    text = files(__package__).joinpath("passed_over.yaml").read_text(encoding="utf-8")
    found: dict[str, list[str]] = yaml.safe_load(text)
    return found


def without_passed_over(data: Any, kind: type[Struct]) -> Any:
    """Return ``data`` as the schema ``kind`` takes it, without what is passed over."""
    return _pruned(data, _type_info(kind))


_type_info = cache(inspect.type_info)  # costs more than the descriptor that it is for


def _pruned(value: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.UnionType():
            shape = next((t for t in kind.types if not isinstance(t, inspect.NoneType)), kind)
            return _pruned(value, shape)
        case inspect.VarTupleType() if isinstance(value, list):
            return [_pruned(item, kind.item_type) for item in value]
        case inspect.StructType() if isinstance(value, dict):
            unused = passed_over().get(kind.cls.__name__, ())
            types = {field.encode_name: field.type for field in kind.fields}
            return {
                key: _pruned(item, types[key]) if key in types else item
                for key, item in value.items()
                if key not in unused
            }
    return value
