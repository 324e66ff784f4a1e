"""The service: carries out what agents in other processes ask of an infrastructure."""

from __future__ import annotations

from functools import partial

from msgspec import Struct, field

from phalanx.bus import subjects
from phalanx.bus.agents import OnRefused
from phalanx.bus.client import BrokerClient, Delivery
from phalanx.bus.wire import WireError
from phalanx.clock import Clock
from phalanx.domain.actions import Failed, Outcome, Percept
from phalanx.domain.network import PopId
from phalanx.fabric.network.codec import (
    Answered,
    Declined,
    Do,
    News,
    Packed,
    Reply,
    Sync,
    Why,
    decode_ask,
    encode,
    pack,
    settled,
    unpack_action,
)
from phalanx.fabric.network.session import UNDER_WAY, Session
from phalanx.infrastructure import Infrastructure

_DETAIL = 200


class Counters(Struct):
    """What the service did."""

    carried_out: int = 0
    """Actions given to the infrastructure."""
    repeated: int = 0
    """Requests answered with what was answered before."""
    declined: dict[str, int] = field(default_factory=dict)
    """Requests that were not carried out, by reason (``codec.Why``)."""
    orphaned: int = 0
    """Outcomes that came when a later life of the agent had begun."""


class NetworkService:
    """Serves ``act.<pop>`` and tells ``percept.<pop>`` for all PoPs of an infrastructure.

    Who asks is told by the subject, which the exchange vouches for. Each agent's life has a
    session (``Session``): an action is carried out once, in the order of the agent's tokens,
    however often the request comes; what comes late, and each lost instance, is told until the
    agent says that it has heard it. A session lives in memory: when the service begins a new
    life, agents are told so, and end what they do not know the outcome of as failed.
    """

    def __init__(
        self,
        exchange: BrokerClient,
        infrastructure: Infrastructure,
        clock: Clock,
        *,
        incarnation: int = 1,
        on_refused: OnRefused | None = None,
    ) -> None:
        """Serve from now on.

        Args:
            exchange: of an identity that serves the infrastructure (role ``network``).
            infrastructure: carries out the actions.
            clock: of the infrastructure.
            incarnation: of the service, from 1 on; another one than in any life before, if the
                infrastructure outlives the service.
            on_refused: told why, of which subject and of whom, when a request cannot be read or
                is of an earlier life, for the audit.

        Raises:
            ValueError: if ``incarnation`` is below 1.
            NotPermittedError: if the identity may not serve an infrastructure.

        """
        if incarnation < 1:
            raise ValueError(f"the incarnation is {incarnation}, allowed is 1 or more")
        self.counters = Counters()
        self._exchange = exchange
        self._infrastructure = infrastructure
        self._clock = clock
        self._incarnation = incarnation
        self._on_refused = on_refused
        self._domain = exchange.identity.domain
        self._sessions: dict[PopId, Session[Delivery]] = {}
        pattern = subjects.pattern(self._domain, "act", "*")
        self._subscription = exchange.subscribe(pattern, self._asked)

    @property
    def agents(self) -> dict[PopId, int]:
        """The incarnation of each agent that has a session."""
        return {pop: session.incarnation for pop, session in sorted(self._sessions.items())}

    @property
    def shed(self) -> int:
        """News of lost instances that agents did not come to hear."""
        return sum(session.shed for session in self._sessions.values())

    def close(self) -> None:
        """Serve no more; what is under way goes on, and nobody is told."""
        self._subscription.close()
        for session in self._sessions.values():
            self._perceive(session, wanted=False)
        self._sessions.clear()

    # -- requests -------------------------------------------------------------------------------

    def _asked(self, request: Delivery) -> None:
        pop = ""
        try:
            pop = subjects.speaker(request.subject) or ""
            ask = decode_ask(request.payload)
        except (WireError, ValueError) as error:
            self._refuse(request, pop, Why.GARBAGE, str(error))
            return
        session = self._sessions.get(pop)
        if session is not None and ask.incarnation < session.incarnation:
            said = f"incarnation {session.incarnation} has spoken"
            self._refuse(request, pop, Why.OUTDATED, said)
        elif isinstance(ask, Sync):
            self._sync(pop, session, ask, request)
        elif session is None or (ask.service, ask.incarnation) != (
            self._incarnation,
            session.incarnation,
        ):
            self._decline(request, Why.UNKNOWN)
        else:
            self._do(session, ask, request)

    def _sync(
        self, pop: PopId, session: Session[Delivery] | None, ask: Sync, request: Delivery
    ) -> None:
        if session is None or ask.incarnation > session.incarnation:
            if session is not None:
                self._perceive(session, wanted=False)
            session = self._sessions[pop] = Session(pop, ask.incarnation)
        if ask.service == self._incarnation:
            session.heard(ask.heard)
        session.settle(ask.floor)
        self._begin(session)
        if ask.perceives == session.perceives:
            self._answer_sync(session, request)
        else:
            self._perceive(session, wanted=ask.perceives)
            # Later in this instant: an infrastructure begins with the state of the PoP.
            self._clock.call_soon(partial(self._answer_sync, session, request))

    def _answer_sync(self, session: Session[Delivery], request: Delivery) -> None:
        self._reply(request, session.synced(self._incarnation))

    def _do(self, session: Session[Delivery], do: Do, request: Delivery) -> None:
        session.settle(do.floor)
        known = session.reply(do.token)
        if session.settled(do.token):
            self._decline(request, Why.SETTLED)
        elif known is not None:
            self.counters.repeated += 1
            self._reply(request, known)
        elif session.too_far(do.token):
            self._decline(request, Why.BUSY)
        else:
            session.expect(do, request)
        self._begin(session)

    def _begin(self, session: Session[Delivery]) -> None:
        """Carry out the actions whose turn has come."""
        for do, request in session.turns():
            try:
                action = unpack_action(do.action)
            except WireError as error:
                self._count(Why.GARBAGE)
                reply = Answered(pack(Failed(str(error))))
            else:
                if session.full:
                    self._count(Why.BUSY)
                    text = f"{UNDER_WAY} actions are under way at {session.pop} already"
                    reply = Answered(pack(Failed(text)))
                else:
                    self.counters.carried_out += 1
                    call = _Call(self, session, do.token)
                    perform = self._infrastructure.perform
                    perform(session.pop, action, do.cause, call.answer)
                    reply = Answered(call.returned())
            session.begun(do.token, reply)
            self._reply(request, reply)

    def settle(self, session: Session[Delivery], token: int, outcome: Packed) -> None:
        """Tell an agent what became of an action that was under way."""
        session.under_way.discard(token)
        if self._sessions.get(session.pop) is session:
            self._tell(session, settled(token, outcome))
        else:
            self.counters.orphaned += 1

    # -- what agents are told -----------------------------------------------------------------

    def _perceive(self, session: Session[Delivery], *, wanted: bool) -> None:
        if wanted == session.perceives:
            return
        session.perceives = wanted
        if wanted:
            self._infrastructure.attach(session.pop, session.pop, partial(self._perceived, session))
        else:
            self._infrastructure.detach(session.pop, session.pop)

    def _perceived(self, session: Session[Delivery], percept: Percept) -> None:
        if session.perceives:
            self._tell(session, pack(percept))

    def _tell(self, session: Session[Delivery], item: Packed) -> None:
        number = session.tell(item)
        news = News(self._incarnation, session.incarnation, number, item)
        self._exchange.publish(subjects.percept(self._domain, session.pop), encode(news))

    def _refuse(self, request: Delivery, pop: PopId, why: Why, detail: str) -> None:
        self._decline(request, why, detail)
        if self._on_refused is not None:
            self._on_refused(why.value, request.subject, pop)

    def _decline(self, request: Delivery, why: Why, detail: str = "") -> None:
        self._count(why)
        self._reply(request, Declined(why, detail[:_DETAIL]))

    def _count(self, why: Why) -> None:
        self.counters.declined[why.value] = self.counters.declined.get(why.value, 0) + 1

    def _reply(self, request: Delivery, reply: Reply) -> None:
        self._exchange.respond(request, encode(reply))


class _Call:
    """An action that was given to the infrastructure, which may answer at once or later."""

    __slots__ = ("_late", "_outcome", "_service", "_session", "_token")

    def __init__(self, service: NetworkService, session: Session[Delivery], token: int) -> None:
        self._service = service
        self._session = session
        self._token = token
        self._outcome: Packed | None = None
        self._late = False

    def answer(self, outcome: Outcome) -> None:
        """Take the outcome."""
        packed = _pack(outcome)
        if self._late:
            self._service.settle(self._session, self._token, packed)
        else:
            self._outcome = packed

    def returned(self) -> Packed | None:
        """Return the outcome if there is one already; else it will be told."""
        if self._outcome is None:
            self._late = True
            self._session.under_way.add(self._token)
        return self._outcome


def _pack(outcome: Outcome) -> Packed:
    try:
        return pack(outcome)
    except WireError as error:
        return pack(Failed(str(error)))
