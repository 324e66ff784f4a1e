"""What the parts of a VNFD say about each other, beyond the types of the fields."""

from __future__ import annotations

from collections.abc import Iterator

from phalanx.loading import Offence, twice, unknown
from phalanx.orchestration.descriptors.vnfd import VnfDescriptor, VnfFlavour


def vnfd_offences(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    """Yield everything in ``vnfd`` that does not fit together; ``at`` is its path in the file."""
    yield from _twice(vnfd, at)
    yield from _vdus(vnfd, at)
    yield from _connection_points(vnfd, at)
    for place, flavour in enumerate(vnfd.flavours):
        yield from _flavour(vnfd, flavour, f"{at}.df[{place}]")


def _twice(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    ids = {
        "vdu": [node.id for node in vnfd.vdu],
        "virtual-compute-desc": [node.id for node in vnfd.virtual_compute_desc],
        "virtual-storage-desc": [node.id for node in vnfd.virtual_storage_desc],
        "sw-image-desc": [node.id for node in vnfd.sw_image_desc],
        "int-virtual-link-desc": [node.id for node in vnfd.int_virtual_link_desc],
        "ext-cpd": [node.id for node in vnfd.ext_cpd],
        "df": [node.id for node in vnfd.flavours],
    }
    for name, given in ids.items():
        yield from twice(f"{at}.{name}", given, ".id")


def _vdus(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    computes = {c.id for c in vnfd.virtual_compute_desc}
    storages = {s.id for s in vnfd.virtual_storage_desc}
    images = {i.id for i in vnfd.sw_image_desc}
    links = {link.id for link in vnfd.int_virtual_link_desc}
    for place, vdu in enumerate(vnfd.vdu):
        path = f"{at}.vdu[{place}]"
        if vdu.virtual_compute_desc not in computes:
            why = unknown("virtual-compute-desc", vdu.virtual_compute_desc, sorted(computes))
            yield f"{path}.virtual-compute-desc", why
        for number, name in enumerate(vdu.virtual_storage_desc):
            if name not in storages:
                why = unknown("virtual-storage-desc", name, sorted(storages))
                yield f"{path}.virtual-storage-desc[{number}]", why
        if vdu.sw_image_desc is not None and vdu.sw_image_desc not in images:
            why = unknown("sw-image-desc", vdu.sw_image_desc, sorted(images))
            yield f"{path}.sw-image-desc", why
        yield from twice(f"{path}.int-cpd", (cpd.id for cpd in vdu.int_cpd), ".id")
        for number, cpd in enumerate(vdu.int_cpd):
            link = cpd.int_virtual_link_desc
            if link is not None and link not in links:
                why = unknown("int-virtual-link-desc", link, sorted(links))
                yield f"{path}.int-cpd[{number}].int-virtual-link-desc", why


def _connection_points(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    inner = {vdu.id: [cpd.id for cpd in vdu.int_cpd] for vdu in vnfd.vdu}
    links = {link.id for link in vnfd.int_virtual_link_desc}
    for place, cpd in enumerate(vnfd.ext_cpd):
        path = f"{at}.ext-cpd[{place}]"
        if (cpd.int_cpd is None) == (cpd.int_virtual_link_desc is None):
            yield path, "needs one of int-cpd and int-virtual-link-desc"
        elif cpd.int_cpd is None:
            link = cpd.int_virtual_link_desc or ""
            if link not in links:
                why = unknown("int-virtual-link-desc", link, sorted(links))
                yield f"{path}.int-virtual-link-desc", why
        elif cpd.int_cpd.vdu_id not in inner:
            yield f"{path}.int-cpd.vdu-id", unknown("vdu", cpd.int_cpd.vdu_id, inner)
        elif cpd.int_cpd.cpd not in inner[cpd.int_cpd.vdu_id]:
            why = unknown("int-cpd", cpd.int_cpd.cpd, inner[cpd.int_cpd.vdu_id])
            yield f"{path}.int-cpd.cpd", why
    outer = [cpd.id for cpd in vnfd.ext_cpd]
    if vnfd.mgmt_cp is not None and vnfd.mgmt_cp not in outer:
        yield f"{at}.mgmt-cp", unknown("ext-cpd", vnfd.mgmt_cp, outer)


def _flavour(vnfd: VnfDescriptor, flavour: VnfFlavour, at: str) -> Iterator[Offence]:
    vdus = [vdu.id for vdu in vnfd.vdu]
    profiles = {profile.id: profile for profile in flavour.vdu_profile}
    yield from twice(f"{at}.vdu-profile", (profile.id for profile in flavour.vdu_profile), ".id")
    for place, profile in enumerate(flavour.vdu_profile):
        path = f"{at}.vdu-profile[{place}]"
        if profile.id not in vdus:
            yield f"{path}.id", unknown("vdu", profile.id, vdus)
        low, high = profile.min_number_of_instances, profile.max_number_of_instances
        if low > high:
            why = f"{low} is above max-number-of-instances ({high})"
            yield f"{path}.min-number-of-instances", why
    levels = [level.id for level in flavour.instantiation_level]
    yield from twice(f"{at}.instantiation-level", levels, ".id")
    for place, level in enumerate(flavour.instantiation_level):
        path = f"{at}.instantiation-level[{place}].vdu-level"
        yield from twice(path, (entry.vdu_id for entry in level.vdu_level), ".vdu-id")
        for number, entry in enumerate(level.vdu_level):
            if entry.vdu_id not in profiles:
                yield f"{path}[{number}].vdu-id", unknown("vdu-profile", entry.vdu_id, profiles)
                continue
            found = profiles[entry.vdu_id]
            low, high = found.min_number_of_instances, found.max_number_of_instances
            if not low <= entry.number_of_instances <= high:
                why = f"{entry.number_of_instances} is not from {low} to {high}"
                yield f"{path}[{number}].number-of-instances", f"{why}, as the profile has it"
    default = flavour.default_instantiation_level
    if default is not None and default not in levels:
        yield f"{at}.default-instantiation-level", unknown("instantiation-level", default, levels)
