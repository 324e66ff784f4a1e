"""What holds for reading streams and tables of every client: where it begins, and the present.

Run by subclassing ``ReadingContract`` with a ``ground``.
"""

from __future__ import annotations

import pytest
from client_contract import DOMAIN, OBSERVER, RECORDER, A, B, Ground, kept

from phalanx.bus import subjects
from phalanx.bus.client import Stored

PRESENT = "the present"


class Story(list[object]):
    """What was read, as numbers, and when the present was reached."""

    def tell(self, stored: Stored) -> None:
        stored.acknowledge()
        self.append(int(stored.payload))

    def caught_up(self) -> None:
        self.append(PRESENT)


class ReadingContract:
    """The tests; a subclass has a fixture ``ground``."""

    def test_a_follower_hears_when_all_that_was_there_is_told(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, *range(700))
        story = Story()
        recorder.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up)
        ground.until(lambda: PRESENT in story)
        assert story == [*range(700), PRESENT]
        kept(ground, a, 700)
        ground.until(lambda: 700 in story)
        ground.rest()
        assert story.count(PRESENT) == 1

    @pytest.mark.parametrize("there", [0, 3])
    @pytest.mark.parametrize("new_only", [True, False])
    def test_where_nothing_is_to_be_told_the_present_is_at_once(
        self, ground: Ground, there: int, new_only: bool
    ) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, *range(there))
        story = Story()
        recorder.follow(
            subjects.EVENTS,
            story.tell,
            new_only=new_only,
            pattern=subjects.pattern(DOMAIN, "evt", "b", subjects.REST),
            caught_up=story.caught_up,
        )
        ground.until(lambda: PRESENT in story)
        kept(ground, ground.join(B), 8)
        ground.until(lambda: 8 in story)
        assert story == [PRESENT, 8]

    def test_what_others_say_behind_ones_own_does_not_hold_the_present_up(
        self, ground: Ground
    ) -> None:
        a, b, recorder = ground.join(A), ground.join(B), ground.join(RECORDER)
        kept(ground, a, 1, 2)
        kept(ground, b, 3, 4)
        story = Story()
        recorder.follow(
            subjects.EVENTS,
            story.tell,
            pattern=subjects.pattern(DOMAIN, "evt", "a", subjects.REST),
            caught_up=story.caught_up,
        )
        ground.until(lambda: PRESENT in story)
        assert story == [1, 2, PRESENT]

    def test_a_durable_follower_hears_of_the_present_in_each_life(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, 1, 2)
        for expected in ([1, 2, PRESENT], [PRESENT]):
            story = Story()
            following = recorder.follow(
                subjects.EVENTS, story.tell, durable="history", caught_up=story.caught_up
            )
            ground.until(lambda: PRESENT in story)  # noqa: B023  # called before the next round
            assert story == expected
            for _ in range(3):
                ground.rest()
            following.close()

    def test_only_what_was_kept_lately_is_told(self, ground: Ground) -> None:
        a, recorder = ground.join(A), ground.join(RECORDER)
        kept(ground, a, 1, 2)
        for _ in range(10):
            ground.rest()
        kept(ground, a, 3)
        for since_s, expected in ((0.6, [3]), (1e30, [1, 2, 3])):
            story = Story()
            recorder.follow(subjects.EVENTS, story.tell, since_s=since_s, caught_up=story.caught_up)
            ground.until(lambda: PRESENT in story)  # noqa: B023  # called before the next round
            assert story == [*expected, PRESENT]
        for _ in range(10):
            ground.rest()
        story = Story()
        recorder.follow(subjects.EVENTS, story.tell, since_s=0.6, caught_up=story.caught_up)
        ground.until(lambda: PRESENT in story)
        kept(ground, a, 4)
        ground.until(lambda: 4 in story)
        assert story == [PRESENT, 4]
        assert recorder.counters.shed == {}

    def test_who_has_closed_hears_of_no_present(self, ground: Ground) -> None:
        recorder = ground.join(RECORDER)
        story = Story()
        recorder.follow(subjects.EVENTS, story.tell, caught_up=story.caught_up).close()
        recorder.watch(subjects.REGISTRY, lambda *_: None, caught_up=story.caught_up).close()
        ground.rest()
        assert story == []

    def test_a_watcher_hears_when_all_keys_that_were_there_are_told(self, ground: Ground) -> None:
        a, b, observer = ground.join(A), ground.join(B), ground.join(OBSERVER)
        empty: list[object] = []
        watching = observer.watch(
            subjects.REGISTRY, lambda *_: None, caught_up=lambda: empty.append(PRESENT)
        )
        ground.until(lambda: empty == [PRESENT])
        watching.close()
        a.put(subjects.REGISTRY, "a", b"old")
        a.put(subjects.REGISTRY, "a", b"here")
        b.put(subjects.REGISTRY, "b", b"gone")
        b.drop(subjects.REGISTRY, "b")
        ground.rest()
        found: list[object] = []
        observer.watch(
            subjects.REGISTRY,
            lambda key, value: found.append((key, value)),
            caught_up=lambda: found.append(PRESENT),
        )
        ground.until(lambda: PRESENT in found)
        assert found == [("a", b"here"), PRESENT]
        b.put(subjects.REGISTRY, "b", b"back")
        ground.until(lambda: len(found) == 3)
        assert found[2] == ("b", b"back")
