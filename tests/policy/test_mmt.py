"""The language of MMT-Security rules: expressions, XML, round trips, hostile documents."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.policy.mmt import (
    MmtAttribute,
    MmtCall,
    MmtConstant,
    MmtError,
    MmtEvent,
    MmtOperation,
    MmtOperator,
    MmtRule,
    expression_text,
    load_mmt,
    parse_expression,
    read_mmt,
    write_mmt,
)
from tests.nightly import examples
from tests.one_line import taken_or_refused
from tests.policy.mmt_traffic import document, event, operator, rule

DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
RULES = DATA / "policies" / "mmt-rules"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.b==1||c.d==2&&e.f<3", "((a.b == 1) || ((c.d == 2) && (e.f < 3)))"),
        ("(a.b == c.d.1 +1)", "(a.b == (c.d.1 + 1))"),
        ("(a.b - 1 - 2 * 3)", "((a.b - 1) - (2 * 3))"),
        ("(a.b && c.d && (e.f && g.h))", "(a.b && c.d && (e.f && g.h))"),
        ("((#f( a.b , 'x,)' ) != 0)", "(#f(a.b, 'x,)') != 0)"),
        ("(8021q.vid == 1.50)", "(8021q.vid == 1.5)"),
        ('(true == #g()) || ("it\'s" != a.b)', '((1 == #g()) || ("it\'s" != a.b))'),
        ("((meta.packet_len < 34)", "(meta.packet_len < 34)"),
    ],
)
def test_expressions_are_read_as_in_c(text, meant):
    assert expression_text(parse_expression(text)) == meant


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'the end' after ''; protocol.attribute"),
        ("(a.b == 1))", "')' after"),
        ("(a.b = 1)", "'= 1)' cannot be read"),
        ("(a.b == )", "')' after '( a.b =='"),
        ("(a == 1)", "'a' after '('"),
        ("(a.b.x == 1)", "'a.b.x' after '('"),
        ("(a.b == 1 2)", "'2' after"),
        ("(#(a.b) == 1)", "a function and '(' is expected"),
        ("(a.b == 'x)", '"\'x)" cannot be read'),
        ("(!a.b)", "'!a.b)' cannot be read"),
        ("(" * 60 + "1", "brackets nest at most 50 deep"),
        ("1" + "+1" * 60, "operators nest deeper than 50"),
        ("(1+" * 40 + "1+1+1+1+1+1+1+1+1+1+1+1", "operators nest deeper than 50"),
        ("a.b" + " " * 10_000, "longer than 10,000 characters"),
    ],
)
def test_what_is_no_expression_is_refused_with_what_was_expected(text, why):
    with pytest.raises(MmtError) as refused:
        parse_expression(text)
    assert why in str(refused.value)


NAMES = st.sampled_from(["ip", "src", "em_x", "x1", "tcp_data"])
NUMBERS = st.floats(min_value=0, max_value=1e12) | st.integers(0, 2**40).map(float)
TEXTS = st.text("a é<&\n]>;(#", max_size=6)
CONSTANTS = st.builds(MmtConstant, NUMBERS | TEXTS)


def expressions(events):
    attribute = st.builds(MmtAttribute, NAMES, NAMES, st.none() | st.sampled_from(events))
    return st.recursive(
        CONSTANTS | attribute,
        lambda inner: (
            st.builds(MmtCall, NAMES, st.lists(inner, max_size=3).map(tuple))
            | st.builds(
                MmtOperation,
                st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/"]),
                st.tuples(inner, inner),
            )
            | st.builds(
                MmtOperation,
                st.sampled_from(["&&", "||"]),
                st.lists(inner, min_size=2, max_size=4).map(tuple),
            )
        ),
        max_leaves=6,
    )


ABOUT = st.text("aé\"'<>& \n\t;]", max_size=6)


@st.composite
def generated_rules(draw):
    count = draw(st.integers(1, 4))
    leaves = [
        MmtEvent(number, draw(expressions(range(1, count + 1))), draw(ABOUT))
        for number in range(1, count + 1)
    ]
    while len(leaves) > 1:
        first, second = leaves.pop(0), leaves.pop(0)
        least = draw(st.integers(0, 10**7))
        most = draw(st.integers(least, 10**9))
        value = draw(st.sampled_from(["THEN", "BEFORE", "AND", "OR", "NOT"]))
        leaves.append(MmtOperator(value, first, second, least if most else 0, most, draw(ABOUT)))
    root = leaves[0]
    if isinstance(root, MmtEvent):
        root = MmtOperator("COMPUTE", root, description=draw(ABOUT))
    kind = draw(st.sampled_from(["ATTACK", "EVASION", "SECURITY", "TEST"]))
    return MmtRule(
        draw(st.integers(0, 10**6)),
        kind,
        root,
        *draw(st.sampled_from([("", ""), ("em_x", ""), ("f(a.b)", "g")])),
    )


@settings(max_examples=examples(16), deadline=None)
@given(st.lists(generated_rules(), max_size=2, unique_by=lambda rule: rule.id))
def test_what_is_written_is_read_again_as_it_was(rules):
    assert read_mmt(write_mmt(rules)) == tuple(rules)
    for one in rules:
        assert read_mmt(one.to_xml()) == (one,)


def test_defaults_are_those_of_the_documentation():
    (one,) = read_mmt(
        '<beginning><property property_id="7"><event boolean_expression="(ip.src != 1)"/>'
        "</property></beginning>"
    )
    assert (one.type, one.root.value, one.root.min_us, one.root.max_us) == (
        "SECURITY",
        "COMPUTE",
        0,
        0,
    )
    assert [e.id for e in one.events()] == [1]


def test_delays_are_written_in_the_largest_unit_that_holds_them():
    (one,) = read_mmt(
        document(
            rule(
                "THEN",
                event(1, "a.b"),
                event(2, "a.b"),
                extra='delay_min="0+" delay_max="0.5" delay_units="s"',
            )
        )
    )
    assert (one.root.min_us, one.root.max_us) == (1, 500_000)
    assert 'delay_units="ms" delay_min="0+" delay_max="500"' in one.to_xml()


CODE = (
    "<embedded_functions><![CDATA[ static int em_x(int a) {\nreturn a; } ]]></embedded_functions>"
)


def test_code_that_a_file_brings_is_that_of_the_rules_that_call_it():
    calls = rule("COMPUTE", event(1, "(#em_x(a.b) == 1)"))
    reacts = rule("COMPUTE", event(1, "a.b"), number=2, extra='if_satisfied="em_x"')
    other = rule("COMPUTE", event(1, "a.b"), number=3)
    rules = read_mmt(f"<beginning>{CODE}{calls}{reacts}{other}</beginning>")
    assert [one.code[:15] for one in rules] == ["static int em_x"] * 2 + [""]
    assert read_mmt(write_mmt(rules)) == rules
    (alone,) = read_mmt(f"<beginning>{other}{CODE}</beginning>")
    assert alone.code.startswith("static int em_x")
    assert read_mmt(alone.to_xml()) == (alone,)


PAIR = event(1, "a.b") + event(2, "a.b")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<rules/>", "the document is <rules>; a file of rules is <beginning>"),
        ("<beginning>", "no XML that is taken"),
        ("", "no XML that is taken: no element found"),
        (document("<property><event boolean_expression='a.b'/></property>"), "property_id"),
        (
            document(rule("COMPUTE", event(1, "a.b"), number="x")),
            "property x: <property> property_id",
        ),
        (document(rule("XOR", PAIR)), "<property> value"),
        (document(rule("THEN", event(1, "a.b"))), "THEN has 1 parts"),
        (document(rule("COMPUTE", PAIR)), "COMPUTE has 2 parts"),
        (document(rule("COMPUTE", event(1, "a.b"), delay="0..5")), "COMPUTE has a delay"),
        (document(rule("THEN", PAIR, delay="6..5")), "delay_min is greater than delay_max"),
        (document(rule("THEN", PAIR, delay="-1..5")), "delay_min"),
        (document(rule("THEN", PAIR, delay="1e9..5")), "delay_min"),
        (document(rule("THEN", PAIR, extra='delay_units="weeks"')), "delay_units"),
        (document(rule("THEN", PAIR, extra='counter_max="3"')), "counter_max"),
        (document(rule("THEN", PAIR, kind="CRIME")), "type_property"),
        (
            document(rule("THEN", event(1, "a.b"), event(1, "a.b"))),
            "two events have the same event_id",
        ),
        (
            document(rule("THEN", event(1, "a.b"), event(2, "a.b.3"))),
            "event 2 uses event 3, which is not there",
        ),
        (document(rule("COMPUTE", "<packet/>")), "<packet> stands where <event> or <operator>"),
        (
            document(
                rule("COMPUTE", event(1, "(a.b ==")), rule("COMPUTE", event(1, "a.b"), number=2)
            ),
            "property 1: event 1: ",
        ),
        (document(*[rule("COMPUTE", event(1, "a.b"))] * 2), "two rules have the property_id 1"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(text, why):
    with pytest.raises(MmtError) as refused:
        read_mmt(text)
    assert why in str(refused.value)
    assert str(refused.value).isprintable()


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">'
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><beginning>&i;</beginning>"
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/passwd">]><beginning>&x;</beginning>',
        '<!DOCTYPE b SYSTEM "http://127.0.0.1:9/x.dtd"><beginning/>',
        '<!DOCTYPE b [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><beginning/>',
        "<beginning>" + "<operator>" * 100_000,
        "<beginning>" + "<a/>" * 1_000_000 + "</beginning>",
        "<beginning>" + " " * (17 << 20) + "</beginning>",
        "<?xml version='1.0' encoding='EBCDIC-XX'?><beginning/>",
        document(operator("THEN", *[""] * 2) * 3, rule("THEN", operator("THEN", PAIR) * 400)),
    ],
    ids=["bomb", "file", "dtd", "parameter", "deep", "many", "large", "encoding", "wide"],
)
def test_hostile_documents_are_refused_at_once(text):
    began = time.process_time()
    with pytest.raises(MmtError) as refused:
        read_mmt(text)
    assert len(str(refused.value)) < 200
    assert time.process_time() - began < 5  # seconds where the bomb would take hours


@settings(max_examples=examples(80), deadline=None)
@given(
    st.binary(max_size=200) | st.text("<>/=\"' propertyevnbgi123&;!", max_size=80).map(str.encode)
)
def test_any_octets_are_rules_or_are_refused_in_one_line(raw):
    for octets in (raw, b"<beginning>" + raw + b"</beginning>"):
        taken_or_refused(MmtError, lambda octets=octets: read_mmt(octets))


@settings(max_examples=examples(120), deadline=None)
@given(st.text("(()).&|=<>!+-*/#',\" abip123.src", max_size=60))
def test_any_text_is_an_expression_or_is_refused_in_one_line(text):
    found = taken_or_refused(MmtError, lambda: parse_expression(text))
    if found is not None:
        assert parse_expression(expression_text(found)) == found


def test_what_xml_cannot_hold_is_not_written():
    one = MmtRule(
        1, "TEST", MmtOperator("COMPUTE", MmtEvent(1, MmtConstant(1.0)), description="\1")
    )
    with pytest.raises(MmtError, match=r"'\\x01' cannot stand in XML"):
        one.to_xml()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MmtError, match=r"none\.xml: No such file"):
        load_mmt(tmp_path / "none.xml")
    with pytest.raises(MmtError, match="is a directory; a file is expected"):
        load_mmt(tmp_path)


@pytest.mark.skipif(not RULES.exists(), reason=f"no {RULES} (PHALANX_DATA)")
def test_all_public_rules_are_read_and_written():
    files = sorted(RULES.glob("*.xml"))
    rules = [load_mmt(file) for file in files]
    assert sum(map(len, rules)) == len(files) == 95
    assert all(read_mmt(write_mmt(some)) == some for some in rules)
