"""The service orchestrator with what it acts on: a domain's identities, its bus, its sites.

The network of a service's slice is a plan: its PoPs are those of the sites at which agents stand,
and its hosts are the VNFs. Between two of them there is a link if a shortest way between their
sites passes no third; it has the latency of that way, and the bandwidth of its narrowest link.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import networkx as nx
import yaml
from msgspec.structs import asdict, replace

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.domain.events import Event
from phalanx.fabric.calls import CallBusy, CallError, CallTimedOut
from phalanx.fabric.envelope import from_event, to_json
from phalanx.fabric.operations import (
    PROBE,
    RELOAD,
    STATUS,
    Accepted,
    ProbeAnswer,
    ProbeRequest,
    ReloadRequest,
    StatusAnswer,
    StatusRequest,
)
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Role
from phalanx.identity.trust import REVOKED_FILE
from phalanx.loading import one_line, read_text
from phalanx.orchestration.descriptors.service import Service, Site
from phalanx.orchestration.iml.local import LocalProcesses
from phalanx.orchestration.iml.unit import AgentImage, UnitKind, image_of
from phalanx.orchestration.journal import AUTHOR, ServiceJournal
from phalanx.orchestration.service import ServiceOrchestrator
from phalanx.orchestration.workflow.context import (
    Pair,
    Probed,
    Seen,
    StepRetryPolicy,
    TransientFault,
    WorkflowContext,
)
from phalanx.orchestration.workflow.machine import OnProgress
from phalanx.orchestration.workflow.model import Asked, Deployment, NoTrustServices, ServiceMember
from phalanx.runtime.catalogue import installed_capabilities
from phalanx.runtime.course import RESERVATIONS, ReservationsAnswer, ReservationsRequest
from phalanx.runtime.domain.brokers import Brokers, is_here
from phalanx.runtime.domain.directory import Domain, Standing
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.processes.operator import Operator
from phalanx.store.database import Database

Graph: TypeAlias = "nx.Graph[str]"

SHARE = 0.8
"""A monitor finds a VNF overloaded above this share of what its access can carry."""
ACCESS_MB_S = 1250.0
"""What a VNF's access can carry at a site without links."""
LEAST_MS = 0.1
"""From a VNF to its agent at the same site."""


def plan_of(service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
    """Return the plan of a slice's network (YAML).

    Args:
        service: what is deployed.
        target: its agents, and where they stand.
        leaving: agents that are about to leave; they keep their places.

    Raises:
        ScenarioError: if there can be no such network.

    """
    sites = {site.name: site for site in service.sites.sites}
    graph: Graph = nx.Graph()
    graph.add_nodes_from(sites)
    for link in service.sites.links:
        graph.add_edge(
            *link.between, latency_ms=link.latency_ms, bandwidth_mb_s=link.bandwidth_mb_s
        )
    members = [*target.agents, *(m for m in leaving if m.serves and m.site in sites)]
    # Agents that stay come first: what is installed for the plan is numbered by its order.
    hosts = _hosts(service, target, graph)
    standing = {sites[m.site].name: sites[m.site] for m in members}
    plan: dict[str, Any] = {
        "name": service.request.name,
        "description": f"The network of the slice {service.request.name}.",
        "duration_s": 604_800,
        "strategy": "published",
        "network": {
            "pops": [_pop(site) for site in standing.values()],
            "repository": sites[members[0].site].pop,
            "links": _links([*standing.values()], graph),
        },
        "agents": [{"name": m.name, "pop": sites[m.site].pop} for m in members],
        "hosts": hosts,
        "monitors": [
            {
                "link": f"{host['at']}>{host['name']}",
                "at": host["at"],
                "agent": member.name,
                "threshold_mb_s": SHARE * host["bandwidth_mb_s"],
            }
            for member in target.agents
            for host in hosts
            if host["name"] in member.serves and "link-monitor" in member.unit.capabilities
        ],
        "functions": {f: {} for f in sorted({f for m in members for f in m.unit.capabilities})},
    }
    if service.slices is not None:
        names = {"agents": {member.key: member.name for member in target.loops}}
        slices = [replace(each, agreement="") for each in service.slices.slices]  # seen to here
        plan["slices"] = msgspec.to_builtins(replace(service.slices, slices=slices)) | names
    text: str = yaml.safe_dump(plan, sort_keys=False, width=100)
    parse_scenario(text, f"the slice of {service.request.name}")
    return text


def _pop(site: Site) -> dict[str, Any]:
    free = {name: round(value, 6) for name, value in asdict(site.free).items()}
    places = {"x": site.longitude, "y": site.latitude}
    known = {k: v for k, v in places.items() if v is not None}
    return {"name": site.pop, "agent": False} | free | known


def _hosts(service: Service, target: Deployment, graph: Graph) -> list[dict[str, Any]]:
    """Return the VNFs; those that no agent serves are on the switch of the nearest agent's PoP."""
    pops = {site.name: site.pop for site in service.sites.sites}
    serving = {vnf: member for member in target.agents for vnf in member.serves}
    found = []
    for number, (vnf, site) in enumerate(service.request.vnfs.items(), 1):
        away = nx.single_source_dijkstra_path_length(graph, site, weight="latency_ms")
        reached = [m for m in target.agents if m.site in away]
        agent = serving.get(vnf) or min(reached, key=lambda m: away[m.site], default=None)
        if agent is None:
            continue  # nothing leads from there to any agent
        links = (link["bandwidth_mb_s"] for _, _, link in graph.edges(agent.site, data=True))
        found.append(
            {
                "name": vnf,
                "at": pops[agent.site],
                "address": f"10.0.{number // 250}.{number % 250 + 1}",
                "bandwidth_mb_s": max(links, default=ACCESS_MB_S),
                "latency_ms": max(away.get(agent.site, 0.0), LEAST_MS),
            }
        )
    return found


def _links(sites: list[Site], graph: Graph) -> list[dict[str, Any]]:
    standing = {site.name for site in sites}
    found = []
    for a, b in combinations(sites, 2):
        if not nx.has_path(graph, a.name, b.name):
            continue
        way = nx.dijkstra_path(graph, a.name, b.name, weight="latency_ms")
        ms = nx.path_weight(graph, way, weight="latency_ms")
        if standing & {*way[1:-1]}:
            continue
        narrowest = min(graph.edges[ends]["bandwidth_mb_s"] for ends in nx.utils.pairwise(way))
        found.append({"between": [a.pop, b.pop], "bandwidth_mb_s": narrowest, "latency_ms": ms})
    return found


SEND_S = 5.0
"""How long events may take to arrive."""
GRACE_S = 1.0
"""How much longer than what is asked for an answer may take."""


class BusWatcher:
    """Asks processes over the domain's brokers; implements ``Watcher``.

    It connects, as the identity ``orchestrator``, when it is first asked for something.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._operator: Operator | None = None

    def look(self, members: Iterable[ServiceMember], within_s: float) -> dict[str, Seen]:
        """Ask ``members`` how they are, and return what those said that answered, by name."""
        operator = self._connected()
        asked = {member.name: member.unit.kind for member in members}
        answers: dict[str, Any] = {}
        for name, kind in asked.items():
            heard = partial(answers.__setitem__, name)
            ask = partial(operator.client.invoke, name, answer=heard, timeout_s=within_s)
            if kind is UnitKind.AGENT:
                ask(STATUS, StatusRequest())
            else:
                ask(RESERVATIONS, ReservationsRequest())
        operator.until(lambda: len(answers) == len(asked), within_s + GRACE_S)
        found = ((name, _seen(answer)) for name, answer in sorted(answers.items()))
        return {name: seen for name, seen in found if seen is not None}

    def probe(self, pairs: Iterable[Pair], within_s: float) -> dict[Pair, Probed]:
        """Have the first of each pair ask the second over the bus, all at the same time."""
        operator = self._connected()
        asked = tuple(pairs)
        answers: dict[Pair, ProbeAnswer | CallError] = {}
        for pair in asked:
            prober, peer = pair
            operator.client.invoke(
                prober,
                PROBE,
                ProbeRequest(peer, within_s),
                partial(answers.__setitem__, pair),
                timeout_s=within_s + GRACE_S,
            )
        operator.until(lambda: len(answers) == len(asked), within_s + 2 * GRACE_S)
        return {pair: _probed(answers.get(pair)) for pair in asked}

    def reload(self, name: str) -> str:
        """Have an agent read its plan again, and return what it says of that."""
        answer = self._connected().call(name, RELOAD, ReloadRequest())
        if isinstance(answer, Accepted):
            return answer.detail
        if isinstance(answer, CallTimedOut | CallBusy):
            raise TransientFault(f"{name} does not read its plan again: {answer.reason}")
        raise PhalanxError(answer.reason)

    def forget(self, name: str) -> None:
        """Withdraw the entry of an identity, as itself: nobody else may."""
        folder = self._domain.bundle(name)
        if folder.is_dir():
            with passing(), Operator(folder) as operator:
                operator.exchange.drop(subjects.REGISTRY, subjects.token(name))

    def send(self, events: list[Event]) -> list[Event]:
        """Append events to the stream that keeps all events; return those that are kept."""
        operator = self._connected()
        domain = self._domain.spec.name
        outcomes: dict[str, str | None] = {}
        for event in events:
            subject = subjects.event(domain, AUTHOR, event.kind)
            payload = to_json(from_event(event, domain))
            done = partial(outcomes.__setitem__, event.id)
            operator.exchange.append(subject, payload, event.id, done)
        operator.until(lambda: len(outcomes) == len(events), SEND_S)
        return [event for event in events if outcomes.get(event.id, "") is None]

    def close(self) -> None:
        """Give the connection back; the next request connects anew."""
        if self._operator is not None:
            self._operator.close()
            self._operator = None

    def _connected(self) -> Operator:
        if self._operator is None:
            with passing():
                self._operator = Operator(self._domain.bundle(AUTHOR)).__enter__()
        return self._operator


@contextmanager
def passing() -> Iterator[None]:
    """Let brokers that cannot be reached be what may be otherwise in a moment."""
    try:
        yield
    except BrokerError as error:
        raise TransientFault(str(error)) from error


def _seen(answer: StatusAnswer | ReservationsAnswer | CallError) -> Seen | None:
    match answer:
        case StatusAnswer():
            detail = "; ".join(answer.health.reasons) or answer.health.status.value
            serving = answer.state is ServiceState.SERVING
            return Seen(answer.incarnation, serving, answer.goals, detail)
        case ReservationsAnswer():
            return Seen(0, serving=True)
    return None


def _probed(answer: ProbeAnswer | CallError | None) -> Probed:
    match answer:
        case None:
            return Probed(None, "it was not asked in time")
        case ProbeAnswer(round_trip_ms=took, reason=reason):
            return Probed(took, reason)
    return Probed(None, f"it cannot be asked: {answer.reason}")


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
        return tuple(sorted(installed_capabilities()))

    def plan(self, service: Service, target: Deployment, leaving: tuple[ServiceMember, ...]) -> str:
        """Return the slice's network as a scenario file; see ``slices``."""
        return plan_of(service, target, leaving)

    def files(self, member: ServiceMember, deployment: Deployment) -> dict[str, bytes]:
        """Return ``config.toml`` and ``plan.yaml`` of a process."""
        lines = ['bus = "identity/bus.toml"', 'state = "state"', 'plan = "plan.yaml"']
        if member.unit.kind is UnitKind.AGENT:
            domain = self._domain.spec.name
            scope = f"{{domain = {json.dumps(domain)}, slice = {json.dumps(deployment.service)}}}"
            lines.append(f"scope = {scope}")
            if member.serves:  # a loop knows what all can do, and does none of it
                lines.append(f"functions = {json.dumps(list(member.unit.capabilities))}")
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
    return image_of(Path(str(files("phalanx"))), installed_capabilities())


def read_asked(
    nsd: Path,
    sites: Path | None,
    request: Path | None,
    without: Iterable[str] = (),
    slices: Path | None = None,
) -> Asked:
    """Return what is asked for by files.

    Args:
        nsd: the folder of a service, or the file of its NSD, with the VNFDs beside it.
        sites: the sites; None: ``sites.yaml`` in the folder.
        request: None: ``request.yaml`` in the folder.
        without: sites that may host no agent.
        slices: the slice descriptor; None: the service is of no slice.

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
        None if slices is None else (slices.name, read_text(slices)),
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
