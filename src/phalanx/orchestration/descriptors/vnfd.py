"""VNF descriptors (VNFD) in the tree shape of ETSI GS NFV-SOL006, as far as they are used."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from phalanx.domain.resources import Resources
from phalanx.orchestration.descriptors.node import (
    AFFINITY,
    CPD,
    SECURITY_GROUPS,
    Amount,
    Count,
    Id,
    Label,
    Node,
    Positive,
    Text,
)


class VirtualCpu(Node, frozen=True):
    """The processors of a virtual machine or container."""

    passed_over: ClassVar = (
        "cpu-architecture",
        "clock",
        "oversubscription-policy",
        "vdu-cpu-requirements",
        "pinning",
    )
    num_virtual_cpu: Annotated[int, Meta(ge=1, le=10_000)]


class VirtualMemory(Node, frozen=True):
    """Its memory."""

    passed_over: ClassVar = ("over-subscription-policy", "vdu-mem-requirements", "numa-enabled")
    size: Positive
    """In GB."""


class BlockStorage(Node, frozen=True):
    """A block device."""

    passed_over: ClassVar = ("vdu-storage-requirements", "rdma-enabled", "sw-image-desc")
    size_of_storage: Amount
    """In GB."""


class VirtualDisk(Node, frozen=True):
    """A disk that belongs to the compute resource."""

    passed_over: ClassVar = ("vdu-storage-requirements", "rdma-enabled", "sw-image-desc")
    id: Id
    size_of_storage: Amount
    """In GB."""


class VirtualComputeDesc(Node, frozen=True):
    """What a VDU needs of a host."""

    passed_over: ClassVar = (
        "logical-node",
        "request-additional-capability",
        "compute-requirements",
    )
    id: Id
    virtual_cpu: VirtualCpu
    virtual_memory: VirtualMemory
    virtual_disk: tuple[VirtualDisk, ...] = ()


class VirtualStorageDesc(Node, frozen=True):
    """Storage of a VDU: ``block-storage-data``, or its size alone as OSM writes it."""

    passed_over: ClassVar = ("vdu-storage-requirements",)
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


class Checksum(Node, frozen=True):
    """The hash of an image."""

    algorithm: Literal["sha-224", "sha-256", "sha-384", "sha-512"]
    hash: Annotated[str, Meta(min_length=1, max_length=200)]


class SwImageDesc(Node, frozen=True):
    """An image that a VDU boots."""

    passed_over: ClassVar = (
        "provider",
        "container-format",
        "disk-format",
        "min-disk",
        "min-ram",
        "size",
        "operating-system",
        "supported-virtualization-environment",
        "vim-type",
    )
    id: Id
    name: Label
    version: Label = ""
    image: Text = ""
    checksum: Checksum | None = None


class IntCpd(Node, frozen=True):
    """A connection point of a VDU."""

    passed_over: ClassVar = (
        *CPD,
        "bitrate-requirement",
        "virtual-network-interface-requirement",
        "nicio-requirements",
        "order",
        "vnic-type",
        "port-security-enabled",
    )
    id: Id
    int_virtual_link_desc: Id | None = None


class Vdu(Node, frozen=True):
    """A virtualisation deployment unit: one kind of machine of the VNF."""

    passed_over: ClassVar = (
        "boot-order",
        "nfvi-constraint",
        "monitoring-parameter",
        "configurable-properties",
        "boot-data",
        "trunk-port",
        "cloud-init-file",
        "alternative-sw-image-desc",
    )
    id: Id
    name: Label
    virtual_compute_desc: Id
    int_cpd: Annotated[tuple[IntCpd, ...], Meta(min_length=1)]
    description: Text = ""
    virtual_storage_desc: tuple[Id, ...] = ()
    sw_image_desc: Id | None = None


class IntVirtualLinkDesc(Node, frozen=True):
    """A network inside the VNF."""

    passed_over: ClassVar = (
        "flavour",
        "connectivity-type",
        "test-access",
        "description",
        "monitoring-parameters",
        "nfvi-maintenance-info",
        "externally-managed",
    )
    id: Id


class IntCpRef(Node, frozen=True):
    """A connection point of one of the VDUs."""

    vdu_id: Id
    cpd: Id


class ExtCpd(Node, frozen=True):
    """A connection point of the VNF: one of a VDU, or an inner network."""

    passed_over: ClassVar = (
        *CPD,
        "virtual-network-interface-requirement",
        "nicio-requirements",
        "k8s-cluster-net",
    )
    id: Id
    int_cpd: IntCpRef | None = None
    int_virtual_link_desc: Id | None = None


class VduProfile(Node, frozen=True):
    """How many of a VDU a flavour may have."""

    passed_over: ClassVar = (*AFFINITY, "nfvi-maintenance-info")
    id: Id
    min_number_of_instances: Count = 1
    max_number_of_instances: Count = 1


class VduLevel(Node, frozen=True):
    """How many of a VDU a level has."""

    vdu_id: Id
    number_of_instances: Count = 1


class VnfLevel(Node, frozen=True):
    """A size in which the VNF can be instantiated."""

    passed_over: ClassVar = ("description", "vip-cp-level", "scaling-info")
    id: Id
    vdu_level: Annotated[tuple[VduLevel, ...], Meta(min_length=1)]


class VnfFlavour(Node, frozen=True):
    """A deployment flavour (``df``) of the VNF."""

    passed_over: ClassVar = (
        "description",
        "virtual-link-profile",
        "vip-cp-profile",
        "supported-operation",
        "lcm-operations-configuration",
        "affinity-or-anti-affinity-group",
        "indicator",
        "supported-vnf-interfaces",
        "supported-coordination-actions",
        "monitoring-parameter",
        "scaling-aspect",
    )
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


class VnfDescriptor(Node, frozen=True):
    """A VNFD: what a VNF is made of, and what it connects to."""

    passed_over: ClassVar = (
        "product-info-name",
        "product-info-description",
        "vnfm-info",
        "localization-language",
        "default-localization-language",
        *SECURITY_GROUPS,
        "vip-cpd",
        "configurable-properties",
        "modifiable-attributes",
        "lifecycle-management-script",
        "element-group",
        "indicator",
        "auto-scale",
        "signature",
    )
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
