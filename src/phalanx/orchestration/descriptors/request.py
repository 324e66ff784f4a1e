"""A deployment request: which service, in which flavour, with its VNFs where."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from phalanx.orchestration.descriptors.node import Amount, Id


class Weights(Struct, frozen=True, forbid_unknown_fields=True):
    """Prices of the placement (see ``orchestration.mlfo.model``); all in the same unit of cost."""

    agent: Amount = 10.0
    """Of each agent."""
    load: Amount = 5.0
    """Of an agent at a fully loaded site; less in proportion."""
    distrust: Amount = 10.0
    """Of an agent at a site without any trust; less in proportion."""
    latency: Amount = 1.0
    """Of each ms between a VNF and its agent."""
    peer_latency: Amount = 0.2
    """Of each ms between the agents of two neighbours."""
    start: Amount = 10.0
    """Of an agent at a site that had none, when a running pipeline is changed."""
    handover: Amount = 20.0
    """Of each VNF that another agent takes over, when a running pipeline is changed."""


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of the orchestrator."""

    name: Id
    """Of the service instance."""
    nsd: Id
    flavour: Id
    vnfs: Annotated[dict[Id, Id], Meta(min_length=1, max_length=200)]
    """VNF profile to the site that it stands at."""
    weights: Weights = Weights()
