"""The scenario on real networks (Internet Topology Zoo), where the data is at hand."""

import os
from pathlib import Path

import pytest

from phalanx.runtime.system import run_scenario
from phalanx.runtime.topology import from_graphml

DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GRAPHS = sorted((DATA / "topologies").glob("*.graphml"))


@pytest.mark.skipif(not GRAPHS, reason=f"no GraphML files in {DATA / 'topologies'}")
@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: p.stem)
def test_mitigated_on(path, resilience):
    result = run_scenario(from_graphml(path, like=resilience))
    assert result.summary.mitigated, result.summary
    assert result.summary.returned
