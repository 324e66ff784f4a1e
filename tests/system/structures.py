"""How much the containers of a running system hold, by the class and attribute they belong to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

_CONTAINERS = (dict, list, set, frozenset, deque, tuple)
_OPAQUE = (ModuleType, FunctionType, BuiltinFunctionType, type, str, bytes, int, float)


def sizes(root: object, without: tuple[type, ...] = ()) -> Counter[str]:
    """Return the number of elements in all containers that can be reached from ``root``.

    Args:
        root: where to begin.
        without: classes that are not looked into.

    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([(type(root).__name__, root)])
    while waiting:
        name, one = waiting.popleft()
        if isinstance(one, MethodType):
            one = one.__self__
        if id(one) in seen or isinstance(one, (*_OPAQUE, *without)):
            continue
        seen.add(id(one))
        if isinstance(one, _CONTAINERS):
            found[name] += len(one)
            parts = [*one, *one.values()] if isinstance(one, Mapping) else one
            waiting.extend((name, part) for part in parts)
            continue
        kind = type(one).__name__
        fields: dict[str, Any] = dict(getattr(one, "__dict__", {}))
        for base in type(one).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if hasattr(one, slot):
                    fields[slot] = getattr(one, slot)
        for field in getattr(one, "__struct_fields__", ()):
            fields[field] = getattr(one, field)
        waiting.extend((f"{kind}.{field}", value) for field, value in fields.items())
    return found
