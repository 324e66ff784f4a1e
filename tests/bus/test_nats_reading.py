from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client_contract import RECORDER, A, kept
from nats_lab import Ground, needs_server
from reading_contract import PRESENT, ReadingContract, Story

from phalanx.bus import subjects

needs_server()
pytestmark = pytest.mark.nats


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with Ground.of_one(tmp_path) as made:
        yield made


class TestNatsReading(ReadingContract):
    """The contract, over a server."""


def test_a_server_that_is_away_on_the_way_holds_the_present_up(ground: Ground) -> None:
    a, recorder = ground.join(A), ground.join(RECORDER)
    kept(ground, a, *range(2_000))
    story = Story()
    recorder.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up)
    ground.until(lambda: len(story) >= 10)
    assert PRESENT not in story
    (server,) = ground.lab.servers
    server.stop(within_s=5.0)
    ground.until(lambda: not recorder.connected)
    server.start()
    ground.until(lambda: PRESENT in story)
    assert story == [*range(2_000), PRESENT]
