"""The sites that can host agents: location, resources, links, load, trust, images."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from phalanx.domain.resources import Resources
from phalanx.orchestration.descriptors.node import Amount, Digest, Fraction, Id, Positive


class Site(Struct, frozen=True, forbid_unknown_fields=True):
    """A place with computing of its own, under one IML."""

    name: Id
    pop: Id
    """The PoP it belongs to: the name of the agent that stands here."""
    cores: Amount
    memory_gb: Amount
    disk_gb: Amount
    load: Fraction = 0.0
    """Share of the resources that is in use."""
    trust: Fraction = 1.0
    """Trust score, from 0 (none) to 1."""
    images: dict[Id, Digest] = {}
    """Images that can be booted here, with their digests."""
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None

    @property
    def free(self) -> Resources:
        """The resources that are not in use."""
        idle = 1.0 - self.load
        return Resources(self.cores * idle, self.memory_gb * idle, self.disk_gb * idle)


class SiteLink(Struct, frozen=True, forbid_unknown_fields=True):
    """A link between two sites, the same in both directions."""

    between: tuple[Id, Id]
    latency_ms: Amount
    bandwidth_mb_s: Positive


class Sites(Struct, frozen=True, forbid_unknown_fields=True):
    """All sites of a domain."""

    sites: Annotated[tuple[Site, ...], Meta(min_length=1, max_length=2000)]
    links: Annotated[tuple[SiteLink, ...], Meta(max_length=20_000)] = ()
