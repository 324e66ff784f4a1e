"""A service as it is deployed: a folder with its descriptors, the sites, and the request.

=================  ================================================================
file               what it holds
=================  ================================================================
``*vnfd*.yaml``    VNFDs
``*nsd*.yaml``     the NSD (or several, of which the request names one)
``sites.yaml``     the sites that there are
``request.yaml``   the name of the instance, its flavour, and where its VNFs stand
``slices.yaml``    the slices that its VNFs are functions of, for ``phalanx slice``
=================  ================================================================

A descriptor file is ``vnfd: {…}`` or ``nsd: {nsd: [{…}]}`` as in packages of OSM, or
``nfv: {vnfd: […], nsd: […]}`` as in SOL006.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.agents import PHYSICAL
from phalanx.domain.resources import Resources
from phalanx.loading import Offence, Tree, parse_as, refusal, show, twice, unknown
from phalanx.orchestration.descriptors.node import (
    Amount,
    DescriptorNode,
    Digest,
    Fraction,
    Id,
    Positive,
    without_passed_over,
)
from phalanx.orchestration.descriptors.nsd import NsDescriptor, NsFlavour, nsd_offences
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor, vnfd_offences
from phalanx.slices.agreements import TrustAgreement, agreement_offences, naming_offences
from phalanx.slices.model import SlicesSpec, slice_offences


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


class Site(Struct, frozen=True, forbid_unknown_fields=True):
    """A place with computing of its own, under one IML."""

    name: Id
    pop: Id
    """The PoP it belongs to, at which the agents of services stand."""
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
    agreement: TrustAgreement | None = None
    """By which PoPs are trusted, and where agents may stand; None: as the sites say."""


class Nsds(DescriptorNode, frozen=True):
    """The NSDs of a file."""

    nsd: tuple[NsDescriptor, ...]


class Nfv(DescriptorNode, frozen=True):
    """The root of the SOL006 model."""

    vnfd: tuple[VnfDescriptor, ...] = ()
    nsd: tuple[NsDescriptor, ...] = ()


class Document(DescriptorNode, frozen=True):
    """A descriptor file."""

    nfv: Nfv | None = None
    vnfd: VnfDescriptor | None = None
    nsd: Nsds | None = None

    def vnfds(self) -> Iterator[tuple[str, VnfDescriptor]]:
        """Yield each VNFD and its path in the file."""
        if self.vnfd is not None:
            yield "vnfd", self.vnfd
        for place, vnfd in enumerate(self.nfv.vnfd if self.nfv else ()):
            yield f"nfv.vnfd[{place}]", vnfd

    def nsds(self) -> Iterator[tuple[str, NsDescriptor]]:
        """Yield each NSD and its path in the file."""
        for place, nsd in enumerate(self.nsd.nsd if self.nsd else ()):
            yield f"nsd.nsd[{place}]", nsd
        for place, nsd in enumerate(self.nfv.nsd if self.nfv else ()):
            yield f"nfv.nsd[{place}]", nsd


class Service(Struct, frozen=True):
    """A service to be deployed; every name in it leads somewhere."""

    request: Request
    nsd: NsDescriptor
    vnfds: dict[str, VnfDescriptor]
    """By id."""
    sites: Sites
    slices: SlicesSpec | None = None
    """The slices that its VNFs are functions of; None: it is of none."""

    @property
    def flavour(self) -> NsFlavour:
        """The flavour that is asked for."""
        return next(df for df in self.nsd.flavours if df.id == self.request.flavour)

    def taken(self) -> dict[str, Resources]:
        """Return what the service's own VNFs take of each site."""
        flavour = self.flavour
        found: dict[str, Resources] = {}
        for profile in flavour.vnf_profile:
            vnfd = self.vnfds[profile.vnfd_id]
            one = vnfd.resources(profile.flavour_id, profile.instantiation_level)
            site = self.request.vnfs[profile.id]
            found[site] = found.get(site, Resources()) + one.times(flavour.instances(profile))
        return found


class _Parsed(Struct, frozen=True):
    name: str
    document: Document
    tree: Tree


def parse_service(
    descriptors: dict[str, str],
    sites: tuple[str, str],
    request: tuple[str, str],
    functions: Collection[str] | None = None,
    slices: tuple[str, str] | None = None,
) -> Service:
    """Return the service in these texts, each with the name that stands for it in errors.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    parsed = [parse_descriptors(text, name) for name, text in descriptors.items()]
    vnfds, nsds = _checked(parsed, functions)
    known_sites = parse_sites(sites[1], sites[0])
    asked, tree = parse_as(Request, request[1], request[0])
    for field, why in _request_offences(asked, nsds, known_sites):
        raise refusal(request[0], tree, field, why)
    service = Service(asked, nsds[asked.nsd], vnfds, known_sites)
    for field, why in _room_offences(service):
        raise refusal(request[0], tree, field, why)
    if slices is None:
        return service
    spec, tree = parse_as(SlicesSpec, slices[1], slices[0])
    for field, why in _slice_offences(spec, asked, known_sites):
        raise refusal(slices[0], tree, field, why)
    return replace(service, slices=spec)


def parse_descriptors(text: str, name: str) -> _Parsed:
    """Return the descriptors in ``text``.

    Raises:
        ScenarioError: as ``parse_service``.

    """
    document, tree = parse_as(
        Document, text, name, lambda data: without_passed_over(data, Document)
    )
    if sum(part is not None for part in (document.nfv, document.vnfd, document.nsd)) != 1:
        raise refusal(name, tree, "", "one of nfv, vnfd and nsd is expected")
    for path, vnfd in document.vnfds():
        for field, why in vnfd_offences(vnfd, path):
            raise refusal(name, tree, field, why)
    return _Parsed(name, document, tree)


def parse_sites(text: str, name: str) -> Sites:
    """Return the sites in ``text``.

    Raises:
        ScenarioError: as ``parse_service``.

    """
    sites, tree = parse_as(Sites, text, name)
    for field, why in _site_offences(sites):
        raise refusal(name, tree, field, why)
    return sites


def _checked(
    parsed: list[_Parsed], functions: Collection[str] | None
) -> tuple[dict[str, VnfDescriptor], dict[str, NsDescriptor]]:
    """Return all VNFDs and NSDs by id, each there once and holding together."""
    vnfds: dict[str, VnfDescriptor] = {}
    nsds: dict[str, NsDescriptor] = {}
    where: dict[tuple[str, str], str] = {}

    def once(kind: str, id_: str, file: _Parsed, path: str) -> None:
        if (kind, id_) in where:
            why = f"{show(id_)} is already the id of a {kind} in {where[kind, id_]}"
            raise refusal(file.name, file.tree, f"{path}.id", why)
        where[kind, id_] = file.name

    for file in parsed:
        for path, vnfd in file.document.vnfds():
            once("VNFD", vnfd.id, file, path)
            vnfds[vnfd.id] = vnfd
        for path, nsd in file.document.nsds():
            once("NSD", nsd.id, file, path)
            nsds[nsd.id] = nsd
    for file in parsed:
        for path, nsd in file.document.nsds():
            for field, why in nsd_offences(nsd, vnfds, functions, path):
                raise refusal(file.name, file.tree, field, why)
    return vnfds, nsds


def _site_offences(sites: Sites) -> Iterator[Offence]:
    yield from twice("sites", (site.name for site in sites.sites), ".name")
    yield from twice("sites", (site.pop for site in sites.sites), ".pop")
    if sites.agreement is not None:
        yield from agreement_offences(sites.agreement, "agreement.")
    names = [site.name for site in sites.sites]
    for place, link in enumerate(sites.links):
        for end in link.between:
            if end not in names:
                yield f"links[{place}].between", unknown("site", end, names)
        if link.between[0] == link.between[1]:
            yield f"links[{place}].between", f"links {show(link.between[0])} with itself"
    pairs = ("–".join(sorted(link.between)) for link in sites.links)
    yield from twice("links", pairs, ".between")


def _request_offences(
    request: Request, nsds: dict[str, NsDescriptor], sites: Sites
) -> Iterator[Offence]:
    if request.nsd not in nsds:
        yield "nsd", unknown("NSD", request.nsd, nsds)
        return
    nsd = nsds[request.nsd]
    flavour = nsd.flavour(request.flavour)
    if flavour is None:
        yield "flavour", unknown(f"df of {nsd.id}", request.flavour, [df.id for df in nsd.flavours])
        return
    if flavour.phalanx is None:
        yield "flavour", f"{show(flavour.id)} of {nsd.id} has no phalanx: no agents are asked for"
    profiles = [profile.id for profile in flavour.vnf_profile]
    names = {site.name: site.pop for site in sites.sites}
    for profile, site in request.vnfs.items():
        if profile not in profiles:
            yield f"vnfs.{profile}", unknown("vnf-profile", profile, profiles)
        if site not in names:
            yield f"vnfs.{profile}", unknown("site", site, names)
        elif sites.agreement is not None and (why := sites.agreement.outside(names[site])):
            yield f"vnfs.{profile}", f"may not stand at {site}: {why}"
    for profile in profiles:
        if profile not in request.vnfs:
            yield f"vnfs.{profile}", "missing; expected the site that the VNF stands at"


def _slice_offences(spec: SlicesSpec, request: Request, sites: Sites) -> Iterator[Offence]:
    if spec.agents:
        yield "agents", "the orchestrator names the agents of loops; leave it out"
    yield from naming_offences((s.agreement for s in spec.slices), sites.agreement, "slices")
    yield from slice_offences(spec, dict.fromkeys(request.vnfs, "a VNF of the service"))
    for index, function in enumerate(spec.functions):
        if function.host not in request.vnfs:
            yield f"functions[{index}].host", unknown("VNF", function.host, request.vnfs)
        elif function.form == PHYSICAL:
            host = f"{function.host} is a VNF of the service"
            yield f"functions[{index}].form", f"{host}, so it is no PNF; expected VNF or CNF"


def _room_offences(service: Service) -> Iterator[Offence]:
    """Yield sites that have no room for the service's own VNFs."""
    free = {site.name: site.free for site in service.sites.sites}
    for name, needs in service.taken().items():
        lacking = needs.lacking(free[name])
        if lacking is not None:
            first = next(p for p, site in service.request.vnfs.items() if site == name)
            yield f"vnfs.{first}", f"site {show(name)} has no room for its VNFs: {lacking}"
