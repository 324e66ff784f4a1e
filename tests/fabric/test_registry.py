"""The registry on virtual time: leases, clocks that disagree, cuts, restarts, impostors."""

from __future__ import annotations

import random

import pytest
from fabric_lab import DOMAIN, Lab, OffClock, registration
from hypothesis import given
from hypothesis import strategies as st
from tests.nightly import at_night, sample
from tests.one_line import taken_or_refused

from phalanx.bus.client import NotPermittedError
from phalanx.bus.subjects import REGISTRY, token
from phalanx.fabric.directory import (
    GONE_LEASES,
    Directory,
    RegistryChange,
    RegistryEntry,
    RejectedEntry,
    find,
)
from phalanx.fabric.registration import (
    END_TO_END,
    Appraisal,
    Area,
    Health,
    HealthChecks,
    HealthStatus,
    Registration,
    RegistrationError,
    ServiceState,
    Tier,
    decode,
    encode,
)
from phalanx.fabric.registry import CROWD, RENEWALS, Registrar, Registry
from phalanx.identity.names import Identity, Role

LEASE = 6.0


@pytest.fixture
def registry(lab: Lab) -> Registry:
    return Registry(lab.join("watcher", Role.OBSERVER), lab.clock)


def serve(lab: Lab, name: str, **fields: object) -> Registrar:
    exchange = lab.join(name)
    registrar = Registrar(
        exchange,
        lab.clock,
        registration(name, lease_s=LEASE, state=ServiceState.SERVING, **fields),
        Registry(exchange, lab.clock),
    )
    registrar.start()
    return registrar


def states(registry: Registry) -> dict[str, str]:
    return {entry.owner: entry.state.value for entry in registry.entries()}


def test_a_service_is_seen_and_stays_while_it_is_renewed(lab: Lab, registry: Registry) -> None:
    serve(lab, "pop1", capabilities=("classifier",))
    changes: list[RegistryChange] = []
    registry.watch(changes.append)
    lab.run(20 * LEASE)
    assert states(registry) == {"pop1": "serving"}
    assert [(c.before is None, c.entry.confirmed) for c in changes] == [
        (True, False),
        (False, True),
    ]
    entry = registry.get("pop1")
    assert entry is not None
    assert entry.registration.capabilities == ("classifier",)
    assert entry.trust.tier is Tier.UNATTESTED
    assert 0 < entry.lease_left_s(lab.clock.now()) <= LEASE


def test_a_service_that_falls_silent_is_stale_then_gone_then_forgotten(lab: Lab) -> None:
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock, forget_s=100)
    serve(lab, "pop1")
    lab.run(2 * LEASE)
    lab.hub.kill(Identity("pop1", Role.AGENT, DOMAIN))
    heard = registry.entries()[0].heard
    lab.clock.run(until=heard + LEASE - 0.01)
    assert states(registry) == {"pop1": "serving"}
    lab.clock.run(until=heard + LEASE)
    assert states(registry) == {"pop1": "stale"}
    assert registry.entries()[0].lease_left_s(lab.clock.now()) == 0
    lab.clock.run(until=heard + GONE_LEASES * LEASE)
    assert states(registry) == {"pop1": "gone"}
    lab.run(100)
    assert states(registry) == {}


def test_who_withdraws_has_left_at_once(lab: Lab, registry: Registry) -> None:
    registrar = serve(lab, "pop1")
    lab.run(1)
    registrar.update(state=ServiceState.DRAINING)
    lab.run(1)
    assert states(registry) == {"pop1": "draining"}
    registrar.withdraw()
    registrar.withdraw()
    lab.run()
    assert states(registry) == {"pop1": "left"}
    lab.run(10 * LEASE)
    assert states(registry) == {"pop1": "left"}
    assert not registrar.active


@pytest.mark.parametrize("off_s", [-300.0, 300.0])
def test_clocks_five_minutes_apart_make_no_difference(off_s: float) -> None:
    lab = Lab()
    off = OffClock(lab.clock, off_s)
    registry = Registry(lab.join("watcher", Role.OBSERVER), off)
    other = Registry(lab.join("pop2"), lab.clock)
    registrar = Registrar(
        lab.join("pop1"),
        OffClock(lab.clock, -off_s),
        registration("pop1", lease_s=LEASE, state=ServiceState.SERVING),
        other,
    )
    registrar.start()
    for _ in range(20):
        lab.run(LEASE)
        assert states(registry) == states(other) == {"pop1": "serving"}
    lab.hub.kill(Identity("pop1", Role.AGENT, DOMAIN))
    lab.run(LEASE)
    assert states(registry) == states(other) == {"pop1": "stale"}


def test_a_watcher_that_comes_late_does_not_take_the_dead_for_living(lab: Lab) -> None:
    serve(lab, "pop1")
    serve(lab, "pop2")
    lab.run(1)
    lab.hub.kill(Identity("pop1", Role.AGENT, DOMAIN))
    lab.run(1000)
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock)
    lab.run(LEASE / 2)
    assert [entry.confirmed for entry in registry.entries()] == [False, True]
    assert not registry.settled
    lab.run(LEASE)
    assert states(registry) == {"pop1": "stale", "pop2": "serving"}
    assert registry.settled


def test_two_of_three_renewals_may_be_lost() -> None:
    now = 0.0
    directory = Directory()
    for beat in range(1, 100):
        if beat % 3 == 0:
            directory.take("pop1", encode(registration("pop1", beat=beat, lease_s=LEASE)), now)
        changes = directory.tick(now)
        if beat > 3:
            assert not changes
        now += LEASE / 3 - 0.001


def test_a_split_makes_others_stale_but_not_gone_and_heals(lab: Lab) -> None:
    watcher = Identity("watcher", Role.OBSERVER, DOMAIN)
    registry = Registry(lab.hub.join(watcher), lab.clock)
    serve(lab, "pop1")
    lab.run(2 * LEASE)
    lab.hub.lose(watcher)
    lab.run(50 * LEASE)
    assert states(registry) == {"pop1": "stale"}
    seen: list[ServiceState] = []
    registry.watch(lambda change: seen.append(change.entry.state))
    lab.hub.regain(watcher)
    lab.run(LEASE)
    assert states(registry) == {"pop1": "serving"}
    assert ServiceState.GONE not in seen


def test_an_owner_that_is_cut_off_is_back_as_soon_as_it_is_connected(
    lab: Lab, registry: Registry
) -> None:
    registrar = serve(lab, "pop1")
    owner = Identity("pop1", Role.AGENT, DOMAIN)
    lab.run(LEASE)
    lab.hub.lose(owner)
    beat = registrar.registration.beat
    lab.run(GONE_LEASES * LEASE)
    assert states(registry) == {"pop1": "gone"}
    assert registrar.registration.beat == beat  # what cannot go out is not piled up
    lab.hub.regain(owner)
    lab.run()
    assert states(registry) == {"pop1": "serving"}


def test_a_higher_incarnation_wins_and_an_earlier_one_is_refused() -> None:
    refused: list[RejectedEntry] = []
    lab = Lab()
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock, on_refused=refused.append)
    serve(lab, "pop1", incarnation=2)
    lab.run(1)
    lab.hub.kill(Identity("pop1", Role.AGENT, DOMAIN))
    again = lab.join("pop1")
    again.put(
        REGISTRY, "pop1", encode(registration("pop1", 1, beat=99, state=ServiceState.SERVING))
    )
    lab.run()
    assert registry.entries()[0].registration.incarnation == 2
    assert [one.reason for one in refused] == ["outdated"]
    again.put(REGISTRY, "pop1", encode(registration("pop1", 3, state=ServiceState.STARTING)))
    lab.run()
    entry = registry.entries()[0]
    assert (entry.registration.incarnation, entry.state) == (3, ServiceState.STARTING)


def test_a_second_process_under_the_same_identity_ends_the_first_one_s_entry(lab: Lab) -> None:
    superseded: list[Registration] = []
    exchange = lab.join("pop1")
    first = Registrar(
        exchange,
        lab.clock,
        registration("pop1", 1, lease_s=LEASE, state=ServiceState.SERVING),
        Registry(exchange, lab.clock),
        on_superseded=superseded.append,
    )
    first.start()
    lab.run(LEASE)
    lab.join("pop1").put(
        REGISTRY, "pop1", encode(registration("pop1", 2, state=ServiceState.SERVING))
    )
    lab.run(LEASE)
    assert not first.active
    assert [one.incarnation for one in superseded] == [2]
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock)
    lab.run()
    assert registry.entries()[0].registration.incarnation == 2


def crowd(lab: Lab, registry: Registry, size: int, **fields: object) -> list[Registrar]:
    """Have so many agents, which share what they know of each other."""
    registrars = [
        Registrar(
            lab.join(f"pop{number}"),
            lab.clock,
            registration(f"pop{number}", lease_s=LEASE, state=ServiceState.SERVING),
            registry,
            **fields,  # type: ignore[arg-type]  # tests know
        )
        for number in range(size)
    ]
    for number, registrar in enumerate(registrars):
        lab.clock.call_at(LEASE * number / size, registrar.start)
    return registrars


class Heard:
    """Counts what a watcher of the table is told."""

    def __init__(self, lab: Lab) -> None:
        self.count = 0
        lab.join("counter", Role.OBSERVER).watch(REGISTRY, self._told)

    def _told(self, _key: str, _value: bytes | None) -> None:
        self.count += 1

    def since(self, lab: Lab, for_s: float) -> int:
        before = self.count
        lab.run(for_s)
        return self.count - before


@pytest.mark.parametrize("size", sample([CROWD, CROWD // 2, 4 * CROWD, 10 * CROWD], 4))
def test_who_watches_hears_no_more_of_many_agents_than_of_few(
    lab: Lab, registry: Registry, size: int
) -> None:
    crowd(lab, registry, size)
    heard = Heard(lab)
    lab.run(60 * LEASE)
    lease_s = LEASE * max(1.0, size / CROWD)
    assert {entry.registration.lease_s for entry in registry.entries()} == {lease_s}
    per_lease = heard.since(lab, 60 * LEASE) / 60
    assert per_lease <= 1.5 * RENEWALS * CROWD  # renewals are spread, and so a little early
    assert set(states(registry).values()) == {"serving"}
    lab.hub.kill(Identity("pop1", Role.AGENT, DOMAIN))
    lab.run(lease_s)
    assert {owner for owner, state in states(registry).items() if state == "stale"} == {"pop1"}


@at_night
def test_of_many_agents_a_change_of_health_is_told_as_soon_as_of_few(
    lab: Lab, registry: Registry
) -> None:
    ill: list[Health] = [Health()]
    crowd(lab, registry, 10 * CROWD, health=lambda: ill[-1])
    lab.run(60 * LEASE)
    ill.append(Health(HealthStatus.FAILING, ("the disk is full",)))
    lab.run(LEASE / RENEWALS)
    assert {e.registration.health.status for e in registry.entries()} == {HealthStatus.FAILING}


@at_night
def test_after_a_short_cut_only_what_is_due_is_renewed(lab: Lab, registry: Registry) -> None:
    size = 10 * CROWD
    crowd(lab, registry, size)
    heard = Heard(lab)
    lab.run(60 * LEASE)
    agents = [Identity(f"pop{number}", Role.AGENT, DOMAIN) for number in range(size)]
    for agent in agents:
        lab.hub.lose(agent)
    lab.run(LEASE / RENEWALS)
    for agent in agents:
        lab.hub.regain(agent)
    assert 0 < heard.since(lab, LEASE / RENEWALS) < size / 2
    lab.run(GONE_LEASES * LEASE)
    assert set(states(registry).values()) == {"serving"}


def test_leases_of_services_that_are_no_agents_stay_short(lab: Lab, registry: Registry) -> None:
    crowd(lab, registry, 4 * CROWD)
    network = Registration("net", Role.NETWORK, 1, state=ServiceState.SERVING, lease_s=LEASE)
    Registrar(lab.join("net", Role.NETWORK), lab.clock, network, registry).start()
    lab.run(20 * LEASE)
    found = registry.get("net")
    assert found is not None
    assert found.registration.lease_s == LEASE


def test_nobody_can_write_another_s_entry(lab: Lab, registry: Registry) -> None:
    serve(lab, "pop1")
    for name, role in (("evil", Role.AGENT), ("eve", Role.OPERATOR), ("net", Role.NETWORK)):
        exchange = lab.join(name, role)
        with pytest.raises(NotPermittedError):
            exchange.put(REGISTRY, token("pop1"), encode(registration("pop1", 9)))
        with pytest.raises(NotPermittedError):
            exchange.drop(REGISTRY, token("pop1"))
    with pytest.raises(NotPermittedError):
        lab.join("guest", Role.OBSERVER).put(REGISTRY, "guest", b"")
    with pytest.raises(ValueError, match=r"agent 'evil2' cannot register agent 'pop1'"):
        Registrar(lab.join("evil2"), lab.clock, registration("pop1"), registry)


def test_an_entry_that_names_another_or_nothing_is_refused(lab: Lab) -> None:
    refused: list[RejectedEntry] = []
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock, on_refused=refused.append)
    evil = lab.join("evil")
    evil.put(REGISTRY, "evil", encode(registration("pop1")))
    lab.run()
    evil.put(REGISTRY, "evil", b"\xff\xfe garbage")
    lab.run()
    assert registry.entries() == ()
    assert [(one.owner, one.reason) for one in refused] == [
        ("evil", "impostor"),
        ("evil", "unreadable"),
    ]
    assert registry.directory.refused == {"impostor": 1, "unreadable": 1}


def test_nobody_makes_itself_trusted(lab: Lab) -> None:
    plain = Registry(lab.join("one", Role.OBSERVER), lab.clock)
    judging = Registry(
        lab.join("two", Role.OBSERVER),
        lab.clock,
        appraise=lambda r: (
            Appraisal(Tier.AFFIRMING, "verifier") if r.attestation == "ok" else Appraisal()
        ),
    )
    serve(lab, "pop1", attestation="ok")
    lab.run()
    assert plain.entries()[0].trust == Appraisal()
    assert judging.entries()[0].trust.tier is Tier.AFFIRMING
    assert str(plain.entries()[0].trust).startswith("unattested: nobody has checked")


def test_health_checks_are_reported_with_their_reasons(lab: Lab) -> None:
    checks = HealthChecks()
    disk: list[str] = []
    checks.add("store", lambda: disk[0] if disk else None, HealthStatus.FAILING)
    checks.add("queue", lambda: "half full")
    registry = Registry(lab.join("watcher", Role.OBSERVER), lab.clock)
    Registrar(
        lab.join("pop1"), lab.clock, registration("pop1", lease_s=LEASE), registry, health=checks
    ).start()
    lab.run()
    assert registry.entries()[0].registration.health == Health(
        HealthStatus.DEGRADED, ("queue: half full",)
    )
    disk.append("the disk is full")
    lab.run(LEASE)
    health = registry.entries()[0].registration.health
    assert health.status is HealthStatus.FAILING
    assert health.reasons == ("store: the disk is full", "queue: half full")
    with pytest.raises(ValueError, match="already"):
        checks.add("queue", lambda: None)


def test_an_owner_cannot_say_what_only_a_watcher_finds() -> None:
    for state in (ServiceState.GONE, ServiceState.LEFT, ServiceState.STALE):
        with pytest.raises(ValueError, match="cannot be declared"):
            registration("pop1", state=state)
        value = encode(registration("pop1")).replace(b'"starting"', f'"{state.value}"'.encode())
        with pytest.raises(RegistrationError):
            decode(value)


def test_bounds_are_kept_at_the_door() -> None:
    with pytest.raises(RegistrationError):
        encode(registration("pop1", lease_s=1e9))
    with pytest.raises(RegistrationError):
        encode(registration("", lease_s=5))
    with pytest.raises(RegistrationError, match="at most"):
        decode(b" " * 100_000)


@given(st.binary(max_size=200))
def test_any_octets_are_a_registration_or_one_line(octets: bytes) -> None:
    taken_or_refused(RegistrationError, lambda: decode(octets))


STEPS = st.tuples(
    st.sampled_from((0.0, 0.5, 1.9, 2.0, 7.0)),
    st.sampled_from("abc"),
    st.sampled_from(("renew", "renew", "repeat", "old", "drop", "cut", "regain", "wait")),
)


@given(st.lists(STEPS, max_size=60))
def test_nobody_is_available_without_a_new_value_within_its_lease(
    steps: list[tuple[float, str, str]],
) -> None:
    directory = Directory(forget_s=30)
    now, beats = 0.0, dict.fromkeys("abc", 1)
    fresh: dict[str, float] = {}
    for pause, owner, what in steps:
        now += pause
        directory.tick(now)
        known = directory.get(owner)
        beats[owner] += what == "renew"
        if what in ("renew", "repeat", "old"):
            beat = beats[owner] - (what == "old")
            value = registration(owner, beat=beat, lease_s=2, state=ServiceState.SERVING)
            if known is None or known.state is ServiceState.LEFT or beat > known.registration.beat:
                fresh[owner] = now
            directory.take(owner, encode(value), now)
        elif what == "drop":
            directory.take(owner, None, now)
        elif what != "wait":
            directory.link(what == "regain", now)
        directory.tick(now)
        for entry in directory.entries():
            assert not entry.available or now < fresh[entry.owner] + 2
        due = directory.next_timer()
        assert due is None or due > now


# -- who is found, in which order -------------------------------------------------------------


EDGE = Area(domain="edge")
VIDEO = Area(domain="edge", slice="video")
CACHE = Area(domain="edge", slice="video", function="cache")


def entry(owner: str, trust: Tier = Tier.UNATTESTED, **fields: object) -> RegistryEntry:
    state = fields.setdefault("state", ServiceState.SERVING)
    assert isinstance(state, ServiceState)
    return RegistryEntry(registration(owner, **fields), state, 0.0, True, Appraisal(trust))


def names(entries: list[RegistryEntry], *wanted: str, **fields: Area) -> list[str]:
    return [found.owner for found in find(entries, *wanted, **fields)]  # type: ignore[arg-type]


def test_by_capability() -> None:
    known = [
        entry("a", capabilities=("classifier",)),
        entry("b", capabilities=("limiter", "classifier")),
    ]
    assert names(known, "classifier") == ["a", "b"]
    assert names(known, "limiter") == ["b"]
    assert names(known, "class") == []


def test_by_the_area_that_contains_it_narrowest_first() -> None:
    known = [
        entry("all", area=END_TO_END),
        entry("edge", area=EDGE),
        entry("video", area=VIDEO),
        entry("cache", area=CACHE),
        entry("other", area=Area(domain="edge", slice="voice")),
    ]
    assert names(known, area=VIDEO) == ["video", "edge", "all"]
    assert names(known, area=CACHE) == ["cache", "video", "edge", "all"]
    assert names(known, area=END_TO_END) == ["all"]


def test_what_is_not_to_be_called_is_left_out_and_the_trusted_come_first() -> None:
    known = [
        entry("plain"),
        entry("good", Tier.AFFIRMING),
        entry("bad", Tier.CONTRAINDICATED),
        entry("sick", health=Health(HealthStatus.FAILING, ("no disk",))),
        entry("ending", state=ServiceState.DRAINING),
    ]
    assert names(known) == ["good", "plain"]


def test_the_best_comes_first() -> None:
    known = [
        entry("d", load=0.1, health=Health(HealthStatus.DEGRADED, ("slow",))),
        entry("c"),
        entry("b", load=0.9),
        entry("a", load=0.9),
        entry("e", load=0.2),
    ]
    assert names(known) == ["e", "a", "b", "c", "d"]


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_the_order_depends_on_nothing_else(order: list[int], seed: int) -> None:
    draw = random.Random(seed)
    known = [
        entry(
            f"pop{i}",
            draw.choice(list(Tier)[1:]),
            load=draw.choice((None, 0.1, 0.5)),
            area=draw.choice((END_TO_END, EDGE, VIDEO)),
        )
        for i in range(8)
    ]
    assert find([known[i] for i in order]) == find(known)


PART = st.sampled_from(("", "a", "b"))
SCOPES = st.builds(Area, domain=PART, slice=PART, subslice=PART, function=PART)


@given(SCOPES, SCOPES, SCOPES)
def test_containment_of_scopes_is_an_order(a: Area, b: Area, c: Area) -> None:
    assert a.contains(a)
    assert END_TO_END.contains(a)
    assert not (a.contains(b) and b.contains(a)) or a == b
    assert not (a.contains(b) and b.contains(c)) or a.contains(c)
    assert not a.contains(b) or a.depth <= b.depth


def test_scopes_as_text() -> None:
    assert [str(s) for s in (END_TO_END, EDGE, CACHE)] == [
        "end-to-end",
        "domain:edge",
        "domain:edge/slice:video/function:cache",
    ]
    assert [s.level for s in (END_TO_END, VIDEO, CACHE)] == ["end-to-end", "slice", "function"]
