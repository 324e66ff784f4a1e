"""The MLFO: computes the optimal pipeline of agents for a network service (figure 2, step 1)."""

from phalanx.orchestration.mlfo.compute import compute, recompute
from phalanx.orchestration.mlfo.errors import PlacementError
from phalanx.orchestration.mlfo.need import Change, GuardedVnf, Need, need_of
from phalanx.orchestration.mlfo.pipeline import (
    Connection,
    PipelineAgent,
    PipelineDescriptor,
    Placement,
    parse_pipeline,
)
from phalanx.orchestration.mlfo.search import Effort

__all__ = [
    "Change",
    "Connection",
    "Effort",
    "GuardedVnf",
    "Need",
    "PipelineAgent",
    "PipelineDescriptor",
    "Placement",
    "PlacementError",
    "compute",
    "need_of",
    "parse_pipeline",
    "recompute",
]
