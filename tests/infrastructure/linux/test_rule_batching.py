"""What VNFs are told together, and who of those who asked is told what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from phalanx.clock.wall import WallClock
from phalanx.infrastructure.linux.journal import LeasedMeasure, LeaseJournal, RuleBatcher
from phalanx.infrastructure.linux.tasks import TaskError, Tasks
from phalanx.infrastructure.linux.vnf.measures import MOST_AT_ONCE
from phalanx.infrastructure.linux.vnf_processes import VnfProcesses

TTL_S = 60.0


class Vnfs:
    """Stands for ``VnfProcesses``: notes the requests, and refuses what is called so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.lock = asyncio.Lock()

    async def change(
        self, instance: str, method: str, resource: str, body: Callable[[], Any]
    ) -> dict[str, Any]:
        assert (method, resource) == ("PUT", "/measures")
        if instance == "gone":
            raise TaskError("instance gone does not run")
        async with self.lock:
            measures = body()
            assert all(measure["ttl_s"] == TTL_S for measure in measures.values())
            self.asked.append((instance, list(measures)))
            await asyncio.sleep(0.01)
            return {"refused": {name: "never" for name in measures if name.startswith("bad")}}


class Desk:
    """Puts measures, and says of each what came of it."""

    def __init__(self, folder: Path) -> None:
        self.clock = WallClock()
        self.vnfs = Vnfs()
        self.journal = LeaseJournal(folder / "leases.db")
        self.tasks = Tasks(self.clock)
        processes = cast("VnfProcesses", self.vnfs)
        self.rules = RuleBatcher(self.tasks, processes, self.journal)

    def put(self, *measures: str, instance: str = "a") -> list[str]:
        """Return an empty text for each measure that is in force, else why it is not."""
        puts = [self.rules.put(_entry(measure, instance), TTL_S) for measure in measures]
        return self.wait(_outcomes(puts))

    def wait(self, work: Awaitable[list[str]]) -> list[str]:
        found: list[list[str]] = []

        async def whole() -> list[str]:
            return await asyncio.wait_for(work, 10)

        self.tasks.start(whole(), found.append, lambda reason: found.append([reason]))
        self.clock.run(self.clock.now() + 10, lambda: bool(found))
        return found[0]

    def noted(self) -> set[str]:
        return {kept.entry.measure for kept in self.journal.remaining()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.tasks.stop()
    made.journal.close()
    made.clock.close()


def _entry(measure: str, instance: str) -> LeasedMeasure:
    return LeasedMeasure(measure, instance, "rate-limiter", "pop1", {"verdict": "limit"})


async def _outcomes(puts: list[Any]) -> list[str]:
    ends = await asyncio.gather(*puts, return_exceptions=True)
    return ["" if end is None else str(end) for end in ends]


def test_what_is_asked_together_goes_together(desk: Desk) -> None:
    assert desk.put("m1", "m2", "m3") == ["", "", ""]
    assert desk.vnfs.asked == [("a", ["m1", "m2", "m3"])]
    assert desk.put("m4") == [""]
    assert desk.vnfs.asked[1:] == [("a", ["m4"])]
    assert desk.noted() == {"m1", "m2", "m3", "m4"}


def test_a_refusal_is_for_its_measure_alone(desk: Desk) -> None:
    assert desk.put("m1", "bad", "m2") == ["", "never", ""]
    assert desk.noted() == {"m1", "m2"}
    assert desk.put("bad again") == ["never"]


def test_no_request_holds_too_many(desk: Desk) -> None:
    many = [f"m{number}" for number in range(2 * MOST_AT_ONCE + 1)]
    assert desk.put(*many) == [""] * len(many)
    assert [len(measures) for _, measures in desk.vnfs.asked] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]
    assert desk.noted() == set(many)


def test_each_vnf_has_its_own_requests(desk: Desk) -> None:
    orders = [_entry("m1", "a"), _entry("m2", "b"), _entry("m3", "a")]
    assert desk.wait(_outcomes([desk.rules.put(o, TTL_S) for o in orders])) == ["", "", ""]
    assert desk.vnfs.asked == [("a", ["m1", "m3"]), ("b", ["m2"])]


def test_all_who_asked_learn_that_a_vnf_fails(desk: Desk) -> None:
    assert desk.put("m1", "m2", instance="gone") == ["instance gone does not run"] * 2
    assert desk.put("m1") == [""]


def test_rules_are_put_in_force_although_the_disk_fails(desk: Desk) -> None:
    desk.journal._db.execute("DROP TABLE lease")
    assert desk.put("m3", "m4") == ["", ""]
    assert "no such table" in str(desk.journal.problem)
    assert desk.noted() == {"m3", "m4"}
