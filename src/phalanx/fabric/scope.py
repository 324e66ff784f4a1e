"""Scopes: how much of the network a service cares for, from one function to end to end."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Part = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z|^\Z")]
"""The name of one part, or nothing where the scope is not narrowed to one."""


class Scope(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a service cares for; each name narrows it, none at all is end to end.

    The levels are those of the closed loops of INSPIRE-5Gplus: end to end, domain, slice
    (NSI), sub-slice (NSSI), network function.
    """

    domain: Part = ""
    slice: Part = ""
    subslice: Part = ""
    function: Part = ""

    @property
    def level(self) -> str:
        """The narrowest part that it names: ``end-to-end``, ``domain``, … ``function``."""
        named = [field for field in self.__struct_fields__ if getattr(self, field)]
        return named[-1] if named else "end-to-end"

    @property
    def depth(self) -> int:
        """How narrow it is: 0 for end to end, 4 for one function."""
        return 0 if self.level == "end-to-end" else self.__struct_fields__.index(self.level) + 1

    def contains(self, other: Scope) -> bool:
        """Whether all that ``other`` cares for lies within this scope; every scope is in itself."""
        return all(
            not (own := getattr(self, field)) or own == getattr(other, field)
            for field in self.__struct_fields__
        )

    def __str__(self) -> str:
        parts = (f"{f}:{name}" for f in self.__struct_fields__ if (name := getattr(self, f)))
        return "/".join(parts) or "end-to-end"


END_TO_END = Scope()
