"""Calls over the exchange in memory, on virtual time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fabric_lab import DOMAIN, Lab
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Delivery, NotPermittedError, Unanswered
from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event, Recorder
from phalanx.fabric.access import STANDARD_POLICY, AccessDecision, Gate, Resource
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.calls import (
    CallBusy,
    CallClient,
    CallError,
    CallFailed,
    CallRefused,
    CallTimedOut,
    OperationUnknown,
    decode_reply,
    request_envelope,
)
from phalanx.fabric.directory import find
from phalanx.fabric.envelope import to_headers
from phalanx.fabric.join import Fabric
from phalanx.fabric.operations import STATUS, STOP, Accepted, Operation, StopRequest
from phalanx.fabric.provider import KEPT, WAITING, Call, Provider
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Identity, Role


class Add(Struct, frozen=True):
    a: int
    b: int


class Sum(Struct, frozen=True):
    total: int


ADD = Operation("add", Add, Sum, False, "adds")
BOOK = Operation("book", Add, Sum, True, "adds up")


def allow(_caller: Identity, _operation: Operation[Any, Any]) -> AccessDecision:
    return AccessDecision(True, "all may")


Passage = Callable[[Identity, Identity, str], Sequence[float]]


class Bench(Lab):
    """A provider pop1 of ``add`` (at once) and ``book`` (answered by the test), and a client."""

    def __init__(self, limit: int = 32) -> None:
        super().__init__()
        self.refused: list[AccessRefusal] = []
        self.provider = Provider(
            self.join("pop1"), self.clock, allow, on_refused=self.refused.append, limit=limit
        )
        self.provider.serve(ADD, lambda call: call.done(Sum(call.request.a + call.request.b)))
        self.calls: list[Call[Add, Sum]] = []
        self.provider.serve(BOOK, self.calls.append)
        self.exchange = self.join("pop2")
        self.client = CallClient(self.exchange, self.clock, life="1")
        self.answers: list[object] = []

    def invoke(self, operation: Operation[Any, Any] = BOOK, **options: Any) -> None:
        options.setdefault("timeout_s", 5.0)
        self.client.invoke("pop1", operation, Add(1, 2), self.answers.append, **options)
        self.run()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_call_is_answered(bench: Bench) -> None:
    bench.client.invoke("pop1", ADD, Add(2, 3), bench.answers.append, timeout_s=1, cause="e7")
    assert bench.answers == []  # the clock calls, not the call
    bench.run()
    assert bench.answers == [Sum(5)]
    assert bench.provider.outcomes == {"CallDone": 1}
    assert bench.provider.operations == ("add", "book")
    bench.invoke(cause="e8")
    assert (bench.calls[0].caller.name, bench.calls[0].cause) == ("pop2", "e8")
    bench.calls[0].done(Sum(3))
    bench.calls[0].fail("too late, it is answered")
    bench.run()
    assert bench.answers == [Sum(5), Sum(3)]
    assert bench.provider.running == 0


def test_an_unknown_operation_is_not_found(bench: Bench) -> None:
    bench.invoke(STATUS)
    assert bench.answers == [OperationUnknown("no operation 'status'; there is add, book")]


def test_nobody_there_times_out(lab: Lab) -> None:
    answers: list[object] = []
    client = CallClient(lab.join("pop2"), lab.clock, life="1")
    client.invoke("pop9", ADD, Add(1, 2), answers.append, timeout_s=3)
    lab.run(3)
    assert answers == [CallTimedOut("no process serves it", unserved=True)]


def test_who_is_too_slow_times_out_as_well(bench: Bench) -> None:
    bench.invoke(timeout_s=3)
    bench.run(3)
    (late,) = bench.answers
    assert isinstance(late, CallTimedOut)
    assert not late.unserved


def test_who_may_not_is_refused_and_audited(lab: Lab) -> None:
    refused: list[AccessRefusal] = []
    gate = Gate(STANDARD_POLICY, lambda: Resource("pop1", DOMAIN))
    provider = Provider(lab.join("pop1"), lab.clock, gate.check, on_refused=refused.append)
    stopped: list[str] = []
    provider.serve(STOP, lambda call: stopped.append(call.caller.name))
    answers: list[object] = []
    for name, role in (("pop2", Role.AGENT), ("alice", Role.OPERATOR)):
        client = CallClient(lab.join(name, role), lab.clock, life="1")
        client.invoke("pop1", STOP, StopRequest(), answers.append, timeout_s=5)
        lab.run()
    why = "no rule allows it, and it changes something"
    assert answers == [CallRefused(why)]
    assert stopped == ["alice"]
    assert refused == [AccessRefusal("pop2", "stop", "pop1", why)]


def test_who_may_not_call_at_all_is_refused_without_sending(lab: Lab) -> None:
    answers: list[object] = []
    client = CallClient(lab.join("guest", Role.OBSERVER), lab.clock, life="1")
    client.invoke("pop1", ADD, Add(1, 2), answers.append, timeout_s=5)
    assert answers == []
    lab.run()
    assert [type(answer) for answer in answers] == [CallRefused]


def test_failures_are_data_and_no_traceback_travels() -> None:
    class SecretError(RuntimeError):
        pass

    def expected(_call: Call[Add, Sum]) -> None:
        raise PhalanxError("no resources left,\ntry pop2")

    def defect(_call: Call[Add, Sum]) -> None:
        raise SecretError("password is swordfish")

    bench = Bench()
    bench.provider.serve(Operation("expected", Add, Sum, False, ""), expected)
    bench.provider.serve(Operation("defect", Add, Sum, False, ""), defect)
    bench.invoke(Operation("expected", Add, Sum, False, ""))
    with pytest.raises(SecretError):
        bench.invoke(Operation("defect", Add, Sum, False, ""))
    bench.run()
    assert bench.answers == [
        CallFailed("no resources left, try pop2"),
        CallFailed("a defect in 'defect'; the provider's own log has it"),
    ]
    with pytest.raises(ValueError, match="served already"):
        bench.provider.serve(ADD, defect)


def test_a_request_of_another_shape_is_refused_in_words(bench: Bench) -> None:
    other = Operation("add", StopRequest, Sum, False, "")
    bench.client.invoke("pop1", other, StopRequest(), bench.answers.append, timeout_s=5)
    bench.invoke(Operation("add", Add, Wrong, False, ""))
    reasons = [answer.reason for answer in bench.answers if isinstance(answer, CallFailed)]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "no request of 'add'",
        "no answer of 'add'",
    ]


def test_an_answer_that_is_too_long_is_a_failure(bench: Bench) -> None:
    listing = Operation("list", Add, Wrong, True, "")
    bench.provider.serve(listing, lambda call: call.done(Wrong("x" * (1 << 20))))
    bench.invoke(listing, key="k")
    bench.invoke(listing, key="k")
    assert [type(answer) for answer in bench.answers] == [CallFailed, CallFailed]
    assert bench.provider.outcomes == {"CallFailed": 1, "Again": 1}


class Wrong(Struct, frozen=True):
    total: str


def test_a_call_that_takes_too_long_times_out_and_its_result_is_there_for_who_asks_again(
    bench: Bench,
) -> None:
    bench.invoke(key="k1", timeout_s=2)
    bench.run(2)
    assert [type(answer) for answer in bench.answers] == [CallTimedOut]
    bench.calls[0].done(Sum(3))
    bench.invoke(key="k1")
    assert bench.answers[1:] == [Sum(3)]
    assert len(bench.calls) == 1


def test_the_same_key_joins_what_runs_and_gets_what_it_came_to(bench: Bench) -> None:
    bench.invoke(key="k1")
    bench.invoke(key="k1")
    bench.calls[0].done(Sum(3))
    bench.run()
    bench.invoke(key="k1")
    assert bench.answers == [Sum(3)] * 3
    assert len(bench.calls) == 1
    bench.client.invoke("pop1", BOOK, Add(5, 5), bench.answers.append, timeout_s=5, key="k1")
    bench.run()
    assert bench.answers[-1] == CallFailed("key 'k1' is that of another request")
    other = CallClient(bench.join("pop3"), bench.clock, life="1")
    other.invoke("pop1", BOOK, Add(1, 2), bench.answers.append, timeout_s=5, key="k1")
    bench.run()
    assert len(bench.calls) == 2  # another caller's key is another key


def test_what_is_kept_for_who_asks_again_is_bounded(bench: Bench) -> None:
    bench.provider.serve(
        Operation("note", Add, Sum, True, ""), lambda call: call.done(Sum(call.request.a))
    )
    for _ in range(KEPT + 200):
        bench.invoke(Operation("note", Add, Sum, True, ""))
    assert len(bench.provider._kept) == KEPT
    bench.run(1000)
    bench.invoke(Operation("note", Add, Sum, True, ""))
    assert len(bench.provider._kept) == 1
    for _ in range(WAITING + 3):
        bench.invoke(key="same")
    assert sum(isinstance(answer, CallBusy) for answer in bench.answers) == 3


def test_calls_at_the_same_time_are_bounded() -> None:
    bench = Bench(limit=3)
    for _ in range(5):
        bench.invoke()
    assert [type(answer) for answer in bench.answers] == [CallBusy, CallBusy]
    assert bench.provider.running == 3
    bench.calls[0].fail("no")
    bench.run()
    bench.invoke()
    assert bench.provider.running == 3
    assert bench.provider.outcomes == {"CallBusy": 2, "CallFailed": 1}


def lossy(
    passage: Passage, work_s: float = 0.0
) -> tuple[VirtualClock, Provider, CallClient, list[int]]:
    """Return a provider of ``book`` behind such a passage, its client, and the calls it made."""
    clock, made = VirtualClock(), list[int]()
    hub = MemoryBroker(clock, passage=passage)

    def book(call: Call[Add, Sum]) -> None:
        made.append(call.request.a)
        clock.call_at(clock.now() + work_s, lambda: call.done(Sum(call.request.a)))

    provider = Provider(hub.join(Identity("pop1", Role.AGENT, DOMAIN)), clock, allow)
    provider.serve(BOOK, book)
    client = CallClient(hub.join(Identity("pop2", Role.AGENT, DOMAIN)), clock, life="1")
    return clock, provider, client, made


def test_a_lost_answer_is_asked_for_again_and_the_call_is_made_once() -> None:
    lost = ["ans", "ans"]

    def passage(_one: Identity, _other: Identity, subject: str) -> Sequence[float]:
        kind = subject.split(".")[2]
        if kind in lost:
            lost.remove(kind)
            return ()
        return (0.01,)

    clock, provider, client, made = lossy(passage)
    answers: list[object] = []
    client.invoke("pop1", BOOK, Add(3, 0), answers.append, timeout_s=9, attempts=3)
    clock.run(until=20)
    assert answers == [Sum(3)]
    assert made == [3]
    assert provider.outcomes == {"CallDone": 1, "Again": 2}


@given(
    st.lists(st.sampled_from(((), (0.0,), (0.1,), (0.0, 0.3), (1.5,))), max_size=40),
    st.integers(1, 6),
    st.sampled_from((0.0, 0.4, 3.0)),
)
def test_whatever_is_lost_or_doubled_a_call_is_made_at_most_once_and_answered_once(
    fates: list[tuple[float, ...]], attempts: int, work_s: float
) -> None:
    left = list(fates)

    def passage(_one: Identity, _other: Identity, _subject: str) -> Sequence[float]:
        return left.pop() if left else (0.01,)

    clock, provider, client, made = lossy(passage, work_s)
    answers: dict[int, list[object]] = {number: [] for number in range(4)}
    for number, heard in answers.items():
        client.invoke("pop1", BOOK, Add(number, 0), heard.append, timeout_s=6, attempts=attempts)
    clock.run(until=60)
    assert len(made) == len(set(made))
    for number, heard in answers.items():
        assert len(heard) == 1
        assert heard[0] == Sum(number) or isinstance(heard[0], CallTimedOut)
    assert provider.running == 0


def test_bad_arguments_are_refused_at_the_door(bench: Bench) -> None:
    with pytest.raises(ValueError, match="timeout_s is 0"):
        bench.invoke(timeout_s=0)
    with pytest.raises(ValueError, match="attempts is 0"):
        bench.invoke(attempts=0)


# -- hostile callers ------------------------------------------------------------------------


def headers(caller: str = "pop2", operation: str = "add", timeout_s: float = 5) -> dict[str, str]:
    return to_headers(request_envelope(DOMAIN, caller, operation, "k", timeout_s))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "missing required field `specversion`"),
        (headers("pop1"), "source is '/phalanx/edge/pop1', but 'pop2' sent it"),
        (headers(operation="book"), "its type is not phalanx.call.add"),
        (headers() | {"ce-timeoutms": "999999999"}, "<= 3600000 - at `$.timeoutms`"),
        (headers() | {"ce-timeoutms": "-1"}, ">= 1 - at `$.timeoutms`"),
        (headers() | {"ce-timeoutms": "٣"}, "got `str` - at `$.timeoutms`"),
        (headers() | {"ce-id": "%ff"}, "header ce-id is no text"),
        (headers() | {"ce-id": ""}, "length >= 1 - at `$.id`"),
        (headers() | {"ce-sequence": "1"}, "an ordered call has incarnation"),
    ],
)
def test_hostile_headers_are_refused_and_audited(
    bench: Bench, sent: dict[str, str], said: str
) -> None:
    heard: list[Delivery | Unanswered] = []
    subject = subjects.call(DOMAIN, "pop1", "add", "agent", "pop2")
    bench.exchange.request(subject, b'{"a":1,"b":2}', heard.append, timeout_s=1, headers=sent)
    bench.run()
    assert isinstance(heard[0], Delivery)
    reply = decode_reply(heard[0].payload)
    assert isinstance(reply, CallFailed | CallRefused)
    assert said in reply.reason
    assert [(one.subject, one.action, one.resource) for one in bench.refused] == [
        ("pop2", "add", "pop1")
    ]


def test_a_subject_that_no_name_makes_is_refused(bench: Bench) -> None:
    good = subjects.call(DOMAIN, "pop1", "add", "agent", "pop2")
    bench.exchange.publish(good.replace(".add.", ".=zz."), b"", headers())
    bench.run()
    assert len(bench.refused) == 1


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ORCHESTRATOR, Role.BROKER])
def test_nobody_calls_in_a_role_that_is_not_its_own(bench: Bench, role: Role) -> None:
    claimed = subjects.call(DOMAIN, "pop1", "add", role.value, "pop2")
    with pytest.raises(NotPermittedError):
        bench.exchange.request(claimed, b"", bench.answers.append, timeout_s=1, headers=headers())
    bench.run()
    assert bench.calls == bench.answers == []


@given(st.binary(max_size=100))
def test_any_payload_is_answered(payload: bytes) -> None:
    bench = Bench()
    heard: list[Delivery | Unanswered] = []
    subject = subjects.call(DOMAIN, "pop1", "add", "agent", "pop2")
    bench.exchange.request(subject, payload, heard.append, timeout_s=1, headers=headers())
    bench.run()
    assert isinstance(heard[0], Delivery)


@given(st.binary(max_size=200))
def test_any_octets_are_a_reply(octets: bytes) -> None:
    assert decode_reply(octets) is not None


# -- joining the fabric on virtual time -------------------------------------------------------


class Domain(Lab):
    """Members of one domain, and the log of what was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Event] = []

    def enter(self, exchange: BrokerClient, incarnation: int = 1, **options: Any) -> Fabric:
        name = exchange.identity.name
        record = Recorder(name, self.log.append, self.clock.now, f"{name}.{incarnation}").record
        fabric = Fabric(
            exchange,
            self.clock,
            record,
            record("agent.started", None),
            incarnation=incarnation,
            **options,
        )
        fabric.start()
        return fabric


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[Domain]:
    made = Domain()

    def no_socket(*_: object) -> None:
        raise AssertionError("a socket was opened")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_socket)
        yield made


def states(fabric: Fabric) -> dict[str, ServiceState]:
    return {entry.owner: entry.state for entry in fabric.registry.entries()}


def test_members_find_each_other_call_and_leave(domain: Domain) -> None:
    a = domain.enter(domain.join("a"), capabilities=("link-monitor",))
    ops = domain.enter(domain.join("ops", Role.OPERATOR))
    a.provider.serve(STOP, lambda call: call.done(Accepted(f"told by {call.caller.name}")))
    a.serving()
    domain.run(1.0)
    (found,) = find(ops.registry.entries(), "link-monitor")
    assert (found.owner, found.registration.operations) == ("a", ("stop",))
    answers: list[Accepted | CallError] = []
    ops.calls.invoke("a", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert answers == [Accepted("told by ops")]
    a.leave()
    domain.run(1.0)
    assert states(ops)["a"] is ServiceState.LEFT


def test_a_refused_call_is_in_the_log_with_its_cause(domain: Domain) -> None:
    a, b = domain.enter(domain.join("a")), domain.enter(domain.join("b"))
    a.provider.serve(STOP, lambda call: call.done(Accepted()))
    answers: list[Accepted | CallError] = []
    b.calls.invoke("a", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert isinstance(answers[0], CallRefused)
    started, refused = (event for event in domain.log if event.agent == "a")
    assert (refused.kind, refused.cause) == ("access.refused", started.id)


def test_an_earlier_incarnation_learns_that_it_was_superseded(domain: Domain) -> None:
    told: list[int] = []
    domain.enter(domain.join("a"), on_superseded=lambda other: told.append(other.incarnation))
    domain.run(1.0)
    domain.enter(domain.join("a"), incarnation=2)
    domain.run(1.0)
    assert told == [2]


def test_an_agent_of_a_slice_without_a_pop_is_found_and_called(domain: Domain) -> None:
    scopes = {"guard-1": ("slice", None), "pop1": ("pop", "pop1"), "pop1-ml": ("pop", "pop1")}
    for name, (scope, pop) in scopes.items():
        fabric = domain.enter(domain.join(name), scope=scope, pop=pop)
        fabric.provider.serve(STOP, lambda call: call.done(Accepted()))
        fabric.serving()
    ops = domain.enter(domain.join("ops", Role.OPERATOR))
    domain.run(1.0)

    entries = ops.registry.entries()
    assert [one.owner for one in find(entries, scope="slice")] == ["guard-1"]
    assert [one.owner for one in find(entries, pop="pop1")] == ["pop1", "pop1-ml"]
    answers: list[Accepted | CallError] = []
    ops.calls.invoke("guard-1", STOP, StopRequest(), answers.append, timeout_s=1.0)
    domain.run(1.0)
    assert answers == [Accepted()]
