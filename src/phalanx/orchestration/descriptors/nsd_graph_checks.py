"""What an NSD's forwarding graphs and dependencies must keep: they name what exists, no loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from phalanx.loading import Offence, twice, unknown
from phalanx.orchestration.descriptors.nsd import Nfpd, NsDescriptor, NsFlavour, Vnffgd
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor


def graph_offences(
    nsd: NsDescriptor, vnfds: Mapping[str, VnfDescriptor], at: str
) -> Iterator[Offence]:
    """Yield what is wrong with the forwarding graphs (``vnffgd``)."""
    # A graph may name the profiles of any flavour; what a flavour lacks, its paths skip.
    profiles = {p.id: p for flavour in nsd.flavours for p in flavour.vnf_profile}
    links = [p.id for flavour in nsd.flavours for p in flavour.virtual_link_profile]
    links = links or [link.id for link in nsd.virtual_link_desc]
    yield from twice(f"{at}.vnffgd", (graph.id for graph in nsd.vnffgd), ".id")
    for place, graph in enumerate(nsd.vnffgd):
        path = f"{at}.vnffgd[{place}]"
        link = graph.virtual_link_profile_id
        if link is not None and link not in links:
            yield f"{path}.virtual-link-profile-id", unknown("virtual link", link, links)
        for number, name in enumerate(graph.vnf_profile_id):
            if name not in profiles:
                yield f"{path}.vnf-profile-id[{number}]", unknown("vnf-profile", name, profiles)
        elements = graph.nfp_position_element
        yield from twice(f"{path}.nfp-position-element", (e.id for e in elements), ".id")
        for number, element in enumerate(elements):
            here = f"{path}.nfp-position-element[{number}].desc"
            profile = profiles.get(element.desc.vnf_profile.vnf_profile_id)
            if profile is None:
                why = unknown("vnf-profile", element.desc.vnf_profile.vnf_profile_id, profiles)
                yield f"{here}.vnf-profile.vnf-profile-id", why
            elif (cpd := element.desc.vnf) is not None:
                points = [p.id for p in vnfds[profile.vnfd_id].ext_cpd]
                if cpd.vnfd_id != profile.vnfd_id:
                    why = f"is {cpd.vnfd_id!r}; that of the vnf-profile is {profile.vnfd_id!r}"
                    yield f"{here}.vnf.vnfd-id", why
                elif cpd.cpd_id not in points:
                    yield f"{here}.vnf.cpd-id", unknown("ext-cpd", cpd.cpd_id, points)
        yield from twice(f"{path}.nfpd", (nfpd.id for nfpd in graph.nfpd), ".id")
        for number, nfpd in enumerate(graph.nfpd):
            yield from _path(graph, nfpd, f"{path}.nfpd[{number}].position-desc")


def _path(graph: Vnffgd, nfpd: Nfpd, at: str) -> Iterator[Offence]:
    at_element = {
        element.id: element.desc.vnf_profile.vnf_profile_id
        for element in graph.nfp_position_element
    }
    yield from twice(at, (position.id for position in nfpd.position_desc), ".id")
    last_at: dict[str, int] = {}
    for place, position in enumerate(nfpd.position_desc):
        for number, name in enumerate(position.nfp_position_element_id):
            path = f"{at}[{place}].nfp-position-element-id[{number}]"
            if name not in at_element:
                yield path, unknown("nfp-position-element", name, at_element)
                continue
            # In and out of the same VNF are two positions in a row; later it is a loop.
            before = last_at.get(at_element[name], place)
            if place - before > 1:
                yield path, f"comes back to {at_element[name]!r}: a forwarding path has no loop"
            last_at[at_element[name]] = place


def dependency_offences(flavour: NsFlavour, at: str) -> Iterator[Offence]:
    """Yield what is wrong with the order in which the VNFs are instantiated."""
    profiles = [profile.id for profile in flavour.vnf_profile]
    path = f"{at}.dependencies"
    yield from twice(path, (dependency.id for dependency in flavour.dependencies), ".id")
    after: dict[str, list[str]] = {}
    for place, dependency in enumerate(flavour.dependencies):
        first, second = dependency.primary_vnf_profile, dependency.secondary_vnf_profile
        for leaf, name in (("primary", first), ("secondary", second)):
            if name not in profiles:
                yield f"{path}[{place}].{leaf}-vnf-profile", unknown("vnf-profile", name, profiles)
        if first == second or _leads(after, second, first):
            yield f"{path}[{place}]", f"{first!r} would have to come before itself: a cycle"
            return
        after.setdefault(first, []).append(second)


def _leads(after: dict[str, list[str]], start: str, end: str) -> bool:
    """Whether ``end`` has to come after ``start``."""
    seen: set[str] = set()
    open_ = [start]
    while open_:
        name = open_.pop()
        if name == end:
            return True
        if name not in seen:
            seen.add(name)
            open_ += after.get(name, [])
    return False
