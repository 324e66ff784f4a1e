"""Descriptors of network services in the shape of ETSI GS NFV-SOL006, sites and requests."""

from phalanx.orchestration.descriptors.nsd import NsDescriptor, NsFlavour, VnfProfile
from phalanx.orchestration.descriptors.request import Request, Weights
from phalanx.orchestration.descriptors.security import AgentSpec, Guard, Security, Share
from phalanx.orchestration.descriptors.service import (
    Service,
    load_service,
    parse_service,
    parse_sites,
)
from phalanx.orchestration.descriptors.sites import Site, SiteLink, Sites
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor

__all__ = [
    "AgentSpec",
    "Guard",
    "NsDescriptor",
    "NsFlavour",
    "Request",
    "Security",
    "Service",
    "Share",
    "Site",
    "SiteLink",
    "Sites",
    "VnfDescriptor",
    "VnfProfile",
    "Weights",
    "load_service",
    "parse_service",
    "parse_sites",
]
