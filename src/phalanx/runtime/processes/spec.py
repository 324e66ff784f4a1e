"""The files that processes are started with (TOML); paths in them are relative to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.fabric.registration import Area
from phalanx.loading import Name, read_toml
from phalanx.runtime.environment import MetricsAddress

Device = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")]
"""Name of a network interface."""
FilePath = Annotated[str, Meta(min_length=1, max_length=4000)]


S = TypeVar("S", bound=Struct)


class RunSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What processes of one run agree on, so that their events have one time and one root."""

    epoch_s: Annotated[float, Meta(ge=0, le=1e11)]
    """When the run began, in seconds since 1970 by this machine's clock."""
    speed: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """Seconds of the run per second."""
    cause: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """The event that is the root of all causes; None: each process has a root of its own."""
    seed: Annotated[int, Meta(ge=0)] | None = None
    """Of everything random; None: the plan's."""


class TrustFiles(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a process finds what it attests itself and others with."""

    ledger: Annotated[str, Meta(min_length=1, max_length=4000)]
    """URL of the ledger (``phalanx.ledger``)."""
    secret: FilePath
    """File of 32 octets in hexadecimal, for this process alone: its keys follow from it."""
    repository: FilePath
    """Folder of enrolments and reference values."""
    measurer: FilePath
    """Unix socket of what measures the process from outside."""


class ProcessSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every process is told."""

    bus: FilePath
    """The ``bus.toml`` of its identity: who it is, its keys, and where the brokers are."""
    state: FilePath
    """Directory of what it keeps across restarts; of this process alone."""
    access: FilePath | None = None
    """Who may call its operations: an access control list (YAML or TOML). None:
    operators and orchestrators may call all, and agents may read."""
    run: RunSpec | None = None
    """Only where a run spans several processes."""
    metrics: MetricsAddress | None = None
    """Where Prometheus scrapes it: a port of loopback, such as ``9464``, or ``HOST:PORT``; needs
    the extra ``metrics``. None: nowhere."""
    trust: TrustFiles | None = None
    """None: the process takes no part in attestation."""


class Interfaces(Struct, frozen=True, forbid_unknown_fields=True):
    """What only a site knows: by which of its machine's interfaces packets come and go.

    No others are ever touched.
    """

    ingress: Device | None = None
    """By which users' packets enter the network here; what comes from other sites comes by others.
    None: what leaves to hosts of this site is met there, wherever it entered."""
    hosts: dict[Name, Device] = {}
    """By name of each of the plan's hosts at this PoP: the one by which packets leave to it."""


class AgentSpec(ProcessSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One agent."""

    plan: FilePath
    """The network, the functions and the terms of auctions: a scenario file (YAML)."""
    scope: Area | None = None
    """What the agent looks after; it works with the agents of the same scope. None: end to end."""
    functions: tuple[Name, ...] | None = None
    """Those of the plan's functions that it can run; None: all."""
    site: Interfaces | None = None
    """Its PoP is this machine, and the process drives it itself (needs root). None: a process of
    the domain, ``phalanx network``, serves the network to it."""
    capabilities: tuple[Name, ...] = ()
    """What it brings, if the plan declares no agent of its name; then it stands at no PoP."""


class NetworkProcessSpec(ProcessSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network of a plan, served to the agents of its PoPs."""

    plan: FilePath
    """The network and its traffic: a scenario file (YAML)."""
    on: Name = "simulation"
    """Infrastructure: ``simulation``, ``linux`` (real packets in namespaces of this machine; needs
    root), or one of another package."""


class RecorderSpec(ProcessSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the history of a domain."""

    store: Annotated[str, Meta(min_length=1, max_length=4000)]
    """Where: ``sqlite:////var/lib/phalanx/history.db`` or ``postgresql+psycopg://…``."""
    tracing: Annotated[str, Meta(pattern=r"^https?://", max_length=4000)] | None = None
    """Where the events go as spans: the URL of an OTLP/HTTP collector, such as
    ``http://127.0.0.1:4318/v1/traces``; needs the extra ``tracing``."""


class MeasurerSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What measures the agents of one machine from outside."""

    state: FilePath
    """Directory of its key and of what it learned; of its user alone, which no agent runs as."""
    socket: FilePath
    """Where agents ask it: the ``measurer`` of their ``TrustFiles``."""
    agents: Annotated[dict[Name, FilePath], Meta(min_length=1)]
    """By name of an agent its systemd unit; or, with a slash in it, the file of its process's
    number, which nobody but the measurer's user may write."""
    group: Name | None = None
    """Group whose processes may ask; None: only its own user's may."""
    tpm: Annotated[str, Meta(min_length=1, max_length=4000)] | None = None
    """The TPM of this machine, by what tpm2-tools call its TCTI, such as ``device:/dev/tpmrm0``: it
    vouches for all evidence. None: the measurer's key does alone."""
    pcrs: Annotated[tuple[Annotated[int, Meta(ge=0, le=23)], ...], Meta(min_length=1)] = (
        *range(8),
    )
    """Registers of the TPM that are to hold what they held when agents were learned; at first those
    of the firmware, its settings, and what it started."""
    samples_per_s: Annotated[float, Meta(ge=0, le=1000)] = 10.0
    """How often the stacks of each agent are sampled, on average, if ``phalanx trust learn
    --control-flow`` has learned which function calls which."""


def read_spec(kind: type[S], path: str | Path) -> S:
    """Return the process that the file describes, with paths that do not depend on the place.

    Raises:
        ScenarioError: with one line ``FILE: FIELD: what is wrong; what is allowed``.

    """
    spec = read_toml(kind, path)
    folder = Path(path).parent.absolute()
    anchored: dict[str, Any] = {
        name: str(folder / value)
        for name in ("bus", "state", "access", "plan", "socket")
        if (value := getattr(spec, name, None)) is not None
    }
    trust = getattr(spec, "trust", None)
    if trust is not None:
        files = ("secret", "repository", "measurer")
        anchored["trust"] = replace(trust, **{n: str(folder / getattr(trust, n)) for n in files})
    if isinstance(spec, MeasurerSpec):
        anchored["agents"] = {
            name: str(folder / found) if "/" in found else found
            for name, found in spec.agents.items()
        }
    return replace(spec, **anchored)
