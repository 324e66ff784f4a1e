"""Network-service descriptors (NSD) in the tree shape of ETSI GS NFV-SOL006, as far as used."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, field

from phalanx.orchestration.descriptors.node import (
    AFFINITY,
    CPD,
    SECURITY_GROUPS,
    SIGNATURE,
    Amount,
    Count,
    Id,
    Label,
    Node,
    Text,
)
from phalanx.orchestration.descriptors.security import Security


class AssociatedCpd(Node, frozen=True):
    """A connection point of one of the VNFs."""

    vnfd_id: Id
    vnf_ext_cpd: Id


class Sapd(Node, frozen=True):
    """A service access point: where users of the service connect."""

    passed_over: ClassVar = CPD
    id: Id
    virtual_link_desc: Id | None = None
    associated_cpd: AssociatedCpd | None = None


class LinkFlavour(Node, frozen=True):
    """A deployment flavour of a virtual link."""

    passed_over: ClassVar = ("qos", "service-availability-level")
    id: Id


class VirtualLinkDesc(Node, frozen=True):
    """A network of the service."""

    passed_over: ClassVar = ("connectivity-type", "test-access", "description", "vim-network-name")
    id: Id
    flavours: tuple[LinkFlavour, ...] = field(name="df", default=())
    mgmt_network: bool = False
    """Whether it is for management alone (an addition of OSM): it makes no VNFs neighbours."""


class ProfileRef(Node, frozen=True):
    """A VNF profile."""

    vnf_profile_id: Id


class CpdRef(Node, frozen=True):
    """A connection point of a VNFD."""

    vnfd_id: Id
    cpd_id: Id


class PositionElement(Node, frozen=True):
    """What stands at a position of a forwarding path."""

    vnf_profile: ProfileRef
    vnf: CpdRef | None = None


class NfpPositionElement(Node, frozen=True):
    """A connection point of a VNF profile that forwarding paths go through."""

    id: Id
    desc: PositionElement


class PositionDesc(Node, frozen=True):
    """A position of a forwarding path: one element, or several that share the traffic."""

    passed_over: ClassVar = ("forwarding-behaviour", "forwarding-behavior-input-parameters")
    id: Id
    nfp_position_element_id: Annotated[tuple[Id, ...], Meta(min_length=1)]


class Nfpd(Node, frozen=True):
    """A forwarding path: its positions in the order of the traffic."""

    passed_over: ClassVar = ("rule",)
    id: Id
    position_desc: Annotated[tuple[PositionDesc, ...], Meta(min_length=1)]


class Vnffgd(Node, frozen=True):
    """A forwarding graph: paths over VNF profiles."""

    id: Id
    nfp_position_element: Annotated[tuple[NfpPositionElement, ...], Meta(min_length=1)]
    vnf_profile_id: tuple[Id, ...] = ()
    virtual_link_profile_id: Id | None = None
    """The link whose traffic it orders: its VNFs are neighbours along the paths alone."""
    nfpd: tuple[Nfpd, ...] = ()


class ConstituentCpdId(Node, frozen=True):
    """A connection point of a VNF profile on a link."""

    passed_over: ClassVar = ("ip-address",)
    constituent_base_element_id: Id
    constituent_cpd_id: Id


class VirtualLinkConnectivity(Node, frozen=True):
    """What a VNF profile has on one link."""

    virtual_link_profile_id: Id
    constituent_cpd_id: Annotated[tuple[ConstituentCpdId, ...], Meta(min_length=1)]


class VnfProfile(Node, frozen=True):
    """A VNF of the service."""

    passed_over: ClassVar = (*AFFINITY, "service-availability-level")
    id: Id
    vnfd_id: Id
    flavour_id: Id | None = None
    instantiation_level: Id | None = None
    min_number_of_instances: Count = 1
    max_number_of_instances: Count = 1
    virtual_link_connectivity: tuple[VirtualLinkConnectivity, ...] = ()


class BitrateRequirements(Node, frozen=True):
    """Bitrates of a link in Mbit/s."""

    root: Amount
    leaf: Amount | None = None


class VirtualLinkProfile(Node, frozen=True):
    """A link of the service."""

    passed_over: ClassVar = (*AFFINITY, "virtual-link-protocol-data")
    id: Id
    virtual_link_desc_id: Id
    flavour_id: Id | None = None
    max_bitrate_requirements: BitrateRequirements | None = None
    min_bitrate_requirements: BitrateRequirements | None = None


class VnfToLevelMapping(Node, frozen=True):
    """How many of a VNF profile a level has."""

    vnf_profile_id: Id
    number_of_instances: Count = 1


class NsLevel(Node, frozen=True):
    """A size in which the service can be instantiated."""

    passed_over: ClassVar = ("description", "virtual-link-to-level-mapping")
    id: Id
    vnf_to_level_mapping: tuple[VnfToLevelMapping, ...] = ()


class Dependency(Node, frozen=True):
    """The primary VNF profile is instantiated before the secondary."""

    id: Id
    primary_vnf_profile: Id
    secondary_vnf_profile: Id


class NsFlavour(Node, frozen=True):
    """A deployment flavour (``df``) of the service, and what its agents shall do."""

    passed_over: ClassVar = (
        "flavour-key",
        "scaling-aspect",
        "affinity-or-anti-affinity-group",
        "ns-lcm-additional-params",
        "monitored-info",
        "priority",
        "service-availability-level",
    )
    id: Id
    vnf_profile: Annotated[tuple[VnfProfile, ...], Meta(min_length=1, max_length=200)]
    virtual_link_profile: tuple[VirtualLinkProfile, ...] = ()
    ns_instantiation_level: tuple[NsLevel, ...] = ()
    default_instantiation_level: Id | None = None
    dependencies: tuple[Dependency, ...] = ()
    phalanx: Security | None = None
    """The agents of the service: an extension, not part of SOL006."""

    def instances(self, profile: VnfProfile) -> int:
        """Return how many instances of ``profile`` the default level has."""
        level = next(
            (v for v in self.ns_instantiation_level if v.id == self.default_instantiation_level),
            self.ns_instantiation_level[0] if self.ns_instantiation_level else None,
        )
        counts = {m.vnf_profile_id: m for m in level.vnf_to_level_mapping} if level else {}
        mapped = counts.get(profile.id)
        return mapped.number_of_instances if mapped else profile.min_number_of_instances


class NsDescriptor(Node, frozen=True):
    """An NSD: the VNFs of a service, its links and its forwarding graphs."""

    passed_over: ClassVar = (
        "invariant-id",
        "autoscale-rule",
        "lifecycle-management-script",
        *SECURITY_GROUPS,
        *SIGNATURE,
    )
    id: Id
    name: Label
    version: Label
    vnfd_id: Annotated[tuple[Id, ...], Meta(min_length=1)]
    flavours: Annotated[tuple[NsFlavour, ...], Meta(min_length=1)] = field(name="df")
    designer: Label = ""
    description: Text = ""
    sapd: tuple[Sapd, ...] = ()
    virtual_link_desc: tuple[VirtualLinkDesc, ...] = ()
    vnffgd: tuple[Vnffgd, ...] = ()

    def flavour(self, name: str) -> NsFlavour | None:
        """Return the flavour ``name``; None if there is none such."""
        return next((df for df in self.flavours if df.id == name), None)
