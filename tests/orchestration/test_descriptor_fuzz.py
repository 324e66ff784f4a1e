"""Whatever a file holds, it is taken or refused in one line: there is never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mutations import mutated

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
@given(st.data(), st.sampled_from(sorted(TREES)), st.sampled_from(["", "-wide"]))
def test_mutated_files(data: st.DataObject, name: str, which: str) -> None:
    read({**TEXTS, name: json.dumps(data.draw(mutated(TREES[name])))}, f"request{which}.yaml")


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
