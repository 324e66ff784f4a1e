"""VNF descriptors (VNFD) in the tree shape of ETSI GS NFV-SOL006, as far as they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from phalanx.domain.resources import Resources
from phalanx.loading import Offence
from phalanx.orchestration.descriptors.node import (
    Amount,
    Count,
    DescriptorNode,
    Id,
    Label,
    Positive,
    Text,
    bounds,
    doubled,
    refers,
    within,
)


class VirtualCpu(DescriptorNode, frozen=True):
    """The processors of a virtual machine or container."""

    num_virtual_cpu: Annotated[int, Meta(ge=1, le=10_000)]


class VirtualMemory(DescriptorNode, frozen=True):
    """Its memory."""

    size: Positive
    """In GB."""


class BlockStorage(DescriptorNode, frozen=True):
    """A block device."""

    size_of_storage: Amount
    """In GB."""


class VirtualDisk(DescriptorNode, frozen=True):
    """A disk that belongs to the compute resource."""

    id: Id
    size_of_storage: Amount
    """In GB."""


class VirtualComputeDesc(DescriptorNode, frozen=True):
    """What a VDU needs of a host."""

    id: Id
    virtual_cpu: VirtualCpu
    virtual_memory: VirtualMemory
    virtual_disk: tuple[VirtualDisk, ...] = ()


class VirtualStorageDesc(DescriptorNode, frozen=True):
    """Storage of a VDU: ``block-storage-data``, or its size alone as OSM writes it."""

    id: Id
    type_of_storage: Label = ""
    block_storage_data: BlockStorage | None = None
    size_of_storage: Amount | None = None
    """In GB."""

    @property
    def size_gb(self) -> float:
        """Size in GB, 0 where none is given."""
        own = self.size_of_storage or 0.0
        return self.block_storage_data.size_of_storage if self.block_storage_data else own


class Checksum(DescriptorNode, frozen=True):
    """The hash of an image."""

    algorithm: Literal["sha-224", "sha-256", "sha-384", "sha-512"]
    hash: Annotated[str, Meta(min_length=1, max_length=200)]


class SwImageDesc(DescriptorNode, frozen=True):
    """An image that a VDU boots."""

    id: Id
    name: Label
    version: Label = ""
    image: Text = ""
    checksum: Checksum | None = None


class IntCpd(DescriptorNode, frozen=True):
    """A connection point of a VDU."""

    id: Id
    int_virtual_link_desc: Id | None = None


class Vdu(DescriptorNode, frozen=True):
    """A virtualisation deployment unit: one kind of machine of the VNF."""

    id: Id
    name: Label
    virtual_compute_desc: Id
    int_cpd: Annotated[tuple[IntCpd, ...], Meta(min_length=1)]
    description: Text = ""
    virtual_storage_desc: tuple[Id, ...] = ()
    sw_image_desc: Id | None = None


class IntVirtualLinkDesc(DescriptorNode, frozen=True):
    """A network inside the VNF."""

    id: Id


class IntCpRef(DescriptorNode, frozen=True):
    """A connection point of one of the VDUs."""

    vdu_id: Id
    cpd: Id


class ExtCpd(DescriptorNode, frozen=True):
    """A connection point of the VNF: one of a VDU, or an inner network."""

    id: Id
    int_cpd: IntCpRef | None = None
    int_virtual_link_desc: Id | None = None


class VduProfile(DescriptorNode, frozen=True):
    """How many of a VDU a flavour may have."""

    id: Id
    min_number_of_instances: Count = 1
    max_number_of_instances: Count = 1


class VduLevel(DescriptorNode, frozen=True):
    """How many of a VDU a level has."""

    key: ClassVar = "vdu_id"
    vdu_id: Id
    number_of_instances: Count = 1


class VnfLevel(DescriptorNode, frozen=True):
    """A size in which the VNF can be instantiated."""

    id: Id
    vdu_level: Annotated[tuple[VduLevel, ...], Meta(min_length=1)]


class VnfFlavour(DescriptorNode, frozen=True):
    """A deployment flavour (``df``) of the VNF."""

    id: Id
    vdu_profile: Annotated[tuple[VduProfile, ...], Meta(min_length=1)]
    instantiation_level: Annotated[tuple[VnfLevel, ...], Meta(min_length=1)]
    default_instantiation_level: Id | None = None

    def level(self, name: str | None = None) -> VnfLevel:
        """Return the level ``name``, else the default one, else the first."""
        wanted = name or self.default_instantiation_level
        return next(
            (v for v in self.instantiation_level if v.id == wanted), self.instantiation_level[0]
        )


class VnfDescriptor(DescriptorNode, frozen=True):
    """A VNFD: what a VNF is made of, and what it connects to."""

    id: Id
    product_name: Label
    version: Label
    vdu: Annotated[tuple[Vdu, ...], Meta(min_length=1)]
    virtual_compute_desc: Annotated[tuple[VirtualComputeDesc, ...], Meta(min_length=1)]
    ext_cpd: Annotated[tuple[ExtCpd, ...], Meta(min_length=1)]
    flavours: Annotated[tuple[VnfFlavour, ...], Meta(min_length=1)] = field(name="df")
    provider: Label = ""
    software_version: Label = ""
    description: Text = ""
    mgmt_cp: Id | None = None
    """The connection point for management (an addition of OSM)."""
    virtual_storage_desc: tuple[VirtualStorageDesc, ...] = ()
    sw_image_desc: tuple[SwImageDesc, ...] = ()
    int_virtual_link_desc: tuple[IntVirtualLinkDesc, ...] = ()

    def flavour(self, name: str | None = None) -> VnfFlavour:
        """Return the flavour ``name``; the first if none is named or there is none such."""
        return next((df for df in self.flavours if df.id == name), self.flavours[0])

    def resources(self, flavour: str | None = None, level: str | None = None) -> Resources:
        """Return what one instance takes in a flavour and level (cores, GB, GB)."""
        computes = {c.id: c for c in self.virtual_compute_desc}
        storages = {s.id: s.size_gb for s in self.virtual_storage_desc}
        counts = {n.vdu_id: n for n in self.flavour(flavour).level(level).vdu_level}
        total = Resources()
        for vdu in self.vdu:
            if vdu.id in counts:
                compute = computes[vdu.virtual_compute_desc]
                disk = sum(d.size_of_storage for d in compute.virtual_disk)
                disk += sum(storages[name] for name in vdu.virtual_storage_desc)
                one = Resources(
                    compute.virtual_cpu.num_virtual_cpu, compute.virtual_memory.size, disk
                )
                total += one.times(counts[vdu.id].number_of_instances)
        return total


def vnfd_offences(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    """Yield everything in ``vnfd`` that does not fit together; ``at`` is its path in the file.

    The first is to be refused, as by ``nsd_offences``.
    """
    yield from doubled(vnfd, at)
    yield from _vdus(vnfd, at)
    yield from _connection_points(vnfd, at)
    for place, flavour in enumerate(vnfd.flavours):
        yield from _flavour(vnfd, flavour, f"{at}.df[{place}]")


def _vdus(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    computes = [c.id for c in vnfd.virtual_compute_desc]
    storages = [s.id for s in vnfd.virtual_storage_desc]
    images = [i.id for i in vnfd.sw_image_desc]
    links = [link.id for link in vnfd.int_virtual_link_desc]
    for place, vdu in enumerate(vnfd.vdu):
        path = f"{at}.vdu[{place}]"
        compute = vdu.virtual_compute_desc
        yield from refers(f"{path}.virtual-compute-desc", "virtual-compute-desc", compute, computes)
        for number, name in enumerate(vdu.virtual_storage_desc):
            here = f"{path}.virtual-storage-desc[{number}]"
            yield from refers(here, "virtual-storage-desc", name, storages)
        yield from refers(f"{path}.sw-image-desc", "sw-image-desc", vdu.sw_image_desc, images)
        for number, cpd in enumerate(vdu.int_cpd):
            here = f"{path}.int-cpd[{number}].int-virtual-link-desc"
            yield from refers(here, "int-virtual-link-desc", cpd.int_virtual_link_desc, links)


def _connection_points(vnfd: VnfDescriptor, at: str) -> Iterator[Offence]:
    inner = {vdu.id: [cpd.id for cpd in vdu.int_cpd] for vdu in vnfd.vdu}
    links = [link.id for link in vnfd.int_virtual_link_desc]
    for place, cpd in enumerate(vnfd.ext_cpd):
        path, link = f"{at}.ext-cpd[{place}]", cpd.int_virtual_link_desc
        if (cpd.int_cpd is None) == (link is None):
            yield path, "needs one of int-cpd and int-virtual-link-desc"
        yield from refers(f"{path}.int-virtual-link-desc", "int-virtual-link-desc", link, links)
        if cpd.int_cpd is not None:
            yield from refers(f"{path}.int-cpd.vdu-id", "vdu", cpd.int_cpd.vdu_id, inner)
            points = inner.get(cpd.int_cpd.vdu_id, [])
            yield from refers(f"{path}.int-cpd.cpd", "int-cpd", cpd.int_cpd.cpd, points)
    yield from refers(f"{at}.mgmt-cp", "ext-cpd", vnfd.mgmt_cp, [cpd.id for cpd in vnfd.ext_cpd])


def _flavour(vnfd: VnfDescriptor, flavour: VnfFlavour, at: str) -> Iterator[Offence]:
    vdus = [vdu.id for vdu in vnfd.vdu]
    profiles = {profile.id: profile for profile in flavour.vdu_profile}
    for place, profile in enumerate(flavour.vdu_profile):
        path = f"{at}.vdu-profile[{place}]"
        yield from refers(f"{path}.id", "vdu", profile.id, vdus)
        yield from bounds(path, profile)
    for place, level in enumerate(flavour.instantiation_level):
        for number, entry in enumerate(level.vdu_level):
            path = f"{at}.instantiation-level[{place}].vdu-level[{number}]"
            yield from refers(f"{path}.vdu-id", "vdu-profile", entry.vdu_id, profiles)
            yield from within(path, entry.number_of_instances, profiles[entry.vdu_id])
    levels = [level.id for level in flavour.instantiation_level]
    default = flavour.default_instantiation_level
    yield from refers(f"{at}.default-instantiation-level", "instantiation-level", default, levels)
