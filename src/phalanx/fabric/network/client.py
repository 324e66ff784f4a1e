"""The infrastructure as one agent uses it that is a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Delivery, Subscription, Unanswered
from phalanx.bus.wire import WireError
from phalanx.clock import Clock, Timer
from phalanx.domain.actions import Action, Failed, Outcome, Percept
from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId
from phalanx.fabric.network.codec import (
    Answered,
    Ask,
    Declined,
    Do,
    Packed,
    Reply,
    Settled,
    Sync,
    Synced,
    Why,
    decode_news,
    decode_reply,
    encode,
    pack,
    unpack_news,
    unpack_outcome,
)
from phalanx.fabric.network.errands import Errand, Errands
from phalanx.fabric.network.patience import Counters, Patience
from phalanx.infrastructure import Answer

Perceive = Callable[[Percept], None]

RESTARTED = "the infrastructure's service was restarted; what came of it is not known"
SILENT = "the infrastructure's service does not answer"
OUTDATED = "a later life of this agent acts now"


class RemoteInfrastructure:
    """Implements ``Infrastructure`` for one agent, over an exchange.

    Every action is answered once: with its outcome, or ``Failed`` after a bounded time of
    silence. Then it may yet have been carried out, or be: never twice, never after an action
    that was asked for later was, and what it took runs out with its lease.
    """

    def __init__(
        self,
        exchange: BrokerClient,
        pop: PopId,
        incarnation: int,
        clock: Clock,
        patience: Patience | None = None,
        on_refused: Callable[[str, str], None] | None = None,
    ) -> None:
        """Make it; nothing is asked before ``attach`` or ``perform``.

        Args:
            exchange: of the agent.
            pop: the agent's PoP, and its name.
            incarnation: of the agent, higher than in any life before, from 1 on.
            clock: makes the calls.
            patience: bounds; None: the usual ones.
            on_refused: told why something was not taken, and its subject, for the audit.

        Raises:
            ValueError: if the exchange is another's, or ``incarnation`` is below 1.

        """
        if exchange.identity.name != pop:
            raise ValueError(f"{exchange.identity.name!r} cannot act at {pop!r}")
        if incarnation < 1:
            raise ValueError(f"the incarnation is {incarnation}, allowed is 1 or more")
        self.counters = Counters()
        self._exchange = exchange
        self._pop = pop
        self._incarnation = incarnation
        self._clock = clock
        self._patience = patience or Patience()
        self._on_refused = on_refused
        self._errands = Errands(self._patience.window)
        self._subject = subjects.act(exchange.identity.domain, pop)
        self._percepts = subjects.percept(exchange.identity.domain, pop)
        self._subscription: Subscription | None = None
        self._perceive: Perceive | None = None
        self._service = 0
        self._heard = 0
        self._heard_at = clock.now()
        self._outdated = False
        self._syncing = False
        self._told_of = False
        """Whether the service tells percepts, as far as it is known."""
        self._renew_at = 0.0
        self._timer: Timer | None = None
        exchange.on_change(self._connected)

    @property
    def pending(self) -> int:
        """Actions that are not answered yet."""
        return len(self._errands)

    @property
    def silence_s(self) -> float:
        """For how long nothing was heard of the service, in seconds."""
        return self._clock.now() - self._heard_at

    def attach(self, agent: AgentId, pop: PopId, perceive: Perceive) -> None:
        """Tell the agent of changes from now on; begins with the ``SiteState`` of its PoP.

        Raises:
            ValueError: if ``pop`` is not the agent's.
            NotPermittedError: if the exchange does not let the agent perceive.

        """
        if pop != self._pop:
            raise ValueError(f"{agent} of {self._pop!r} cannot perceive {pop!r}")
        self._perceive = perceive
        self._listen()
        self._sync()

    def detach(self, agent: AgentId, pop: PopId) -> None:  # noqa: ARG002  # there is one agent
        """Stop telling; what was asked for is still answered, leases go on."""
        if pop == self._pop and self._perceive is not None:
            self._perceive = None
            self._sync()

    def perform(self, pop: PopId, action: Action, cause: str, answer: Answer) -> None:
        """Have ``action`` carried out, and call ``answer`` with its outcome, once.

        Actions are carried out in the order asked.
        """
        if pop != self._pop:
            answer(Failed(f"the agent of {self._pop} cannot act at {pop}"))
        elif self._outdated:
            answer(Failed(OUTDATED))
        elif self._errands.waiting >= self._patience.waiting:
            self.counters.shed += 1
            answer(Failed(f"{self._errands.waiting} actions wait for the infrastructure already"))
        else:
            try:
                packed = pack(action)
            except WireError as error:
                answer(Failed(str(error)))
                return
            self._errands.add(Errand(packed, cause, answer, self._clock.now()))
            self._listen()
            if self._service:
                self._go_on()
            else:
                self._sync()

    def close(self) -> None:
        """Ask and hear nothing more; what is not answered never is."""
        self._perceive = None
        self._errands.clear()
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- asking -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._subscription is None:
            self._subscription = self._exchange.subscribe(self._percepts, self._told)
        if self._timer is None:
            self._beat_later()

    def _beat_later(self) -> None:
        self._timer = self._clock.call_at(self._clock.now() + self._patience.retry_s, self._beat)

    def _beat(self) -> None:
        """Give up, ask again, renew: whatever time has brought about."""
        self._timer = None
        if self._outdated:
            return
        now = self._clock.now()
        self._give_up(now)
        settled = self._told_of == (self._perceive is not None)
        if self._perceive is None and not self.pending and settled:
            return
        self._beat_later()
        if not (self._service and settled) or now >= self._renew_at:
            self._sync()
        if self._service:
            for errand in self._errands.unheard:
                self.counters.repeated += 1
                self._ask(errand)

    def _connected(self, up: bool) -> None:
        """Ask again at once what may have been lost with a connection: leases are running out."""
        if up and self._timer is not None:
            self._timer.cancel()
            self._errands.doubt()
            self._syncing, self._renew_at = False, 0.0
            self._beat()

    def _give_up(self, now: float) -> None:
        late = now - self._patience.give_up_s
        given_up = self._errands.give_up(late, under_way=self._heard_at <= late)
        self.counters.given_up += len(given_up)
        _fail(given_up, SILENT)

    def _go_on(self) -> None:
        """Ask for what waits, as much as may be asked for at a time."""
        if self._service:
            for errand in self._errands.turns():
                self.counters.asked += 1
                self._ask(errand)

    def _ask(self, errand: Errand) -> None:
        errand.on_its_way = True
        do = Do(
            self._incarnation,
            self._service,
            errand.token,
            self._errands.floor,
            errand.action,
            errand.cause,
        )
        self._request(do, partial(self._replied, errand))

    def _sync(self) -> None:
        if self._syncing or self._outdated:
            return
        self._syncing = True
        self._renew_at = self._clock.now() + self._patience.renew_s
        perceives = self._perceive is not None
        ask = Sync(self._incarnation, self._service, self._heard, self._errands.floor, perceives)
        self._request(ask, partial(self._synced, perceives))

    def _request(self, ask: Ask, then: Callable[[Reply | None], None]) -> None:
        def answered(answer: Delivery | Unanswered) -> None:
            then(self._read(answer))

        timeout_s = self._patience.retry_s
        self._exchange.request(self._subject, encode(ask), answered, timeout_s=timeout_s)

    def _read(self, answer: Delivery | Unanswered) -> Reply | None:
        """Return the service's reply, None if there is none."""
        if isinstance(answer, Unanswered):
            return None
        try:
            reply = decode_reply(answer.payload)
        except WireError:
            self._refuse("garbage", answer.subject)
            return None
        self._heard_at = self._clock.now()
        return reply

    # -- hearing ----------------------------------------------------------------------------------

    def _replied(self, errand: Errand, reply: Reply | None) -> None:
        errand.on_its_way = False
        if not self._errands.is_asked(errand):
            return  # it was given up, or news told what it came to
        if isinstance(reply, Declined):
            self._declined(reply)
        elif isinstance(reply, Answered):
            if reply.outcome is None:
                self._errands.begin(errand)
                self._go_on()
            else:
                self._finish(errand.token, reply.outcome)

    def _synced(self, perceives: bool, reply: Reply | None) -> None:
        self._syncing = False
        if isinstance(reply, Declined):
            self._declined(reply)
        if not isinstance(reply, Synced):
            return
        if reply.service != self._service:  # another life of it: what the former did is not known
            self._service, self._heard = reply.service, 0
            _fail(self._errands.abandon(), RESTARTED)
        self._told_of = perceives
        try:
            for number, item in reply.news:
                if number > self._heard:
                    self._heard = number
                    self._take(item)
        finally:
            self._go_on()
        self._heard = max(self._heard, reply.upto)
        if self._heard < reply.last:
            self._sync()

    def _declined(self, reply: Declined) -> None:
        if reply.why is Why.OUTDATED:
            self._outdated = True
            _fail(self._errands.clear(), OUTDATED)
        elif reply.why is Why.UNKNOWN:
            self._sync()

    def _told(self, delivery: Delivery) -> None:
        try:
            news = decode_news(delivery.payload)
        except WireError:
            self._refuse("garbage", delivery.subject)
            return
        if not self._service:
            return  # the reply to the first Sync is on its way, and holds it too
        if (news.service, news.incarnation) != (self._service, self._incarnation):
            self._refuse("stale", delivery.subject)
        elif news.number == self._heard + 1:
            self._heard_at = self._clock.now()
            self._heard = news.number
            self._take(news.item)
        elif news.number > self._heard:
            self.counters.gaps += 1
            self._sync()

    def _take(self, item: Packed) -> None:
        try:
            news = unpack_news(item)
        except WireError:
            self._refuse("garbage", self._percepts)
            return
        if isinstance(news, Settled):
            self._finish(news.token, news.outcome)
        elif self._perceive is not None:
            self._perceive(news)

    def _finish(self, token: int, packed: Packed) -> None:
        errand = self._errands.end(token)
        if errand is None:
            return
        outcome: Outcome
        try:
            outcome = unpack_outcome(packed)
        except WireError as error:
            self._refuse("garbage", self._percepts)
            outcome = Failed(str(error))
        self._go_on()
        errand.answer(outcome)

    def _refuse(self, reason: str, subject: str) -> None:
        self.counters.refused[reason] = self.counters.refused.get(reason, 0) + 1
        if self._on_refused is not None and reason != "stale":  # as restarts bring about
            self._on_refused(reason, subject)


def _fail(errands: list[Errand], reason: str) -> None:
    for errand in errands:
        errand.answer(Failed(reason))
