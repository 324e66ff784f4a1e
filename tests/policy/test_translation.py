"""What intents come to: rules that mean what the intents say, terms, and what cannot be met."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import convert, json
from msgspec.structs import replace

from phalanx.policy.intents import AccessIntent, IntentError, IntentSet, IsolationIntent, named
from phalanx.policy.language import parse_page
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyPacket,
    PolicyVerdict,
    RuleSchedule,
    decide,
)
from phalanx.policy.ssla import Remediation, SecurityMetric
from phalanx.policy.translation import (
    FunctionFigures,
    LinkFigures,
    SliceFigures,
    Surroundings,
    compile_intents,
    intents_of,
    merged,
    without,
)
from tests.nightly import at_night, examples
from tests.policy.intent_values import MEMBERS, accesses, isolations, rates, schedules

MANY = settings(max_examples=examples(20), suppress_health_check=list(HealthCheck), deadline=None)
HAVE = "cameras have the addresses 10.1.0.0/16. servers have the addresses 10.2.0.0/24. "
HAVE += "sensors have the addresses 10.3.0.0/16. "
HERE = Surroundings(
    slices={
        "cameras": SliceFigures(("10.1.0.1",), ("edge", "core"), {"gnb-1": "edge"}),
        "meters": SliceFigures(("10.4.0.1",), ("core",)),
        "parted": SliceFigures(("10.5.0.1",), ("core", "island")),
    },
    pops={"edge": "DE", "core": "SE", "island": ""},
    links=(
        LinkFigures(("edge", "mid"), 0.001),
        LinkFigures(("mid", "core"), 0.001),
        LinkFigures(("edge", "core"), 0.5),
    ),
    functions={
        "firewall": FunctionFigures(100, 1.0),
        "gateway": FunctionFigures(500, 3.0),
        "service-replica": FunctionFigures(20, 2.0),
    },
    reach_mb_s={"edge": 50.0, "core": 100.0},
    change_s=0.5,
    notice_s=7.0,
    analysis_s=1.0,
)


def compiled(text: str, around: Surroundings | None = None) -> PolicyPlan:
    slices = None if around is None else around.slices
    return compile_intents(parse_page(text, "city.txt", slices), around)


# An independent reading of the intents: sets of addresses as numbers, minute by minute.


def within(address: str, things: tuple[str, ...]) -> bool:
    prefixes = [p for each in things for p in MEMBERS.get(each, (each,))]
    return any(ip_address(address) in ip_network(each) for each in prefixes)


def holds(schedule: RuleSchedule, minute: int) -> bool:
    day, at = divmod(minute, 1440)
    on = lambda which: not schedule.days or which % 7 in schedule.days  # noqa: E731
    if schedule.start < schedule.end:
        return on(day) and schedule.start <= at < schedule.end
    return (on(day) and at >= schedule.start) or (on(day - 1) and at < schedule.end)


def about(intent: Any, packet: PolicyPacket) -> bool:
    """Whether a packet is for the targets and one of the services."""
    served = not intent.services or any(
        PROTOCOL_NUMBERS[s.protocol] == packet.protocol
        and (not s.ports or any(p.first <= packet.port <= p.last for p in s.ports))
        for s in intent.services
    )
    return served and within(packet.target, intent.targets)


def may_pass(intent: Any, packet: PolicyPacket) -> bool:
    """Whether an intent lets a packet pass."""
    match intent:
        case IsolationIntent():
            if not within(packet.target, (intent.slice,)) or within(packet.source, intent.allowed):
                return True
            if Remediation.REJECT not in (intent.remediation or (Remediation.REJECT,)):
                return True
            own = within(packet.source, (intent.slice,))
            return not within(packet.source, intent.sources) if intent.sources else own
        case AccessIntent(effect="only"):
            allowed = within(packet.source, intent.sources) and holds(
                intent.schedule, packet.minute
            )
            return not about(intent, packet) or allowed
        case AccessIntent(effect="deny"):
            meant = about(intent, packet) and within(packet.source, intent.sources)
            return not (meant and holds(intent.schedule, packet.minute))
    return True


ADDRESSES = st.one_of(
    st.integers(0, 100).map(lambda n: f"10.1.0.{n}"),
    st.sampled_from(["192.0.2.7", "192.0.2.8", "2001:db8:1::3", "2001:db8::1", "2001:db9::1"]),
)
PACKETS = st.builds(
    PolicyPacket,
    source=ADDRESSES,
    target=ADDRESSES,
    protocol=st.sampled_from([1, 6, 17, 47, 89]),
    port=st.sampled_from([0, 80, 443, 65_535]),
    minute=st.integers(0, 7 * 1440 - 1),
)
TRAFFIC = st.one_of(isolations(plain=True), isolations(), accesses(), rates())


@MANY
@given(st.lists(TRAFFIC, min_size=1, max_size=3), st.lists(PACKETS, min_size=20, max_size=40))
def test_rules_decide_as_the_intents_say(drawn: list[Any], packets: list[PolicyPacket]) -> None:
    intents = IntentSet(name="x", intents=tuple(named(drawn)), members=MEMBERS)
    try:
        plan = compile_intents(intents)
    except IntentError:
        return
    rules = plan.members.resolve(plan.rules)
    for packet in packets:
        action, rule = decide(rules, packet)
        refusing = {each.name for each in intents.intents if not may_pass(each, packet)}
        assert (action.verdict is PolicyVerdict.PERMIT) == (not refusing)
        if refusing:
            assert rule is not None
            assert rule.intent in refusing  # the intent that is named is one that refuses
            continue
        limits = [
            each.at_most_mb_s
            for each in intents.intents
            if hasattr(each, "at_most_mb_s")
            and about(each, packet)
            and within(packet.source, each.sources)
        ]
        assert action.rate_mb_s == min(limits, default=None)
        for each in intents.intents:  # what was said to pass was not taken away by another
            if isinstance(each, AccessIntent) and each.effect == "permit" and about(each, packet):
                assert not refusing


@MANY
@given(
    accesses().filter(lambda each: each.effect != "deny"),
    st.one_of(isolations(plain=True), accesses().filter(lambda each: each.effect != "permit")),
    st.lists(PACKETS, min_size=60, max_size=80),
)
def test_two_intents_that_decide_otherwise_about_a_packet_contradict(
    permit: Any, other: Any, packets: list[PolicyPacket]
) -> None:
    intents = IntentSet(name="x", intents=tuple(named([permit, other])), members=MEMBERS)
    disputed = [
        each
        for each in packets
        if about(permit, each)
        and within(each.source, permit.sources)
        and holds(permit.schedule, each.minute)
        and not may_pass(other, each)
    ]
    if disputed:
        with pytest.raises(IntentError, match=r"contradicts|cannot be met"):
            compile_intents(intents)


@settings(max_examples=examples(8), deadline=None)
@given(schedules())
def test_only_in_a_schedule_is_never_at_other_times(schedule: RuleSchedule) -> None:
    only = AccessIntent(
        name="x", effect="only", sources=("servers",), targets=("cameras",), schedule=schedule
    )
    plan = compile_intents(IntentSet(name="x", intents=(only,), members=MEMBERS))
    assert convert(json.decode(json.encode(plan)), PolicyPlan) == plan  # the schema has it
    rules = plan.members.resolve(plan.rules)
    edges = (schedule.start - 1, schedule.start, schedule.end - 1, schedule.end % 1440)
    for minute in [day * 1440 + at for day in range(7) for at in edges]:
        packet = PolicyPacket("10.1.0.64", "10.1.0.1", minute=minute % 10_080)
        passed = decide(rules, packet)[0].verdict is PolicyVerdict.PERMIT
        assert passed == holds(schedule, packet.minute)
        other = replace(packet, source="10.1.0.40")
        assert decide(rules, other)[0].verdict is PolicyVerdict.DENY


def test_terms_and_rules_bear_the_name_of_their_intent() -> None:
    plan = compiled(
        f"{HAVE}cameras is isolated from every other slice except servers; encrypted; patches"
        " within 24 h, or else notify, and each breach longer than 1 h costs 5 %"
    )
    isolation, clear, patch = plan.agreements[0].terms
    assert (isolation.metric, isolation.objective) == (SecurityMetric.FOREIGN_SOURCES, 0.0)
    assert isolation.allowed == ("10.2.0.0/24",)
    assert Remediation.REJECT in isolation.remediation
    assert clear.remediation[-1] is Remediation.ENCRYPT
    assert (patch.objective, patch.remediation) == (86_400.0, (Remediation.NOTIFY,))
    assert patch.penalty is not None
    assert (patch.penalty.credit, patch.penalty.after_s) == (0.05, 3600.0)
    assert {rule.intent for rule in plan.rules.rules} == {"cameras-isolation", "cameras-encryption"}
    assert intents_of(plan) == ["cameras-isolation", "cameras-encryption", "cameras-patch"]


def test_what_a_slice_is_not_isolated_from_is_allowed_in_its_term() -> None:
    plan = compiled(HAVE + "cameras are isolated from sensors")
    allowed = [ip_network(each) for each in plan.agreements[0].terms[0].allowed]
    for address, so in (("10.2.255.255", True), ("10.3.0.0", False), ("10.3.255.255", False),
                        ("10.4.0.0", True), ("255.255.255.255", True), ("::1", True)):  # fmt: skip
        assert any(ip_address(address) in each for each in allowed) is so


@pytest.mark.parametrize("answer", ["", ", or else notify and encrypt", ", or else reject"])
def test_clear_text_is_denied_unless_a_breach_is_only_to_be_told(answer: str) -> None:
    assert not compiled(HAVE + "cameras are encrypted, or else notify and log").rules.rules
    plan = compiled(f"{HAVE}cameras are encrypted{answer}")
    rules = plan.members.resolve(plan.rules)
    for source, target in (("10.1.0.1", "192.0.2.1"), ("192.0.2.1", "10.1.0.1")):
        clear = PolicyPacket(source, target)
        assert decide(rules, clear)[0].verdict is PolicyVerdict.DENY
        assert decide(rules, replace(clear, encrypted=True))[0].verdict is PolicyVerdict.PERMIT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cameras are isolated. servers may reach cameras", "except from 10.2.0.0/24"),
        ("cameras are isolated. cameras may reach 192.0.2.1", "except from 192.0.2.1/32"),
        (
            "only servers may reach cameras on tcp port 443. sensors may reach cameras on tcp",
            "(sensors-to-cameras) contradicts",
        ),
        ("sensors may not reach cameras on weekends. sensors may reach cameras", "contradicts"),
        ("cameras stay in FI. cameras stay in SE", "contradicts"),
        ("meters are isolated", "what belongs to slice meters is not known; say"),
        (
            "meters have the addresses 10.1.0.0/30. meters are isolated",
            "10.1.0.0/30 is of cameras too",
        ),
    ],
)
def test_contradictions_are_refused_with_the_nearest(text: str, why: str) -> None:
    with pytest.raises(IntentError) as refused:
        compiled(HAVE + text)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "cameras are isolated except servers. servers may reach cameras",
        "only servers and sensors may reach cameras. sensors may reach cameras on tcp",
        "sensors may not reach cameras on weekends. sensors may reach cameras on weekdays",
        "sensors may not reach cameras on udp. sensors may reach cameras on tcp",
        "cameras stay in FI or SE. cameras stay in SE",
    ],
)
def test_what_can_hold_together_is_taken(text: str) -> None:
    compiled(HAVE + text)


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("cameras are 99.9 % available", "the best path from edge to core loses 0.1999 %"),
        ("parted is 1 % available", "no link leads from core to island"),
        (
            "meters stay in FI",
            "no PoP is known to stand in FI; the nearest is DE (edge), SE (core)",
        ),
        (
            "cameras stay in SE",
            "gnb-1 cannot be moved from edge, which is in DE; the nearest is SE or DE",
        ),
        ("cameras are encrypted", "nothing encrypts between edge and core"),
        ("cameras are deployed within 7 s", "it takes 5 s to download gateway, and 3 s to start"),
        ("cameras are patched within 7 s", "it takes 5 s to download gateway, and 3 s to start"),
        ("cameras are switched within 9 s", "it takes 7 s until a loss is noticed"),
        ("cameras are revoked within 100 ms", "a change takes 0.5 s"),
        ("cameras are reconfigured within 100 ms", "a change takes 0.5 s"),
        ("cameras are analysed every 10 ms", "traffic is read every 1 s"),
    ],
)
def test_what_cannot_be_met_is_refused_with_the_nearest_that_can(text: str, resource: str) -> None:
    with pytest.raises(IntentError) as refused:
        compiled(text, HERE)
    assert resource in str(refused.value)
    nearest = str(refused.value).split("; the nearest is ")[1]
    if " must " in nearest:
        compiled(nearest, HERE)


def test_a_remedy_that_places_an_unknown_function_is_refused_with_the_others() -> None:
    here = replace(HERE, functions={"firewall": FunctionFigures(100, 1.0)})
    with pytest.raises(IntentError, match="replicate places service-replica, which is not") as no:
        compiled("cameras are 99.8 % available", here)
    nearest = str(no.value).split("; the nearest is ")[1]
    term = compiled(nearest, here).agreements[0].terms[0]
    assert term.remediation == (Remediation.NOTIFY, Remediation.LOG)
    with pytest.raises(IntentError, match=r"or else notify$"):
        compiled("cameras stay in DE or SE, or else relocate", here)


def test_what_can_be_met_is_taken() -> None:
    for text in (
        "cameras are 99.8 % available; stay in DE or SE; patched within 8 s; switched within 10 s",
        "meters are encrypted; 100 % available; revoked within 1 s; analysed every 1 s",
    ):
        compiled(text, HERE)
    encrypting = replace(HERE, encrypts=("gateway",))
    compiled("cameras are encrypted", encrypting)
    assert compiled("cameras are isolated", HERE).rules.rules[0].match.source.outside == (
        "10.1.0.1/32",
    )


def test_plans_are_merged_and_parted_by_intent() -> None:
    first = compiled(
        HAVE + "cameras are isolated; patches within 24 h. servers may send 8 MB/s to cameras"
    )
    second = compiled(HAVE + "cameras are patched within 1 h. sensors may not reach servers")
    both = merged(first, second)
    assert intents_of(both) == ["cameras-isolation", "cameras-patch", "sensors-to-servers",
                                "servers-to-cameras"]  # fmt: skip
    patch = [x for x in both.agreements[0].terms if x.intent == "cameras-patch"]
    assert [each.objective for each in patch] == [3600.0]
    assert both.rules.rules[-1].action.verdict is PolicyVerdict.PERMIT
    left = without(both, ["cameras-patch", "cameras-isolation"])
    assert not left.agreements
    assert intents_of(left) == ["sensors-to-servers", "servers-to-cameras"]


@at_night
def test_many_addresses_are_counted_in_bounded_time() -> None:
    scattered = tuple(f"10.{n // 256}.{n % 256}.1" for n in range(12_000))
    intent = IsolationIntent(name="x", slice="a", sources=("b",))
    intents = IntentSet(name="x", intents=(intent,), members={"a": ("192.0.2.1",), "b": scattered})
    with pytest.raises(IntentError, match="prefixes; at most 10000 are allowed"):
        compile_intents(intents)
