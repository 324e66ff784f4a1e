"""Pipelines of agents: what is computed, what a change moves, and why there is none."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from placements import AGENT, FOLDER, least_cost, line, load, need, random_problem, site, vnf
from tests.nightly import examples, sample

from phalanx.domain.errors import ScenarioError
from phalanx.orchestration.descriptors.nsd import Share
from phalanx.orchestration.descriptors.service import SiteLink, Weights
from phalanx.orchestration.mlfo.model import Problem
from phalanx.orchestration.mlfo.need import Need, PlacementError, need_of, shortest
from phalanx.orchestration.mlfo.pipeline import PipelineDescriptor, compute
from phalanx.orchestration.mlfo.search import (
    Effort,
    Relaxation,
    SearchResult,
    forests,
    solve,
    stepped,
)
from phalanx.slices.agreements import AgreedLocations, AgreedPop, Certificate, TrustAgreement

CHAIN = [("x", "y"), ("y", "z")]


def recompute(running: PipelineDescriptor, asked: Need) -> PipelineDescriptor:
    return compute(asked, running=running)


def three(**changes) -> Need:
    """Three VNFs on a line of sites a-b-c-d, 10 ms apart."""
    sites = [site(name) for name in "abcd"]
    vnfs = [vnf("x", "a"), vnf("y", "b"), vnf("z", "c")]
    return need(sites, line("abcd"), vnfs, CHAIN, **changes)


def where(pipeline: PipelineDescriptor) -> dict[str, str]:
    return pipeline.served_from()


def test_one_agent_serves_all_that_limits_allow() -> None:
    cheap = compute(three(weights=Weights(latency=0.1)))
    assert set(where(cheap).values()) == {"b"}
    assert cheap.connections == ()
    assert cheap.agents[0].name == "pop-b"
    assert cheap.agents[0].capabilities == ("guard-x", "guard-y", "guard-z")
    assert cheap.agents[0].scope == "svc"
    assert cheap.placement.objective == pytest.approx(10 + 0.1 * 20)
    assert cheap.placement.optimal


def test_near_agents_where_latency_is_dear() -> None:
    pipeline = compute(three(weights=Weights(latency=5)))
    assert where(pipeline) == {"x": "a", "y": "b", "z": "c"}
    assert [c.between for c in pipeline.connections] == [("pop-a", "pop-b"), ("pop-b", "pop-c")]
    assert [c.latency_ms for c in pipeline.connections] == [10, 10]


def test_parts_of_the_objective_sum_to_it() -> None:
    sites = [site(n, load=0.1 * i, trust=1 - 0.1 * i) for i, n in enumerate("abcd")]
    for weights in (Weights(), Weights(latency=5), Weights(agent=1, distrust=70, load=30)):
        found = compute(replace(three(weights=weights), sites=tuple(sites))).placement
        parts = (found.agents, found.load, found.distrust, found.latency, found.peer_latency)
        assert found.objective == pytest.approx(sum(parts) + found.changes)


def test_more_trust_and_less_load_are_preferred() -> None:
    links = (SiteLink(("a", "b"), 1, 100), SiteLink(("a", "c"), 1, 100))
    sites = (site("a", trust=0.2), site("b", trust=0.9, load=0.9), site("c", trust=0.9))
    assert where(compute(need(sites, links, [vnf("x", "a")], ()))) == {"x": "c"}


def test_limits_hold() -> None:
    sites = (site("a", trust=0.5), site("b", images={}), site("c", cores=1.5), site("d"))
    base = need(sites, line("abcd"), [vnf("x", "a", least_trust=0.6)], ())
    assert where(compute(base)) == {"x": "d"}


def test_room_counts_each_vnf() -> None:
    roomy = three(weights=Weights(latency=0.01))
    tight = replace(roomy, agent=replace(AGENT, each_vnf=Share(cores=3.5)))
    assert sorted(len(agent.serves) for agent in compute(tight).agents) == [1, 2]
    one = replace(roomy, agent=replace(AGENT, most_vnfs=1))
    assert [len(agent.serves) for agent in compute(one).agents] == [1, 1, 1]


def test_what_the_service_takes_is_not_there_for_agents() -> None:
    service = load()
    base = need_of(service)
    assert base.taken["valencia"].cores == 4
    # Agents need one core; all but half of one is taken at madrid.
    left = replace(service.sites.sites[2], cores=9, load=0.5)
    sites = tuple(left if s.name == "madrid" else s for s in base.sites)
    assert "madrid" not in where(compute(replace(base, sites=sites))).values()


def test_a_link_with_too_little_bandwidth_is_no_way() -> None:
    ms = shortest("ab", [SiteLink(("a", "b"), 1, 5)], 10).ms
    assert np.isinf(ms[0, 1])
    assert shortest("abc", line("abc"), 10).between("a", "c") == 20


def test_parts_of_a_service_are_joined_by_the_nearest() -> None:
    far = need(
        [site(n) for n in "abcd"],
        line("abcd"),
        [vnf("x", "a", 1), vnf("y", "b", 1), vnf("z", "d", 1)],
        [("x", "y")],
    )
    found = {c.between: c.why for c in compute(far).connections}
    assert found == {("pop-a", "pop-b"): "neighbours", ("pop-b", "pop-d"): "joins"}


@settings(max_examples=examples(16))
@given(st.integers(0, 10**6))
def test_agents_are_connected_whatever_the_service(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(6)]
    links = [SiteLink((names[rng.integers(i)], names[i]), 1 + i, 100) for i in range(1, 6)]
    vnfs = [vnf(f"v{i}", str(rng.choice(names)), rng.uniform(0, 9)) for i in range(5)]
    pairs = [("v0", "v1")] if seed % 2 else []
    pipeline = compute(need([site(n) for n in names], links, vnfs, pairs))
    reached, left = {pipeline.agents[0].name}, [c.between for c in pipeline.connections]
    for _ in left:
        reached |= {end for pair in left if reached & set(pair) for end in pair}
    assert reached == {agent.name for agent in pipeline.agents}
    assert sorted(v for agent in pipeline.agents for v in agent.serves) == [v.name for v in vnfs]


def test_the_example_has_an_agent_at_each_vnf() -> None:
    pipeline = compute(need_of(load()))
    assert where(pipeline) == {"access": "barcelona", "cache": "valencia", "origin": "madrid"}
    assert [c.between for c in pipeline.connections] == [("pop1", "pop2"), ("pop2", "pop3")]


def test_the_reference_shows_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    root = FOLDER.parents[2]
    monkeypatch.chdir(root)
    page = (root / "docs" / "reference" / "services.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})
    base = need_of(load())
    vnfs = tuple(replace(v, least_trust=0.99) if v.name == "origin" else v for v in base.vnfs)
    assert refusal(replace(base, vnfs=vnfs)) in page


def test_only_the_agent_that_must_move_moves() -> None:
    base = need_of(load())
    running = compute(base)
    moved = recompute(running, need_of(load(), without=("madrid",)))
    assert where(moved) == {**where(running), "origin": "zaragoza"}
    assert moved.placement.changes == base.weights.start + base.weights.handover
    back = recompute(moved, base)
    assert where(back) == where(moved), "nothing forces it back, and moving costs"


def test_a_vnf_that_is_added_gets_an_agent_and_moves_no_other() -> None:
    running = compute(need_of(load()))
    wide = need_of(load("request-wide.yaml"))
    grown = recompute(running, wide)
    assert where(grown) == {**where(running), "cache-2": "zaragoza"}
    shrunk = recompute(grown, need_of(load()))
    assert where(shrunk) == where(running)


def test_a_vnf_that_moved_far_is_handed_over_and_others_are_not() -> None:
    running = compute(three(weights=Weights(latency=5)))
    far = three(weights=Weights(latency=5))
    far = replace(far, vnfs=(replace(far.vnfs[0], site="d"), *far.vnfs[1:]))
    assert where(recompute(running, far)) == {
        "x": "d",
        "y": "b",
        "z": "c",
    }


def test_moving_is_free_where_it_costs_nothing() -> None:
    weights = Weights(start=0, handover=0, latency=5)
    running = compute(three(weights=Weights(latency=0.1)))
    fresh = compute(three(weights=weights))
    assert where(recompute(running, three(weights=weights))) == where(fresh)


@settings(max_examples=examples(16))
@given(st.integers(0, 10**6))
def test_a_pipeline_that_still_fits_is_never_made_dearer_by_staying(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = three(weights=Weights(latency=float(rng.uniform(0.1, 4))))
    running = compute(base)
    sites = tuple(
        replace(s, load=float(rng.uniform(0, 0.5)), trust=float(rng.random())) for s in base.sites
    )
    again = recompute(running, replace(base, sites=sites))
    hosts = {agent.site for agent in running.agents}
    staying = 0.0
    for s in sites:
        if s.name in hosts:
            staying += 10 + 5 * s.load + 10 * (1 - s.trust)
    staying += running.placement.latency + running.placement.peer_latency
    assert again.placement.objective <= staying + 1e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latency_ms": 5.0, "without": "a"}, "latency-ms 10 (b) or the image at a would do"),
        ({"least_trust": 0.9}, "least-trust 0.8 (a) would do"),
        ({"least_trust": 0.9, "latency_ms": 0.0, "without": "abcd"}, "no change of one need alone"),
        ({"cores": 0.5}, "room at a (needs 2 cores, 0.5 free) would do"),
    ],
)
def test_a_vnf_without_any_site_is_named_with_what_would_do(changes, says) -> None:
    without = changes.pop("without", "")
    cores = changes.pop("cores", 8)
    sites = [
        site(n, trust=0.8, cores=cores, images={} if n in without else {"agent": "d"})
        for n in "abcd"
    ]
    limits = {"latency_ms": 100.0, "least_trust": 0.0, **changes}
    asked = need(sites, line("abcd"), [vnf("x", "a", **limits)], ())
    with pytest.raises(PlacementError, match=re.escape(says)) as caught:
        compute(asked)
    assert str(caught.value).startswith("svc: x at a can have no agent: ")
    assert "\n" not in str(caught.value)


def test_a_site_that_was_taken_away_is_offered_as_what_would_do() -> None:
    asked = need([site("a"), site("b")], line("ab"), [vnf("x", "a", 5)], ())
    with pytest.raises(PlacementError, match="agents at a again would do"):
        recompute(compute(asked), replace(asked, without=("a",)))


def refusal(asked: Need) -> str:
    with pytest.raises(PlacementError) as caught:
        compute(asked)
    return str(caught.value)


def test_agents_too_far_apart_are_told_how_far_they_are() -> None:
    asked = need(
        [site(n) for n in "abcd"], line("abcd"), [vnf("x", "a", 5), vnf("y", "d", 15)], [("x", "y")]
    )
    line_ = refusal(replace(asked, peer_latency_ms=12.5))
    assert line_.endswith("within 12.5 ms of each other; peer-latency-ms 20 would do")
    assert compute(replace(asked, peer_latency_ms=20.0)).placement.optimal


def test_too_little_room_is_told_with_what_would_do() -> None:
    vnfs = [vnf("x", "a", 0), vnf("y", "a", 0), vnf("z", "a", 0)]
    one = need([site("a")], (), vnfs, CHAIN, agent=replace(AGENT, most_vnfs=1))
    assert refusal(one).endswith("most-vnfs 3 would do")
    small = need([site("a", cores=2)], (), vnfs, CHAIN)
    assert refusal(small).endswith("more cores, memory or disk at a would do")
    both = need(
        [site("a", cores=2), site("b", cores=2)],
        line("ab", 10),
        [*vnfs, vnf("u", "b", 0), vnf("w", "b", 0)],
        CHAIN,
    )
    assert refusal(both).endswith("at several sites would do")


def test_a_search_without_time_says_so() -> None:
    vnfs = [vnf(f"v{i}", "a", 25) for i in range(6)]
    pairs = [(f"v{i}", f"v{j}") for i in range(6) for j in range(i)]
    sites = [site(n, cores=2) for n in "abc"]
    asked = need(sites, line("abc"), vnfs, pairs)
    with pytest.raises(PlacementError):
        compute(asked, Effort(seconds=None, nodes=1))


def test_a_site_that_there_is_not_cannot_be_left_out() -> None:
    with pytest.raises(ScenarioError, match="without: there is no site 'q'"):
        need_of(load(), without=("q",))


def test_no_agent_stands_where_the_agreement_does_not_let_it() -> None:
    day = "2026-01-01"
    pops = tuple(AgreedPop(s.pop, "ES", "north") for s in load().sites.sites)
    agreed = TrustAgreement("core", day, pops=pops)
    base = load()
    used = {agent.site for agent in compute(need_of(base)).agents}

    def placed(agreement: TrustAgreement) -> Need:
        asked = need_of(replace(base, sites=replace(base.sites, agreement=agreement)))
        return replace(asked, vnfs=tuple(replace(v, least_trust=0.6) for v in asked.vnfs))

    assert {agent.site for agent in compute(placed(agreed)).agents} == used
    gone = next(site for site in base.sites.sites if site.name in used)
    others = tuple(s.pop for s in base.sites.sites if s is not gone)
    moved = replace(agreed, locations=AgreedLocations(pops=others))
    assert gone.name not in {agent.site for agent in compute(placed(moved)).agents}
    nowhere = placed(replace(agreed, locations=AgreedLocations(pops=("elsewhere",))))
    assert " is in ES; the agreement core allows elsewhere" in refusal(nowhere)


def test_an_agreement_makes_sites_less_trusted_and_never_more() -> None:
    base = load()
    asked = TrustAgreement("core", "2026-01-01", standards=("ISO/IEC 27001",))
    judged = need_of(replace(base, sites=replace(base.sites, agreement=asked))).sites
    assert {site.trust for site in judged} == {1 / 3}  # one standard, attested by nobody
    certified = tuple(
        Certificate(s.pop, "ISO/IEC 27001", "kiwa", "2026-01-01", "2099-01-01")
        for s in base.sites.sites
    )
    sites = replace(base.sites, agreement=replace(asked, certificates=certified))
    judged = need_of(replace(base, sites=sites)).sites
    assert [site.trust for site in judged] == [min(2 / 3, s.trust) for s in base.sites.sites]


# -- the search for the optimum ---------------------------------------------------------------


WHOLE = Effort(seconds=None)


def fits(problem: Problem, found: SearchResult, least: float) -> None:
    """Hold what was found against the least cost that there is."""
    close = 1e-6 * (1 + abs(least)) if math.isfinite(least) else 0.0
    assert found.bound <= least + close
    if found.places is None:
        assert found.objective == math.inf
        return
    assert found.objective == pytest.approx(problem.cost(found.places))
    assert least - close <= found.objective
    assert found.objective <= least + found.gap * abs(least) + close


@pytest.mark.parametrize(
    ("seeds", "sizes"),
    [
        *sample(((range(n, n + 40), (5, 7)) for n in (*range(40, 400, 40), 0)), 10),
        (range(10), (8, 18)),
    ],
)
def test_the_integer_program_finds_the_same(seeds: range, sizes: tuple[int, int]) -> None:
    optimum = pytest.importorskip("agents_optimum", reason="scipy is not installed").optimum
    for seed in seeds:
        problem = random_problem(seed, *sizes)
        best = optimum(problem)
        assert best.proven
        found = solve(problem, WHOLE)
        fits(problem, found, best.objective)
        assert found.optimal == math.isfinite(best.objective), seed
        assert math.isinf(found.bound) == math.isinf(best.objective), seed


@given(st.integers(0, 10**6), st.integers(0, 3))
def test_a_search_that_ends_early_claims_no_more_than_it_has(seed: int, nodes: int) -> None:
    problem = random_problem(seed, most_vnfs=4, most_sites=5)
    fits(problem, solve(problem, Effort(seconds=None, nodes=nodes)), least_cost(problem))


def test_time_ends_the_search() -> None:
    ticks = iter(range(10**6))
    for seed in range(200, 220):
        problem = random_problem(seed, most_vnfs=5, most_sites=5)
        found = solve(problem, Effort(seconds=3.0, now=lambda: float(next(ticks))))
        assert found.nodes <= 3
        fits(problem, found, least_cost(problem))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_any_prices_bound_the_cost_with_each_vnf_held_anywhere(seed: int, other: int) -> None:
    problem = random_problem(seed, most_vnfs=4, most_sites=5)
    allowed = np.isfinite(problem.serving)
    assume(allowed.any(axis=1).all())
    split = forests(len(problem.serving), problem.edges)
    relaxation = Relaxation(problem, split, problem.too_much)
    rng = np.random.default_rng(other)
    prices = relaxation.fresh()
    forced = np.zeros(len(problem.opening), dtype=bool)
    for _ in range(3):
        found = relaxation.evaluate(prices, allowed, forced)
        prices = stepped(prices, found, found.value + rng.uniform(0, 50), 1.0, relaxation.member)
    found = relaxation.evaluate(prices, allowed, forced)
    least = least_cost(problem)
    assert found.value <= least + 1e-6
    for v, s in np.argwhere(allowed):
        held = problem.serving.copy()
        held[v] = math.inf
        held[v, s] = problem.serving[v, s]
        only = Problem(problem.opening, held, problem.pairs, problem.room, problem.edges)
        if math.isfinite(with_it := least_cost(only)):
            assert found.value + found.held[v, s] <= with_it + 1e-6


def test_forests_have_every_pair_once_and_no_cycle() -> None:
    for seed in range(100):
        problem = random_problem(seed, most_vnfs=6)
        split = forests(len(problem.serving), problem.edges)
        links = [tuple(sorted(link)) for forest in split for link in forest.links]
        assert sorted(links) == sorted(problem.edges)
        assert sorted(split[0].members) == list(range(len(problem.serving)))
        for forest in split:
            assert len(forest.links) + len(forest.roots) == len(forest.members)


def test_the_same_problem_has_the_same_answer() -> None:
    for seed in range(20):
        problem = random_problem(seed)
        first, second = solve(problem, WHOLE), solve(problem, WHOLE)
        assert (first.objective, first.bound, first.nodes) == (
            second.objective,
            second.bound,
            second.nodes,
        )
        assert first.places is None or (first.places == second.places).all()
