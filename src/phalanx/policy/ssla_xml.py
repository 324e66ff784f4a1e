"""Security agreements in XML: WS-Agreement with SPECS, MSPL, and the form of seed 004, figure 3.

What our metrics can say becomes terms; all else of a document is named, never silently dropped.
Documents with a DTD or entities, deep and malformed ones are refused in one line.

Source: seed 004, figure 3; WS-Agreement (OGF GFD.192) with the SPECS SLA template; MSPL
(Medium-level Security Policy Language) of INSPIRE-5Gplus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from msgspec import Struct, convert

from phalanx.domain.errors import ScenarioError
from phalanx.loading import one_line, read_xml, show
from phalanx.loading.refusals import first_offence
from phalanx.policy.language import refuse_odd_signs
from phalanx.policy.ssla import (
    METRICS,
    Remediation,
    SecurityAgreement,
    SecurityMetric,
    agreement_offences,
)

FIGURE_3 = "urn:ngsi-ld:SLA:1.0"
"""Namespace of the form of figure 3."""
_COMPLIANCE, _INVALID = "PacketSourceCompliance", "InvalidSourcePacketCount"
_ACTIONS = {"REJECT_PACKET": Remediation.REJECT.value}
_LEVEL, _SHARE = SecurityMetric.CLEAR_TEXT.value, SecurityMetric.AVAILABILITY.value
_SPECS = {"DATA_CONFIDENTIALITY_LEVEL": _LEVEL, "AVAILABILITY": _SHARE}
"""Metrics of SPECS that ours can say: a level of at least 1, a share of at least so much."""
_NAMED = ("SLO", "ITResource", "guaranteeTerm")
"""Elements of which each is named if it cannot be said."""
_Plain = dict[str, Any]


class ImportedAgreement(Struct, frozen=True):
    """What a document says in our metrics, and the rest of it by name."""

    agreement: SecurityAgreement | None
    """None: it says nothing in our metrics."""
    left: tuple[str, ...]


def parse_ssla(
    text: str, name: str, slice_: str = "", *, strict: bool = False
) -> ImportedAgreement:
    """Return what an agreement in XML says.

    Args:
        text: in one of the three forms.
        name: stands for the file in errors.
        slice_: that the agreement is about, where it names none.
        strict: refuse a document of which something would be left out.

    Raises:
        ScenarioError: with one line.

    """
    refuse_odd_signs(text, name)
    try:
        root = read_xml(text)
    except ValueError as error:
        raise ScenarioError(one_line(f"{name}: {error}")) from None
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
        each.attrib = {key.rpartition("}")[2]: value for key, value in each.attrib.items()}
    reader = _Reading(root, slice_)
    match root.tag:
        case "ServiceLevelAgreement":
            found = reader.figure_3()
        case "AgreementOffer" | "Agreement" | "Template":
            found = reader.ws_agreement()
        case "ITResourceOrchestration" | "ITResource":
            found = reader.mspl()
        case _:
            allowed = "ServiceLevelAgreement, AgreementOffer and ITResourceOrchestration"
            raise ScenarioError(f"{name}: {show(root.tag)} is no agreement; taken are {allowed}")
    if reader.wrong:
        raise ScenarioError(one_line(f"{name}: {reader.wrong[0]}"))
    left = tuple(one_line(each) for each in reader.left(root))
    if strict and left:
        raise ScenarioError(f"{name}: {len(left)} parts cannot be said, the first is {left[0]}")
    if not found["terms"]:
        return ImportedAgreement(None, left)
    for field, why in [first_offence(found, SecurityAgreement) or ("", "")]:
        if why:
            raise ScenarioError(one_line(f"{name}: {field}: {why}"))
    agreement = convert(found, SecurityAgreement)
    for field, why in agreement_offences(agreement):
        raise ScenarioError(one_line(f"{name}: {field}: {why}"))
    return ImportedAgreement(agreement, left)


class _Reading:
    """Reads a document, and keeps what it took of it."""

    def __init__(self, root: Element, slice_: str) -> None:
        self.root, self.slice = root, slice_
        self.taken: set[Element | tuple[Element, str]] = set()
        self.wrong: list[str] = []

    def text(self, at: Element, path: str) -> str:
        """Return the text of an element, which counts as taken; empty: there is none."""
        found = at.find(path)
        if found is None or not (found.text or "").strip():
            return ""
        self.taken.add(found)
        return " ".join((found.text or "").split())

    def attribute(self, at: Element, name: str) -> str:
        """Return an attribute, which counts as taken; empty: there is none."""
        self.taken.add((at, name))
        return at.get(name, "")

    def left(self, at: Element, path: str = "") -> Iterator[str]:
        """Yield what was not taken: whole elements where nothing in them was."""
        named = next((at.get(x) for x in ("id", "Name", "name", "SLO_ID") if at.get(x)), "")
        does = at.findtext("configuration/capability/Name", "")
        named = f"{named} {does}".strip()
        path = f"{path}/{at.tag}" + (f"[{named}]" if named else "")
        if at in self.taken:
            return
        if not any(
            each in self.taken or (each.tag in _NAMED and each is not at) for each in at.iter()
        ):
            text = " ".join((at.text or "").split())
            yield f"{path[1:]}{f' {show(text)}' if text else ''}"
            return
        for name in at.attrib:
            if (at, name) not in self.taken and name not in ("schemaLocation", "type"):
                yield f"{path[1:]} {name}={show(at.get(name))}"
        for child in at:
            yield from self.left(child, path)

    def figure_3(self) -> _Plain:
        """Return the agreement of the form of figure 3."""
        root, terms = self.root, []
        for at in root.iterfind("guaranteeTerm"):
            name, formula = at.findtext("name", "").strip(), at.findtext("breachCondition/formula")
            parts = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(\S+)\s*", formula or "")
            metric = next((x for x in SecurityMetric if parts and _indicator(x) == parts[1]), None)
            if metric is None or parts is None:
                continue
            number, unit = self.text(at, ".//kpiTarget/value"), self.text(at, ".//kpiTarget/unit")
            objective, target = _decimal(parts[3]), _decimal(number)
            higher = METRICS[metric].better == "higher"
            if unit == "percent" and target is not None:
                target = target / 100 if higher else (Decimal(0) if target == 100 else None)
            indicator = at.findtext("serviceLevelIndicator/kpiName", "").strip()
            if objective is None or target != objective or (parts[2] == "<") is not higher:
                breach = f"the target '{number} {unit}' and the breach '{parts[0].strip()}'"
                self.wrong.append(f"guaranteeTerm {show(name)}: {breach} contradict each other")
                continue
            if indicator != parts[1]:
                self.wrong.append(f"guaranteeTerm {show(name)}: {show(indicator)} is no {parts[1]}")
            self.text(at, "breachCondition/formula")
            for path in ("serviceLevelObjective/kpiName", "serviceLevelIndicator/kpiName"):
                self.text(at, path)
            formula_at = at.find("serviceLevelIndicator/kpiFormula")
            if formula_at is not None and formula_at.text == METRICS[metric].indicator:
                self.taken.add(formula_at)
            term = self.term(self.text(at, "name"), self.text(at, "slice"), metric.value, objective)
            actions = [
                _ACTIONS.get(x.text or "", (x.text or "").lower()) for x in at.iter("action")
            ]
            known = [x.value for x in Remediation]
            self.taken |= {
                x for x, does in zip(at.iter("action"), actions, strict=True) if does in known
            }
            term["remediation"] = [each for each in actions if each in known]
            term["allowed"] = [" ".join((x.text or "").split()) for x in at.iter("allowed")]
            self.taken |= set(at.iter("allowed"))
            if window := self.text(at, "serviceLevelIndicator/window_s"):
                term["window_s"] = _number(window)
            if credit := self.text(at, "penalty/credit"):
                after = self.text(at, "penalty/after_s") or "0"
                term["penalty"] = {"credit": _number(credit), "after_s": _number(after)}
            term["intent"] = self.text(at, "intent")
            terms.append(term)
        name = _name(self.attribute(root, "id") or self.text(root, "name"))
        if root.findtext("name", "").strip() == name:
            self.text(root, "name")
        found = {each: self.text(root, each) for each in ("provider", "consumer")}
        return {"name": name, "about": self.text(root, "description"), **found, "terms": terms}

    def ws_agreement(self) -> _Plain:
        """Return the agreement of a WS-Agreement document with objectives of SPECS."""
        root, terms = self.root, []
        services = [each.get("ServiceName", "") for each in root.iter("ServiceDescriptionTerm")]
        metrics = {each.get("Name"): each.get("Metric", "") for each in root.iter("Variable")}
        units = {x.get("referenceId"): x.find(".//unit") for x in root.iter("Metric")}
        for each in root.iter("SLO"):
            variable = each.findtext("MetricREF", "").strip()
            reference = metrics.get(variable, variable)
            operator = each.findtext(".//oneOpExpression/operator", "").strip()
            least = _decimal(each.findtext(".//oneOpExpression/operand", "").strip())
            metric = _SPECS.get(reference.removeprefix("SERVICE_"))
            if metric is None or operator not in ("geq", "eq") or least is None:
                continue
            if metric == _LEVEL and least < 1:
                continue
            unit = units.get(reference)
            if metric == _SHARE and unit is not None and unit.get("name") in ("%", "percent"):
                least /= 100
            self.taken |= {x for x in each if x.tag in ("MetricREF", "SLOexpression")}
            name, objective = (
                self.attribute(each, "SLO_ID"),
                Decimal(0) if metric == _LEVEL else least,
            )
            terms.append(self.term(name, services[0] if services else "", metric, objective))
        initiator = self.text(root, "Context/AgreementInitiator")
        responder = self.text(root, "Context/AgreementResponder")
        provides = self.text(root, "Context/ServiceProvider")
        parties = (initiator, responder)[:: -1 if provides == "AgreementResponder" else 1]
        name = _name(self.attribute(root, "AgreementId") or self.text(root, "Name"))
        about = self.text(root, "Name")
        return {"name": name, "about": about, "terms": terms} | dict(
            zip(("provider", "consumer"), parties, strict=True)
        )

    def mspl(self) -> _Plain:
        """Return the agreement that policies of an MSPL document come to."""
        terms = []
        for each in self.root.iter("ITResource"):
            if each.findtext("configuration/capability/Name") != "Channel_Protection":
                continue
            kinds = (x for x in each.iter("technologyActionSecurityProperty"))
            if any(x.get("type") == "Confidentiality" for x in kinds):
                self.text(each, "configuration/capability/Name")
                of = self.attribute(each, "sliceID") or self.attribute(self.root, "sliceID")
                terms.append(self.term(self.attribute(each, "id"), of, _LEVEL, Decimal(0)))
        return {"name": _name(self.attribute(self.root, "id")), "terms": terms}

    def term(self, name: str, slice_: str, metric: str, objective: Decimal) -> _Plain:
        """Return a term as plain data, about the slice that is named or given."""
        of = slice_ or self.slice
        if not of:
            self.wrong.append(f"the term {show(name)} names no slice; give one with --slice")
        plain = {"name": _name(name), "slice": _name(of), "metric": metric}
        return {**plain, "objective": float(objective)}


def to_figure_3(agreement: SecurityAgreement) -> str:
    """Return an agreement in the form of figure 3, from which the same is read."""
    root = Element("ServiceLevelAgreement", {"xmlns": FIGURE_3, "id": agreement.name})
    _put(root, name=agreement.name, description=agreement.about)
    _put(root, provider=agreement.provider, consumer=agreement.consumer)
    for each in agreement.terms:
        metric, at = METRICS[each.metric], SubElement(root, "guaranteeTerm")
        _put(at, name=each.name, slice=each.slice, intent=each.intent)
        foreign = each.metric is SecurityMetric.FOREIGN_SOURCES and not each.objective
        aim, unit = (100, "percent") if foreign else (each.objective, metric.unit or "count")
        objective = SubElement(at, "serviceLevelObjective")
        kpi = _indicator(each.metric)
        _put(objective, kpiName=_COMPLIANCE if foreign else kpi)
        _put(SubElement(objective, "kpiTarget"), value=aim, unit=unit)
        indicator = SubElement(at, "serviceLevelIndicator")
        _put(indicator, kpiName=kpi, kpiFormula=metric.indicator, window_s=each.window_s)
        for allowed in each.allowed:
            _put(indicator, allowed=allowed)
        sign = "<" if metric.better == "higher" else ">"
        _put(SubElement(at, "breachCondition"), formula=f"{kpi} {sign} {each.objective!r}")
        remedies = SubElement(at, "remediationAction") if each.remediation else at
        for remedy in each.remediation:
            reject = remedy is Remediation.REJECT
            _put(remedies, action="REJECT_PACKET" if reject else remedy.name)
        if each.penalty is not None:
            owed = SubElement(at, "penalty")
            _put(owed, credit=each.penalty.credit, after_s=each.penalty.after_s)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _put(at: Element, **texts: object) -> None:
    for tag, text in texts.items():
        if text != "":
            SubElement(at, tag).text = str(text)


def _indicator(metric: SecurityMetric) -> str:
    if metric is SecurityMetric.FOREIGN_SOURCES:
        return _INVALID
    return "".join(word.capitalize() for word in metric.value.split("-"))


def _name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        return text
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "agreement"


def _decimal(text: str) -> Decimal | None:
    try:
        found = Decimal(text.strip())
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _number(text: str) -> float | str:
    found = _decimal(text)
    return text if found is None else float(found)
