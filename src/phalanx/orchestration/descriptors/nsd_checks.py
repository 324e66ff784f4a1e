"""What the parts of an NSD say about each other, and about the VNFDs that it uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from phalanx.loading import Offence, twice, unknown
from phalanx.orchestration.descriptors.nsd import NsDescriptor, NsFlavour, VnfProfile
from phalanx.orchestration.descriptors.nsd_graph_checks import dependency_offences, graph_offences
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor

Vnfds = Mapping[str, VnfDescriptor]


def nsd_offences(
    nsd: NsDescriptor, vnfds: Vnfds, functions: Collection[str] | None, at: str
) -> Iterator[Offence]:
    """Yield everything in ``nsd`` that does not fit together; ``at`` is its path in the file.

    The first is to be refused: what follows takes for granted that names before it lead somewhere.
    ``functions`` are the capabilities that agents can have; None: any name is taken.
    """
    for place, name in enumerate(nsd.vnfd_id):
        if name not in vnfds:
            yield f"{at}.vnfd-id[{place}]", unknown("VNFD", name, vnfds)
    yield from twice(f"{at}.vnfd-id", nsd.vnfd_id)
    yield from _links(nsd, at)
    yield from _access_points(nsd, vnfds, at)
    yield from twice(f"{at}.df", (df.id for df in nsd.flavours), ".id")
    for place, flavour in enumerate(nsd.flavours):
        path = f"{at}.df[{place}]"
        yield from _profiles(nsd, flavour, vnfds, path)
        yield from _link_profiles(nsd, flavour, path)
        yield from _levels(flavour, path)
        yield from dependency_offences(flavour, path)
        yield from _security(flavour, functions, path)
    yield from graph_offences(nsd, vnfds, at)


def _links(nsd: NsDescriptor, at: str) -> Iterator[Offence]:
    yield from twice(f"{at}.virtual-link-desc", (v.id for v in nsd.virtual_link_desc), ".id")
    for place, link in enumerate(nsd.virtual_link_desc):
        path = f"{at}.virtual-link-desc[{place}].df"
        yield from twice(path, (df.id for df in link.flavours), ".id")


def _access_points(nsd: NsDescriptor, vnfds: Vnfds, at: str) -> Iterator[Offence]:
    links = [link.id for link in nsd.virtual_link_desc]
    yield from twice(f"{at}.sapd", (sap.id for sap in nsd.sapd), ".id")
    for place, sap in enumerate(nsd.sapd):
        path = f"{at}.sapd[{place}]"
        if sap.virtual_link_desc is not None and sap.associated_cpd is not None:
            yield path, "has both virtual-link-desc and associated-cpd; one is allowed"
        if sap.virtual_link_desc is not None and sap.virtual_link_desc not in links:
            why = unknown("virtual-link-desc", sap.virtual_link_desc, links)
            yield f"{path}.virtual-link-desc", why
        if (cpd := sap.associated_cpd) is not None:
            if cpd.vnfd_id not in nsd.vnfd_id:
                why = unknown("vnfd-id", cpd.vnfd_id, nsd.vnfd_id)
                yield f"{path}.associated-cpd.vnfd-id", why
            elif cpd.vnf_ext_cpd not in (points := _points(vnfds[cpd.vnfd_id])):
                why = unknown("ext-cpd", cpd.vnf_ext_cpd, points)
                yield f"{path}.associated-cpd.vnf-ext-cpd", why


def _points(vnfd: VnfDescriptor) -> list[str]:
    return [cpd.id for cpd in vnfd.ext_cpd]


def _profiles(nsd: NsDescriptor, flavour: NsFlavour, vnfds: Vnfds, at: str) -> Iterator[Offence]:
    yield from twice(f"{at}.vnf-profile", (p.id for p in flavour.vnf_profile), ".id")
    for place, profile in enumerate(flavour.vnf_profile):
        path = f"{at}.vnf-profile[{place}]"
        low, high = profile.min_number_of_instances, profile.max_number_of_instances
        if low > high:
            why = f"{low} is above max-number-of-instances ({high})"
            yield f"{path}.min-number-of-instances", why
        if profile.vnfd_id not in nsd.vnfd_id:
            yield f"{path}.vnfd-id", unknown("vnfd-id", profile.vnfd_id, nsd.vnfd_id)
            continue
        vnfd = vnfds[profile.vnfd_id]
        names = [df.id for df in vnfd.flavours]
        if profile.flavour_id is not None and profile.flavour_id not in names:
            yield f"{path}.flavour-id", unknown(f"df of {vnfd.id}", profile.flavour_id, names)
            continue
        levels = [v.id for v in vnfd.flavour(profile.flavour_id).instantiation_level]
        if profile.instantiation_level is not None and profile.instantiation_level not in levels:
            why = unknown("instantiation-level", profile.instantiation_level, levels)
            yield f"{path}.instantiation-level", why
        yield from _connectivity(nsd, flavour, profile, _points(vnfd), path)


def _connectivity(
    nsd: NsDescriptor, flavour: NsFlavour, profile: VnfProfile, points: list[str], at: str
) -> Iterator[Offence]:
    # OSM leaves the link profiles out, and names the links themselves.
    links = [p.id for p in flavour.virtual_link_profile] or [d.id for d in nsd.virtual_link_desc]
    path = f"{at}.virtual-link-connectivity"
    connected = profile.virtual_link_connectivity
    yield from twice(
        path, (c.virtual_link_profile_id for c in connected), ".virtual-link-profile-id"
    )
    for place, connectivity in enumerate(connected):
        here = f"{path}[{place}]"
        if (link := connectivity.virtual_link_profile_id) not in links:
            yield f"{here}.virtual-link-profile-id", unknown("virtual link", link, links)
        for number, cpd in enumerate(connectivity.constituent_cpd_id):
            entry = f"{here}.constituent-cpd-id[{number}]"
            if cpd.constituent_base_element_id != profile.id:
                why = f"is {cpd.constituent_base_element_id!r}; this vnf-profile is {profile.id!r}"
                yield f"{entry}.constituent-base-element-id", why
            if cpd.constituent_cpd_id not in points:
                why = unknown("ext-cpd", cpd.constituent_cpd_id, points)
                yield f"{entry}.constituent-cpd-id", why


def _link_profiles(nsd: NsDescriptor, flavour: NsFlavour, at: str) -> Iterator[Offence]:
    links = {link.id: link for link in nsd.virtual_link_desc}
    path = f"{at}.virtual-link-profile"
    yield from twice(path, (p.id for p in flavour.virtual_link_profile), ".id")
    for place, profile in enumerate(flavour.virtual_link_profile):
        here = f"{path}[{place}]"
        link = links.get(profile.virtual_link_desc_id)
        if link is None:
            why = unknown("virtual-link-desc", profile.virtual_link_desc_id, links)
            yield f"{here}.virtual-link-desc-id", why
        elif profile.flavour_id is not None:
            names = [df.id for df in link.flavours]
            if profile.flavour_id not in names:
                yield f"{here}.flavour-id", unknown(f"df of {link.id}", profile.flavour_id, names)
        low, high = profile.min_bitrate_requirements, profile.max_bitrate_requirements
        if low is not None and high is not None and low.root > high.root:
            why = f"{low.root:g} Mbit/s is above max-bitrate-requirements ({high.root:g} Mbit/s)"
            yield f"{here}.min-bitrate-requirements.root", why


def _levels(flavour: NsFlavour, at: str) -> Iterator[Offence]:
    profiles = {profile.id: profile for profile in flavour.vnf_profile}
    levels = [level.id for level in flavour.ns_instantiation_level]
    yield from twice(f"{at}.ns-instantiation-level", levels, ".id")
    for place, level in enumerate(flavour.ns_instantiation_level):
        path = f"{at}.ns-instantiation-level[{place}].vnf-to-level-mapping"
        mapped = level.vnf_to_level_mapping
        yield from twice(path, (m.vnf_profile_id for m in mapped), ".vnf-profile-id")
        for number, mapping in enumerate(mapped):
            here = f"{path}[{number}]"
            profile = profiles.get(mapping.vnf_profile_id)
            if profile is None:
                why = unknown("vnf-profile", mapping.vnf_profile_id, profiles)
                yield f"{here}.vnf-profile-id", why
                continue
            low, high = profile.min_number_of_instances, profile.max_number_of_instances
            if not low <= mapping.number_of_instances <= high:
                why = f"{mapping.number_of_instances} is not from {low} to {high}"
                yield f"{here}.number-of-instances", f"{why}, as the profile has it"
    default = flavour.default_instantiation_level
    if default is not None and default not in levels:
        why = unknown("ns-instantiation-level", default, levels)
        yield f"{at}.default-instantiation-level", why


def _security(flavour: NsFlavour, functions: Collection[str] | None, at: str) -> Iterator[Offence]:
    if flavour.phalanx is None:
        return
    profiles = [profile.id for profile in flavour.vnf_profile]
    path = f"{at}.phalanx.guards"
    guards = flavour.phalanx.guards
    yield from twice(path, (guard.vnf_profile_id for guard in guards), ".vnf-profile-id")
    for place, guard in enumerate(guards):
        here = f"{path}[{place}]"
        if guard.vnf_profile_id not in profiles:
            why = unknown("vnf-profile", guard.vnf_profile_id, profiles)
            yield f"{here}.vnf-profile-id", why
        yield from twice(f"{here}.functions", guard.functions)
        for number, name in enumerate(guard.functions):
            if functions is not None and name not in functions:
                yield f"{here}.functions[{number}]", unknown("function", name, sorted(functions))
