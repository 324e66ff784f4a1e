"""Trees of files with a few nodes changed, doubled, moved or gone."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["access", "cache", "mgmt", "default", "madrid", "server", "pop1", "a>b", "1.0", "8 MB"]
    ),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["id", "df", "name", "x"]), st.integers(0, 3), max_size=2),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all nodes below ``node``."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, whole: Any) -> Any:
    """Return a tree that differs from ``whole`` in up to three places."""
    tree, known = copy.deepcopy(whole), places(whole)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(known))
        node = tree
        try:
            for key in way:
                node = node[key]
            match draw(st.sampled_from(["set", "drop", "double", "rename", "swap"])):
                case "set":
                    node[last] = draw(ODD)
                case "drop":
                    del node[last]
                case "double" if isinstance(node, list):
                    node.append(copy.deepcopy(node[last]))
                case "rename" if isinstance(node, dict):
                    node[draw(st.text(max_size=8))] = node.pop(last)
                case _:
                    first = list(node)[0] if isinstance(node, dict) else 0  # noqa: RUF015  # an empty one: IndexError
                    node[first], node[last] = node[last], node[first]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took this place away
    return tree
