"""A short-lived process under an operator's identity: what the operator's commands are made of.

It keeps nothing, and is not in the registry. What it may do follows from its identity: an
observer's can look, an operator's can also call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from msgspec import Struct

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError, CaughtUp, Delivery, Stored
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Event
from phalanx.fabric.calls import CallClient, CallError, CallTimedOut
from phalanx.fabric.directory import Appraise, RegistryChange, RegistryEntry, unattested
from phalanx.fabric.envelope import EnvelopeError, event_of
from phalanx.fabric.operations import STATUS, Operation, StatusAnswer, StatusRequest
from phalanx.fabric.registry import Registry
from phalanx.runtime.domain.directory import BUS_FILE, DOMAIN_FILE
from phalanx.runtime.domain.spec import read_bundle
from phalanx.runtime.processes.process import connected

CALL_S = 5.0
"""How long an operation may take to be answered."""
SETTLE_S = 10.0
"""How long to wait at most for signs of life; a lease is 6 s."""
SILENCE_S = 10.0
"""How long the brokers may take to go on telling what they keep."""
READ_S = 3600.0
"""How long all of it may take."""

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)
Teller = Callable[[Event, float], None]
"""Told of an event and when the broker took it, in seconds since 1970 by the broker's clock."""


def operator_bus(domain: Path) -> Path:
    """Return the ``bus.toml`` of the operator in a domain's directory.

    Raises:
        ScenarioError: if it is no domain's directory.

    """
    if not (domain / DOMAIN_FILE).is_file():
        raise ScenarioError(
            f"{domain}: is no domain's directory; phalanx domain init {domain} makes one"
        )
    return domain / "identities" / "operator" / BUS_FILE


class Operator:
    """A connection under an identity, for as long as a command takes; used with ``with``.

    Args:
        bus: the ``bus.toml`` of the identity, or the directory that holds it.

    Raises:
        ScenarioError: if the file is not usable.
        IdentityError: if its certificate or key is not.
        BrokerError: by ``with``, if there is no connection within ten seconds.

    """

    def __init__(self, bus: Path) -> None:
        path = bus / BUS_FILE if bus.is_dir() else bus
        bundle = read_bundle(path)
        self.identity = bundle.identity
        self.clock = WallClock()
        self._stack = ExitStack()
        self._stack.callback(self.clock.close)
        self.exchange = self._stack.enter_context(connected(bundle, self.clock, flush_s=1.0))
        self.client = CallClient(self.exchange, self.clock, life=secrets.token_hex(4))

    def __enter__(self) -> Self:
        try:
            self.exchange.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say what waits to be said, and end the connection."""
        self._stack.close()

    def until(self, true: Callable[[], bool], within_s: float) -> bool:
        """Run until ``true`` holds, and say whether it does; what a handler raises comes out."""
        end = self.clock.now() + within_s
        while not (held := true()) and self.clock.now() < end:
            self.clock.run(until=min(end, self.clock.now() + 0.1), stop=true)
        return held

    def call(self, owner: str, operation: Operation[Q, A], request: Q) -> A | CallError:
        """Invoke an operation, and run until it is answered."""
        answers: list[A | CallError] = []
        self.client.invoke(owner, operation, request, answers.append, timeout_s=CALL_S)
        self.until(lambda: bool(answers), CALL_S + 1.0)
        return answers[0]

    def hear(self, agent: str, tell: Callable[[Event], None]) -> None:
        """Tell ``tell`` of each event that an agent records from now on.

        Raises:
            NotPermittedError: if the identity may not hear them.

        """

        def heard(delivery: Delivery) -> None:
            with suppress(EnvelopeError, ValueError):  # the recorder has it in the audit
                tell(event_of(delivery, self.identity.domain))

        events = subjects.pattern(self.identity.domain, "evt", agent, subjects.REST)
        self.exchange.subscribe(events, heard)


class Survey:
    """Reads the registry, and asks each agent that answers how it is.

    Args:
        operator: whose identity asks.
        appraise: how far to trust a service.

    """

    def __init__(self, operator: Operator, appraise: Appraise = unattested) -> None:
        self.answers: dict[str, StatusAnswer] = {}
        """What services said of themselves when they were asked last, by name."""
        self.silent: dict[str, str] = {}
        """Why those who were asked and did not answer did not, in words, by name."""
        self.storage: tuple[str, ...] = ()
        """What is wrong with the streams and tables, as far as it was asked."""
        self._operator = operator
        self._asked: set[tuple[str, int]] = set()
        self._open = 0
        self.registry = Registry(operator.exchange, operator.clock, appraise=appraise)
        self.registry.watch(self._changed)

    @property
    def names(self) -> tuple[str, ...]:
        """Who is in the registry."""
        return tuple(entry.owner for entry in self.registry.entries())

    def settle(self, wanted: Iterable[str] = ()) -> bool:
        """Run until it is known of all who live, or of those who are ``wanted``; whether it is."""
        names = frozenset(wanted)
        self.look()
        return self._operator.until(partial(self._settled, names), SETTLE_S)

    def look(self) -> None:
        """Ask how the streams and tables are."""
        self._open += 1
        self._operator.exchange.storage(self._looked)

    def read(self) -> bool:
        """Run until the registry has been read; whether there is anybody in it."""
        self._operator.until(lambda: self.registry.read, SETTLE_S)
        return bool(self.names)

    def ask(self) -> None:
        """Ask all again."""
        self.look()
        self._asked.clear()
        for entry in self.registry.entries():
            self._question(entry)

    def _settled(self, names: frozenset[str]) -> bool:
        if not self.registry.read or self._open:
            return False
        return all(
            entry.confirmed
            or not entry.available
            or entry.owner in self.answers
            or entry.owner in self.silent
            for entry in self.registry.entries()
            if not names or entry.owner in names
        )

    def _changed(self, change: RegistryChange) -> None:
        self._question(change.entry)

    def _question(self, entry: RegistryEntry) -> None:
        """Ask a service how it is, unless this life of it was asked already."""
        service = entry.registration
        life = service.owner, service.incarnation
        if not entry.available or life in self._asked or STATUS.name not in service.operations:
            return
        self._asked.add(life)
        self._open += 1
        heard = partial(self._answered, service.owner)
        self._operator.client.invoke(
            service.owner, STATUS, StatusRequest(), heard, timeout_s=CALL_S
        )

    def _looked(self, found: tuple[str, ...]) -> None:
        self._open -= 1
        self.storage = found

    def _answered(self, owner: str, answer: StatusAnswer | CallError) -> None:
        self._open -= 1
        self.answers.pop(owner, None)
        self.silent.pop(owner, None)
        if isinstance(answer, StatusAnswer):
            self.answers[owner] = answer
        elif isinstance(answer, CallTimedOut):
            self.silent[owner] = answer.reason


class Tail:
    """Reads the stream of events.

    Args:
        operator: whose identity may read it.
        tell: told of each event.
        agent: only what it recorded; None: all.
        past: whether to begin with what is kept, not with what comes.
        since_s: of what is kept, leave out what the brokers took longer ago, in seconds by
            their clock; None: nothing.
        caught_up: called once what was kept as this began has been told.

    Raises:
        NotPermittedError: if the identity may not read the stream.

    """

    def __init__(
        self,
        operator: Operator,
        tell: Teller,
        *,
        agent: str | None = None,
        past: bool = True,
        since_s: float | None = None,
        caught_up: CaughtUp | None = None,
    ) -> None:
        self.unreadable = 0
        """Entries of the stream that were no events, or another's than who sent them."""
        self.caught_up = False
        """Whether what was kept as this began has been told."""
        self._operator = operator
        self._tell = tell
        self._then = caught_up
        self._heard = operator.clock.now()
        self._trouble = "nothing is heard of the stream"
        exchange, domain = operator.exchange, operator.identity.domain
        exchange.on_error(self._complained)
        exchange.follow(
            subjects.EVENTS,
            self._stored,
            pattern=None
            if agent is None
            else subjects.pattern(domain, "evt", agent, subjects.REST),
            new_only=not past,
            since_s=since_s,
            caught_up=self._caught_up,
        )

    def catch_up(self) -> None:
        """Run until what was kept as this began has been told.

        Raises:
            BrokerError: if the brokers do not go on telling it.

        """
        self._operator.until(lambda: self.caught_up or self._silent(), READ_S)
        if not self.caught_up:
            raise BrokerError(f"the brokers do not tell what they keep: {self._trouble}")

    def _silent(self) -> bool:
        return self._operator.clock.now() - self._heard >= SILENCE_S

    def _caught_up(self) -> None:
        self.caught_up = True
        if self._then is not None:
            self._then()

    def _complained(self, text: str) -> None:
        self._trouble = text

    def _stored(self, stored: Stored) -> None:
        self._heard = self._operator.clock.now()
        stored.acknowledge()
        try:
            event = event_of(stored, self._operator.identity.domain)
        except (EnvelopeError, ValueError):
            self.unreadable += 1
            return
        self._tell(event, stored.received)
