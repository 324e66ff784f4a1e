"""Agreements in XML: what is read of them, what is named as left out, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phalanx.domain.errors import ScenarioError
from phalanx.policy.ssla import (
    METRICS,
    GuaranteeTerm,
    Penalty,
    Remediation,
    SecurityAgreement,
    SecurityMetric,
)
from phalanx.policy.ssla_xml import parse_ssla, to_figure_3
from tests.nightly import examples
from tests.one_line import taken_or_refused

DATA = Path(os.environ.get("PHALANX_DATA", "/work/shared/data")) / "ssla"
FIGURE_3 = """<ServiceLevelAgreement xmlns="urn:ngsi-ld:SLA:1.0" id="SLA-Slice-Isolation">
  <name>Isolation Guarantee for Slice</name>
  <description>Only permitted addresses are sources of incoming packets.</description>
  <guaranteeTerm>
    <name>NetworkSliceIsolationAndWhitelisting</name>
    <serviceLevelObjective>
      <kpiName>PacketSourceCompliance</kpiName>
      <kpiTarget><value>100</value><unit>percent</unit></kpiTarget>
    </serviceLevelObjective>
    <serviceLevelIndicator>
      <kpiName>InvalidSourcePacketCount</kpiName>
      <kpiFormula>COUNT(ingress packets WHERE source ip NOT IN whitelist)</kpiFormula>
      <measurementSource>Distributed Security Monitoring Function</measurementSource>
    </serviceLevelIndicator>
    <breachCondition><formula>InvalidSourcePacketCount &gt; 0</formula></breachCondition>
    <remediationAction>
      <action>NOTIFY</action><target>SecurityOrchestrator</target>
      <action>LOG</action><action>REJECT_PACKET</action>
    </remediationAction>
  </guaranteeTerm>
</ServiceLevelAgreement>
"""
WS_AGREEMENT = """<wsag:AgreementOffer xmlns:wsag="http://schemas.ggf.org/graap/2007/03/ws-agreement"
    xmlns:specs="http://www.specs-project.eu/resources/schemas/xml/SLAtemplate"
    wsag:AgreementId="gold">
  <wsag:Context><wsag:AgreementInitiator>city</wsag:AgreementInitiator>
    <wsag:AgreementResponder>north</wsag:AgreementResponder>
    <wsag:ServiceProvider>AgreementResponder</wsag:ServiceProvider></wsag:Context>
  <wsag:Terms><wsag:All>
    <wsag:ServiceDescriptionTerm wsag:Name="d" wsag:ServiceName="cameras">
      <specs:Metric referenceId="AVAILABILITY"><specs:unit name="percent"/></specs:Metric>
    </wsag:ServiceDescriptionTerm>
    <wsag:Variable wsag:Name="up" wsag:Metric="AVAILABILITY"/>
    <wsag:Variable wsag:Name="dark" wsag:Metric="DATA_CONFIDENTIALITY_LEVEL"/>
    <wsag:Variable wsag:Name="odd" wsag:Metric="CIPHER_SUITE_STRENGTH"/>
    {}
  </wsag:All></wsag:Terms>
</wsag:AgreementOffer>
"""


def slo(name: str, operator: str, operand: str) -> str:
    return f"""<specs:SLO SLO_ID="{name}-slo"><specs:MetricREF>{name}</specs:MetricREF>
    <specs:SLOexpression><specs:oneOpExpression><specs:operator>{operator}</specs:operator>
    <specs:operand>{operand}</specs:operand></specs:oneOpExpression></specs:SLOexpression></specs:SLO>"""


def test_figure_3_is_read_and_what_it_says_beside_our_metrics_is_named() -> None:
    read = parse_ssla(FIGURE_3, "f.xml", "cameras")
    assert read.agreement is not None
    assert read.agreement.name == "SLA-Slice-Isolation"
    (term,) = read.agreement.terms
    assert (term.slice, term.metric, term.objective) == (
        "cameras",
        SecurityMetric.FOREIGN_SOURCES,
        0.0,
    )
    assert term.remediation == (Remediation.NOTIFY, Remediation.LOG, Remediation.REJECT)
    named = " ".join(read.left)
    for part in ("Isolation Guarantee", "measurementSource", "SecurityOrchestrator", "kpiFormula"):
        assert part in named
    with pytest.raises(ScenarioError, match=r"cannot be said, the first is .*Isolation Guarantee"):
        parse_ssla(FIGURE_3, "f.xml", "cameras", strict=True)
    with pytest.raises(ScenarioError, match="names no slice; give one with --slice"):
        parse_ssla(FIGURE_3, "f.xml")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("<value>100<", "<value>99<", "the target '99 percent' and the breach"),
        ("Count &gt; 0<", "Count &lt; 0<", "contradict each other"),
        ("<kpiName>Inv", "<kpiName>Un", "is no InvalidSourcePacketCount"),
        ("<ServiceLevelAgreement ", "<Other ", "no XML that is taken: mismatched tag"),
        ("<name>Isol", "<name>c\u0430m Isol", "U+0430"),
    ],
)
def test_what_contradicts_itself_is_refused(old: str, new: str, why: str) -> None:
    assert old in FIGURE_3
    with pytest.raises(ScenarioError) as refused:
        parse_ssla(FIGURE_3.replace(old, new, 1), "f.xml", "cameras")
    assert why in str(refused.value)


def test_objectives_of_specs_that_a_metric_says_become_terms() -> None:
    objectives = slo("up", "geq", "99.95") + slo("dark", "geq", "1") + slo("odd", "geq", "1")
    read = parse_ssla(WS_AGREEMENT.replace("{}", objectives), "f.xml")
    assert read.agreement is not None
    assert (read.agreement.provider, read.agreement.consumer) == ("north", "city")
    assert [(x.name, x.slice, x.metric.value, x.objective) for x in read.agreement.terms] == [
        ("up-slo", "cameras", "availability", 0.9995),
        ("dark-slo", "cameras", "clear-text", 0.0),
    ]
    assert any("odd-slo" in each for each in read.left)
    for operator, operand in (("lt", "1"), ("geq", "0"), ("geq", "HIGH")):
        some = parse_ssla(WS_AGREEMENT.replace("{}", slo("dark", operator, operand)), "f.xml")
        assert some.agreement is None
        assert any("dark-slo" in each for each in some.left)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_]{0,20}", fullmatch=True)
TEXTS = st.from_regex(r"([!-~]{1,12}( [!-~]{1,12}){0,3})?", fullmatch=True)


@st.composite
def terms(draw: st.DrawFn, name: str) -> GuaranteeTerm:
    """Return a term that fits together."""
    metric = draw(st.sampled_from(SecurityMetric))
    top = 1.0 if METRICS[metric].unit == "fraction" else 1e9
    remedies = st.lists(st.sampled_from(METRICS[metric].remedies), unique=True, max_size=4)
    penalty = st.builds(Penalty, st.floats(0.001, 1.0), st.floats(0.0, 1e6))
    return GuaranteeTerm(
        *(name, draw(NAMES), metric, draw(st.one_of(st.just(0.0), st.floats(0.0, top)))),
        window_s=draw(st.floats(0.1, 86_400.0)),
        allowed=tuple(draw(st.lists(st.sampled_from(["FI", "10.0.0.0/8", "::/0"]), max_size=3))),
        remediation=tuple(draw(remedies)),
        penalty=draw(st.one_of(st.none(), penalty)),
        intent=draw(TEXTS),
    )


@settings(max_examples=examples(24), suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data(), st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_what_is_written_in_the_form_of_figure_3_is_read_the_same(data: Any, names: Any) -> None:
    made = tuple(data.draw(terms(each)) for each in names)
    agreement = SecurityAgreement(names[0], made, *(data.draw(TEXTS) for _ in range(3)))
    read = parse_ssla(to_figure_3(agreement), "f.xml", strict=True)
    assert read.agreement == agreement


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;">]><ServiceLevelAgreement>&c;</ServiceLevelAgreement>"""
XXE = (
    """<!DOCTYPE x [<!ENTITY p SYSTEM "file:///etc/passwd">]><AgreementOffer>&p;</AgreementOffer>"""
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "a DTD and entities are not allowed"),
        (XXE, "a DTD and entities are not allowed"),
        ('<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd"><Template/>', "a DTD and entities"),
        ("<Template>" * 5000 + "</Template>" * 5000, "nested deeper than 64"),
        ("<svg/>", "'svg' is no agreement; taken are ServiceLevelAgreement"),
        ("<Template>", "no XML that is taken"),
        ("<Template>&lol;</Template>", "no XML that is taken: undefined entity"),
    ],
)
def test_hostile_xml_is_one_line(text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_ssla(text, "f.xml")
    assert why in str(refused.value)
    assert str(refused.value).isprintable()


@settings(max_examples=examples(24), deadline=None)
@given(st.data())
def test_damaged_xml_is_taken_or_refused_in_one_line(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([FIGURE_3, WS_AGREEMENT.replace("{}", slo("up", "geq", "9"))]))
    at = data.draw(st.integers(0, len(good)))
    text = good[:at] + data.draw(st.text(max_size=8)) + good[at + data.draw(st.integers(0, 20)) :]
    taken_or_refused(ScenarioError, lambda: parse_ssla(text, "f.xml", "cameras"))


@pytest.mark.skipif(not DATA.is_dir(), reason="the public agreements are not here")
@pytest.mark.parametrize(
    ("file", "left"),
    [
        ("e2e-5g-slice-ssla_v4.xml", ["Network_traffic_analysis", "5G_Security_Slice"]),
        ("mspl_5GMobile-Comms.xml", ["Proof_of_Transit", "DDos_attack_protection"]),
        ("specs-SLATemplate-5G-IoT-Comms.xml", ["5G_traffic_integrity_level_slo", "ABAC"]),
    ],
)
def test_public_agreements_are_read_and_written(file: str, left: list[str]) -> None:
    read = parse_ssla((DATA / file).read_text(encoding="utf-8"), file)
    assert read.agreement is not None
    assert [each.metric for each in read.agreement.terms] == [SecurityMetric.CLEAR_TEXT]
    for part in left:
        assert any(part in each for each in read.left)
    again = parse_ssla(to_figure_3(read.agreement), file, strict=True)
    assert again.agreement == read.agreement
