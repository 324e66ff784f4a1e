"""Whatever a file holds, it is taken or refused in one line: there is never a traceback."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phalanx.domain.errors import ScenarioError
from phalanx.orchestration.descriptors.service import parse_service
from phalanx.orchestration.mlfo.need import PlacementError, need_of
from phalanx.orchestration.mlfo.pipeline import PipelineDescriptor, compute
from phalanx.orchestration.mlfo.search import Effort

FOLDER = Path(__file__).parents[2] / "scenarios" / "services" / "edge-video"
TREES: dict[str, Any] = {
    file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*.yaml")
}
TEXTS = {name: json.dumps(tree) for name, tree in TREES.items()}
FEW = settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["access", "cache", "origin", "mgmt", "default", "madrid", "pop1", "a>b", "1.0"]
    ),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["id", "df", "x"]), st.integers(0, 3), max_size=2),
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


PLACES = {name: places(tree) for name, tree in TREES.items()}


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str]:
    """Return a file's name and its text with a few nodes changed, doubled, moved or gone."""
    name = draw(st.sampled_from(sorted(TREES)))
    tree = copy.deepcopy(TREES[name])
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(PLACES[name]))
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
    return name, json.dumps(tree)


def read(texts: dict[str, str], request: str) -> None:
    """Read a service and place its agents, or be told in one line why not."""
    try:
        service = parse_service(
            {name: text for name, text in texts.items() if "vnfd" in name or "nsd" in name},
            ("sites.yaml", texts["sites.yaml"]),
            (request, texts[request]),
        )
        pipeline = compute(need_of(service), Effort(seconds=None, nodes=20))
        assert isinstance(pipeline, PipelineDescriptor)
    except (ScenarioError, PlacementError) as error:
        line = str(error)
        assert line.isprintable()
        assert 0 < len(line) < 700


@FEW
@given(mutated(), st.sampled_from(["request.yaml", "request-wide.yaml"]))
def test_mutated_files(mutation: tuple[str, str], request: str) -> None:
    name, text = mutation
    read({**TEXTS, name: text}, request)


@FEW
@given(
    st.sampled_from(sorted(TEXTS)), st.integers(0, 4000), st.integers(0, 30), st.text(max_size=8)
)
def test_texts_with_a_piece_replaced(name: str, start: int, length: int, piece: str) -> None:
    text = yaml.safe_dump(TREES[name])
    read({**TEXTS, name: text[:start] + piece + text[start + length :]}, "request.yaml")


@FEW
@given(st.sampled_from(sorted(TEXTS)), st.text(max_size=60))
def test_any_text(name: str, text: str) -> None:
    read({**TEXTS, name: text}, "request.yaml")
