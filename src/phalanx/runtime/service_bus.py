"""The bus of a domain as its service orchestrator uses it: asks processes, and tells events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from phalanx.bus import subjects
from phalanx.bus.client import BrokerError
from phalanx.domain.errors import PhalanxError
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
from phalanx.orchestration.iml.unit import UnitKind
from phalanx.orchestration.journal import AUTHOR
from phalanx.orchestration.workflow.context import Pair, Probed, Seen, TransientFault
from phalanx.orchestration.workflow.model import ServiceMember
from phalanx.runtime.course import RESERVATIONS, ReservationsAnswer, ReservationsRequest
from phalanx.runtime.domain import Domain
from phalanx.runtime.processes.operator import Operator

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
        """Give the connection back; whoever asks for something again connects anew."""
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
