"""What an agent's process answers when it is called: how it is, what it believes, what it runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.bidder import Bidder
from phalanx.auction.outlook import Outlook
from phalanx.bdi.beliefs import Belief
from phalanx.coordination.lifecycle import NewVersion
from phalanx.domain.goals import Predicate
from phalanx.fabric.operations import (
    BELIEFS,
    DRAIN,
    INVENTORY,
    PROBE,
    RELOAD,
    STATUS,
    Accepted,
    AgentCounters,
    BeliefInfo,
    BeliefsAnswer,
    BeliefsRequest,
    DrainRequest,
    InstanceEntry,
    InventoryAnswer,
    InventoryRequest,
    MeasureEntry,
    Operation,
    ProbeAnswer,
    ProbeRequest,
    ReloadRequest,
    StatusAnswer,
    StatusRequest,
)
from phalanx.fabric.provider import Call
from phalanx.identity.names import Role

if TYPE_CHECKING:
    from phalanx.runtime.processes.agent import AgentProcess


class VersionRequest(Struct, frozen=True):
    """Tells that the repository offers another version of a function."""

    function: str
    version: str
    event: str = ""
    """The event that tells of it."""


NEW_VERSION = Operation(
    "new-version", VersionRequest, Accepted, True, "replace a function by another version"
)


class Desk:
    """Serves the operations of an agent."""

    def __init__(self, process: AgentProcess) -> None:
        """Serve from now on; who may call is the shell's to say."""
        self._process = process
        self._started = process.shell.clock.now()
        provider = process.shell.provider
        provider.serve(STATUS, self._status)
        provider.serve(BELIEFS, self._beliefs)
        provider.serve(INVENTORY, self._inventory)
        provider.serve(DRAIN, self._drain)
        provider.serve(RELOAD, self._reload)
        provider.serve(PROBE, self._probe)
        provider.serve(NEW_VERSION, self._new_version)

    def _status(self, call: Call[StatusRequest, StatusAnswer]) -> None:
        process, shell = self._process, self._process.shell
        agent, bus, counters = process.agent, process.bus, shell.exchange.counters
        registration = shell.registrar.registration
        now = shell.clock.now()
        call.done(
            StatusAnswer(
                agent.name,
                agent.incarnation,
                registration.state,
                shell.checks(),
                up_s=max(now - self._started, 0.0),
                area=registration.area,
                load=self._load(),
                goals=len(agent.open_goals()),
                instances=sum(1 for _ in agent.capability(Bidder).inventory),
                counters=AgentCounters(
                    sent=sum(bus.sent.values()),
                    delivered=bus.delivered,
                    shed=dict(counters.shed),
                    refused=_added(bus.refused, counters.refused),
                    lost=bus.lost,
                    reconnects=counters.reconnects,
                ),
                events_waiting=shell.stream.waiting,
                clock_s=now,
            )
        )

    def _load(self) -> float | None:
        """Return the share of the PoP's scarcest resource that is allocated."""
        outlook: Outlook = self._process.agent.capability(Outlook)
        mine = outlook.view.get(self._process.agent.name)
        if mine is None:
            return None
        shares = [
            1.0 - getattr(mine.free, name) / total
            for name in mine.total.__struct_fields__
            if (total := getattr(mine.total, name)) > 0
        ]
        return max(0.0, *shares) if shares else None

    def _beliefs(self, call: Call[BeliefsRequest, BeliefsAnswer]) -> None:
        request = call.request
        found = sorted(
            (_belief(predicate, belief) for predicate, belief in self._process.agent.beliefs),
            key=lambda info: info.predicate,
        )
        found = [info for info in found if info.predicate.startswith(request.predicate)]
        shown = tuple(found[: request.limit])
        call.done(BeliefsAnswer(shown, more=len(found) - len(shown)))

    def _inventory(self, call: Call[InventoryRequest, InventoryAnswer]) -> None:
        estate = self._process.agent.capability(Bidder).inventory
        instances = tuple(
            InstanceEntry(i.instance, i.vnf, i.version, i.units, i.state, i.goals)
            for i in (instance.info() for instance in estate)
        )
        measures = tuple(
            MeasureEntry(measure, instance.id, str(effect))
            for instance in estate
            for effect, measure in instance.measures.items()
        )
        call.done(InventoryAnswer(instances, measures))

    def _drain(self, call: Call[DrainRequest, Accepted]) -> None:
        process = self._process
        process.drain()
        shell = process.shell
        gives_up = partial(shell.end, f"it had {call.request.within_s:g} s to leave")
        shell.clock.call_at(shell.clock.now() + call.request.within_s, gives_up)
        call.done(Accepted("it hands over and leaves"))

    def _reload(self, call: Call[ReloadRequest, Accepted]) -> None:
        call.done(Accepted(self._process.accord.reload()))

    def _probe(self, call: Call[ProbeRequest, ProbeAnswer]) -> None:
        peer, within_s = call.request.peer, call.request.within_s
        entry = self._process.shell.registry.get(peer)
        if entry is None or entry.registration.role is not Role.AGENT:
            call.done(ProbeAnswer(None, "no agent of that name is registered"))
            return

        def reached(took_s: float | None) -> None:
            if took_s is None:
                call.done(ProbeAnswer(None, f"no answer within {within_s:g} s"))
            else:
                call.done(ProbeAnswer(round(1000 * took_s, 3)))

        self._process.probes.probe(peer, within_s, reached)

    def _new_version(self, call: Call[VersionRequest, Accepted]) -> None:
        request, catalogue = call.request, self._process.settings.catalogue
        old = catalogue.get(request.function)
        if old is None:
            call.fail(f"no function {request.function!r} here")
            return
        vnfd = catalogue[request.function] = replace(old, version=request.version)
        cause = request.event or self._process.shell.cause
        self._process.node.tell(NewVersion(vnfd, cause), cause)
        call.done(Accepted())


def _belief(predicate: Predicate, belief: Belief) -> BeliefInfo:
    return BeliefInfo(str(predicate), belief.value, belief.holder, belief.event)


def _added(*counts: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in counts:
        for reason, count in some.items():
            found[reason] = found.get(reason, 0) + count
    return found
