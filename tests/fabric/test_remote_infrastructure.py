from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw
from msgspec.json import encode
from remote_lab import NETWORK, Lab, agent, quick, slow
from tests.nightly import examples

from phalanx.bus import subjects
from phalanx.bus.client import Delivery
from phalanx.domain.actions import (
    Done,
    Enforce,
    Failed,
    FlowRecords,
    FlowStats,
    InstanceLost,
    Observe,
    Outcome,
    SiteState,
    Stop,
)
from phalanx.fabric.calls import (
    SILENT,
    CallBusy,
    CallFailed,
    CallOrder,
    CallRefused,
    ProviderRestarted,
    RetryPolicy,
    decode_reply,
    request_envelope,
)
from phalanx.fabric.envelope import to_headers
from phalanx.fabric.network import serve_infrastructure
from phalanx.fabric.provider import AHEAD
from phalanx.fabric.provider import OUTDATED as OUTDATED_CALL
from phalanx.infrastructure import Answer, Infrastructure
from phalanx.infrastructure.remote import OUTDATED, PerformRequest, RemoteInfrastructure, pack


@pytest.fixture
def lab() -> Lab:
    return Lab()


def states(lab: Lab) -> list[float]:
    return [one.free.cores for one in lab.percepts if isinstance(one, SiteState)]


def losses(lab: Lab) -> list[str]:
    return [one.instance for one in lab.percepts if isinstance(one, InstanceLost)]


# -- as any infrastructure -----------------------------------------------------------------------


def test_actions_are_carried_out_in_the_order_asked_and_answered(lab: Lab) -> None:
    remote: Infrastructure = lab.remote
    answers: list[Outcome] = []
    for number in range(200):
        remote.perform("a", quick(number), "why", answers.append)
    lab.run()
    assert lab.site.reasons == [str(number) for number in range(200)]
    assert answers == [Done(f"why/{number}") for number in range(1, 201)]


def test_an_action_may_take_long_and_holds_up_no_other(lab: Lab) -> None:
    deployed = lab.ask(slow(1))
    lab.run(1.0)
    for number in range(3 * AHEAD):
        assert len(lab.ask(quick(number))) == 0
    lab.run(1.0)
    assert len(lab.site.reasons) == 3 * AHEAD
    assert deployed == []
    lab.run(9.0)
    assert deployed == [Done("cause/1")]
    assert lab.calls.actions.pending == 0


def test_an_agent_perceives_from_its_attachment_on(lab: Lab) -> None:
    lab.attach()
    lab.run()
    assert states(lab) == [8.0]
    lab.site.free = 3.0
    lab.site.tell("a", lab.site.state())
    lab.site.lose("vnf1")
    lab.run()
    assert (states(lab), losses(lab)) == ([8.0, 3.0], ["vnf1"])
    lab.remote.detach("a", "a")
    lab.site.lose("vnf2")
    lab.run(5.0)
    assert losses(lab) == ["vnf1"]
    assert lab.site.told == {}
    assert lab.clock.pending == 0
    lab.attach()
    lab.run()
    assert states(lab) == [8.0, 3.0, 3.0]


def test_what_was_lost_with_a_connection_is_asked_again_on_the_next_at_once(lab: Lab) -> None:
    lab.ask(quick(1))
    lab.run()
    lab.copies = lambda: ()
    answers = lab.ask(quick(2))
    lab.run(0.1)
    lab.copies = lambda: (0.0,)
    lab.hub.lose(agent("a"))
    lab.run(0.1)
    lab.hub.regain(agent("a"))
    lab.run(0.01)
    assert answers == [Done("cause/2")]


def test_an_agent_acts_and_perceives_at_its_own_pop_only(lab: Lab) -> None:
    answers: list[Outcome] = []
    lab.remote.perform("b", quick(1), "why", answers.append)
    assert answers == [Failed("a stands at a and cannot act at b")]
    with pytest.raises(ValueError, match="cannot perceive 'b'"):
        lab.remote.attach("a", "b", lab.percepts.append)
    for wrong in (
        lambda: RemoteInfrastructure(lab.calls, "a", "a", 0, lab.clock),
        lambda: serve_infrastructure(lab.provider, lab.clock, lab.site, 0),
    ):
        with pytest.raises(ValueError, match="incarnation is 0"):
            wrong()
    of_a_slice = RemoteInfrastructure(lab.calls, "a", None, 1, lab.clock)
    of_a_slice.perform("b", quick(1), "why", answers.append)
    assert answers[1:] == [Failed("a stands at no PoP and cannot act at b")]
    of_another = RemoteInfrastructure(lab.calls, "a", "b", 1, lab.clock)
    of_another.perform("b", quick(1), "why", answers.append)
    lab.run()
    assert answers[2:] == [Failed("a does not stand at b")]
    assert [(one.subject, one.action) for one in lab.refusals] == [("a", "perform")]
    assert lab.site.done == []


# -- what cannot travel ---------------------------------------------------------------------------


def test_an_action_that_cannot_travel_fails(lab: Lab) -> None:
    answers = lab.ask(Stop("vnf", "x" * (1 << 20)))
    answers += lab.ask(Enforce("m", "i", object(), "effect"))  # type: ignore[arg-type]  # a fault of its sender
    lab.run(1.0)
    long, odd = sorted(one.reason for one in answers if isinstance(one, Failed))
    assert "octets" in odd or "octets" in long
    assert "Enforce cannot travel" in odd or "Enforce cannot travel" in long


def test_an_outcome_that_cannot_travel_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = FlowStats("10.0.0.1", "10.0.0.2", 80, "tcp", 1, 1, 1, 1, 1)

    def perform(pop: str, action: object, cause: str, answer: Answer) -> None:
        late = lambda: answer(FlowRecords((flow,) * 20_000, 1.0))  # noqa: E731
        lab.clock.call_at(lab.clock.now() + 5.0, late)

    monkeypatch.setattr(lab.site, "perform", perform)
    answers = lab.ask(Observe("vnf", 5.0))
    lab.run(6.0)
    (outcome,) = answers
    assert isinstance(outcome, Failed)
    assert "the answer has" in outcome.reason


def request(lab: Lab, order: CallOrder | None, payload: bytes) -> object:
    """Return what the service replies to a call that an agent makes by hand."""
    me, answers = lab.exchange.identity, []
    key = f"by-hand-{order}"
    headers = to_headers(request_envelope(me.domain, me.name, "perform", key, 1.0, order=order))
    subject = subjects.call(me.domain, NETWORK.name, "perform", "agent", me.name)
    lab.exchange.request(subject, payload, answers.append, timeout_s=2.0, headers=headers)
    lab.run(1.0)
    (answer,) = answers
    assert isinstance(answer, Delivery)
    return decode_reply(answer.payload)


def action(number: int) -> bytes:
    return encode(PerformRequest("a", pack(quick(number))))


def test_what_is_no_action_fails(lab: Lab) -> None:
    reply = request(lab, None, b"nonsense")
    assert isinstance(reply, CallFailed)
    surprise = encode(PerformRequest("a", ("Surprise", pack(quick(2))[1])))
    assert request(lab, CallOrder(1, 1, 1, 1), surprise) == CallFailed("'Surprise' is no action")
    assert lab.site.done == []


def test_calls_out_of_order_are_begun_in_their_turn_or_not_at_all(lab: Lab) -> None:
    assert not isinstance(request(lab, CallOrder(1, 1, 1, 1), action(1)), CallFailed | CallBusy)
    assert isinstance(request(lab, CallOrder(1, 1, 2 + AHEAD, 2), action(9)), CallBusy)
    assert request(lab, CallOrder(1, 7, 2, 2), action(9)) == ProviderRestarted(1)
    assert lab.site.reasons == ["1"]
    late = request(lab, CallOrder(1, 1, 5, 5), action(5))
    assert not isinstance(late, CallFailed)
    given_up = request(lab, CallOrder(1, 1, 3, 5), action(3))
    assert isinstance(given_up, CallFailed)
    assert "given up" in given_up.reason
    assert lab.site.reasons == ["1", "5"]


def test_garbage_from_the_service_is_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.attach()
    lab.run()
    monkeypatch.setattr("phalanx.infrastructure.remote.pack", lambda _: ("Surprise", Raw(b"{}")))
    lab.site.lose("vnf1")
    lab.run(1.0)
    assert lab.remote.refused == 1
    assert lab.calls.percepts.pending == 1, "it goes on to listen"


# -- silence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("under_way", [False, True])
def test_without_a_service_an_action_fails_after_a_while_and_once(
    lab: Lab, under_way: bool
) -> None:
    if under_way:
        answers = lab.ask(slow(1))
        lab.run(1.0)
    lab.hub.lose(NETWORK)
    if not under_way:
        answers = lab.ask(quick(1))
    lab.run(8.0)
    assert answers == []
    lab.run(4.0)
    assert answers == [Failed(SILENT)]
    lab.hub.regain(NETWORK)
    lab.run(30.0)
    assert answers == [Failed(SILENT)]
    assert lab.calls.actions.counters.given_up == 1
    assert lab.clock.pending == 0


def test_what_was_given_up_is_not_carried_out_after_a_later_one(lab: Lab) -> None:
    lab.ask(quick(0))
    lab.run()
    late = iter([(30.0,)])
    lab.copies = lambda: next(late, ())
    given_up = lab.ask(quick(1))
    lab.run(11.0)
    assert given_up == [Failed(SILENT)]
    lab.copies = lambda: (0.0,)
    lab.ask(quick(2))
    lab.run(30.0)
    assert lab.site.reasons == ["0", "2"]
    assert lab.provider.outcomes["CallFailed"] == 1


def test_a_cut_of_seconds_is_survived_by_all_that_is_asked(lab: Lab) -> None:
    lab.attach()
    deployed = lab.ask(slow(1))
    lab.run(8.0)
    for who in (agent("a"), NETWORK):
        lab.hub.lose(who)
        stopped = lab.ask(quick(1))
        lab.site.lose("vnf1")
        lab.run(3.0)
        assert stopped == []
        lab.hub.regain(who)
        lab.run(3.0)
        assert len(stopped) == 1
    assert deployed == [Done("cause/1")]
    assert losses(lab) == ["vnf1", "vnf1"]


def test_too_much_at_a_time_fails_at_once_and_is_counted() -> None:
    lab = Lab(RetryPolicy(waiting=5))
    lab.hub.lose(NETWORK)
    answers = [lab.ask(quick(number)) for number in range(8)]
    assert [len(one) for one in answers] == [0] * 6 + [1] * 2, "one is on its way"
    assert answers[6] == [Failed("5 calls of 'perform' wait already")]
    assert lab.calls.actions.counters.shed == 2


def test_a_site_has_so_much_under_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.fabric.provider.ORDERED_LIMIT", 3)
    answers = [lab.ask(slow(number)) for number in range(4)]
    lab.run(1.0)
    assert [len(one) for one in answers] == [0, 0, 0, 1]
    lab.run(10.0)
    assert [len(one) for one in answers] == [1] * 4
    assert len(lab.site.done) == 3


# -- lives -----------------------------------------------------------------------------------------


def test_a_new_life_of_the_agent_ends_the_old_one(lab: Lab) -> None:
    lab.attach()
    lab.ask(slow(1))
    lab.run(1.0)
    old, percepts = lab.remote, []
    lab.exchange = lab.hub.join(agent("a"))
    _, new = lab.connect(2)
    new.attach("a", "a", percepts.append)
    new.perform("a", quick(0), "why", lambda _: None)
    lab.run(0.5)
    assert len(percepts) == 1
    answers: list[Outcome] = []
    old.perform("a", quick(1), "why", answers.append)
    lab.run()
    assert answers == [Failed(OUTDATED_CALL)]
    lab.run(20.0)
    assert lab.site.reasons == ["0"]
    assert lab.service.agents == {"a": 2}
    refused = request(lab, CallOrder(1, 1, 9, 9), action(9))
    assert refused == CallRefused(OUTDATED_CALL)
    assert {one.reason for one in lab.refusals} == {OUTDATED, OUTDATED_CALL}


def test_a_new_life_of_the_service_repeats_nothing(lab: Lab) -> None:
    lab.attach()
    lab.run()
    deployed = lab.ask(slow(1))
    lab.run(1.0)
    lab.copies = lambda: ()  # the reply to what follows is lost, with the service
    lab.hub.kill(NETWORK)
    unheard = lab.ask(quick(1))
    lab.run(1.0)
    lab.copies = lambda: (0.0,)
    lab.serve()
    lab.run(3.0)
    restarted = Failed(ProviderRestarted(2).reason)
    assert (deployed, unheard) == ([restarted], [restarted])
    again = lab.ask(quick(2))
    lab.run(20.0)
    assert again == [Done("cause/2")]
    assert lab.site.reasons == ["2"]
    assert states(lab) == [8.0, 8.0]


def test_a_closed_service_leaves_the_infrastructure_alone(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.service.close()
    assert lab.site.told == {}
    lab.site.lose("vnf1")
    lab.run(3.0)
    assert losses(lab) == []


# -- news ------------------------------------------------------------------------------------------


def test_what_was_not_heard_is_told_again(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.copies = lambda: ()
    lab.site.lose("vnf1")
    lab.site.free = 1.0
    lab.site.tell("a", lab.site.state())
    lab.site.free = 2.0
    lab.site.tell("a", lab.site.state())
    lab.run()
    lab.copies = lambda: (0.0,)
    lab.site.lose("vnf2")
    lab.run(3.0)
    assert losses(lab) == ["vnf1", "vnf2"]
    assert states(lab) == [8.0, 2.0], "of states the last is enough"


def test_a_loss_of_which_nothing_was_heard_is_told_when_the_agent_asks_again(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.copies = lambda: ()
    lab.site.lose("vnf1")
    lab.run()
    lab.copies = lambda: (0.0,)
    lab.run(1.0)
    assert losses(lab) == []
    lab.run(2.0)
    assert losses(lab) == ["vnf1"]


def test_more_losses_than_are_kept_are_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.infrastructure.remote.LOSSES", 3)
    lab.attach()
    lab.run()
    lab.hub.lose(agent("a"))
    for number in range(5):
        lab.site.lose(f"vnf{number}")
    lab.hub.regain(agent("a"))
    lab.run(3.0)
    assert losses(lab) == ["vnf2", "vnf3", "vnf4"]
    assert lab.service.shed == 2


def test_much_news_comes_in_parts(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.hub.lose(agent("a"))
    names = [f"{number}{'x' * 200_000}" for number in range(12)]
    for name in names:
        lab.site.lose(name)
    lab.hub.regain(agent("a"))
    lab.run(3.0)
    assert losses(lab) == names


# -- once only, whatever happens -------------------------------------------------------------------


class OnceOnly(RuleBasedStateMachine):
    """Requests, replies and news are lost, doubled and late; both sides crash and are cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.lab = Lab()
        self.number = 0
        self.answers: dict[int, tuple[int, list[Outcome]]] = {}
        """In which life of the agent each action was asked for, and what it was told."""
        self.lab.attach()

    @rule(takes_long=st.booleans())
    def ask(self, takes_long: bool) -> None:
        self.number += 1
        action = slow(self.number) if takes_long else quick(self.number)
        self.answers[self.number] = self.lab.life, self.lab.ask(action)

    @rule(seed=st.integers(0, 99), lost=st.sampled_from([0.0, 0.3, 0.6]))
    def storm(self, seed: int, lost: float) -> None:
        self.lab.weather(Random(seed), lost, doubled=0.3, late_s=1.5)

    @rule()
    def calm(self) -> None:
        self.lab.copies = lambda: (0.0,)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.lab.run(seconds)

    @rule()
    def restart_agent(self) -> None:
        self.lab.start()
        self.lab.attach()

    @rule()
    def restart_service(self) -> None:
        self.lab.serve()

    @rule(who=st.sampled_from([agent("a"), NETWORK]), cut=st.booleans())
    def cut(self, who: object, cut: bool) -> None:
        (self.lab.hub.lose if cut else self.lab.hub.regain)(who)  # type: ignore[arg-type]  # sampled

    @invariant()
    def nothing_is_done_twice(self) -> None:
        done = [action for _, action in self.lab.site.done]
        assert len(done) == len(set(done))
        reasons = [int(reason) for reason in self.lab.site.reasons]
        assert reasons == sorted(reasons), "in another order than asked"

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(len(answers) <= 1 for _, answers in self.answers.values())

    def teardown(self) -> None:
        """Once all is calm, all that the living agent asked for is answered, truly."""
        self.calm()
        for who in (agent("a"), NETWORK):
            self.lab.hub.regain(who)
        self.lab.run(3.0)  # it meets the present life of the service
        self.ask(takes_long=False)
        self.lab.site.lose("last")
        self.lab.run(40.0)
        self.nothing_is_done_twice()
        self.nothing_is_answered_twice()
        done = {str(action) for _, action in self.lab.site.done}
        for number, (life, answers) in self.answers.items():
            if life == self.lab.life:
                (outcome,) = answers
                if isinstance(outcome, Done):
                    assert str(quick(number)) in done or str(slow(number)) in done
        assert isinstance(self.answers[self.number][1][0], Done)
        assert self.lab.calls.actions.pending == 0


OnceOnly.TestCase.settings = settings(max_examples=examples(24), stateful_step_count=25)
TestOnceOnly = OnceOnly.TestCase


@settings(max_examples=examples(12))
@given(st.integers(0, 10_000))
def test_with_a_third_lost_everything_is_done_in_order(seed: int) -> None:
    lab = Lab(RetryPolicy(give_up_s=1e6))
    lab.attach()
    lab.weather(Random(seed), lost=0.33, doubled=0.2, late_s=0.4)
    answers = [lab.ask(slow(n) if n % 10 == 0 else quick(n)) for n in range(60)]
    for number in range(20):
        lab.run(1.0)
        lab.site.lose(f"vnf{number}")
    lab.run(120.0)
    assert all(isinstance(one, Done) for (one,) in answers)
    assert [n for n in range(60) if n % 10] == [int(reason) for reason in lab.site.reasons]
    told = losses(lab)
    assert told == [f"vnf{number}" for number in range(20 - len(told), 20)]
