"""Intents as TM Forum resources: TMF921 Intent Management v5, with an expression in JSON-LD.

A set of intents is one resource ``Intent``. Its ``JsonLdExpression`` is a graph of one
``icm:Intent``, a ``icm:Target`` for each slice, and a ``icm:PropertyExpectation`` for each intent,
whose parameters are the mapping of ``policy.intents``. Any other node, property or language of
expressions (Turtle, RDF/XML), and what the API says beside them of an intent's validity, priority
or relations is refused by name: it would be dropped.

Source: TMF921 v5.0 (Intent, JsonLdExpression); TR290A v3.6 (Intent Common Model).
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field, json, to_builtins

from phalanx.loading import Tree, parse_as, refusal, show
from phalanx.policy.intents import AnyIntent, IntentSet, SliceIntent
from phalanx.policy.language import parse_document, refuse_odd_signs
from phalanx.policy.rules import Cidr

_ICM = "http://tio.models.tmforum.org/tio/v3.6.0/IntentCommonModel/"
_OURS = "urn:phalanx:intent#"


class _Ref(Struct, forbid_unknown_fields=True):
    id: str = field(name="@id")


class _Params(Struct, forbid_unknown_fields=True):
    intent: AnyIntent = field(name="phalanx:intent")


class _Node(Struct, forbid_unknown_fields=True, tag_field="@type", kw_only=True):
    id: str = field(name="@id")


class _IntentNode(_Node, tag="icm:Intent", kw_only=True, omit_defaults=True):
    expectations: tuple[_Ref, ...] = field(name="icm:hasExpectation")
    owner: str = field(name="icm:intentOwner", default="")
    handler: str = field(name="icm:intentHandler", default="")


class _Target(_Node, tag="icm:Target", kw_only=True):
    addresses: tuple[Cidr, ...] = field(name="phalanx:addresses", default=())


class _Expectation(_Node, tag="icm:PropertyExpectation", kw_only=True):
    target: _Ref = field(name="icm:target")
    params: _Params = field(name="icm:params")


class _JsonLd(Struct, forbid_unknown_fields=True):
    context: dict[str, str] = field(name="@context")
    graph: tuple[_IntentNode | _Target | _Expectation, ...] = field(name="@graph")


class _Expression(Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["JsonLdExpression"] = field(name="@type")
    iri: str
    value: _JsonLd = field(name="expressionValue")
    language: Literal["JSON-LD", ""] = field(name="expressionLanguage", default="")
    base: str = field(name="@baseType", default="")
    schema: str = field(name="@schemaLocation", default="")


class Tmf921Intent(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A resource of the API; what it tells of the record itself is read and left out."""

    type: Literal["Intent"] = field(name="@type")
    name: str
    expression: _Expression
    description: str = ""
    id: str = ""
    href: str = ""
    status: str = field(name="lifecycleStatus", default="")
    changed: str = field(name="statusChangeDate", default="")
    created: str = field(name="creationDate", default="")
    updated: str = field(name="lastUpdate", default="")
    base: str = field(name="@baseType", default="")
    schema: str = field(name="@schemaLocation", default="")


def to_tmf921(intents: IntentSet) -> str:
    """Return the resource that says the same, as JSON."""
    named = {each.slice for each in intents.intents if isinstance(each, SliceIntent)}
    nodes: list[Any] = [
        _Target(id=_slice(name), addresses=intents.members.get(name, ()))
        for name in sorted({*named, *intents.members})
    ]
    for each in intents.intents:
        target = _slice(each.slice) if isinstance(each, SliceIntent) else "phalanx:network"
        id_ = f"phalanx:{each.name}"
        nodes.append(_Expectation(id=id_, target=_Ref(target), params=_Params(each)))
    refs = tuple(_Ref(x.id) for x in nodes if isinstance(x, _Expectation))
    parties = {"owner": intents.consumer, "handler": intents.provider}
    nodes.insert(0, _IntentNode(id=f"phalanx:{intents.name}", expectations=refs, **parties))
    graph = _JsonLd({"icm": _ICM, "phalanx": _OURS}, tuple(nodes))
    expression = _Expression("JsonLdExpression", _ICM, graph, "JSON-LD", "Expression")
    whole = Tmf921Intent("Intent", intents.name, expression, intents.about)
    return json.format(json.encode(whole), indent=1).decode() + "\n"


def parse_tmf921(text: str, name: str, slices: list[str] | None = None) -> IntentSet:
    """Return the intents of a resource; ``slices`` as in ``parse_document``.

    Raises:
        ScenarioError: with one line, also if it says what this subset does not have.

    """
    refuse_odd_signs(text, name)
    resource, tree = parse_as(Tmf921Intent, text, name)
    at, value = "expression.expressionValue", resource.expression.value
    context = value.context
    if "IntentCommonModel" not in context.get("icm", "") or context.get("phalanx") != _OURS:
        why = f"icm has to be the Intent Common Model, and phalanx {_OURS}"
        raise refusal(name, tree, f"{at}.@context", why)
    heads = [each for each in value.graph if isinstance(each, _IntentNode)]
    expected = {each.id: each for each in value.graph if isinstance(each, _Expectation)}
    listed = [each.id for head in heads for each in head.expectations]
    if len(heads) != 1 or sorted(listed) != sorted(expected):
        why = "one icm:Intent is expected, whose icm:hasExpectation lists each expectation once"
        raise refusal(name, tree, f"{at}.@graph", why)
    intents = [_checked(expected[each], name, tree) for each in listed]
    targets = (each for each in value.graph if isinstance(each, _Target))
    members = {each.id.removeprefix(_slice("")): each.addresses for each in targets}
    document = {
        "name": resource.name,
        "about": resource.description,
        "intents": intents,
        "consumer": heads[0].owner,
        "provider": heads[0].handler,
        "members": {each: has for each, has in members.items() if has},
    }
    return parse_document(json.encode(document).decode(), name, slices)


def _checked(expectation: _Expectation, name: str, tree: Tree) -> dict[str, Any]:
    intent = expectation.params.intent
    wanted = _slice(intent.slice) if isinstance(intent, SliceIntent) else "phalanx:network"
    if expectation.target.id != wanted:
        why = (
            f"{expectation.id} has the target {show(expectation.target.id)}, but is about {wanted}"
        )
        raise refusal(name, tree, "expression.expressionValue.@graph", why)
    plain: dict[str, Any] = to_builtins(intent)
    return plain


def _slice(name: str) -> str:
    return f"phalanx:slice/{name}"
