"""The workflow ends in the same state whatever ends or fails on the way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_world import NAME, Crash, World, asked
from tests.nightly import NIGHTLY

from phalanx.domain.errors import ScenarioError
from phalanx.orchestration.descriptors.service import Service, parse_service
from phalanx.orchestration.iml.unit import ImlError
from phalanx.orchestration.journal import ClaimedError, ServiceJournal
from phalanx.orchestration.service import ServiceOrchestrator
from phalanx.orchestration.workflow import model
from phalanx.orchestration.workflow.machine import RolledBackError, WorkflowError

PLAIN = asked()
TIGHT = settings(suppress_health_check=[HealthCheck.too_slow])
EXAMPLES, STRIDE = (600, 1) if NIGHTLY else (5, 97)
LONGEST = 160
"""No command has more moments (checked below)."""


def deploy(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.deploy(PLAIN)


def move(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.reconfigure(NAME, asked(without=("madrid",)))


def back(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.reconfigure(NAME, asked(without=("zaragoza",)))


def widen(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.reconfigure(NAME, asked("request-wide.yaml"))


def narrow(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.reconfigure(NAME, PLAIN)


def remove(orchestrator: ServiceOrchestrator) -> None:
    orchestrator.remove(NAME)


NOTHING: dict[str, object] = {
    part: [] for part in ("identities", "let in", "entries", "folders", "processes")
}
LIFE = {"deploy": deploy, "move": move, "back": back, "widen": widen, "narrow": narrow}
LIFE |= {"remove": remove}


@cache
def _before(part: str) -> World:
    world = World()
    for name, command in LIFE.items():
        if name == part:
            break
        assert world.until_done(command) is None
    return world


def before(part: str) -> World:
    """Return a world where all is done that comes before a part of a service's life."""
    return _before(part).copy()


@cache
def end_of(part: str) -> dict[str, object]:
    """Return what there is after a part of a service's life without a crash."""
    world = before(part)
    assert world.until_done(LIFE[part]) is None
    assert world.moment < LONGEST
    return world.standing()


@pytest.fixture(autouse=True, scope="module")
def read_once() -> Iterator[None]:
    """Have the descriptors, always the same few, read once: there are hundreds of runs."""
    known: dict[bytes, Service] = {}

    def parse(*texts: Any) -> Service:
        key = repr(texts).encode()
        if key not in known:
            known[key] = parse_service(*texts)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "parse_service", parse)
        yield


def test_a_service_is_deployed_step_by_step_as_in_the_figure() -> None:
    world = World()
    deployment = world.orchestrator().deploy(PLAIN)
    assert {m.name: m.site for m in deployment.members} == {
        f"{NAME}.network.1": "barcelona",
        f"{NAME}.access.1": "barcelona",
        f"{NAME}.cache.1": "valencia",
        f"{NAME}.origin.1": "madrid",
    }
    figures = [event.data["figure"] for event in world.sent if event.kind == "service.step"]
    order = ["0", "1", *["2"] * 10, *map(str, range(3, 15)), "operation", "end"]
    assert figures == order
    assert [world.sent[0].kind, world.sent[-1].kind] == ["service.requested", "service.deployed"]
    causes = {event.id: event.cause for event in world.sent}
    assert world.sent[0].cause is None
    assert all(cause in causes for cause in list(causes.values())[1:])
    view = world.orchestrator().show(NAME)
    assert view.state == "running"
    assert {a.trust.split(":")[0] for a in view.agents if a.member.serves} == {"unattested"}
    assert len(view.left_out) == 11


def test_a_moved_agent_keeps_its_name_and_its_memory_and_the_others_do_not_notice() -> None:
    world = before("widen")
    assert world.processes["madrid", f"{NAME}.origin.1"] == 3, "there, away, and back"
    assert world.started[f"{NAME}.cache.1"] == world.started[f"{NAME}.access.1"] == 1
    told_of = world.started[f"{NAME}.network.1"]
    world.until_done(widen)
    assert ("zaragoza", f"{NAME}.cache-2.4") in world.processes
    assert world.started[f"{NAME}.network.1"] == told_of + 1, "it has another place now"
    world.until_done(narrow)
    assert f"{NAME}.cache-2.4" in world.revoked
    assert world.started[f"{NAME}.origin.1"] == 3


def test_agents_that_stay_follow_the_same_plan_as_those_that_come() -> None:
    world = before("move")
    for part in ("move", "back", "widen", "narrow"):
        assert world.until_done(LIFE[part]) is None
        running = {name for _, name in world.processes}
        assert len({world.plans[name] for name in running}) == 1, part
        assert {world.files[at] for at in world.processes} == {world.plans[n] for n in running}


def test_an_agent_that_cannot_take_the_plan_takes_the_change_back() -> None:
    world = before("widen")
    at_first, plans = world.standing(), dict(world.plans)
    world.faults[f"reload {NAME}.origin.1"] = OnceError(world, f"reload {NAME}.origin.1")
    line = world.until_done(widen)
    assert line is not None
    assert "reload edge-video-1.origin.1: out of order; everything is as it was before" in line
    now = world.standing()
    assert {k: now[k] for k in now if k != "folders"} == {
        k: at_first[k] for k in at_first if k != "folders"
    }
    assert {name: world.plans[name] for name in plans} == plans


def test_agents_that_cannot_reach_each_other_are_named_and_all_is_taken_back() -> None:
    world = World(cut={f"{NAME}.origin.1"})
    line = world.until_done(deploy)
    assert line is not None
    assert f"{NAME}.origin.1: no answer within 2 s; everything is as it was before" in line
    assert " cannot reach " in line
    assert world.standing() == NOTHING
    world.cut.clear()
    world.probed.clear()
    assert world.until_done(deploy) is None
    agents = {f"{NAME}.{key}.2" for key in ("access", "cache", "origin")}
    assert {*world.probed} <= {(one, other) for one in agents for other in agents if one != other}
    assert {name for pair in world.probed for name in pair} == agents
    (step,) = (e for e in world.sent[-30:] if e.data.get("step") == "connectivity")
    assert "pairs reach each other, the slowest in 1 ms" in step.data["detail"]


def test_a_removed_service_leaves_nothing_and_may_come_back_under_new_identities() -> None:
    world = before("remove")
    assert world.until_done(remove) is None
    assert world.standing() == NOTHING
    assert world.orchestrator().list() == ()
    assert world.orchestrator().show(NAME).state == "removed"
    assert world.until_done(remove) is None
    assert world.until_done(deploy) is None
    assert f"{NAME}.origin.7" in world.identities


@pytest.mark.parametrize("part", LIFE)
def test_a_crash_at_any_moment_ends_in_the_same_state(part: str) -> None:
    for moment in range(1 + STRIDE // 2, LONGEST, STRIDE):
        world = before(part)
        world.crashes = [moment]
        assert world.until_done(LIFE[part]) is None
        assert world.standing() == end_of(part), f"after a crash at moment {moment}"
        if world.crashes:
            break  # it did not come to that


@given(part=st.sampled_from(list(LIFE)), crashes=st.lists(st.integers(1, LONGEST), max_size=3))
@settings(TIGHT, max_examples=EXAMPLES)
def test_crashes_at_any_moments_end_in_the_same_state(part: str, crashes: list[int]) -> None:
    world = before(part)
    world.crashes = crashes
    assert world.until_done(LIFE[part]) is None
    assert world.standing() == end_of(part)


FAILING = {
    "deploy": ("issue {}.origin.1", "start {}.cache.1", "account {}.origin.1", "reload"),
    "move": ("start {}.network.1", "stop {}.origin.1", "account {}.origin.1"),
    "widen": ("issue {}.cache-2.4", "start {}.cache-2.4", "start {}.network.1"),
}


@given(
    part=st.sampled_from(list(FAILING)),
    which=st.integers(0, 3),
    crashes=st.lists(st.integers(1, LONGEST), max_size=3),
)
@settings(TIGHT, max_examples=EXAMPLES)
def test_what_fails_for_good_is_rolled_back_also_across_crashes(
    part: str, which: int, crashes: list[int]
) -> None:
    world = before(part)
    at_first = world.standing()
    name = FAILING[part][which % len(FAILING[part])].format(NAME)
    world.crashes = crashes
    # The new ones fail. What was there before can still be started: that is the way back.
    world.faults[name] = OnceError(world, name)
    line = world.until_done(LIFE[part])
    world.faults.clear()
    if line is None:
        assert world.standing() == end_of(part), "crashes let the fault pass"
        return
    found = world.orchestrator().show(NAME)
    assert not found.unfinished
    now = world.standing()
    assert {k: now[k] for k in now if k != "folders"} == {
        k: at_first[k] for k in at_first if k != "folders"
    }
    assert [f[:2] for f in now["folders"]] == [f[:2] for f in at_first["folders"]]  # type: ignore[attr-defined, index]
    assert world.trusted == [] or part != "deploy"
    assert world.until_done(LIFE[part]) is None


class OnceError(ImlError):
    """Fails for good while the change goes forward, and not on its way back."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(f"{name}: out of order")
        self._world, self._name = world, name

    def __str__(self) -> str:
        self._world.faults.pop(self._name, None)
        return super().__str__()


@given(crashes=st.lists(st.integers(1, LONGEST), max_size=2), often=st.integers(1, 2))
@settings(TIGHT, max_examples=EXAMPLES // 2)
def test_what_fails_in_passing_is_tried_again(crashes: list[int], often: int) -> None:
    world = World(crashes=crashes)
    names = ("start {}.origin.1", "issue {}.cache.1", "reload", "account {}.cache.1")
    world.passing = {name.format(NAME): often for name in names}
    assert world.until_done(deploy) is None
    assert world.standing() == end_of("deploy")


def test_a_roll_back_that_fails_is_tried_again_by_resume() -> None:
    world = World()
    world.faults = {
        f"start {NAME}.origin.1": ImlError("no"),
        f"revoke {NAME}.cache.1": ImlError("no"),
    }
    with pytest.raises(WorkflowError, match=r"2.identity:.*cache.1 cannot be taken back: no;"):
        world.orchestrator().deploy(PLAIN)
    assert world.orchestrator().show(NAME).unfinished
    with pytest.raises(ScenarioError, match=r"its change 1 .* is unfinished"):
        world.orchestrator().deploy(asked("request-wide.yaml"))
    del world.faults[f"revoke {NAME}.cache.1"]
    with pytest.raises(RolledBackError, match=r"^edge-video-1: no; everything is as it was before"):
        world.orchestrator().resume(NAME)
    assert world.standing() == NOTHING
    assert world.sent[-1].kind == "service.rolled_back"


def test_what_is_left_after_the_commit_is_not_rolled_back() -> None:
    world = before("narrow")
    world.faults = {f"revoke {NAME}.cache-2.4": ImlError("no")}
    with pytest.raises(WorkflowError, match=r"end.revoke:.* failed: no; what is left"):
        world.orchestrator().reconfigure(NAME, PLAIN)
    world.faults.clear()
    world.orchestrator().resume(NAME)
    assert world.standing() == end_of("narrow")


def test_what_was_begun_may_be_removed() -> None:
    world = World(crashes=[60])
    with pytest.raises(Crash):
        world.orchestrator().deploy(PLAIN)
    world.crashes = [40, 60, 20]
    assert world.until_done(remove) is None
    assert world.standing() == NOTHING


def test_no_room_is_refused_and_nothing_is_left() -> None:
    world = World()
    with pytest.raises(RolledBackError, match="too little room"):
        world.orchestrator().deploy(asked("request-wide.yaml", ("zaragoza",)))
    assert world.effects == []


def test_a_service_that_runs_is_not_deployed_otherwise() -> None:
    world = World()
    world.orchestrator().deploy(PLAIN)
    count = len(world.effects)
    world.orchestrator().deploy(PLAIN)
    assert {effect.split()[0] for effect in world.effects[count:]} == {"start"}
    with pytest.raises(ScenarioError, match="is deployed already, and otherwise"):
        world.orchestrator().deploy(asked("request-wide.yaml"))
    with pytest.raises(ScenarioError, match="no service 'other'"):
        world.orchestrator().remove("other")


def test_resume_starts_what_has_died() -> None:
    world = World()
    world.orchestrator().deploy(PLAIN)
    del world.processes["madrid", f"{NAME}.origin.1"]
    world.orchestrator().resume(NAME)
    assert world.processes["madrid", f"{NAME}.origin.1"] == 2
    assert world.processes["valencia", f"{NAME}.cache.1"] == 1


def test_who_was_taken_over_writes_nothing_any_more() -> None:
    world = World()
    journal = ServiceJournal(world.database)
    first = journal.claim(NAME)
    second = journal.claim(NAME)
    assert second.fence == first.fence + 1
    with pytest.raises(ClaimedError, match="has taken it over"):
        first.beat()
    second.beat()


def test_an_orchestrator_elsewhere_is_given_its_time() -> None:
    world = World()
    time = [0.0]

    def sleep(seconds: float) -> None:
        time[0] += seconds
        if alive:
            other.beat()

    journal = ServiceJournal(world.database, monotonic=lambda: time[0], sleep=sleep)
    other = journal.claim(NAME)
    with world.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE services SET holder = 'elsewhere/1:1:1'")
    alive = True
    with pytest.raises(ClaimedError, match="process 1 of another machine works on it"):
        journal.claim(NAME)
    alive = False
    assert journal.claim(NAME).fence == other.fence + 1
    assert time[0] >= 30.0
