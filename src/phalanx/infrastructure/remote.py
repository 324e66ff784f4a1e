"""The infrastructure over the network: one process serves it, agents in others use it.

``RemoteInfrastructure`` is the port as one agent has it; ``InfrastructureService`` carries out
what agents ask. Both actions and percepts are calls that are carried out once each, in order:
a call for percepts is answered as soon as there are some, and says up to which number all
earlier ones were received. How calls travel is left to ``NetworkCaller``:
``phalanx.fabric.network`` implements it by the fabric, which stands on a higher floor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Protocol, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Action, Failed, InstanceLost, Outcome, Percept, SiteState
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.network import PopId
from phalanx.domain.tagged import UNREADABLE, reader
from phalanx.infrastructure import Answer, Infrastructure

RETRY_S = 0.5
"""When an agent asks for percepts again after a call for them failed."""
LOSSES = 10_000
"""Lost instances that are kept for an agent that does not ask for its percepts."""
OUTDATED = "a later incarnation of this agent acts now"
_ROOM = 1 << 19
"""Octets of percepts in one answer."""

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Packed = tuple[str, Raw]
"""The name of a class, and a value of it as JSON (predicates are an open family)."""


class PackingError(PhalanxError):
    """A value cannot travel, or octets are no value of the family; the text is one line."""


class PerformRequest(Struct, frozen=True):
    """Request: carry out an action at a PoP."""

    pop: PopId
    action: Packed


class Performed(Struct, frozen=True):
    """Answer to ``PerformRequest``."""

    outcome: Packed


class PerceiveRequest(Struct, frozen=True):
    """Request: the percepts from the first that was not received, once there are some."""

    pop: PopId
    incarnation: Count
    """Of the agent."""
    service: Count
    """Incarnation of the service that ``received`` is about; 0 if none is known."""
    received: Count
    """Number up to which all percepts came in; the service may forget them."""
    wanted: bool
    """False ends the percepts of this agent, and is answered at once."""


class Perceived(Struct, frozen=True):
    """Answer to ``PerceiveRequest``: percepts, oldest first, as many as fit."""

    service: Count
    percepts: tuple[tuple[Count, Packed], ...] = ()
    """(number, percept), counted from 1; a ``SiteState`` that a later one replaced is left out."""


class NetworkCaller(Protocol):
    """How an agent reaches the service."""

    def perform(
        self, request: PerformRequest, cause: str, answer: Callable[[Performed | str], None]
    ) -> None:
        """Have an action carried out once, after all earlier ones; text says why it failed."""

    def perceive(self, request: PerceiveRequest, answer: Callable[[Perceived | str], None]) -> None:
        """Ask for percepts; text says why the call failed."""

    def close(self) -> None:
        """Send and pass on nothing more; what is not answered never is."""


_FAMILIES: dict[str, dict[str, type]] = {
    family: {kind.__name__: kind for kind in get_args(kinds)}
    for family, kinds in {"action": Action, "outcome": Outcome, "percept": Percept}.items()
}


def pack(value: Action | Outcome | Percept) -> Packed:
    """Return a value with the name of its class.

    Raises:
        PackingError: if it holds what JSON cannot express.

    """
    name = type(value).__name__
    try:
        return name, Raw(msgspec.json.encode(value))
    except UNREADABLE as error:
        raise PackingError(f"{name} cannot travel: {error}") from error


def unpack(packed: Packed, family: str) -> Any:
    """Return the value of ``family`` (``action``, ``outcome``, ``percept``) that was packed.

    Raises:
        PackingError: if it is no such value.

    """
    name, octets = packed
    kind = _FAMILIES[family].get(name)
    if kind is None:
        raise PackingError(f"{name[:64]!r} is no {family}")
    try:
        return reader(kind)(octets)
    except UNREADABLE as error:
        raise PackingError(f"no {family}: {name}: {error}") from error


# -- the agent's side -----------------------------------------------------------------------------


class RemoteInfrastructure:
    """Implements ``Infrastructure`` for one agent.

    Every action is answered once: with its outcome, or ``Failed`` after a bounded time of
    silence. Then it may yet have been carried out: never twice, never after a later action,
    and what it took runs out with its lease.
    """

    def __init__(
        self,
        caller: NetworkCaller,
        agent: AgentId,
        pop: PopId | None,
        incarnation: int,
        clock: Clock,
        on_refused: Callable[[str, str], None] | None = None,
    ) -> None:
        """Make it; nothing is asked before ``attach`` or ``perform``.

        Args:
            caller: reaches the service.
            agent: the agent that acts and perceives.
            pop: where it stands; None if nowhere, then every action fails.
            incarnation: of the agent, higher than in any earlier start, from 1 on.
            clock: makes the calls.
            on_refused: told why and of what something that came in was not taken.

        Raises:
            ValueError: if ``incarnation`` is below 1.

        """
        if incarnation < 1:
            raise ValueError(f"the incarnation is {incarnation}, allowed is 1 or more")
        self.refused = 0
        """Outcomes and percepts that could not be read."""
        self._caller = caller
        self._agent = agent
        self._pop = pop
        self._incarnation = incarnation
        self._clock = clock
        self._on_refused = on_refused
        self._perceive: Callable[[Percept], None] | None = None
        self._service = 0
        self._received = 0
        self._asked = 0
        """Number of the last call for percepts."""
        self._timer: Timer | None = None

    def attach(self, agent: AgentId, pop: PopId, perceive: Callable[[Percept], None]) -> None:
        """Tell the agent of changes from now on; begins with the ``SiteState`` of its PoP.

        Raises:
            ValueError: if agent or PoP are others than those that it was made for.

        """
        if (agent, pop) != (self._agent, self._pop):
            raise ValueError(f"{self._agent} of {self._pop} cannot perceive {pop!r}")
        self._perceive = perceive
        self._ask()

    def detach(self, agent: AgentId, pop: PopId) -> None:
        """Stop telling; what was asked for is still answered, leases go on."""
        if (agent, pop) == (self._agent, self._pop) and self._perceive is not None:
            self._perceive = None
            self._ask()

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Have ``action`` carried out, and call ``answer`` with its outcome, once.

        Actions are carried out in the order asked.
        """
        if pop != self._pop:
            place = "no PoP" if self._pop is None else self._pop
            answer(Failed(f"{self._agent} stands at {place} and cannot act at {pop}"))
            return
        try:
            request = PerformRequest(pop, pack(action))
        except PackingError as error:
            answer(Failed(str(error)))
            return
        self._caller.perform(request, cause, partial(self._performed, answer))

    def close(self) -> None:
        """Ask and receive nothing more; what is not answered never is."""
        self._perceive = None
        self._asked += 1
        self._rest()
        self._caller.close()

    def _performed(self, answer: Answer, performed: Performed | str) -> None:
        if isinstance(performed, str):
            answer(Failed(performed))
            return
        outcome: Outcome
        try:
            outcome = unpack(performed.outcome, "outcome")
        except PackingError as error:
            self._refuse()
            outcome = Failed(str(error))
        answer(outcome)

    def _ask(self) -> None:
        """Ask for percepts, or for their end."""
        self._rest()
        if self._pop is not None:
            self._asked += 1
            wanted = self._perceive is not None
            request = PerceiveRequest(
                self._pop, self._incarnation, self._service, self._received, wanted
            )
            self._caller.perceive(request, partial(self._perceived, self._asked, wanted))

    def _perceived(self, asked: int, wanted: bool, answer: Perceived | str) -> None:
        if asked != self._asked or answer == OUTDATED:
            return  # a later call is on its way, or another incarnation perceives
        if isinstance(answer, str):
            self._timer = self._clock.call_at(self._clock.now() + RETRY_S, self._ask)
            return
        if answer.service != self._service:
            self._service, self._received = answer.service, 0
        for number, percept in answer.percepts:
            if number > self._received:
                self._received = number
                self._take(percept)
        if wanted and asked == self._asked:
            self._ask()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self, packed: Packed) -> None:
        try:
            percept: Percept = unpack(packed, "percept")
        except PackingError:
            self._refuse()
            return
        if self._perceive is not None:
            self._perceive(percept)

    def _refuse(self) -> None:
        self.refused += 1
        if self._on_refused is not None:
            self._on_refused("garbage", "percept")


# -- the service's side ---------------------------------------------------------------------------


class _PerceptStream:
    """The percepts of one incarnation of an agent, kept until it has received them."""

    def __init__(self, agent: AgentId, pop: PopId, incarnation: int) -> None:
        self.agent = agent
        self.pop = pop
        self.incarnation = incarnation
        self.open = False
        self.shed = 0
        self.call: Callable[[Perceived | str], None] | None = None
        """Answers the call that waits for percepts."""
        self._last = 0
        self._kept: dict[int, Percept] = {}
        self._site = 0
        """Number of the last ``SiteState``; an earlier one is not worth telling."""

    def add(self, percept: Percept) -> None:
        """Keep a percept until it was received."""
        self._last += 1
        if isinstance(percept, SiteState):
            self._kept.pop(self._site, None)
            self._site = self._last
        self._kept[self._last] = percept
        if len(self._kept) - (self._site in self._kept) > LOSSES:
            del self._kept[next(n for n, p in self._kept.items() if isinstance(p, InstanceLost))]
            self.shed += 1

    def forget(self, upto: int) -> None:
        """Forget percepts that were received."""
        self._kept = {number: kept for number, kept in self._kept.items() if number > upto}

    def flush(self, service: int) -> None:
        """Answer the call that waits, if there are percepts for it."""
        if self.call is None or not self._kept:
            return
        percepts: list[tuple[int, Packed]] = []
        room = _ROOM
        for number, percept in self._kept.items():
            packed = pack(percept)
            room -= len(bytes(packed[1]))
            if percepts and room < 0:
                break
            percepts.append((number, packed))
        answer, self.call = self.call, None
        answer(Perceived(service, tuple(percepts)))


class InfrastructureService:
    """Carries out what agents ask of an infrastructure, and tells them their percepts.

    Calls are expected to come once each and in order, from agents that stand at the PoP that
    they name. Percepts live in memory: agents of a restarted service begin with a ``SiteState``.
    """

    def __init__(
        self,
        infrastructure: Infrastructure,
        clock: Clock,
        incarnation: int,
    ) -> None:
        """Serve from now on.

        Args:
            infrastructure: carries out the actions.
            clock: of the infrastructure.
            incarnation: of the service, from 1 on, another than in any earlier start.

        Raises:
            ValueError: if ``incarnation`` is below 1.

        """
        if incarnation < 1:
            raise ValueError(f"the incarnation is {incarnation}, allowed is 1 or more")
        self._infrastructure = infrastructure
        self._clock = clock
        self._incarnation = incarnation
        self._streams: dict[AgentId, _PerceptStream] = {}

    @property
    def agents(self) -> dict[AgentId, int]:
        """The incarnation of each agent that has asked for percepts."""
        return {agent: stream.incarnation for agent, stream in sorted(self._streams.items())}

    @property
    def shed(self) -> int:
        """Lost instances of which agents were not told, because too many waited for them."""
        return sum(stream.shed for stream in self._streams.values())

    def perform(
        self,
        request: PerformRequest,
        cause: str,
        answer: Callable[[Performed | str], None],
        may: Callable[[object], bool] = lambda action: True,  # noqa: ARG005
    ) -> None:
        """Carry out an action; ``answer`` gets its outcome, or why it was not begun."""
        try:
            action: Action = unpack(request.action, "action")
        except PackingError as error:
            answer(str(error))
            return

        def carried_out(outcome: Outcome) -> None:
            try:
                answer(Performed(pack(outcome)))
            except PackingError as error:
                answer(str(error))

        if may(action):
            self._infrastructure.perform(request.pop, action, cause, carried_out)
        else:
            carried_out(Failed("the agent is not trusted any more"))

    def perceive(
        self, agent: AgentId, request: PerceiveRequest, answer: Callable[[Perceived | str], None]
    ) -> None:
        """Answer with percepts once there are some, or with a refusal."""
        stream = self._streams.get(agent)
        if stream is not None and request.incarnation < stream.incarnation:
            answer(OUTDATED)
            return
        if stream is None or (request.incarnation, request.pop) != (stream.incarnation, stream.pop):
            if stream is not None:
                self._open(stream, wanted=False)
                if stream.call is not None:
                    stream.call(OUTDATED)
            stream = _PerceptStream(agent, request.pop, request.incarnation)
            self._streams[agent] = stream
        if request.service == self._incarnation:
            stream.forget(request.received)
        if stream.call is not None:
            stream.call(Perceived(self._incarnation))
        stream.call = answer
        self._open(stream, wanted=request.wanted)
        if request.wanted:
            stream.flush(self._incarnation)
        else:
            stream.call = None
            answer(Perceived(self._incarnation))

    def close(self) -> None:
        """Tell agents nothing more; actions that were begun go on."""
        for stream in self._streams.values():
            self._open(stream, wanted=False)
        self._streams.clear()

    def _open(self, stream: _PerceptStream, *, wanted: bool) -> None:
        if wanted == stream.open:
            return
        stream.open = wanted
        if wanted:
            self._infrastructure.attach(stream.agent, stream.pop, partial(self._tell, stream))
        else:
            self._infrastructure.detach(stream.agent, stream.pop)

    def _tell(self, stream: _PerceptStream, percept: Percept) -> None:
        if stream.open:
            stream.add(percept)
            # All percepts of one instant go in one answer.
            self._clock.call_soon(partial(stream.flush, self._incarnation))
