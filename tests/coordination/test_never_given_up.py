"""A protective goal waits for what could change the answer; idle instances give way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from contract_bench import ANALYSE, LIMIT, LIMITED, ME, OTHER, PEERS, Bench, deployed
from msgspec.structs import replace

from phalanx.auction.outlook import Outlook
from phalanx.auction.view import could_change
from phalanx.bdi.steps import Adopt
from phalanx.domain.actions import Deploy, Stop
from phalanx.domain.agents import AgentState
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences
from phalanx.domain.messages import (
    Advertisement,
    CallForProposals,
    Fact,
    Performative,
    Refusal,
    Result,
    Verdict,
)
from phalanx.domain.resources import NOTHING, Resources
from phalanx.functions.rate_limiter import RateLimiter

PROTECT = 20


def persistent(**options: float) -> Bench:
    bench = Bench(**options)
    bench.settings.persistent_from = PROTECT
    return bench


def calls(bench: Bench) -> list[tuple[float, str]]:
    """Return when auctions of this agent were called, and their conversations."""
    return [(e.time, e.data["auction"]) for e in bench.events if e.kind == "auction.called"]


def adopt(bench: Bench, priority: int = PROTECT) -> None:
    bench.agent.cause = "root"
    bench.carry_out(bench.agent.take_on(Adopt(LIMIT, priority), bench.now))


def all_refuse(bench: Bench, *, transient: bool = False) -> None:
    """Let all agents refuse what this one calls for, itself included."""
    conversation = calls(bench)[-1][1]
    for peer in PEERS:
        refusal = Refusal("needs 1 core, 0 free", transient)
        bench.hear(Performative.REFUSE, conversation, refusal, sender=peer)


def advertise(bench: Bench, **changes: object) -> None:
    old = bench.agent.capability(Outlook).view.get("b")
    assert isinstance(old, AgentState)
    state = replace(old, version=old.version + 1, **changes)
    bench.hear(Performative.INFORM, "gossip", Advertisement((state,)))


def waiting(bench: Bench) -> list[str]:
    return [e.data["reason"] for e in bench.events if e.kind == "auction.waiting"]


@pytest.fixture
def full() -> Bench:
    """An agent whose peer ``b`` is full, and that waits since all refused at 0 s."""
    bench = persistent()
    advertise(bench, free=NOTHING)
    adopt(bench)
    all_refuse(bench)
    return bench


def test_what_all_refused_is_auctioned_again_as_soon_as_room_is_free(full: Bench) -> None:
    assert waiting(full) == ["all bidders refused"]
    full.at(20.0)
    assert len(calls(full)) == 1, "nothing has changed"
    advertise(full, free=Resources(0.5, 16, 100))
    assert len(calls(full)) == 1, "that is too little for a rate limiter"
    advertise(full, free=Resources(1, 16, 100))
    assert [when for when, _ in calls(full)] == [0.0, 20.0]


def test_room_that_came_during_the_auction_counts() -> None:
    bench = persistent()
    advertise(bench, free=NOTHING)
    adopt(bench)
    advertise(bench, free=Resources(4, 16, 100))
    all_refuse(bench)
    bench.at(10.0)
    assert [when for when, _ in calls(bench)][:2] == [0.0, bench.settings.backoff_s]


def test_changes_that_help_nobody_yield_no_busy_loop(full: Bench) -> None:
    for second in range(1, 200):
        full.at(float(second))
        advertise(full, free=NOTHING if second % 2 else Resources(4, 16, 100))
        if len(calls(full)) > len(waiting(full)):
            all_refuse(full)
    pauses = [after - before for before, after in pairwise(when for when, _ in calls(full))]
    assert len(pauses) >= 10
    assert min(pauses) >= full.settings.backoff_s
    assert min(pauses[3:]) >= 5 * full.settings.backoff_s


def test_without_any_change_it_is_tried_again_now_and_then(full: Bench) -> None:
    full.at(full.settings.backoff_s + full.settings.retry_s + 1)
    assert [when for when, _ in calls(full)][1] == full.settings.backoff_s + full.settings.retry_s


def test_a_goal_that_agents_were_too_busy_for_is_tried_again_for_ever() -> None:
    bench, answered = persistent(), 0
    adopt(bench)
    while bench.now < 200:
        if len(calls(bench)) > answered:
            answered = len(calls(bench))
            all_refuse(bench, transient=True)
        bench.at(bench.now + 1)
    pauses = [after - before for before, after in pairwise(when for when, _ in calls(bench))]
    assert pauses[-1] == 5 * bench.settings.backoff_s
    assert min(pauses) >= bench.settings.backoff_s
    assert bench.agent.open_goal(LIMIT) is not None


@pytest.mark.parametrize("priority", [0, 10])
def test_a_goal_that_protects_nobody_is_given_up(priority: int) -> None:
    bench = persistent()
    adopt(bench, priority)
    all_refuse(bench)
    assert bench.agent.open_goal(LIMIT) is None
    assert not waiting(bench)


def test_as_published_a_protective_goal_is_given_up_too() -> None:
    bench = Bench()
    adopt(bench)
    all_refuse(bench)
    assert bench.agent.open_goal(LIMIT) is None


def test_what_could_change_an_answer() -> None:
    view = Bench().agent.capability(Outlook).view
    needs = [RateLimiter.vnfd.requires]
    b = view.get("b")
    assert b is not None

    def after(**changes: object) -> bool:
        return could_change(view, needs, view.apply(replace(b, version=9, **changes)))

    link = b.links[0]
    loaded = view.apply(replace(b, version=2, links=(replace(link, reserved_mb_s=5.0),)))
    down = view.apply(replace(b, version=2, links=(replace(link, up=False),)))
    assert not could_change(view, needs, view)
    assert not after(free=NOTHING)
    assert not after(alive=False)
    assert after(incarnation=2)
    assert could_change(loaded, needs, view.apply(replace(b, version=9)))
    assert could_change(down, needs, view.apply(replace(b, version=9)))
    assert not could_change(view, needs, loaded)
    assert could_change(view, needs, view.apply(AgentState("d", "d", 1, 1)))


# -- idle instances -----------------------------------------------------------------------


def idle_analyser(bench: Bench) -> str:
    bench.win("x", ANALYSE)
    bench.observe()
    (instance,) = bench.bidder.inventory.idle()
    return instance.id


def test_an_idle_instance_gives_way_on_the_award_and_not_before() -> None:
    bench = persistent(cores=1)
    idle = idle_analyser(bench)
    call = bench.cfp("y", LIMIT)
    assert bench.said("y") == ["propose"]
    assert idle in bench.site.instances
    bench.accept("y", call)
    bench.finish(Deploy)
    assert idle not in bench.site.instances
    (stop,) = [a for a in bench.site.done if isinstance(a, Stop)]
    assert (stop.instance, stop.reason) == (idle, f"gives way to {LIMIT}")
    assert bench.facts("y") == Result((Fact(LIMITED, True, ME),))


def test_an_idle_instance_stays_where_another_agent_wins() -> None:
    bench = persistent(cores=1)
    idle = idle_analyser(bench)
    bench.cfp("y", LIMIT)
    bench.reject("y")
    assert list(bench.site.instances) == [idle]


def test_an_idle_instance_is_promised_to_one_goal_alone() -> None:
    bench = persistent(cores=1)
    idle_analyser(bench)
    call = bench.cfp("y", LIMIT)
    bench.cfp("z", OTHER)
    assert (bench.said("y"), bench.said("z")) == (["propose"], ["refuse"])
    assert bench.refusal("z").transient
    bench.accept("y", call)
    bench.finish(Deploy)
    assert deployed(bench) == ["anomaly-detector", "rate-limiter"]


def test_an_instance_that_got_work_meanwhile_stays_and_the_award_fails() -> None:
    bench = persistent(cores=1)
    idle = idle_analyser(bench)
    late = bench.cfp("late", ANALYSE)
    bid = bench.bids("late")[0]
    assert bid.reuse == idle
    bench.reject("late")
    call = bench.cfp("y", LIMIT)
    limit = bench.bids("y")[0]
    bench.accept("late", late, bid)
    bench.accept("y", call, limit)
    assert bench.last("y") == Verdict("needs 1 core, 0 free")
    assert list(bench.site.instances) == [idle]


def test_as_published_no_instance_gives_way() -> None:
    bench = Bench(cores=1)
    idle_analyser(bench)
    bench.cfp("y", LIMIT)
    assert bench.refusal("y").reason == "needs 1 core, 0 free"


def test_an_auction_gives_way_to_an_elder_one_of_the_same_goal_and_not_for_ever() -> None:
    """Who calls for all and awards nothing would stop everything."""
    bench = Bench()
    adopt(bench)
    for turn in range(bench.settings.rounds + 1):
        constrained = ConstrainedGoal(LIMIT, Constraints(), Preferences())
        elder = CallForProposals(constrained, bench.now + 2.0, since=-1.0)
        bench.hear(Performative.CFP, f"lie{turn}", elder)
        bench.at(bench.now + (turn < bench.settings.rounds) * (bench.settings.backoff_s + 0.1))
    assert len(calls(bench)) == bench.settings.rounds + 1
    waits = [e for e in bench.events if e.kind == "auction.waiting"]
    assert [e.data["reason"] for e in waits] == ["b asks for the same"] * bench.settings.rounds
    bench.hear(Performative.CFP, "younger", replace(elder, since=bench.now))
    again = [m for m in bench.sent if m.conversation == calls(bench)[-1][1] and m.receiver == "b"]
    assert [m.performative for m in again] == [Performative.CFP, Performative.CFP]
