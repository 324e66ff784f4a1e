"""A service that is kept: what dies is started again, but not for ever, and not behind a back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_world import NAME, Crash, FakeIml, World, asked
from tests.nightly import examples

from phalanx.domain.errors import ScenarioError
from phalanx.orchestration.iml.unit import BusyError, ImlError
from phalanx.orchestration.service import ServiceOrchestrator
from phalanx.orchestration.supervisor import RestartPolicy, RestartState, SupervisorNotice
from phalanx.orchestration.workflow.machine import WorkflowError

ORIGIN, CACHE = f"{NAME}.origin.1", f"{NAME}.cache.1"
ENDURANCE = RestartPolicy(attempts=3)


class End(BaseException):
    """The test has seen enough."""


@cache
def _deployed() -> World:
    world = World()
    world.orchestrator().deploy(asked())
    world.now = 0.0
    return world


def deployed() -> World:
    """Return a world in which the service runs."""
    return _deployed().copy()


def kept(
    world: World, until_s: float, then: Callable[[float], None] | None = None
) -> list[SupervisorNotice]:
    """Keep the service until a time, and return what was told; ``then`` is called after sleeps."""
    told: list[SupervisorNotice] = []

    def asleep(now: float) -> None:
        if then is not None:
            then(now)
        if now >= until_s:
            raise End

    world.asleep = asleep
    try:
        world.orchestrator().keep(NAME, told.append, ENDURANCE)
    except End:
        pass
    finally:
        world.asleep = None
    return told


def whats(told: list[SupervisorNotice], name: str = "") -> list[str]:
    return [one.what for one in told if name in one.line]


def kinds(world: World) -> list[str]:
    return [e.kind for e in world.sent if e.kind in ("service.restarted", "service.given_up")]


# -- restarts -----------------------------------------------------------------------------------


def test_the_pause_doubles_up_to_a_bound_and_a_row_ends_it() -> None:
    restart, now, pauses = RestartState(RestartPolicy(attempts=9, most_pause_s=20.0)), 0.0, []
    restart.lives(now)
    while not restart.left_alone:
        now += 0.5
        assert restart.dead(now)
        assert not restart.dead(now), "it is no news any more"
        if restart.due is not None:
            pauses.append(restart.due - now)
            now = restart.due
            restart.started(now)
            restart.lives(now)
    assert pauses == [1, 2, 4, 8, 16, 20, 20, 20, 20]


def test_who_lived_long_enough_begins_a_new_row() -> None:
    restart = RestartState(ENDURANCE)
    for now in (0.0, 10.0, 20.0):
        restart.dead(now)
        restart.started(now + 5)
    assert restart.deaths == 3
    restart.lives(25 + ENDURANCE.steady_s - 1)
    assert restart.deaths == 3
    restart.lives(25 + ENDURANCE.steady_s)
    assert restart.deaths == 0
    assert restart.dead(1000.0)
    assert (restart.deaths, restart.due) == (1, 1001.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 100)), max_size=60))
def test_whatever_happens_a_fate_is_one_of_three(story: list[tuple[bool, float]]) -> None:
    restart, now = RestartState(ENDURANCE), 0.0
    for alive, pause_s in story:
        now += pause_s
        if alive:
            restart.lives(now)
            assert restart.due is None
            assert not restart.left_alone
        else:
            restart.dead(now)
            assert (restart.due is not None) != restart.left_alone
            if restart.due is not None and now >= restart.due:
                restart.started(now)
        assert 0 <= restart.deaths <= ENDURANCE.attempts + 1


# -- the keeper -----------------------------------------------------------------------------------


def test_the_pause_told_is_that_of_the_policy_however_long_its_words_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = deployed()
    logs = FakeIml.logs

    def slow(site: FakeIml, name: str, lines: int = 100) -> str:
        world.now += 0.3
        return logs(site, name, lines)

    monkeypatch.setattr(FakeIml, "logs", slow)
    told = kept(world, 10.0, lambda now: world.kill(ORIGIN) if now == 3.0 else None)
    (died,) = (one.line for one in told if one.what == "died")
    assert "it is started in 1 s" in died


def test_what_dies_is_started_again_with_its_memory() -> None:
    world = deployed()
    told = kept(world, 10.0, lambda now: world.kill(ORIGIN) if now == 3.0 else None)
    assert whats(told, ORIGIN) == ["died", "started"]
    assert f"{ORIGIN} said this" in told[1].line
    assert world.processes["madrid", ORIGIN] == 2
    assert world.processes["valencia", CACHE] == 1, "nobody else notices"
    assert kinds(world) == ["service.restarted"]
    (event,) = (e for e in world.sent if e.kind == "service.restarted")
    assert event.data == {
        "service": NAME,
        "revision": 1,
        "process": ORIGIN,
        "site": "madrid",
        "attempt": 1,
    }
    assert event.cause is not None


def test_who_dies_again_and_again_is_left_alone_and_the_others_are_not() -> None:
    world = deployed()

    def die(now: float) -> None:
        if ("madrid", ORIGIN) in world.processes:
            world.kill(ORIGIN)
        if now == 40.0:
            world.kill(CACHE)

    told = kept(world, 50.0, die)
    assert whats(told, ORIGIN) == ["died", "started"] * 3 + ["left alone"]
    assert "died 4 times in a row: it is not started any more" in told[7].line
    assert whats(told, CACHE) == ["died", "started"]
    assert kinds(world) == [*["service.restarted"] * 3, "service.given_up", "service.restarted"]
    # Who starts it by hand ends that.
    world.orchestrator().resume(NAME)
    told = kept(world, world.now + 20.0)
    assert whats(told) == ["watches"]


def test_when_all_are_left_alone_it_is_over() -> None:
    world = deployed()
    world.faults = {f"start {name}": ImlError("no disk") for name in list(world.started)}
    world.processes.clear()
    with pytest.raises(WorkflowError, match="all of its processes died again and again"):
        kept(world, 1000.0)
    assert kinds(world) == ["service.given_up"] * 4


def test_a_start_that_fails_counts_and_one_that_fails_in_passing_does_not() -> None:
    world = deployed()
    world.kill(ORIGIN)
    world.faults[f"start {ORIGIN}"] = BusyError("a process is just ending")

    def mend(now: float) -> None:
        if now == 20.0:
            world.faults[f"start {ORIGIN}"] = ImlError("no disk")
        if now == 21.0:
            world.faults.clear()

    told = kept(world, 40.0, mend)
    assert whats(told) == ["watches", "died", "waits", "failed", "died", "started"]
    assert world.processes["madrid", ORIGIN] == 2


def test_whoever_changes_the_service_goes_first() -> None:
    world = deployed()
    world.crashes = [60]
    with pytest.raises(Crash):
        world.orchestrator().reconfigure(NAME, asked(without=("madrid",)))
    running = dict(world.processes)
    told = kept(world, world.now + 10.0)
    assert whats(told) == ["waits"]
    assert "its change 2 (reconfigure) is on its way" in told[0].line
    assert world.processes == running, "a process may be down on purpose"
    world.orchestrator().resume(NAME)
    assert whats(kept(world, world.now + 5.0)) == ["watches"]


def test_a_change_while_it_is_kept_is_no_death() -> None:
    world = deployed()

    def change(now: float) -> None:
        world.asleep, hook = None, world.asleep
        if now == 3.0:
            world.orchestrator().reconfigure(NAME, asked(without=("madrid",)))
        if now >= 5.0:
            world.orchestrator().remove(NAME)
        world.asleep = hook

    told = kept(world, 60.0, change)
    assert whats(told) == ["watches", "removed"]
    assert world.processes == {}


def test_another_one_who_keeps_it_is_no_harm() -> None:
    world = deployed()
    other: list[SupervisorNotice] = []

    def twice(now: float) -> None:
        if now == 2.0:
            world.kill(ORIGIN)
        if now == 3.0:
            hook = world.asleep
            other.extend(kept(world, 8.0))
            world.asleep = hook

    told = kept(world, 12.0, twice)
    assert whats([*told, *other], ORIGIN).count("started") == 1
    assert world.processes["madrid", ORIGIN] == 2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
@settings(max_examples=examples(12))
def test_the_keeper_may_be_killed_at_any_moment(crashes: list[int]) -> None:
    world = deployed()
    world.kill(ORIGIN)
    world.crashes = crashes
    for _ in range(len(crashes) + 1):
        try:
            kept(world, world.now + 5.0)
        except Crash:
            continue
    assert [place for place in world.processes if place[1] == ORIGIN] == [("madrid", ORIGIN)]
    assert len(world.processes) == 4


def test_what_is_not_deployed_is_not_kept() -> None:
    world = World()
    orchestrator: ServiceOrchestrator = world.orchestrator()
    with pytest.raises(ScenarioError, match="there is no service"):
        orchestrator.keep(NAME, print)
    orchestrator.deploy(asked())
    orchestrator.remove(NAME)
    with pytest.raises(ScenarioError, match="is not deployed; phalanx service deploy does that"):
        orchestrator.keep(NAME, print)
