"""Network-service descriptors (NSD) in the tree shape of ETSI GS NFV-SOL006, as far as used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, ClassVar

from msgspec import Meta, field

from phalanx.domain.resources import Resources
from phalanx.loading import Offence
from phalanx.orchestration.descriptors.node import (
    Amount,
    Count,
    DescriptorNode,
    Fraction,
    Id,
    Label,
    Text,
    bounds,
    doubled,
    refers,
    within,
)
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor


class Share(DescriptorNode, frozen=True):
    """Resources that each served VNF costs its agent on top."""

    cores: Amount = 0.0
    memory_gb: Amount = 0.0
    disk_gb: Amount = 0.0

    def resources(self) -> Resources:
        """Return them as the domain's word."""
        return Resources(self.cores, self.memory_gb, self.disk_gb)


class AgentRequirements(DescriptorNode, frozen=True):
    """What every agent of the pipeline boots, and what it takes of its site."""

    image: Id
    """Name of the image; a site without it cannot host an agent."""
    cores: Amount
    memory_gb: Amount
    disk_gb: Amount = 0.0
    each_vnf: Share = Share()
    most_vnfs: Annotated[int, Meta(ge=1, le=200)] = 200
    """An agent serves at most so many VNFs."""

    def resources(self) -> Resources:
        """Return what an agent takes before it serves a VNF."""
        return Resources(self.cores, self.memory_gb, self.disk_gb)


class GuardSpec(DescriptorNode, frozen=True):
    """A VNF that an agent shall guard; limits left out are those of the service."""

    key: ClassVar = "vnf_profile_id"
    vnf_profile_id: Id
    functions: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=50)]
    """Capabilities that the VNF's agent needs, such as ``rate-limiter``."""
    latency_ms: Amount | None = None
    """Most latency between the VNF's site and its agent's, one way."""
    least_trust: Fraction | None = None
    """Least trust score of the site of its agent."""


class Security(DescriptorNode, frozen=True):
    """The security needs of a service."""

    agent: AgentRequirements
    guards: Annotated[tuple[GuardSpec, ...], Meta(min_length=1, max_length=200)]
    latency_ms: Amount = 1000.0
    """Most latency between a VNF and its agent, one way."""
    peer_latency_ms: Amount = 1000.0
    """Most latency between agents that speak with each other, one way."""
    least_trust: Fraction = 0.0
    bandwidth_mb_s: Amount = 0.0
    """Links with less bandwidth carry no agents' traffic."""


class AssociatedCpd(DescriptorNode, frozen=True):
    """A connection point of one of the VNFs."""

    vnfd_id: Id
    vnf_ext_cpd: Id


class Sapd(DescriptorNode, frozen=True):
    """A service access point: where users of the service connect."""

    id: Id
    virtual_link_desc: Id | None = None
    associated_cpd: AssociatedCpd | None = None


class LinkFlavour(DescriptorNode, frozen=True):
    """A deployment flavour of a virtual link."""

    id: Id


class VirtualLinkDesc(DescriptorNode, frozen=True):
    """A network of the service."""

    id: Id
    flavours: tuple[LinkFlavour, ...] = field(name="df", default=())
    mgmt_network: bool = False
    """Whether it is for management alone (an addition of OSM): it makes no VNFs neighbours."""


class ProfileRef(DescriptorNode, frozen=True):
    """A VNF profile."""

    vnf_profile_id: Id


class CpdRef(DescriptorNode, frozen=True):
    """A connection point of a VNFD."""

    vnfd_id: Id
    cpd_id: Id


class PositionElement(DescriptorNode, frozen=True):
    """What stands at a position of a forwarding path."""

    vnf_profile: ProfileRef
    vnf: CpdRef | None = None


class NfpPositionElement(DescriptorNode, frozen=True):
    """A connection point of a VNF profile that forwarding paths go through."""

    id: Id
    desc: PositionElement


class PositionDesc(DescriptorNode, frozen=True):
    """A position of a forwarding path: one element, or several that share the traffic."""

    id: Id
    nfp_position_element_id: Annotated[tuple[Id, ...], Meta(min_length=1)]


class Nfpd(DescriptorNode, frozen=True):
    """A forwarding path: its positions in the order of the traffic."""

    id: Id
    position_desc: Annotated[tuple[PositionDesc, ...], Meta(min_length=1)]


class Vnffgd(DescriptorNode, frozen=True):
    """A forwarding graph: paths over VNF profiles."""

    id: Id
    nfp_position_element: Annotated[tuple[NfpPositionElement, ...], Meta(min_length=1)]
    vnf_profile_id: tuple[Id, ...] = ()
    virtual_link_profile_id: Id | None = None
    """The link whose traffic it orders: its VNFs are neighbours along the paths alone."""
    nfpd: tuple[Nfpd, ...] = ()


class ConstituentCpdId(DescriptorNode, frozen=True):
    """A connection point of a VNF profile on a link."""

    constituent_base_element_id: Id
    constituent_cpd_id: Id


class VirtualLinkConnectivity(DescriptorNode, frozen=True):
    """What a VNF profile has on one link."""

    key: ClassVar = "virtual_link_profile_id"
    virtual_link_profile_id: Id
    constituent_cpd_id: Annotated[tuple[ConstituentCpdId, ...], Meta(min_length=1)]


class VnfProfile(DescriptorNode, frozen=True):
    """A VNF of the service."""

    id: Id
    vnfd_id: Id
    flavour_id: Id | None = None
    instantiation_level: Id | None = None
    min_number_of_instances: Count = 1
    max_number_of_instances: Count = 1
    virtual_link_connectivity: tuple[VirtualLinkConnectivity, ...] = ()


class BitrateRequirements(DescriptorNode, frozen=True):
    """Bitrates of a link in Mbit/s."""

    root: Amount
    leaf: Amount | None = None


class VirtualLinkProfile(DescriptorNode, frozen=True):
    """A link of the service."""

    id: Id
    virtual_link_desc_id: Id
    flavour_id: Id | None = None
    max_bitrate_requirements: BitrateRequirements | None = None
    min_bitrate_requirements: BitrateRequirements | None = None


class VnfToLevelMapping(DescriptorNode, frozen=True):
    """How many of a VNF profile a level has."""

    key: ClassVar = "vnf_profile_id"
    vnf_profile_id: Id
    number_of_instances: Count = 1


class NsLevel(DescriptorNode, frozen=True):
    """A size in which the service can be instantiated."""

    id: Id
    vnf_to_level_mapping: tuple[VnfToLevelMapping, ...] = ()


class Dependency(DescriptorNode, frozen=True):
    """The primary VNF profile is instantiated before the secondary."""

    id: Id
    primary_vnf_profile: Id
    secondary_vnf_profile: Id


class NsFlavour(DescriptorNode, frozen=True):
    """A deployment flavour (``df``) of the service, and what its agents shall do."""

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


class NsDescriptor(DescriptorNode, frozen=True):
    """An NSD: the VNFs of a service, its links and its forwarding graphs."""

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


Vnfds = Mapping[str, VnfDescriptor]


def nsd_offences(
    nsd: NsDescriptor, vnfds: Vnfds, functions: Collection[str] | None, at: str
) -> Iterator[Offence]:
    """Yield everything in ``nsd`` that does not fit together; ``at`` is its path in the file.

    The first is to be refused: what follows takes for granted that names before it lead somewhere.
    ``functions`` are the capabilities that agents can have; None: any name is taken.
    """
    yield from doubled(nsd, at)
    for place, name in enumerate(nsd.vnfd_id):
        yield from refers(f"{at}.vnfd-id[{place}]", "VNFD", name, vnfds)
    yield from _access_points(nsd, vnfds, at)
    for place, flavour in enumerate(nsd.flavours):
        path = f"{at}.df[{place}]"
        yield from _profiles(nsd, flavour, vnfds, path)
        yield from _link_profiles(nsd, flavour, path)
        yield from _levels(flavour, path)
        yield from dependency_offences(flavour, path)
        yield from _security(flavour, functions, path)
    yield from graph_offences(nsd, vnfds, at)


def _access_points(nsd: NsDescriptor, vnfds: Vnfds, at: str) -> Iterator[Offence]:
    links = [link.id for link in nsd.virtual_link_desc]
    for place, sap in enumerate(nsd.sapd):
        path, link = f"{at}.sapd[{place}]", sap.virtual_link_desc
        if link is not None and sap.associated_cpd is not None:
            yield path, "has both virtual-link-desc and associated-cpd; one is allowed"
        yield from refers(f"{path}.virtual-link-desc", "virtual-link-desc", link, links)
        if (cpd := sap.associated_cpd) is not None:
            path += ".associated-cpd"
            yield from refers(f"{path}.vnfd-id", "vnfd-id", cpd.vnfd_id, nsd.vnfd_id)
            points = _points(vnfds[cpd.vnfd_id])
            yield from refers(f"{path}.vnf-ext-cpd", "ext-cpd", cpd.vnf_ext_cpd, points)


def _points(vnfd: VnfDescriptor) -> list[str]:
    return [cpd.id for cpd in vnfd.ext_cpd]


def _profiles(nsd: NsDescriptor, flavour: NsFlavour, vnfds: Vnfds, at: str) -> Iterator[Offence]:
    for place, profile in enumerate(flavour.vnf_profile):
        path = f"{at}.vnf-profile[{place}]"
        yield from bounds(path, profile)
        yield from refers(f"{path}.vnfd-id", "vnfd-id", profile.vnfd_id, nsd.vnfd_id)
        vnfd = vnfds[profile.vnfd_id]
        names = [df.id for df in vnfd.flavours]
        yield from refers(f"{path}.flavour-id", f"df of {vnfd.id}", profile.flavour_id, names)
        levels = [v.id for v in vnfd.flavour(profile.flavour_id).instantiation_level]
        here, level = f"{path}.instantiation-level", profile.instantiation_level
        yield from refers(here, "instantiation-level", level, levels)
        yield from _connectivity(nsd, flavour, profile, _points(vnfd), path)


def _connectivity(
    nsd: NsDescriptor, flavour: NsFlavour, profile: VnfProfile, points: list[str], at: str
) -> Iterator[Offence]:
    # OSM leaves the link profiles out, and names the links themselves.
    links = [p.id for p in flavour.virtual_link_profile] or [d.id for d in nsd.virtual_link_desc]
    for place, connectivity in enumerate(profile.virtual_link_connectivity):
        here = f"{at}.virtual-link-connectivity[{place}]"
        link = connectivity.virtual_link_profile_id
        yield from refers(f"{here}.virtual-link-profile-id", "virtual link", link, links)
        for number, cpd in enumerate(connectivity.constituent_cpd_id):
            entry = f"{here}.constituent-cpd-id[{number}]"
            if cpd.constituent_base_element_id != profile.id:
                why = f"is {cpd.constituent_base_element_id!r}; this vnf-profile is {profile.id!r}"
                yield f"{entry}.constituent-base-element-id", why
            point = cpd.constituent_cpd_id
            yield from refers(f"{entry}.constituent-cpd-id", "ext-cpd", point, points)


def _link_profiles(nsd: NsDescriptor, flavour: NsFlavour, at: str) -> Iterator[Offence]:
    links = {link.id: link for link in nsd.virtual_link_desc}
    for place, profile in enumerate(flavour.virtual_link_profile):
        here, name = f"{at}.virtual-link-profile[{place}]", profile.virtual_link_desc_id
        yield from refers(f"{here}.virtual-link-desc-id", "virtual-link-desc", name, links)
        names = [df.id for df in links[name].flavours]
        yield from refers(f"{here}.flavour-id", f"df of {name}", profile.flavour_id, names)
        low, high = profile.min_bitrate_requirements, profile.max_bitrate_requirements
        if low is not None and high is not None and low.root > high.root:
            why = f"{low.root:g} Mbit/s is above max-bitrate-requirements ({high.root:g} Mbit/s)"
            yield f"{here}.min-bitrate-requirements.root", why


def _levels(flavour: NsFlavour, at: str) -> Iterator[Offence]:
    profiles = {profile.id: profile for profile in flavour.vnf_profile}
    path = f"{at}.ns-instantiation-level"
    for place, level in enumerate(flavour.ns_instantiation_level):
        for number, mapping in enumerate(level.vnf_to_level_mapping):
            here, name = f"{path}[{place}].vnf-to-level-mapping[{number}]", mapping.vnf_profile_id
            yield from refers(f"{here}.vnf-profile-id", "vnf-profile", name, profiles)
            yield from within(here, mapping.number_of_instances, profiles[name])
    levels = [level.id for level in flavour.ns_instantiation_level]
    default = flavour.default_instantiation_level
    yield from refers(
        f"{at}.default-instantiation-level", "ns-instantiation-level", default, levels
    )


def _security(flavour: NsFlavour, functions: Collection[str] | None, at: str) -> Iterator[Offence]:
    profiles, known = [profile.id for profile in flavour.vnf_profile], sorted(functions or ())
    for place, guard in enumerate(flavour.phalanx.guards if flavour.phalanx else ()):
        here = f"{at}.phalanx.guards[{place}]"
        yield from refers(f"{here}.vnf-profile-id", "vnf-profile", guard.vnf_profile_id, profiles)
        for number, name in enumerate(guard.functions if functions is not None else ()):
            yield from refers(f"{here}.functions[{number}]", "function", name, known)


def graph_offences(nsd: NsDescriptor, vnfds: Vnfds, at: str) -> Iterator[Offence]:
    """Yield what is wrong with the forwarding graphs (``vnffgd``)."""
    # A graph may name the profiles of any flavour; what a flavour lacks, its paths skip.
    profiles = {p.id: p for flavour in nsd.flavours for p in flavour.vnf_profile}
    links = [p.id for flavour in nsd.flavours for p in flavour.virtual_link_profile]
    links = links or [link.id for link in nsd.virtual_link_desc]
    for place, graph in enumerate(nsd.vnffgd):
        path, link = f"{at}.vnffgd[{place}]", graph.virtual_link_profile_id
        yield from refers(f"{path}.virtual-link-profile-id", "virtual link", link, links)
        for number, name in enumerate(graph.vnf_profile_id):
            yield from refers(f"{path}.vnf-profile-id[{number}]", "vnf-profile", name, profiles)
        for number, element in enumerate(graph.nfp_position_element):
            here = f"{path}.nfp-position-element[{number}].desc"
            name, cpd = element.desc.vnf_profile.vnf_profile_id, element.desc.vnf
            yield from refers(f"{here}.vnf-profile.vnf-profile-id", "vnf-profile", name, profiles)
            vnfd_id = profiles[name].vnfd_id
            if cpd is not None and cpd.vnfd_id != vnfd_id:
                yield (
                    f"{here}.vnf.vnfd-id",
                    f"is {cpd.vnfd_id!r}; that of the vnf-profile is {vnfd_id!r}",
                )
            elif cpd is not None:
                points = _points(vnfds[vnfd_id])
                yield from refers(f"{here}.vnf.cpd-id", "ext-cpd", cpd.cpd_id, points)
        for number, nfpd in enumerate(graph.nfpd):
            yield from _path(graph, nfpd, f"{path}.nfpd[{number}].position-desc")


def _path(graph: Vnffgd, nfpd: Nfpd, at: str) -> Iterator[Offence]:
    at_element = {
        element.id: element.desc.vnf_profile.vnf_profile_id
        for element in graph.nfp_position_element
    }
    last_at: dict[str, int] = {}
    for place, position in enumerate(nfpd.position_desc):
        for number, name in enumerate(position.nfp_position_element_id):
            path = f"{at}[{place}].nfp-position-element-id[{number}]"
            yield from refers(path, "nfp-position-element", name, at_element)
            # In and out of the same VNF are two positions in a row; later it is a loop.
            before = last_at.get(at_element[name], place)
            if place - before > 1:
                yield path, f"comes back to {at_element[name]!r}: a forwarding path has no loop"
            last_at[at_element[name]] = place


def dependency_offences(flavour: NsFlavour, at: str) -> Iterator[Offence]:
    """Yield what is wrong with the order in which the VNFs are instantiated."""
    profiles = [profile.id for profile in flavour.vnf_profile]
    path = f"{at}.dependencies"
    before: dict[str, set[str]] = {}
    for place, dependency in enumerate(flavour.dependencies):
        first, second = dependency.primary_vnf_profile, dependency.secondary_vnf_profile
        for leaf, name in (("primary", first), ("secondary", second)):
            here = f"{path}[{place}].{leaf}-vnf-profile"
            yield from refers(here, "vnf-profile", name, profiles)
        before.setdefault(second, set()).add(first)
        try:
            TopologicalSorter(before).prepare()
        except CycleError:
            yield f"{path}[{place}]", f"{first!r} would have to come before itself: a cycle"
            return
