"""The instances of an agent: idle, replaced, lifted, told of."""

from contract_bench import ANALYSE, LIMIT, LIMITED, OTHER, deployed, nothing_is_left
from msgspec.structs import replace

from phalanx.coordination.lifecycle import NewVersion
from phalanx.domain.actions import Deploy, Enforce, Release
from phalanx.domain.goals import avert, want
from phalanx.domain.messages import Fact, Inventory, Performative, Query, Result, UndoRequest
from phalanx.domain.predicates import Monitored
from phalanx.functions.rate_limiter import RateLimiter


def test_an_idle_instance_is_ended_and_its_resources_given_back(bench):
    bench.win("x", ANALYSE)
    bench.observe()
    bench.at(bench.settings.idle_s - 1)
    assert bench.site.instances
    bench.at(bench.settings.idle_s + bench.settings.lease_s)
    assert nothing_is_left(bench)


def test_an_instance_that_keeps_something_true_is_not_idle(bench):
    bench.win("x", LIMIT)
    bench.at(3 * bench.settings.idle_s)
    assert len(bench.site.measures) == 1


def test_who_shares_a_new_version_in_its_download_keeps_what_it_got_when_the_old_one_ends(bench):
    bench.win("x", LIMIT)
    (old,) = bench.bidder.inventory
    newest = replace(RateLimiter.vnfd, version="2.0")
    bench.settings.catalogue["rate-limiter"] = newest
    bench.carry_out(bench.agent.perceive(NewVersion(newest), bench.now))
    call = bench.cfp("y", OTHER)
    bench.accept("y", call)
    assert deployed(bench) == ["rate-limiter", "rate-limiter"]
    bench.finish(Deploy)
    (new,) = bench.bidder.inventory
    assert (new.vnfd.version, old.id in bench.site.instances) == ("2.0", False)
    assert set(new.measures) == {LIMITED, OTHER.predicate}
    assert {m.instance for m in bench.site.measures.values()} == {new.id}
    assert len(bench.site.measures) == 2
    assert bench.said("y") == ["propose", "inform"]
    bench.hear(Performative.REQUEST, "undo", UndoRequest(avert(LIMITED)))
    assert len(bench.site.measures) == 1


def test_a_lift_is_asked_for_and_told(bench):
    bench.win("x", LIMIT)
    bench.hear(Performative.REQUEST, "undo", UndoRequest(avert(LIMITED)), sender="c")
    assert bench.facts("undo") == Result((Fact(LIMITED, value=False),))
    assert bench.facts("notice") == Result((Fact(LIMITED, value=False),))
    assert not bench.site.measures
    bench.hear(Performative.REQUEST, "again", UndoRequest(avert(LIMITED)), sender="c")
    assert bench.facts("again") == Result((Fact(LIMITED, value=False),))


def test_a_query_is_answered_with_the_inventory(bench):
    bench.win("x", LIMIT)
    bench.win("y", ANALYSE, traffic_mb_s=3.0)
    bench.cfp("z", want(Monitored("a>b", 1.0)))
    bench.accept("z", bench.bidder.contracts.get("z").call)
    bench.hear(Performative.QUERY, "q", Query(), sender="c")
    answer = bench.last("q")
    assert isinstance(answer, Inventory)
    told = [(i.vnf, i.version, i.units, i.state, i.goals) for i in answer.instances]
    assert told == [
        ("rate-limiter", "1.0", 1, "busy", ("ipRateLimited(10.0.0.1)",)),
        ("anomaly-detector", "1.0", 2, "busy", ("?anomalousUsage(a>b, 0, 1)",)),
        ("link-monitor", "1.0", 1, "deploying", ("monitored(a>b, 1.0, 0)",)),
    ]
    assert bench.sent[-1].receiver == "c"


def test_what_was_held_and_is_not_needed_is_released_before_the_work_begins(bench):
    bench.win("x", LIMIT)
    call = bench.cfp("y", OTHER)
    assert bench.site.holds
    bench.accept("y", call)
    assert not bench.site.holds
    assert [type(a) for a in bench.site.done if isinstance(a, Release | Enforce)][-2:] == [
        Release,
        Enforce,
    ]
    assert bench.said("y") == ["propose", "inform"]
