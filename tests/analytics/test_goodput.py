"""What users get: less is harm where it is certain, and chance else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from random import Random

import pytest
from msgspec.structs import replace

from phalanx.analytics.goodput import Goodput, Look

CALM, RESIGNED_S = 40, 60.0
"""Looks, each of a second, with all that users ask for."""


def look(now: float, got: dict[str, float], sent: dict[str, float], asked: float = 0.0) -> Look:
    """Return what a second shows of packets of 1 KB, while nobody is known to attack."""
    every = sum(got.values()) + sum(sent.values()) + asked
    known = dict.fromkeys(("full", "explained", "attacked", "recent", "wary"), False)
    return Look(now, 1.0, got, 1e3, None, sent, asked, every, **known)


def take(goodput: Goodput, looks: Iterable[Look]) -> list[bool]:
    """Return after each look whether users are hurt."""
    hurt = []
    for each in looks:
        goodput.see(each, RESIGNED_S)
        hurt.append(goodput.hurt(each.now))
        goodput.restored()
        goodput.learn(each, ())
    return hurt


def evenly(_drawn: Random, kb_s: float) -> float:
    return kb_s


def by_chance(drawn: Random, kb_s: float) -> float:
    """Return how many packets of ``kb_s`` a second come in one: those of a Poisson process."""
    count, waited = 0, drawn.expovariate(kb_s) if kb_s else inf
    while waited < 1:
        count, waited = count + 1, waited + drawn.expovariate(kb_s)
    return float(count)


def run(
    kb_s: float,
    share: float,
    come: Callable[[Random, float], float],
    *,
    only: int = 6,
    sent: float = 0.0,
    asked: float = 0.0,
    seed: int = 1,
) -> list[bool]:
    """Return whether six users are hurt in each of 30 looks in which some get a share.

    With it come one-way UDP that is ``sent``, or what is ``asked`` by who asks too much, in KB/s.
    """
    drawn = Random(seed)
    looks = []
    for number in range(CALM + 30):
        late = number >= CALM
        got = {
            f"u{user}": come(drawn, kb_s * (share if late and user < only else 1.0))
            for user in range(6)
        }
        one_way = {"s": sent} if late and sent else {}
        looks.append(look(float(number), got, one_way, asked if late else 0.0))
    return take(Goodput(), looks)


@pytest.mark.parametrize("kb_s", [0.5, 2.0, 40.0])
@pytest.mark.parametrize("seed", range(20))
def test_users_who_ask_by_chance_are_not_hurt(kb_s: float, seed: int) -> None:
    assert not any(run(kb_s, 1.0, by_chance, seed=seed))


@pytest.mark.parametrize(("come", "kb_s"), [(evenly, 40.0), (by_chance, 40.0), (by_chance, 10.0)])
def test_who_gets_half_is_hurt_within_three_looks(
    come: Callable[[Random, float], float], kb_s: float
) -> None:
    hurt = run(kb_s, 0.5, come)
    assert not any(hurt[:CALM])
    assert all(hurt[CALM + 3 :])


def test_who_loses_all_is_hurt_though_others_go_on() -> None:
    hurt = run(40.0, 0.0, by_chance, only=1)
    assert not any(hurt[:CALM])
    assert all(hurt[CALM + 3 :])


@pytest.mark.parametrize("what", ["sent", "asked"])
def test_a_little_less_is_harm_only_beside_much_that_came(what: str) -> None:
    assert not any(run(40.0, 0.85, evenly))
    hurt = run(40.0, 0.85, evenly, **{what: 100.0})
    assert not any(hurt[: CALM + 5])
    assert any(hurt[CALM + 5 : CALM + 12])


@pytest.mark.parametrize("sent", [0.0, 100.0])
def test_users_who_send_nothing_any_more_are_cut_off_if_much_has_come(sent: float) -> None:
    every = {f"u{user}": 40.0 for user in range(6)}
    goodput = Goodput()
    take(goodput, [look(float(n), every, {}) for n in range(CALM)])
    stay = {"u0": 40.0, "u1": 40.0, "u2": 40.0}
    looks = [look(float(n), stay, {"s": sent} if sent else {}) for n in range(CALM, CALM + 4)]
    assert any(take(goodput, looks)) is bool(sent)


def test_few_looks_are_enough_to_miss_users_if_much_has_come() -> None:
    every = {f"u{user}": 40.0 for user in range(6)}
    goodput = Goodput()
    take(goodput, [look(float(n), every, {}) for n in range(2)])
    less = every | {"u1": 1.0, "u2": 1.0}
    assert take(goodput, [look(float(n), less, {"s": 100.0}) for n in range(2, 5)])[-1]


def test_who_leaves_takes_nothing_from_those_who_stay() -> None:
    every = {f"u{user}": 40.0 for user in range(6)}
    stay = {"u0": 40.0, "u1": 4.0, "u2": 4.0}
    goodput = Goodput()
    looks = [look(float(n), every | dict.fromkeys(("u1", "u2"), 4.0), {}) for n in range(CALM)]
    looks += [look(float(n), stay, {}) for n in range(CALM, CALM + 20)]
    assert not any(take(goodput, looks))


def test_what_stays_less_can_be_resigned_to() -> None:
    goodput = Goodput()
    take(goodput, [look(float(n), {"u": 40.0}, {}) for n in range(CALM)])
    less = [look(float(n), {"u": 10.0}, {}) for n in range(CALM, CALM + 30)]
    take(goodput, less)
    assert goodput.suffers is not None
    goodput.resign()
    assert goodput.usual_kb_s == 10.0
    assert goodput.restored()
    take(goodput, [look(CALM + 30.0, {"u": 10.0}, {})])
    assert goodput.suffers is None


def test_who_comes_is_served_like_a_user_only_from_its_second_look_on() -> None:
    goodput = Goodput()
    take(goodput, [look(float(n), {"u": 40.0}, {}) for n in range(CALM)])
    take(goodput, [look(float(CALM), {"u": 40.0, "new": 30.0}, {})])
    assert [*goodput.served] == ["u"]
    take(goodput, [look(CALM + 1.0, {"u": 40.0, "new": 30.0}, {})])
    assert [*goodput.served] == ["u", "new"]


def crowd(
    theirs: float, users_get: float, goodput: Goodput | None = None
) -> tuple[list[str], float]:
    """Return what is found of 20 that come to a link of 1,000 KB/s with 4 users of 100 KB/s."""
    goodput = goodput or Goodput()
    users = {f"u{number}": 100.0 for number in range(4)}
    take(goodput, [look(float(n), users, {}) for n in range(CALM)])
    sent = dict.fromkeys(users, users_get) | {f"c{number}": theirs for number in range(20)}
    for _ in range(2):
        assert goodput.crowding(0.0, sent, users, sent, 1000.0) == ([], 0.0), "it may be chance"
    return goodput.crowding(0.0, sent, users, sent, 1000.0)


def test_who_gives_users_no_way_is_found_with_what_they_leave() -> None:
    came, rest_kb_s = crowd(45.0, 20.0)
    assert came == [f"c{number}" for number in range(20)]
    assert rest_kb_s == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("theirs", "users_get"), [(42.0, 40.0), (100.0, 55.0), (200.0, 95.0), (8.0, 5.0)]
)
def test_a_crowd_that_gives_way_or_takes_little_is_none(theirs: float, users_get: float) -> None:
    assert crowd(theirs, users_get) == ([], 0.0)


@pytest.mark.parametrize(("give_way", "found"), [(8, []), (3, [f"c{n}" for n in range(20)])])
def test_of_those_who_come_one_by_one_those_who_had_time_to_give_way_are_judged(
    give_way: int, found: list[str]
) -> None:
    """Fewer of them are no crowd: sources that change their addresses come one by one, too."""
    goodput = Goodput()
    users = {f"u{number}": 100.0 for number in range(4)}
    take(goodput, [look(float(n), users, {}) for n in range(CALM)])
    stayed = {f"c{number}": 20.0 for number in range(give_way)}
    came = {f"c{number}": 60.0 for number in range(give_way, 20)}
    sent = dict.fromkeys(users, 20.0) | stayed | came
    for _ in range(3):
        crowding, _ = goodput.crowding(0.0, sent, users, {*users, *stayed}, 1000.0)
    assert crowding == found


@pytest.mark.parametrize("each", [60.0, 80.0])
def test_connections_that_send_far_more_than_a_link_carries_give_no_way(each: float) -> None:
    """Whoever uses it, and whether anybody is known who did before."""
    goodput, flood = Goodput(), {f"c{number}": each for number in range(20)}
    take(goodput, [look(float(n), flood, {}) for n in range(2)])
    assert "c0" in goodput.served, "it is answered, and nobody else is"
    sent, fresh = flood | {"u0": 10.0}, {f"u{number}": 100.0 for number in range(1, 10)}
    found = [goodput.overrunning(0.0, sent | fresh, sent, 1000.0) for _ in range(3)]
    assert found == [{}, {}, flood if each > 70 else {}], "who has just come is not counted"
    assert ("c0" in goodput.served) is not bool(found[-1])
    goodput.overrunning(0.0, {"u0": 10.0}, sent, 1000.0)
    assert goodput.overrunning(0.0, sent, sent, 1000.0) == {}, "it takes looks in a row"


def test_who_gave_users_no_way_is_no_user_for_fifteen_minutes() -> None:
    goodput = Goodput()
    crowd(45.0, 20.0, goodput)
    got = {f"u{number}": 100.0 for number in range(4)} | {"c0": 20.0}
    take(goodput, [look(at, got, {}) for at in (100.0, 102.0, 898.0)])
    assert "c0" not in goodput.served
    take(goodput, [look(at, got, {}) for at in (902.0, 904.0, 906.0)])
    assert "c0" in goodput.served
    assert not goodput.crowd


def test_much_that_grows_is_not_familiar_though_users_are_served_beside_it() -> None:
    """A swarm that fills a link slowly, and a feed that comes and stays as it is."""
    users = {"one": 20.0, "two": 20.0}
    swarm = [0.0] * CALM + [200.0, 1_250.0, 2_000.0, 2_700.0, 3_000.0, 3_000.0]
    feed = [0.0] * CALM + [500.0] * 12
    grows, stays = Goodput(), Goodput()
    for goodput, sent in (grows, swarm), (stays, feed):
        come = ({"s": kb_s} if kb_s else {} for kb_s in sent)
        take(goodput, (look(float(at), users, one_way) for at, one_way in enumerate(come)))
    assert grows.is_new("s", 3_000.0)
    assert not stays.is_new("s", 500.0)


def test_who_got_most_is_known_again_with_what_is_usual() -> None:
    goodput, again = Goodput(), Goodput()
    users = {f"u{number}": float(number) for number in range(1, 301)}
    take(goodput, [look(float(n), users, {}) for n in range(CALM)])
    most = goodput.most()
    assert {source for source, _ in most} == {f"u{number}" for number in range(101, 301)}
    again.recall(goodput.usual, most)
    assert again.usual_kb_s == goodput.usual_kb_s
    few = {f"u{number}": 1.0 for number in range(101, 301)} | {"flood": 5_000.0}
    again.asking = {"flood": 20.0, "u300": -1e9}
    take(again, [look(20.0 + n, few, {}) for n in range(3)])
    assert again.hurt(23.0), "the flood is none of the users"
    assert "flood" not in again.served
    assert "u300" in again.served


def test_what_users_lacked_while_an_attack_was_held_off_is_no_chance() -> None:
    users = {f"u{user}": 30.0 for user in range(5)}
    some = users | {"u0": 3.0, "u1": 3.0}
    first = [look(float(n), users, {}) for n in range(CALM)]
    known = {"explained": True, "attacked": True, "recent": True, "wary": True}
    beside = [replace(look(CALM + n, some, {"s": 3e3}), **known) for n in range(3)]
    held = [replace(look(CALM + 3.0 + n, users, {}), recent=True, wary=True) for n in range(15)]
    again = [replace(look(CALM + 18.0 + n, some, {"t": 3e3}), recent=True) for n in range(4)]
    hurt = take(Goodput(), [*first, *beside, *held, *again])
    assert not any(hurt[CALM + 4 : CALM + 18])
    assert hurt[-1], "two of five users lack nine tenths"


@pytest.mark.parametrize(("sources", "strange"), [(1, False), (200, True)])
def test_a_known_source_may_send_more_by_chance_and_many_at_once_do_not(
    sources: int, strange: bool
) -> None:
    """Each sends 4 KB/s, and in the last look 8: one does so in one look of 20, 200 in none."""
    users, goodput = {f"u{n}": 100.0 for n in range(5)}, Goodput()
    feeds = {f"s{n}": 4.0 for n in range(sources)}
    take(goodput, (look(float(now), users, feeds) for now in range(CALM)))
    goodput.see(look(float(CALM), users, dict.fromkeys(feeds, 8.0)), RESIGNED_S)
    assert goodput.is_new("s0", 8.0) == strange
    assert goodput.is_new("s0", 12.0)
    assert goodput.is_new("another", 1.0)
