"""Rules on packets: order, time, correlation, kinds of verdicts, and bounds."""

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.policy.mmt import MmtOperator, read_mmt
from phalanx.policy.mmt_expressions import MmtContext
from phalanx.policy.mmt_monitor import MmtMonitor
from tests.nightly import examples
from tests.policy.mmt_traffic import (
    counters,
    datagram,
    document,
    event,
    feed,
    monitor,
    operator,
    rule,
    segment,
)

MS = 0.001
ONE = event(1, "(udp.dest_port == 1)")
TWO = event(2, "(udp.dest_port == 2)")
SAME = event(2, "((udp.dest_port == 2) && (ip.src == ip.src.1))")


def on(*steps):
    """Return packets of ``(ms, port)`` or ``(ms, port, source)``."""
    return [(time * MS, datagram(port, *rest)) for time, port, *rest in steps]


def test_a_sequence_is_found_in_order_and_within_its_time_only():
    watch = monitor(rule("THEN", ONE, TWO, delay="0..10"))
    found = feed(watch, *on((0, 2), (1, 1), (11, 2)))
    assert [counters(v) for v in found] == [{1: 2, 2: 3}]
    assert (found[0].verdict, found[0].type, found[0].time_s) == ("detected", "attack", 0.011)
    assert feed(watch, *on((20, 1), (31, 2))) == []


@pytest.mark.parametrize(
    ("delay", "at", "found"),
    [
        ("0..5", 0, 1),
        ("0+..5", 0, 0),
        ("2..5", 1, 0),
        ("2..5", 2, 1),
        ("2+..5", 2, 0),
        ("0..5", 5, 1),
    ],
)
def test_delays_are_exact(delay, at, found):
    watch = monitor(rule("THEN", ONE, TWO, delay=delay))
    assert len(feed(watch, *on((100, 1), (100 + at, 2)))) == found


@pytest.mark.parametrize(
    ("units", "most", "seconds"),
    [
        ("mms", 7, 7e-6),
        ("ms", 7, 0.007),
        ("s", 7, 7),
        ("m", 7, 420),
        ("h", 2, 7_200),
        ("D", 1, 86_400),
    ],
)
def test_units_of_delays(units, most, seconds):
    text = rule("THEN", ONE, TWO, extra=f'delay_units="{units}" delay_max="{most}"')
    assert len(feed(monitor(text), (0, datagram(1)), (seconds, datagram(2)))) == 1
    assert not feed(monitor(text), (0, datagram(1)), (seconds + 2e-6, datagram(2)))


def test_events_are_correlated_by_what_they_share():
    watch = monitor(rule("THEN", ONE, SAME, delay="0..100"))
    found = feed(
        watch, *on((0, 1, "10.0.0.1"), (1, 1, "10.0.0.2"), (2, 2, "10.0.0.3"), (3, 2, "10.0.0.1"))
    )
    assert [counters(v) for v in found] == [{1: 1, 2: 4}]
    assert found[0].events[0].attributes == {"udp.dest_port": 1, "ip.src": "10.0.0.1"}


def test_a_packet_is_one_event_and_a_rule_gives_one_verdict_a_packet():
    any_two = event(2, "(udp.dest_port > 0)")
    watch = monitor(rule("THEN", event(1, "(udp.dest_port > 0)"), any_two, delay="0..100"))
    found = feed(watch, *on((0, 1), (1, 1), (2, 1)))
    assert [counters(v) for v in found] == [{1: 1, 2: 2}, {1: 2, 2: 3}]


def test_no_time_between_means_the_same_packet():
    watch = monitor(rule("THEN", event(1, "(udp.dest_port == 1)"), event(2, "(ip.src != ip.dst)")))
    assert [counters(v) for v in feed(watch, *on((0, 1)))] == [{1: 1, 2: 1}]
    assert not feed(watch, (1, datagram(1, "10.0.0.9")))


def test_a_single_event_needs_no_second():
    assert len(feed(monitor(rule("COMPUTE", ONE)), *on((0, 1), (1, 2), (2, 1)))) == 2


def test_a_packet_without_an_attribute_is_not_looked_at():
    watch = monitor(rule("COMPUTE", event(1, "(tcp.dest_port != 80)")))
    assert not feed(watch, *on((0, 1)))
    asked = monitor(
        rule("COMPUTE", event(1, "((ip.src != ip.dst) && (#is_exist(tcp.flags) == false))"))
    )
    assert len(feed(asked, *on((0, 1)), (1, segment(2)))) == 1


@pytest.mark.parametrize(
    ("kind", "followed", "missing"),
    [
        ("ATTACK", ["detected"], []),
        ("EVASION", ["detected"], []),
        ("SECURITY", [], ["not_respected"]),
        ("TEST", ["respected"], ["not_respected"]),
    ],
)
def test_kinds_of_rules(kind, followed, missing):
    watch = monitor(rule("THEN", ONE, TWO, delay="0..10", kind=kind))
    assert [v.verdict for v in feed(watch, *on((0, 1), (5, 2)))] == followed
    late = feed(watch, *on((100, 1), (150, 9)))
    assert [v.verdict for v in late] == missing
    assert [v.time_s for v in late] == [0.11] * len(missing)


def test_what_must_follow_in_the_same_packet_is_judged_by_packets_that_can_have_it():
    text = rule(
        "THEN", event(1, "(ip.src != ip.dst)"), event(2, "(udp.dest_port == 2)"), kind="SECURITY"
    )
    found = feed(monitor(text), *on((0, 2)), (1, segment(2)), *on((2, 1)))
    assert [(v.verdict, counters(v)) for v in found] == [("not_respected", {1: 3})]


def test_what_must_not_follow():
    watch = monitor(rule("NOT", ONE, TWO, delay="0..10"))
    assert not feed(watch, *on((0, 1), (5, 2), (50, 9)))
    assert not feed(watch, *on((100, 1)))
    assert [v.time_s for v in watch.advance(0.2)] == [0.11]
    strict = monitor(rule("NOT", ONE, TWO, delay="0..10", kind="SECURITY"))
    assert [counters(v) for v in feed(strict, *on((0, 1), (5, 2), (50, 1)))] == [{1: 1, 2: 2}]
    assert not strict.advance(1.0)


def test_what_follows_after_something_did_not():
    silence = operator("NOT", ONE, TWO, delay="0..10")
    watch = monitor(rule("THEN", silence, event(3, "(udp.dest_port == 3)"), delay="0..20"))
    assert [counters(v) for v in feed(watch, *on((0, 1), (25, 3)))] == [{1: 1, 3: 2}]
    assert not feed(watch, *on((100, 1), (105, 2), (115, 3), (200, 1), (231, 3)))


def test_what_must_be_before():
    watch = monitor(rule("BEFORE", ONE, TWO, delay="0..10", kind="SECURITY"))
    assert not feed(watch, *on((0, 2), (5, 1)))
    assert [counters(v) for v in feed(watch, *on((50, 1)))] == [{1: 3}]
    attack = monitor(
        rule(
            "BEFORE", event(1, "((udp.dest_port == 1) && (ip.src == ip.src.2))"), TWO, delay="0..10"
        )
    )
    assert [counters(v) for v in feed(attack, *on((0, 1), (1, 2), (2, 1)))] == [{1: 3, 2: 2}]


@pytest.mark.parametrize("ports", [(1, 2), (2, 1)])
def test_both_in_any_order(ports):
    watch = monitor(rule("AND", ONE, TWO, delay="0..10", kind="TEST"))
    found = feed(watch, *on((0, ports[0]), (5, ports[1])))
    assert [v.verdict for v in found] == ["respected"]
    assert not watch.advance(1.0)  # the second began nothing that is missed now


def test_one_or_the_other_every_time():
    watch = monitor(rule("OR", ONE, TWO))
    assert [counters(v) for v in feed(watch, *on((0, 1), (1, 3), (2, 2), (3, 1)))] == [
        {1: 1}, {2: 3}, {1: 4},
    ]  # fmt: skip


def test_a_try_that_fails_does_not_end_the_search():
    tries = operator("THEN", TWO, event(3, "(udp.dest_port == 3)"), delay="0..5")
    watch = monitor(rule("THEN", ONE, tries, delay="0..50"))
    assert [counters(v) for v in feed(watch, *on((0, 1), (10, 2), (30, 2), (33, 3)))] == [
        {1: 1, 2: 3, 3: 4}
    ]
    strict = monitor(rule("THEN", ONE, tries, delay="0..50", kind="SECURITY"))
    assert not feed(strict, *on((0, 1), (10, 2), (30, 2), (33, 3), (90, 9)))
    assert [v.time_s for v in feed(strict, *on((100, 1), (110, 2), (190, 9)))] == [0.15]


def test_a_rule_that_doubles_with_each_operator_is_refused():
    tree = event(1, "(true)")
    for number in range(2, 46):
        tree = operator("AND", tree, event(number, "(ip.src != ip.dst)"), delay="0..9")
    text = rule("AND", tree, event(46, "(ip.src != ip.dst)"), delay="0..9")
    assert monitor(text).refused[1].startswith("has more than 4,096 ways to be found")


def test_instances_are_bounded_and_what_is_given_up_is_counted():
    watch = monitor(rule("THEN", ONE, SAME, delay="0..1000"), instances=8)
    sources = [f"10.0.1.{number}" for number in range(1, 21)]
    assert not feed(watch, *on(*[(0, 1, source) for source in sources]))
    assert (watch.live, watch.shed) == (8, 12)
    assert len(feed(watch, *on(*[(1, 2, source) for source in sources]))) == 8
    assert watch.live == 0
    feed(watch, *on(*[(2, 1, source) for source in sources]))
    watch.advance(10)
    assert watch.live == 0


def test_instances_of_long_windows_leave_no_timers_behind():
    watch = monitor(rule("THEN", ONE, SAME, extra='delay_units="D" delay_max="1"'))
    feed(watch, *on(*[step for n in range(2_000) for step in ((n, 1), (n, 2))]))
    assert watch.live == 0
    assert len(watch._timers) <= 1_001


def slice_context(blocked):
    allowed = {"cameras": (ip_network("10.0.0.0/30"), ip_network("2001:db8::/32"))}
    return MmtContext("cameras", allowed, blocked.append)


FOREIGN = "((#get_sliceID() == 'cameras') && (#whitelist(ip.src) == 1))"
NAMED = "(#whitelist(#get_sliceID(), ip.src) == true)"


@pytest.mark.parametrize(
    "call", ["block_packet_from", "#block_packet_from(ip.src)", "block_packet_from(ip.src.1)"]
)
@pytest.mark.parametrize("foreign", [FOREIGN, NAMED])
def test_the_isolation_rule_of_a_slice_has_foreign_sources_blocked(call, foreign):
    blocked = []
    text = rule("COMPUTE", event(1, foreign), kind="ATTACK", extra=f'if_satisfied="{call}"')
    watch = monitor(text, context=slice_context(blocked))
    found = feed(watch, *on((0, 1, "10.0.0.1"), (1, 1, "10.0.0.7"), (2, 1, "10.0.0.2")))
    assert [v.events[0].attributes["ip.src"] for v in found] == ["10.0.0.7"]
    assert blocked == ["10.0.0.7"]


def test_a_function_in_an_expression_may_block_as_well():
    blocked = []
    last = event(2, "(#block_packet_from(ip.src) == 1)")
    watch = monitor(rule("THEN", event(1, FOREIGN), last), context=slice_context(blocked))
    feed(watch, *on((0, 1, "10.0.0.1"), (1, 1, "10.0.0.7")))
    assert blocked == ["10.0.0.7"]
    assert monitor(rule("COMPUTE", event(1, FOREIGN))).refused == {
        1: "get_sliceID needs the slice in which the traffic is looked at"
    }


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(#system('rm') == 0)", "no function system; known are is_exist, "),
        ("(ngap.colour == 1)", "no attribute ngap.colour; known of ngap: amf_ue_id, "),
        ("(quic.version == 1)", "no attribute quic.version; known protocols "),
        ("(ip.src == 5)", "== compares a IPv4 address with a number"),
        ("(#strlen('x') == 'x')", "== compares a number with a text"),
        ("(ip.src == '10.0.0.300')", "'10.0.0.300' is no IPv4 address"),
        ("(http.uri + 1 > 2)", "+ counts with a text"),
        ("(#strlen(tcp.flags) > 2)", "strlen is called with a number; it takes a text"),
        ("(#strstr(http.uri) != 0)", "strstr takes 2 arguments, not 1"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name_and_the_rest_runs(expression, reason):
    watch = monitor(rule("COMPUTE", event(1, expression)), rule("COMPUTE", ONE, number=2))
    assert watch.refused[1].startswith(reason)
    assert [r.id for r in watch.rules] == [2]
    assert [v.rule for v in feed(watch, *on((0, 1)))] == [2]


def test_code_that_a_rule_brings_is_refused_and_named():
    text = "<beginning><embedded_functions><![CDATA[ int em_x(){return 1;} ]]></embedded_functions>"
    text += rule("COMPUTE", event(1, "(#em_x() == 1)")) + "</beginning>"
    watch = MmtMonitor(read_mmt(text))
    assert watch.refused == {1: "brings code of its own, in C for em_x; it is not run"}


@pytest.mark.parametrize(
    ("reaction", "known"),
    [("if_satisfied", "known is block_packet_from"), ("if_not_satisfied", "that is not known")],
)
def test_other_reactions_than_those_of_the_library_are_refused(reaction, known):
    watch = monitor(rule("COMPUTE", ONE, extra=f'{reaction}="em_print_out"'))
    assert watch.refused == {1: f"{reaction} calls em_print_out; {known}"}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("(ip.src == '10.0.0.1')", True),
        ("((ip.src >= '10.0.0.0') && (ip.src <= '10.0.0.3'))", True),
        ("('10.0.0.2' < ip.src)", False),
        ("(ip.src != 0)", True),
        ("(ethernet.src == '02:02:02:02:02:02')", True),
        ("(udp.dest_port + 1 * 3 == 4)", True),
        ("(7 - udp.dest_port - 2 == 4)", True),
        ("(udp.dest_port / 0 > 5)", True),
        ("((udp.dest_port == 2) || (udp.len > 7) && (udp.len < 9))", True),
        ("(#strlen('abc') == 3)", True),
        ("(#strcmp('a', 'b') < 0)", True),
        ("(true)", True),
        ("(udp.dest_port - 1)", False),
        ("(#is_exist(http.uri) || (http.uri == 0))", True),
        ("(#is_exist(http.uri) || (http.uri != 0) || (http.uri > 'a') || (tcp.flags > 1))", False),
        ("(1 - " * 48 + "1" + ")" * 48, True),
    ],
)
def test_expressions_mean_what_they_mean_in_c(expression, holds):
    assert bool(feed(monitor(rule("COMPUTE", event(1, expression))), *on((0, 1)))) is holds


# An oracle that looks at all packets at once and tries every way to lay events on them.

PORTS = (1, 2, 3)


def _leaf(draw, numbers):
    number = next(numbers)
    text = f"(udp.dest_port == {draw(st.sampled_from(PORTS))})"
    earlier = draw(st.sampled_from([0, 0, *range(1, number)])) if number > 1 else 0
    return event(number, f"({text} && (ip.src == ip.src.{earlier}))" if earlier else text)


def _tree(draw, numbers, depth, tag):
    value = draw(st.sampled_from(["THEN", "THEN", "THEN", "AND", "OR"]))
    deep = value != "OR" and depth > 0
    parts = [
        _tree(draw, numbers, depth - 1, operator)
        if deep and draw(st.booleans())
        else _leaf(draw, numbers)
        for _ in range(2)
    ]
    least = draw(st.sampled_from(["0", "0+", "1", "2+"]))
    return tag(value, *parts, delay=f"{least}..{draw(st.integers(3, 8))}")


@st.composite
def rules(draw):
    return document(_tree(draw, iter(range(1, 20)), 2, rule))


traffic = st.lists(
    st.tuples(st.sampled_from([0, 1, 1, 2, 3]), st.sampled_from(PORTS), st.sampled_from("12")),
    max_size=9,
)


def _holds(part, packet, packets, bound):
    """Interpret an expression of these rules, without the parser or compiler of the monitor."""
    text = part.expression
    pairs = [text] if getattr(text, "operator", "") == "==" else text.operands
    for pair in pairs:
        one, other = pair.operands
        if one.protocol == "udp":
            if packets[packet][1] != other.value:
                return False
        elif other.event not in bound or packets[bound[other.event]][2] != packets[packet][2]:
            return False
    return True


def _ends(part, after, windows, bound, packets, *, moves, greedy):
    """Yield the ways to complete a part after packet ``after``: last packet, packets by event.

    Greedy: where an instance goes on (``moves``), it takes the first packet that fits.
    """
    if not isinstance(part, MmtOperator):
        for packet in range(after + 1, len(packets)):
            ages = [
                (packets[packet][0] - packets[begun][0], least, most)
                for begun, least, most in windows
            ]
            fits = all(least <= age <= most for age, least, most in ages)
            if fits and _holds(part, packet, packets, bound):
                yield packet, bound | {part.id: packet}
                if moves and greedy:
                    return
        return
    first, second = part.context, part.trigger
    if part.value == "OR":
        found = [
            way
            for one in (first, second)
            for way in _ends(one, after, windows, bound, packets, moves=moves, greedy=greedy)
        ]
        least = min((f[0] for f in found), default=0)
        yield from (w for w in found if not (moves and greedy) or w[0] == least)
        return
    orders = [(first, second), (second, first)] if part.value == "AND" else [(first, second)]
    for one, other in orders:
        for packet, having in _ends(
            one, after, windows, bound, packets, moves=False, greedy=greedy
        ):
            inner = [*windows, (packet, part.min_us, part.max_us)]
            yield from _ends(other, packet, inner, having, packets, moves=True, greedy=greedy)


@settings(max_examples=examples(80), deadline=None)
@given(rules(), traffic)
def test_sequences_are_found_as_an_oracle_finds_them(text, steps):
    packets, time = [], 0
    for step, port, source in steps:
        time += step * 1000
        packets.append((time, port, source))
    watch = MmtMonitor(read_mmt(text))
    found = feed(watch, *[(t / 1e6, datagram(port, f"10.0.0.{s}")) for t, port, s in packets])
    root = read_mmt(text)[0].root
    every = _ends(root, -1, [], {}, packets, moves=False, greedy=False)
    assert {tuple(sorted(counters(v).items())) for v in found} <= {
        tuple((number, packet + 1) for number, packet in sorted(bound.items()))
        for _, bound in every
    }
    ways = _ends(root, -1, [], {}, packets, moves=False, greedy=True)
    first = min((packet for packet, _ in ways), default=None)
    assert (max(counters(found[0]).values()) - 1 if found else None) == first


@settings(max_examples=examples(40), deadline=None)
@given(
    st.sampled_from(["THEN", "NOT"]),
    st.sampled_from(["0", "0+", "1", "2"]),
    st.integers(2, 6),
    traffic,
)
def test_absence_is_found_as_an_oracle_finds_it(value, least, most, steps):
    kind = "SECURITY" if value == "THEN" else "ATTACK"
    watch = monitor(rule(value, ONE, SAME, delay=f"{least}..{most}", kind=kind))
    packets, time, times = [], 0, []
    for step, port, source in steps:
        time += step * 1000
        packets.append((time / 1e6, datagram(port, f"10.0.0.{source}")))
        times.append((time, port, source))
    found = [*feed(watch, *packets), *watch.advance(1000)]
    low = int(least.rstrip("+")) * 1000 + least.endswith("+")
    absent = [
        (number + 1, at + most * 1000)
        for number, (at, port, source) in enumerate(times)
        if port == 1
        and not any(
            p == 2 and s == source and low <= t - at <= most * 1000
            for t, p, s in times[number + 1 :]
        )
    ]
    assert sorted((counters(v)[1], round(v.time_s * 1e6)) for v in found) == absent
