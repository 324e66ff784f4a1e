"""``phalanx intent``: from sentences about what shall hold to agreements and rules."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from msgspec import Struct, to_builtins
from msgspec.structs import replace
from rich.text import Text

from phalanx.cli.bus_options import Bus, DomainFolder, operator, why
from phalanx.cli.files import check_writable
from phalanx.cli.terminal import AsJson, counted, emit, emit_json, err, group, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.operations import Accepted
from phalanx.loading import parse_as, read_text, unknown
from phalanx.policy.intents import IntentSet
from phalanx.policy.language import page_of, parse_document, parse_page, said
from phalanx.policy.plan import PolicyPlan
from phalanx.policy.rules import Segment
from phalanx.policy.ssla import METRICS
from phalanx.policy.ssla_xml import ImportedAgreement, parse_ssla, to_figure_3
from phalanx.policy.tmf921 import parse_tmf921, to_tmf921
from phalanx.policy.translation import (
    FunctionFigures,
    LinkFigures,
    SliceFigures,
    Surroundings,
    compile_intents,
    fit,
    intents_of,
    merged,
    without,
)
from phalanx.runtime.catalogue import load_catalogue
from phalanx.runtime.composition import AGREEMENTS, told_of
from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.runtime.scenario import Scenario

app = group("Check intents, say what they mean, and make agreements and rules of them.")

_POLICY = re.compile(r"(?m)^policy:.*\n(?:(?:[ \t].*)?\n|-.*\n)*(?:[ \t-].*\Z)?")

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Intents: a page of sentences (.txt, .intent), YAML, TMF921 (.json), SSLA (.xml).",
    ),
]
Holder = Annotated[
    Path, typer.Argument(metavar="FILE", help="A scenario with policy:, or a plan of its own.")
]
Plan = Annotated[
    Path | None, typer.Option("--scenario", metavar="FILE", help="Where the intents are to hold.")
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file to write.")]
About = Annotated[
    str,
    typer.Option("--slice", help="The slice that an agreement in XML is about, if it has none."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse an agreement in XML of which a part is left out.")
]


class Form(Enum):
    """Forms in which intents are written."""

    YAML = "yaml"
    TEXT = "text"
    TMF921 = "tmf921"
    SSLA = "ssla"
    PLAN = "plan"


class _Held(Struct):
    """A file with a section ``policy:``; the rest of it is read elsewhere."""

    policy: PolicyPlan | None = None


@app.command()
def check(
    file: File,
    *,
    scenario: Plan = None,
    slice_: About = "",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say what intents mean, and show the terms and rules that they come to.

    The exit code is 2 if they cannot be read, contradict each other, or cannot be met.
    """
    read, plan = _compiled(file, scenario, slice_, strict=strict)
    if as_json:
        emit_json({"intents": read, "plan": plan})
        return
    if isinstance(read, IntentSet):
        table = table_of("intent", "means that")
        for each in read.intents:
            table.add_row(each.name, Text(said(each)))
        out.print(table)
    else:
        for part in read.left:
            say(err, f"left out: {part}", "yellow")
    _show(plan)


@app.command()
def apply(
    file: File,
    out_: Out,
    *,
    scenario: Plan = None,
    slice_: About = "",
    strict: Strict = False,
    bus: Bus = None,
    domain: DomainFolder = None,
) -> None:
    """Write a scenario with what intents come to; without one, write a plan of its own.

    With a domain, the agents of the scenario that run there go by it from now on.
    """
    if scenario is None and (bus or domain):
        raise PhalanxError("--scenario FILE is needed to know which agents to tell")
    _, plan = _compiled(file, scenario, slice_, strict=strict)
    if scenario is None:
        _write(out_, _yaml(plan))
    else:
        held, text = _held(scenario)
        plan = merged(held, plan) if held else plan
        text = _with_policy(text, plan)
        parse_scenario(text, str(out_))  # what is written can be run
        _write(out_, text)
    names = intents_of(plan)
    say(out, f"{out_}: {counted(len(names), 'intent')} in force: {', '.join(names)}", "green")
    if bus or domain:
        _tell(out_, bus, domain)


@app.command("list")
def list_(holder: Holder, *, as_json: AsJson = False) -> None:
    """Show the intents that a file holds, by the terms and rules that follow from them."""
    plan = _held(holder)[0] or PolicyPlan()
    if as_json:
        emit_json(plan)
    else:
        _show(plan)


@app.command()
def remove(
    holder: Holder,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names of intents.")],
    out_: Out,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
) -> None:
    """Write a file without what follows from some intents.

    With a domain, the agents of the scenario that run there go by it from now on.
    """
    held, text = _held(holder)
    plan = held or PolicyPlan()
    for name in names:
        if name not in intents_of(plan):
            raise PhalanxError(f"{holder}: {unknown('intent', name, intents_of(plan))}")
    left = without(plan, names)
    _write(out_, _with_policy(text, left) if _POLICY.search(text) else _yaml(left))
    say(out, f"{out_}: {counted(len(intents_of(left)), 'intent')} left", "green")
    if bus or domain:
        _tell(out_, bus, domain)


def _tell(written: Path, bus: Path | None, domain: Path | None) -> None:
    """Give the agents of a scenario that run in a domain its policy; each takes its own part."""
    plan = load_scenario(written)
    told, failed = told_of(plan, plan.policy or PolicyPlan()), 0
    with operator(bus, domain) as connected:
        for name, policy in sorted(told.items()):
            answer = connected.call(name, AGREEMENTS, policy)
            if isinstance(answer, Accepted):
                say(out, f"{name}: {answer.detail}")
            else:
                failed += 1
                say(err, f"{name}: {why(name, answer)}", "red")
    if failed:
        say(err, f"{failed} of {counted(len(told), 'agent')} did not take it", "red")
        raise typer.Exit(1)


@app.command("convert")
def convert_(
    file: File,
    to: Annotated[Form, typer.Option("--to", help="The form to print.")],
    *,
    slice_: About = "",
    strict: Strict = False,
) -> None:
    """Print the same intents, or the agreement that they come to, in another form."""
    if to in (Form.PLAN, Form.SSLA):
        _, plan = _compiled(file, None, slice_, strict=strict)
        promised = {term.intent for each in plan.agreements for term in each.terms}
        for name in [each for each in intents_of(plan) if each not in promised and to is Form.SSLA]:
            say(err, f"left out: {name} comes to rules alone", "yellow")
        if to is Form.SSLA and not plan.agreements:
            raise PhalanxError(f"{file}: no intent comes to a term of an agreement")
        emit(_yaml(plan) if to is Form.PLAN else to_figure_3(plan.agreements[0]).rstrip("\n"))
        return
    read = _read(file, None, slice_, strict=strict)
    if isinstance(read, ImportedAgreement):
        raise PhalanxError(f"{file}: an SSLA is no intent; print it as ssla or plan")
    writers = {Form.YAML: _yaml, Form.TEXT: page_of, Form.TMF921: to_tmf921}
    emit(writers[to](read).rstrip("\n"))


def _read(
    file: Path, slices: list[str] | None, slice_: str, *, strict: bool
) -> IntentSet | ImportedAgreement:
    text, name = read_text(file), str(file)
    if file.suffix == ".xml":
        return parse_ssla(text, name, slice_, strict=strict)
    if file.suffix in (".txt", ".intent"):
        return parse_page(text, name, slices)
    tmf = file.suffix == ".json" and '"JsonLdExpression"' in text
    return (parse_tmf921 if tmf else parse_document)(text, name, slices)


def _compiled(
    file: Path, scenario: Path | None, slice_: str, *, strict: bool
) -> tuple[IntentSet | ImportedAgreement, PolicyPlan]:
    around = _around(scenario)
    slices = None if around is None else list(around.slices) or None
    read = _read(file, slices, slice_, strict=strict)
    if isinstance(read, IntentSet):
        if around is not None and slices is None:  # no slices:, so members alone make one
            around = replace(around, slices={each: SliceFigures() for each in read.members})
        plan = compile_intents(read, around)
        if scenario is not None and around is not None and (held := _held(scenario)[0]):
            fit(read, held, around)
        return read, plan
    if read.agreement is None:
        raise PhalanxError(
            f"{file}: nothing in it can be said in metrics; left out: {read.left[0]}"
        )
    return read, PolicyPlan((read.agreement,))


def _held(path: Path) -> tuple[PolicyPlan | None, str]:
    """Return the plan that a file holds or is, and its text."""
    text = read_text(path)
    held, tree = parse_as(_Held, text, str(path))
    if isinstance(tree.data, dict) and set(tree.data) <= set(PolicyPlan.__struct_fields__):
        return parse_as(PolicyPlan, text, str(path))[0], text
    return held.policy, text


def _around(path: Path | None) -> Surroundings | None:
    if path is None:
        return None
    _, text = _held(path)
    return surroundings_of(parse_scenario(_POLICY.sub("policy: {}\n", text), str(path)))


def surroundings_of(scenario: Scenario) -> Surroundings:
    """Return what the intents of a scenario can be met with."""
    import networkx as nx  # noqa: PLC0415  # it takes a quarter of a second to import

    network, spec = scenario.to_network(), scenario.slices
    hosts = {each.name: each for each in network.hosts}
    laws = scenario.jurisdictions()
    slices = {}
    for each in spec.slices if spec else ():
        parts = {name for x in spec.subnets if x.name in each.subnets for name in x.functions}  # type: ignore[union-attr]
        used = [x for x in spec.functions if x.name in parts]  # type: ignore[union-attr]
        slices[each.name] = SliceFigures(
            tuple(dict.fromkeys(hosts[x.host].address for x in used)),
            tuple(dict.fromkeys(hosts[x.host].at for x in used)),
            {x.name: hosts[x.host].at for x in used if x.form == "PNF"},
        )
    graph: Any = nx.Graph()
    graph.add_node(network.repository)
    for link in network.links:
        graph.add_edge(link.a, link.b, weight=link.bandwidth_mb_s)
    tree = nx.maximum_spanning_tree(graph)
    reach = {
        pop: min((tree.edges[x]["weight"] for x in nx.utils.pairwise(way)), default=float("inf"))
        for pop, way in nx.single_source_shortest_path(tree, network.repository).items()
    }
    catalogue, timing = load_catalogue(scenario), scenario.timing
    encrypts = catalogue.goals().get("encrypted")
    return Surroundings(
        slices,
        {each.name: laws.get(each.name, "") for each in network.pops},
        tuple(LinkFigures((x.a, x.b), x.loss) for x in network.links),
        {name: FunctionFigures(x.image_mb, x.boot_s) for name, x in catalogue.vnfds.items()},
        reach,
        () if encrypts is None else tuple(x.name for x in catalogue.achievers(encrypts)),
        change_s=timing.message_latency_ms / 1e3,
        notice_s=timing.silence_s,
        analysis_s=timing.sample_s,
    )


def _show(plan: PolicyPlan) -> None:
    terms = [term for agreement in plan.agreements for term in agreement.terms]
    table = table_of("term", "slice", "metric", "objective", "a breach is answered by")
    for term in terms:
        metric = METRICS[term.metric]
        sign = "≥" if metric.better == "higher" else "≤"
        aim = f"{sign} {term.objective:g}{f' {metric.unit}' if metric.unit else ''}"
        remedies = ", ".join(each.value for each in term.remediation)
        table.add_row(term.name, term.slice, term.metric.value, aim, remedies)
    rules = table_of("rule", "verdict", "from", "to", "service", "when")
    for rule in plan.rules.rules:
        match, time = rule.match, rule.schedule
        ports = ", ".join(
            f"{x.first}-{x.last}" if x.first < x.last else f"{x.first}" for x in match.ports
        )
        rate = f" {rule.action.rate_mb_s:g} MB/s" if rule.action.rate_mb_s else ""
        days = "".join("MTWTFSS"[day] if day in time.days else "-" for day in range(7))
        hours = f"{time.start // 60:02}:{time.start % 60:02}-{time.end // 60:02}:{time.end % 60:02}"
        service = f"{match.protocol or 'any'} {ports}".strip()
        if rule.condition.encrypted is False:
            service = "clear text" if service == "any" else f"{service} in clear text"
        always = not time.days and (time.start, time.end) == (0, 1440)
        rules.add_row(
            *(rule.id, rule.action.verdict.value + rate, _side(match.source), _side(match.target)),
            service,
            "always" if always else f"{days if time.days else 'daily'} {hours} UTC",
        )
    for each in (table, rules):
        if each.row_count:
            out.print(each)
    if not (terms or plan.rules.rules):
        say(out, "no intents", "green")


def _side(segment: Segment) -> Text:
    shown = segment.slice or ", ".join(segment.addresses[:3]) or "any"
    more = "…" if len(segment.addresses) > 3 else ""
    outside = f" but {', '.join(segment.outside[:4])}" if segment.outside else ""
    return Text(f"{shown}{more}{outside}{'…' if len(segment.outside) > 4 else ''}")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(_lean(to_builtins(value)), sort_keys=False, allow_unicode=True)


def _lean(value: Any) -> Any:
    """Return plain data without what says nothing: empty fields, and those that are not given."""
    if isinstance(value, dict):
        lean = {key: _lean(each) for key, each in value.items()}
        return {key: each for key, each in lean.items() if each not in (None, "", [], {})}
    return [_lean(each) for each in value] if isinstance(value, list | tuple) else value


def _with_policy(text: str, plan: PolicyPlan) -> str:
    """Return the text of a scenario with another section ``policy:``."""
    return _POLICY.sub("", text).rstrip("\n") + "\n\n" + _yaml({"policy": plan})


def _write(path: Path, text: str) -> None:
    check_writable(path, b"")
    if path.exists():
        raise PhalanxError(f"{path}: is there already; name another file for the output")
    path.write_text(text, encoding="utf-8")
