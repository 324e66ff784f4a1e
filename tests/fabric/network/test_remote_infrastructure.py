from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from remote_lab import NETWORK, Lab, agent, quick, slow

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, NotPermittedError, Unanswered
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
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.fabric.network import NetworkService, Patience, RemoteInfrastructure
from phalanx.fabric.network.client import OUTDATED, RESTARTED, SILENT
from phalanx.fabric.network.codec import Declined, Do, Sync, Why, decode_reply, encode, pack
from phalanx.fabric.network.session import AHEAD
from phalanx.infrastructure import Answer, Infrastructure


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
    assert lab.remote.pending == 0


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
    assert answers == [Failed("the agent of a cannot act at b")]
    with pytest.raises(ValueError, match="cannot perceive 'b'"):
        lab.remote.attach("b", "b", lab.percepts.append)
    with pytest.raises(ValueError, match="'a' cannot act at 'b'"):
        RemoteInfrastructure(lab.exchange, "b", 1, lab.clock)
    with pytest.raises(ValueError, match="incarnation is 0"):
        RemoteInfrastructure(lab.exchange, "a", 0, lab.clock)
    with pytest.raises(ValueError, match="incarnation is 0"):
        NetworkService(lab.hub.join(NETWORK), lab.site, lab.clock, incarnation=0)
    with pytest.raises(NotPermittedError):
        NetworkService(lab.exchange, lab.site, lab.clock)


def test_traffic_rules_travel(lab: Lab) -> None:
    match = TrafficMatch(target="10.0.0.2", port=80, protocol="tcp")
    rule = TrafficRule(match, TrafficVerdict.DELAY, {"delay_ms": 300.0})
    action = Enforce("m", "vnf", rule, "tarpitted(10.0.0.2)")
    lab.ask(action)
    lab.run()
    assert lab.site.done == [("a", action)]


# -- what cannot travel ---------------------------------------------------------------------------


def test_an_action_that_cannot_travel_fails(lab: Lab) -> None:
    (outcome,) = lab.ask(Stop("vnf", "x" * (1 << 20)))
    assert isinstance(outcome, Failed)
    assert "too many to travel" in outcome.reason


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
    assert "FlowRecords has" in outcome.reason


def request(lab: Lab, octets: bytes) -> Declined:
    """Return why the service declined something that an agent asked."""
    answers: list[Delivery | Unanswered] = []
    lab.exchange.request(subjects.act("edge", "a"), octets, answers.append, timeout_s=1.0)
    lab.run(1.0)
    (answer,) = answers
    assert isinstance(answer, Delivery)
    declined = decode_reply(answer.payload)
    assert isinstance(declined, Declined)
    return declined


def test_what_is_no_request_is_declined(lab: Lab) -> None:
    assert request(lab, b"nonsense").why is Why.GARBAGE
    assert lab.refusals == [("garbage", subjects.act("edge", "a"), "a")]
    lab.ask(quick(1))
    lab.run()
    service = Do(1, 1, 2, 1, ("Surprise", pack(quick(2))[1]), "why")
    answers: list[Delivery | Unanswered] = []
    lab.exchange.request(subjects.act("edge", "a"), encode(service), answers.append, timeout_s=1.0)
    lab.run(1.0)
    assert isinstance(answers[0], Delivery)
    assert b"'Surprise' is no action" in answers[0].payload
    assert lab.service.counters.declined == {"garbage": 2}
    assert lab.site.reasons == ["1"]


def test_an_action_far_ahead_is_not_listened_to(lab: Lab) -> None:
    lab.ask(quick(1))
    lab.run()
    far = Do(1, 1, 2 + 2 * AHEAD, 2, pack(quick(9)), "why")
    assert request(lab, encode(far)).why is Why.BUSY
    without_session = Do(2, 1, 1, 1, pack(quick(9)), "why")
    assert request(lab, encode(without_session)).why is Why.UNKNOWN
    below = Do(1, 1, 1, 2, pack(quick(9)), "why")
    assert request(lab, encode(below)).why is Why.SETTLED
    assert lab.site.reasons == ["1"]


def test_garbage_from_the_service_is_counted(lab: Lab) -> None:
    lab.attach()
    lab.run()
    network = lab.hub.join(NETWORK)
    network.publish(subjects.percept("edge", "a"), b"nonsense")
    network.publish(subjects.percept("edge", "a"), b"\1{}")
    lab.run()
    assert lab.remote.counters.refused == {"garbage": 2}


# -- silence ---------------------------------------------------------------------------------------


def test_without_a_service_an_action_fails_after_a_while_and_once(lab: Lab) -> None:
    lab.hub.lose(NETWORK)
    answers = lab.ask(quick(1))
    lab.run(9.0)
    assert answers == []
    lab.run(2.0)
    assert answers == [Failed(SILENT)]
    lab.hub.regain(NETWORK)
    lab.run(20.0)
    assert answers == [Failed(SILENT)]
    assert lab.remote.counters.given_up == 1
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
    assert lab.service.counters.declined["settled"] == 1


def test_what_is_under_way_fails_once_the_service_is_silent_for_too_long(lab: Lab) -> None:
    answers = lab.ask(slow(1))
    lab.run(1.0)
    lab.hub.lose(NETWORK)
    lab.run(8.0)
    assert answers == []
    lab.run(4.0)
    assert answers == [Failed(SILENT)]
    lab.hub.regain(NETWORK)
    lab.run(30.0)
    assert answers == [Failed(SILENT)]


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
    lab = Lab(Patience(waiting=5))
    lab.hub.lose(NETWORK)
    answers = [lab.ask(quick(number)) for number in range(7)]
    assert [len(one) for one in answers] == [0] * 5 + [1] * 2
    assert answers[5] == [Failed("5 actions wait for the infrastructure already")]
    assert lab.remote.counters.shed == 2


def test_a_site_has_so_much_under_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.fabric.network.session.UNDER_WAY", 3)
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
    old = lab.remote
    lab.life += 1
    new = RemoteInfrastructure(lab.hub.join(agent("a")), "a", lab.life, lab.clock)
    percepts: list[object] = []
    new.attach("a", "a", percepts.append)
    lab.run(0.5)
    assert len(percepts) == 1
    answers: list[Outcome] = []
    old.perform("a", quick(1), "why", answers.append)
    lab.run()
    assert answers == [Failed(OUTDATED)]
    old.perform("a", quick(1), "why", answers.append)
    assert answers == [Failed(OUTDATED)] * 2
    lab.run(20.0)
    assert lab.service.counters.orphaned == 1
    assert lab.site.reasons == []
    assert lab.service.agents == {"a": 2}
    assert request(lab, encode(Sync(1, 1, 0, 1, True))).why is Why.OUTDATED
    assert {reason for reason, _, _ in lab.refusals} == {"outdated"}


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
    assert (deployed, unheard) == ([Failed(RESTARTED)], [Failed(RESTARTED)])
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
    lab.copies = lambda: (0.0,)
    lab.site.lose("vnf2")
    lab.run()
    assert losses(lab) == ["vnf1", "vnf2"]
    assert states(lab) == [8.0, 2.0], "of states the last is enough"
    assert lab.remote.counters.gaps == 1


def test_a_loss_of_which_nothing_was_heard_is_told_at_the_next_renewal(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.copies = lambda: ()
    lab.site.lose("vnf1")
    lab.copies = lambda: (0.0,)
    lab.run(1.0)
    assert losses(lab) == []
    lab.run(2.0)
    assert losses(lab) == ["vnf1"]


def test_news_that_come_twice_or_in_another_order_are_told_once_in_order(lab: Lab) -> None:
    lab.attach()
    lab.run()
    lab.weather(Random(3), lost=0.0, doubled=1.0, late_s=0.3)
    for number in range(50):
        lab.site.lose(f"vnf{number}")
    lab.run(5.0)
    assert losses(lab) == [f"vnf{number}" for number in range(50)]


def test_more_losses_than_are_kept_are_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.fabric.network.session.LOSSES", 3)
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
        assert self.lab.remote.pending == 0


OnceOnly.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestOnceOnly = OnceOnly.TestCase


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_with_a_third_lost_everything_is_done_in_order(seed: int) -> None:
    lab = Lab(Patience(give_up_s=1e6))
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
