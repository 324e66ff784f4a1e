"""Reads references from the code: the schemas of scenarios and sites, and the functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from phalanx.analytics.prometheus import load_queries
from phalanx.domain import trust
from phalanx.domain.goals import Mode
from phalanx.domain.rules import AllowedSources
from phalanx.infrastructure.linux.routers import RouterSpec
from phalanx.policy import intents, rules, ssla
from phalanx.policy import plan as policy
from phalanx.runtime import scenario
from phalanx.runtime.catalogue import BUILT_IN, installed_capabilities
from phalanx.runtime.guarding import GuardedSpec, LimitSpec, SiteSpec
from phalanx.runtime.processes.spec import Device
from phalanx.runtime.scenario import Scenario
from phalanx.slices import agreements
from phalanx.slices import model as slices
from phalanx.trust.register import unseen
from phalanx.trust.score import AttributeTerms

_SECTIONS: tuple[type[Struct], ...] = (
    Scenario,
    scenario.NetworkSpec,
    scenario.PopSpec,
    scenario.LinkSpec,
    scenario.HostSpec,
    scenario.HostLimitsSpec,
    scenario.TrafficSpec,
    scenario.ShapeSpec,
    scenario.MonitorSpec,
    scenario.FunctionSpec,
    scenario.GoalSpec,
    scenario.PreferencesSpec,
    scenario.ConstraintsSpec,
    AllowedSources,
    scenario.Timing,
    scenario.FaultSpec,
    scenario.UpdateSpec,
    scenario.DeclaredAgent,
    scenario.TrustSpec,
    scenario.ForecastSpec,
    trust.ServiceLevel,
    slices.SlicesSpec,
    slices.ManagedFunction,
    slices.NetworkSliceSubnet,
    slices.NetworkSlice,
    slices.SNssai,
    agreements.TrustAgreement,
    agreements.AgreedAttributes,
    AttributeTerms,
    agreements.AgreedLocations,
    agreements.AgreedPop,
    agreements.Certificate,
    policy.PolicyPlan,
    ssla.SecurityAgreement,
    ssla.GuaranteeTerm,
    ssla.Penalty,
    rules.RuleSet,
    rules.PolicyRule,
    rules.RuleMatch,
    rules.Segment,
    rules.PortRange,
    rules.RuleCondition,
    rules.RuleAction,
    rules.RuleSchedule,
    rules.RuleScope,
    rules.PolicyInventory,
    rules.LabelledWorkload,
    policy.Revocation,
)
_NAMES = {
    scenario.NetworkSpec: "network",
    scenario.PopSpec: "pop",
    scenario.LinkSpec: "link",
    scenario.HostSpec: "host",
    scenario.HostLimitsSpec: "limits",
    scenario.TrafficSpec: "traffic group",
    scenario.ShapeSpec: "shape",
    scenario.MonitorSpec: "monitor",
    scenario.FunctionSpec: "function",
    scenario.GoalSpec: "goal",
    scenario.PreferencesSpec: "preferences",
    scenario.ConstraintsSpec: "constraints",
    AllowedSources: "allowed sources",
    scenario.Timing: "timing",
    scenario.FaultSpec: "fault",
    scenario.UpdateSpec: "update",
    scenario.DeclaredAgent: "agent",
    scenario.TrustSpec: "trust",
    scenario.ForecastSpec: "forecast",
    trust.ServiceLevel: "service level",
    slices.SlicesSpec: "slices",
    slices.ManagedFunction: "managed function",
    slices.NetworkSliceSubnet: "network slice subnet",
    slices.NetworkSlice: "network slice",
    slices.SNssai: "s-nssai",
    agreements.TrustAgreement: "agreement",
    agreements.AgreedAttributes: "attributes",
    AttributeTerms: "attribute",
    agreements.AgreedLocations: "locations",
    agreements.AgreedPop: "agreed pop",
    agreements.Certificate: "certificate",
    policy.PolicyPlan: "policy",
    ssla.SecurityAgreement: "security agreement",
    ssla.GuaranteeTerm: "guarantee term",
    ssla.Penalty: "penalty",
    rules.RuleSet: "rule set",
    rules.PolicyRule: "policy rule",
    rules.RuleMatch: "match",
    rules.Segment: "segment",
    rules.PortRange: "port range",
    rules.RuleCondition: "condition",
    rules.RuleAction: "action",
    rules.RuleSchedule: "schedule",
    rules.RuleScope: "scope",
    rules.PolicyInventory: "members",
    rules.LabelledWorkload: "workload",
    policy.Revocation: "revocation",
    SiteSpec: "site",
    GuardedSpec: "guarded host",
    LimitSpec: "limit",
    RouterSpec: "router",
}


_INTENTS: dict[type[Struct], str] = {
    intents.IntentDocument: "document",
    intents.IsolationIntent: "isolation",
    intents.EncryptionIntent: "encryption",
    intents.AvailabilityIntent: "availability",
    intents.LocationIntent: "location",
    intents.DelayIntent: "delay",
    intents.AnalysisIntent: "analysis",
    intents.TunnelIntent: "gtp-tunnels",
    intents.AccessIntent: "access",
    intents.RateIntent: "rate",
    intents.TransportPorts: "transport ports",
    rules.RuleSchedule: "rule schedule",
    ssla.Penalty: "penalty",
}
_NAMES |= _INTENTS


def schema() -> str:
    """Return a table for every struct of a scenario file: field, type and range, default, note."""
    return "\n".join(_section(kind) for kind in _SECTIONS)


def agreement_schema() -> str:
    """Return the JSON schema of a Trust Level Agreement."""
    return _json_schema(agreements.TrustAgreement)


def intent_schema() -> str:
    """Return the JSON schema of a document of intents."""
    return _json_schema(intents.IntentDocument)


def _json_schema(kind: type[Struct]) -> str:
    found = msgspec.json.schema(kind)
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    text = msgspec.json.format(msgspec.json.encode(found), indent=1).decode()
    return text.replace("\\\\Z", "$") + "\n"  # the end, in the regular expressions of JSON


def site() -> str:
    """Return the same tables for the structs of a site file; others are those of scenarios."""
    own = "\n".join(_section(kind) for kind in (SiteSpec, GuardedSpec, LimitSpec, RouterSpec))
    return re.sub(r"\]\(#(?!guarded-host|limit|router)", "](scenario.md#", own)


def intent_kinds() -> str:
    """Return the tables for the structs of a document of intents."""
    return "\n".join(_section(kind) for kind in _INTENTS)


def grammar() -> str:
    """Return the grammar of the language of intents, as it is used."""
    file = Path(intents.__file__).parent / "language.lark"
    return f"```text\n{file.read_text(encoding='utf-8')}```\n"


def _section(kind: type[Struct]) -> str:
    title = _NAMES.get(kind, "scenario")
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    own = [base for base in reversed(kind.__mro__) if base.__module__.startswith("phalanx.")]
    notes = {name: text for base in own for name, text in _notes(base)}
    lines = [f"## {title.capitalize()}", "", (kind.__doc__ or "").replace("``", "`"), ""]
    lines += ["| field | type and range | default | |", "|---|---|---|---|"]
    for field in info.fields:
        about = notes.get(field.name, "")
        lines.append(
            f"| `{field.encode_name}` | {_words(field.type)} | {_default(field)} | {about} |"
        )
    return "\n".join(lines) + "\n"


def _notes(kind: type[Struct]) -> Iterator[tuple[str, str]]:
    """Yield (field, the docstring below it)."""
    field = ""
    quoted: list[str] | None = None
    for line in inspect.getsource(kind).splitlines():
        text = line.strip()
        if quoted is not None or text.startswith('"""'):
            quoted = [*(quoted or []), text.strip('"')]
            if text.endswith('"""') and (len(text) > 3 or len(quoted) > 1):
                if field:
                    yield field, " ".join(quoted).replace("``", "`").strip()
                quoted = None
        elif line.startswith("    ") and not line.startswith("     ") and ":" in text:
            field = text.partition(":")[0]


def _words(kind: types.Type) -> str:
    match kind:
        case types.UnionType():
            parts = [k for k in kind.types if not isinstance(k, types.NoneType)]
            return ", or ".join(_words(part) for part in parts)
        case types.StructType() if kind.array_like:
            return "[" + ", ".join(_words(field.type) for field in kind.fields) + "]"
        case types.EnumType():
            return ", ".join(f"`{each.value}`" for each in kind.cls)
        case types.StructType():
            name = _NAMES[kind.cls]
            return f"[{name}](#{name.replace(' ', '-')})"
        case types.VarTupleType():
            size = _range(kind.min_length, kind.max_length)
            return f"list of {size}{_words(kind.item_type)}"
        case types.TupleType():
            return "[" + ", ".join(_words(k) for k in kind.item_types) + "]"
        case types.DictType():
            size = _range(kind.min_length, kind.max_length)
            return f"map of {size}{_words(kind.key_type)} to {_words(kind.value_type)}"
        case types.EnumType():
            return ", ".join(f"`{value.value}`" for value in kind.cls)
        case types.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case types.FloatType() | types.IntType():
            word = "number" if isinstance(kind, types.FloatType) else "whole number"
            bounds = [
                f"{sign} {bound:,}".removesuffix(".0")
                for sign, bound in (
                    ("≥", kind.ge),
                    (">", kind.gt),
                    ("≤", kind.le),
                    ("<", kind.lt),
                )
                if bound is not None
            ]
            return " ".join([word, ", ".join(bounds)]).strip()
        case types.StrType():
            return _text(kind)
        case types.BoolType():
            return "true or false"
    raise AssertionError(kind)


def _text(kind: types.StrType) -> str:
    words = {
        scenario.Name: "name",
        agreements.Day: "date",
        scenario.Address: "address",
        rules.Cidr: "address or prefix",
        rules.RuleId: "name of a rule",
        scenario.LinkName: "directed link",
        scenario.GoalName: "goal",
        scenario.ParameterName: "parameter",
        scenario.Version: "version",
        Device: "name of an interface",
        intents.Thing: "slice, address or prefix",
        rules.Cidr: "address or prefix",
    }
    for alias, word in words.items():
        info = types.type_info(alias)
        if isinstance(info, types.StrType) and info.pattern == kind.pattern:
            return word
    if kind.max_length is None:
        return "sentence"
    return f"text, at most {kind.max_length:,} characters"


def _range(least: int | None, most: int | None) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f"at least {least} × "
    return f"{least or 0} to {most:,} × "


def _default(field: types.Field) -> str:
    if field.required:
        return "**required**"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, scenario.PreferencesSpec):
        return "a third each"
    if isinstance(value, dict):
        return ", ".join(f"`{name}`" for name in value)
    if isinstance(value, rules.RuleSet):
        return "no rules"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if isinstance(value, tuple) and all(isinstance(each, Enum) for each in value):
        return ", ".join(f"`{each.value}`" for each in value)
    if isinstance(value, Struct):
        return _differing(value) or "all defaults"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _differing(value: Struct) -> str:
    """Return the fields in which a struct differs from one that has only defaults."""
    plain = type(value)()
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return ", ".join(f"`{name}` {v:g}" for name, v in fields if v != getattr(plain, name))


def functions() -> str:
    """Return the descriptors of the installed functions."""
    lines = [
        "| function | a unit needs | handles | accuracy | image | shared | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, point in sorted(installed_capabilities().items()):
        if not point.value.startswith(("phalanx.functions.", "phalanx.policy.")):
            continue
        capability = point.load()
        if capability.vnfd is None:  # what a loop brings beside the function of its file
            continue
        vnfd, needs = capability.vnfd, capability.vnfd.requires
        handles = "any traffic" if vnfd.handles_mb_s is None else f"{vnfd.handles_mb_s:g} MB/s"
        settings = ", ".join(f"`{k}` {v:g}" for k, v in capability.parameters.items())
        lines.append(
            f"| `{name}` | {needs.cores:g} core{'s' * (needs.cores != 1)}, {needs.memory_gb:g} GB, "
            f"{needs.disk_gb:g} GB disk "
            f"| {handles} | {vnfd.accuracy:g} | {vnfd.image_mb:g} MB "
            f"| {'yes' if vnfd.shared else 'no'} | {settings or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def plans() -> str:
    """Return the plans of all functions and of what is built into every agent."""
    lines = ["| capability | goal | plan | what it does |", "|---|---|---|---|"]
    loaded = [point.load() for _, point in sorted(installed_capabilities().items())]
    own = [c for c in loaded if c.__module__.startswith("phalanx.functions.")]
    for capability in [*own, *BUILT_IN]:
        for spec in capability.plans:
            mode = "" if spec.mode is None else spec.mode.value
            kind = spec.achieves.__name__
            goal = f"{mode}{kind[0].lower()}{kind[1:]}" if kind != "Predicate" else f"{mode}any"
            if spec.mode is Mode.AVERT and kind == "Predicate":
                goal = "¬any"
            doc = (getattr(capability, spec.body).__doc__ or "").strip().splitlines()[0]
            local = " (never auctioned)" if spec.local else ""
            lines.append(f"| `{capability.name}` | `{goal}`{local} | {spec.name} | {doc} |")
    return "\n".join(lines) + "\n"


def _source(name: str) -> Callable[[], str]:
    """Return what shows a file of the examples."""
    file = Path(__file__).parent / "examples" / name
    language = {".py": "python", ".toml": "toml", ".yaml": "yaml"}[file.suffix]
    return lambda: f"```{language}\n{file.read_text(encoding='utf-8')}```\n"


_EXAMPLES = (
    "bulletin/bulletin.py",
    "bulletin/pyproject.toml",
    "quick_classifier.py",
    "site.yaml",
)


def chances() -> str:
    """Return how likely an infected agent stays unseen, by how many there are and by rounds."""
    rounds = (1, 5, 10)
    lines = [
        "| infected | " + " | ".join(f"unseen after {n}" for n in rounds) + " |",
        "|---" * 4 + "|",
    ]
    for infected in (1, 2, 4, 8, 12, 16):
        cells = (f"{unseen(20, infected, 3, n):.2g}" for n in rounds)
        lines.append(f"| {infected} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def queries() -> str:
    """Return the metrics that are known, and the PromQL of each."""
    lines = ["| metric | of a service | of a node |", "|---|---|---|"]
    found = load_queries("service"), load_queries("node")
    for name in sorted({*found[0], *found[1]}):
        cells = (
            f"`{each[name].replace('|', chr(92) + '|')}`" if name in each else "–" for each in found
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "queries": queries,
    "schema": schema,
    "site": site,
    "functions": functions,
    "plans": plans,
    "intents": intent_kinds,
    "grammar": grammar,
    "unseen": chances,
    **{name: _source(name) for name in _EXAMPLES},
}
