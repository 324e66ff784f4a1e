"""The service orchestrator with what it acts on: a domain's identities, its bus, its sites."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.identity.names import Role
from phalanx.identity.trust import REVOKED_FILE
from phalanx.loading import one_line, read_text
from phalanx.orchestration.descriptors.service import Service
from phalanx.orchestration.iml.local import LocalProcesses
from phalanx.orchestration.iml.unit import AgentImage, UnitKind, image_of
from phalanx.orchestration.journal import AUTHOR, ServiceJournal
from phalanx.orchestration.service import ServiceOrchestrator
from phalanx.orchestration.workflow.context import StepRetryPolicy, WorkflowContext
from phalanx.orchestration.workflow.machine import OnProgress
from phalanx.orchestration.workflow.model import Asked, Deployment, NoTrustServices, ServiceMember
from phalanx.runtime.catalogue import installed
from phalanx.runtime.domain import Domain, Standing
from phalanx.runtime.domain.brokers import Brokers, is_here
from phalanx.runtime.service_bus import BusWatcher, passing
from phalanx.runtime.slices import plan_of
from phalanx.store.database import Database

_ROLES = {UnitKind.AGENT: Role.AGENT, UnitKind.NETWORK: Role.NETWORK}


class DomainMembership:
    """Issues and revokes identities in a domain's directory; implements ``Membership``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def issue(self, name: str, kind: UnitKind) -> None:
        """Make an identity, unless it is there."""
        self.see_to(name, _ROLES[kind])

    def see_to(self, name: str, role: Role) -> None:
        """See to it that there is an identity of this name and role."""
        present = {member.identity.name: member for member in self._domain.members()}
        standing = present[name].standing if name in present else None
        if standing is Standing.EXPIRED:
            self._domain.renew(name)
        elif standing is not Standing.VALID:
            self._domain.add(name, role)

    def revoke(self, name: str) -> None:
        """Take an identity back, unless it is gone; the brokers know it when this returns."""
        for member in self._domain.members():
            if member.identity.name == name and member.standing is not Standing.REVOKED:
                self._domain.revoke(name)
        self.reload()

    def reload(self) -> None:
        """Tell the brokers of this machine who belongs to the domain.

        Raises:
            TransientFault: if one did not take it.

        """
        if any(is_here(broker.listen or broker.host) for broker in self._domain.spec.brokers):
            with passing():
                Brokers(self._domain).reload()

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files that prove an identity, by name; secrets are among them."""
        folder = self._domain.bundle(name)
        if not folder.is_dir():
            raise ScenarioError(f"{folder}: there is no such identity; it may have been revoked")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def revocations(self) -> dict[str, bytes]:
        """Return the list of those that were revoked."""
        path = self._domain.folder / "authority" / REVOKED_FILE
        return {path.name: path.read_bytes()}


class ProcessOutfitter:
    """Writes what processes are started with; implements ``Outfitter``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def functions(self) -> tuple[str, ...]:
        """Return the capabilities that are installed."""
        return tuple(sorted(installed()))

    def plan(self, service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
        """Return the slice's network as a scenario file; see ``slices``."""
        return plan_of(service, target, leaving)

    def files(self, member: ServiceMember, deployment: Deployment) -> dict[str, bytes]:
        """Return ``config.toml`` and ``plan.yaml`` of a process."""
        lines = ['bus = "identity/bus.toml"', 'state = "state"', 'plan = "plan.yaml"']
        if member.unit.kind is UnitKind.AGENT:
            domain = self._domain.spec.name
            scope = f"{{domain = {json.dumps(domain)}, slice = {json.dumps(deployment.service)}}}"
            lines += [
                f"functions = {json.dumps(list(member.unit.capabilities))}",
                f"scope = {scope}",
            ]
        config = "\n".join(lines) + "\n"
        return {"config.toml": config.encode(), "plan.yaml": deployment.plan.encode()}


@contextmanager
def opened(
    folder: Path,
    *,
    store: str | None = None,
    root: Path | None = None,
    told: OnProgress | None = None,
    retry: StepRetryPolicy | None = None,
) -> Iterator[ServiceOrchestrator]:
    """Give the service orchestrator of a domain.

    Args:
        folder: the domain's directory.
        store: of the journal, as ``SqlEventStore`` takes it; None: ``services.db`` in ``folder``.
        root: the folder of the sites of this machine; None: ``sites`` in ``folder``.
        told: told of each step.
        retry: how long things may take; None: the usual.

    Raises:
        PhalanxError: with one line, if the domain or the store cannot be used.

    """
    domain = Domain.open(folder)
    membership = DomainMembership(domain)
    membership.see_to(AUTHOR, Role.ORCHESTRATOR)
    sites = (folder / "sites" if root is None else root).absolute()
    where = f"sqlite:///{folder / 'services.db'}" if store is None else store
    watcher = BusWatcher(domain)
    image = present_image()
    context = WorkflowContext(
        lambda site: LocalProcesses(sites, site, image),
        membership,
        ProcessOutfitter(domain),
        watcher,
        NoTrustServices(),
        retry or StepRetryPolicy(),
    )
    try:
        with Database(where) as database:
            membership.reload()
            yield ServiceOrchestrator(context, ServiceJournal(database), told=told)
    finally:
        watcher.close()


def present_image() -> AgentImage:
    """Return what this installation is, as an image of agents."""
    return image_of(Path(str(files("phalanx"))), installed())


def read_asked(
    nsd: Path, sites: Path | None, request: Path | None, without: Iterable[str] = ()
) -> Asked:
    """Return what is asked for by files.

    Args:
        nsd: the folder of a service, or the file of its NSD, with the VNFDs beside it.
        sites: the sites; None: ``sites.yaml`` in the folder.
        request: None: ``request.yaml`` in the folder.
        without: sites that may host no agent.

    Raises:
        ScenarioError: if one cannot be read.

    """
    folder = nsd if nsd.is_dir() else nsd.parent
    sites = folder / "sites.yaml" if sites is None else sites
    request = folder / "request.yaml" if request is None else request
    return Asked(
        _descriptors(nsd),
        (sites.name, read_text(sites)),
        (request.name, read_text(request)),
        tuple(without),
    )


def changed_asked(
    before: Asked,
    nsd: Path | None,
    sites: Path | None,
    request: Path | None,
    without: Iterable[str] | None,
) -> Asked:
    """Return what was asked ``before``, with what is given replaced; see ``read_asked``."""
    given: dict[str, Any] = {}
    if nsd is not None:
        given["descriptors"] = _descriptors(nsd)
        folder = nsd if nsd.is_dir() else nsd.parent
        if request is None and (folder / "request.yaml").is_file():
            request = folder / "request.yaml"
    if sites is not None:
        given["sites"] = (sites.name, read_text(sites))
    if request is not None:
        given["request"] = (request.name, read_text(request))
    if without is not None:
        given["without"] = tuple(without)
    return replace(before, **given)


def _descriptors(nsd: Path) -> dict[str, str]:
    folder = nsd if nsd.is_dir() else nsd.parent
    chosen = {path for path in folder.glob("*.yaml") if "vnfd" in path.name}
    chosen |= {path for path in folder.glob("*.yaml") if "nsd" in path.name and nsd.is_dir()}
    chosen |= set() if nsd.is_dir() else {nsd}
    if not chosen:
        raise ScenarioError(one_line(f"{nsd}: holds no *vnfd*.yaml and *nsd*.yaml"))
    return {path.name: read_text(path) for path in sorted(chosen)}
