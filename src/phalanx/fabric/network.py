"""The infrastructure over the network (``infrastructure.remote``), by calls of the fabric.

Actions are ordered calls of ``PERFORM``; ``PERCEIVE`` begins and renews the stream of percepts,
which the network publishes to each agent under ``percept.<agent>``.
"""

from __future__ import annotations

from collections.abc import Callable

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Subscription
from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId
from phalanx.fabric.calls import CallClient, CallError, CallTimedOut
from phalanx.fabric.directory import RegistryChange
from phalanx.fabric.operations import Operation
from phalanx.fabric.ordered import OrderedCalls, RetryPolicy
from phalanx.fabric.provider import Call, Provider
from phalanx.fabric.registry import Registry
from phalanx.identity.names import Role
from phalanx.infrastructure import Infrastructure
from phalanx.infrastructure.remote import (
    RETRY_S,
    InfrastructureService,
    Perceive,
    Perceived,
    Perform,
    Performed,
)

PERFORM = Operation(
    "perform", Perform, Performed, True, "carry out an action at a PoP", (Role.AGENT,)
)
PERCEIVE = Operation("perceive", Perceive, Perceived, False, "begin, renew or end percepts")


class NetworkCalls:
    """Reaches the network's service for one agent; a ``NetworkCaller``.

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
        self._client = client
        self._clock = clock
        self._network = network if isinstance(network, str) else None
        self._subscription: Subscription | None = None
        self._connected: Callable[[], None] | None = None
        self._calls = CallClient(client, clock, life=str(incarnation))
        self.actions = OrderedCalls(
            client, clock, lambda: self._network, PERFORM, incarnation, policy or RetryPolicy()
        )
        client.on_change(self._changed)
        if isinstance(network, Registry):
            network.watch(self._found)

    def perform(
        self, request: Perform, cause: str, answer: Callable[[Performed | str], None]
    ) -> None:
        """Have an action carried out once, after all earlier ones; text says why it failed."""
        self.actions.call(
            request,
            cause,
            lambda result: answer(result if isinstance(result, Performed) else result.reason),
        )

    def perceive(self, request: Perceive, answer: Callable[[Perceived | str | None], None]) -> None:
        """Ask for percepts; text if the service refuses, None if no answer came."""

        def answered(result: Perceived | CallError) -> None:
            if isinstance(result, Perceived):
                answer(result)
            else:
                answer(None if isinstance(result, CallTimedOut) else result.reason)

        if self._network is None:
            self._clock.call_soon(lambda: answer(None))
        else:
            self._calls.invoke(self._network, PERCEIVE, request, answered, timeout_s=RETRY_S)

    def listen(self, told: Callable[[bytes], None], connected: Callable[[], None]) -> None:
        """Pass on percepts as they are told, and each new connection.

        Raises:
            NotPermittedError: if the identity may not perceive.

        """
        me = self._client.identity
        subject = subjects.percept(me.domain, me.name)
        self._connected = connected
        self._subscription = self._client.subscribe(subject, lambda one: told(one.payload))

    def close(self) -> None:
        """Send and pass on nothing more; what is not answered never is."""
        self._connected = None
        self.actions.close()
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _changed(self, connected: bool) -> None:
        if connected and self._connected is not None:
            self._connected()

    def _found(self, change: RegistryChange) -> None:
        """Take the network's name from the registry; it is remembered when the entry goes."""
        service = change.entry.registration
        if service.role is not Role.NETWORK or PERFORM.name not in service.operations:
            return
        if change.entry.available and self._network != service.owner:
            self._network = service.owner
            self.actions.retry()
            self._changed(True)


def serve_infrastructure(
    provider: Provider,
    client: BrokerClient,
    clock: Clock,
    infrastructure: Infrastructure,
    incarnation: int,
    stands_at: Callable[[AgentId, PopId], bool] = lambda agent, pop: agent == pop,
) -> InfrastructureService:
    """Serve an infrastructure to agents by calls of ``provider``; return the service.

    Args:
        provider: of the network's identity, made with the same incarnation.
        client: of the same identity.
        clock: of the infrastructure.
        infrastructure: carries out the actions.
        incarnation: of the service, from 1 on.
        stands_at: whether an agent may act at a PoP; by default only at that of its own name.

    Raises:
        ValueError: if the provider serves it already, or ``incarnation`` is below 1.

    """

    def push(agent: AgentId, octets: bytes) -> None:
        client.publish(subjects.percept(client.identity.domain, agent), octets)

    service = InfrastructureService(infrastructure, clock, incarnation, push)

    def perform(call: Call[Perform, Performed]) -> None:
        def answer(result: Performed | str) -> None:
            if isinstance(result, str):
                call.fail(result)
            else:
                call.done(result)

        if stands_at(call.caller.name, call.request.pop):
            service.perform(call.request, call.cause or "", answer)
        else:
            call.refuse(f"{call.caller.name} does not stand at {call.request.pop}")

    def perceive(call: Call[Perceive, Perceived]) -> None:
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
