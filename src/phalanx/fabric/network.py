"""The infrastructure over the network (``infrastructure.remote``), by ordered calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from phalanx.bus.client import BrokerClient
from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId
from phalanx.fabric.calls import OrderedCalls, RetryPolicy
from phalanx.fabric.directory import RegistryChange
from phalanx.fabric.operations import Operation
from phalanx.fabric.provider import Call, Provider
from phalanx.fabric.registry import Registry
from phalanx.identity.names import Role
from phalanx.infrastructure import Infrastructure
from phalanx.infrastructure.remote import (
    InfrastructureService,
    Perceived,
    PerceiveRequest,
    Performed,
    PerformRequest,
)

PERFORM = Operation(
    "perform", PerformRequest, Performed, True, "carry out an action at a PoP", (Role.AGENT,)
)
PERCEIVE = Operation("perceive", PerceiveRequest, Perceived, False, "percepts, once there are some")


class NetworkCalls:
    """Calls the network's service for one agent; a ``NetworkCaller``.

    Args:
        client: of the agent.
        clock: makes the calls.
        incarnation: of the agent.
        network: name of the network's identity, or the registry in which to find it.
        policy: how long actions wait.

    """

    def __init__(
        self,
        client: BrokerClient,
        clock: Clock,
        incarnation: int,
        network: str | Registry,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._network = network if isinstance(network, str) else None
        policy = policy or RetryPolicy()
        owner = lambda: self._network  # noqa: E731
        self.actions = OrderedCalls(client, clock, owner, PERFORM, incarnation, policy)
        self.percepts = OrderedCalls(client, clock, owner, PERCEIVE, incarnation, policy)
        if isinstance(network, Registry):
            self._registry = network
            network.watch(self._found)

    def perform(
        self, request: PerformRequest, cause: str, answer: Callable[[Performed | str], None]
    ) -> None:
        """Have an action carried out once, after all earlier ones; text says why it failed."""
        self.actions.call(
            request,
            cause,
            lambda result: answer(result if isinstance(result, Performed) else result.reason),
        )

    def perceive(self, request: PerceiveRequest, answer: Callable[[Perceived | str], None]) -> None:
        """Ask for percepts; text says why the call failed."""
        self.percepts.call(
            request,
            None,
            lambda result: answer(result if isinstance(result, Perceived) else result.reason),
        )

    def close(self) -> None:
        """Send nothing more; what is not answered never is."""
        self.actions.close()
        self.percepts.close()

    def _found(self, change: RegistryChange) -> None:
        """Take the network's name from the registry; it is remembered when the entry goes."""
        service = change.entry.registration
        if service.role is not Role.NETWORK or PERFORM.name not in service.operations:
            return
        known = None if self._network is None else self._registry.get(self._network)
        if change.entry.available and (known is None or not known.available):
            self._network = service.owner
            self.actions.retry()
            self.percepts.retry()


def serve_infrastructure(
    provider: Provider,
    clock: Clock,
    infrastructure: Infrastructure,
    incarnation: int,
    stands_at: Callable[[AgentId, PopId], bool] = lambda agent, pop: agent == pop,
    may: Callable[[AgentId, object], bool] = lambda agent, action: True,  # noqa: ARG005
) -> InfrastructureService:
    """Serve an infrastructure to agents by calls of ``provider``; return the service.

    Args:
        provider: of the network's identity, made with the same incarnation.
        clock: of the infrastructure.
        infrastructure: carries out the actions.
        incarnation: of the service, from 1 on.
        stands_at: whether an agent may act at a PoP; by default only at that of its own name.
        may: whether it may do just this.

    Raises:
        ValueError: if the provider serves it already, or ``incarnation`` is below 1.

    """
    service = InfrastructureService(infrastructure, clock, incarnation)

    def perform(call: Call[PerformRequest, Performed]) -> None:
        def answer(result: Performed | str) -> None:
            if isinstance(result, str):
                call.fail(result)
            else:
                call.done(result)

        if stands_at(call.caller.name, call.request.pop):
            service.perform(call.request, call.cause or "", answer, partial(may, call.caller.name))
        else:
            call.refuse(f"{call.caller.name} does not stand at {call.request.pop}")

    def perceive(call: Call[PerceiveRequest, Perceived]) -> None:
        def answer(result: Perceived | str) -> None:
            if isinstance(result, str):
                call.refuse(result)
            else:
                call.done(result)

        if stands_at(call.caller.name, call.request.pop):
            service.perceive(call.caller.name, call.request, answer)
        else:
            call.refuse(f"{call.caller.name} does not stand at {call.request.pop}")

    provider.serve(PERFORM, perform)
    provider.serve(PERCEIVE, perceive)
    return service
