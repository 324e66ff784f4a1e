"""The section ``slices:`` of scenarios: its loops are agents of the run; slips are one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from msgspec.structs import replace

from phalanx.checking import check
from phalanx.domain.errors import ScenarioError
from phalanx.runtime.loading import load_scenario, parse_scenario
from phalanx.runtime.scenario import FaultSpec, fingerprint
from phalanx.runtime.system import System, run_scenario
from tests.mutations import mutated
from tests.nightly import at_night, examples
from tests.one_line import taken_or_refused

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"
PLAIN = RING.read_text(encoding="utf-8")
SLICES = """
slices:
  functions:
    - {name: cache, kind: UPF, host: shop, form: VNF}
    - {name: own, kind: SMF, host: shop}
  subnets:
    - {name: core, domain: CN, functions: [cache]}
    - {name: edge, domain: TN, functions: [own]}
  slices:
    - {name: video, s_nssai: {sst: 1}, subnets: [core, edge], sharing: shared}
    - {name: iot, s_nssai: {sst: 3, sd: '00002a'}, subnets: [core], sharing: shared}
"""
TEXT = PLAIN + SLICES


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("host: shop, form", "host: shp, form", "functions[0].host: there is no ho"),
        ("form: VNF", "form: XNF", "form: 'XNF' is not allowed; expected one of CNF, P"),
        ("kind: UPF", "kind: ''", "functions[0].kind: '' is not allowed"),
        ("kind: UPF", "kind: [a]", "functions[0].kind: a list of 1 is not allowed"),
        ("name: cache,", "name: 'kä▒se',", "functions[0].name: 'kä▒se' is not allowed"),
        ("name: cache,", "name: pop1, nam: 1,", "functions[0].nam: unknown field"),
        ("subnets: [core, edge]", "subnets: [video, core, edge]", "there is no subnet 'video'"),
        ("functions: [own]", "functions: [own, edge]", "there is no function 'edge'"),
        ("functions: [own]", "functions: []", "has 0 entries; at least 1 expected"),
        ("domain: TN", "domain: TN, domain: CN", "domain: given twice"),
        ("sst: 1", "sst: 256", "s_nssai.sst: 256 is not allowed; expected a whole"),
        ("sd: '00002a'", "sd: 2a", "six hexadecimal digits"),
        (
            "sharing: shared}\n    - {name: iot",
            "sharing: some}\n    - {name: iot",
            "expected one of",
        ),
        ("[core], sharing: shared", "[core]", "core' is used by iot, which is non-shared, and vid"),
        ("name: own, kind", "name: core, kind", "'core' is taken (functions)"),
        ("  slices:\n", "  slice:\n", "slices.slice: unknown field; did you mean"),
        ("  slices:\n", "  slices: &a\n", "anchors and aliases"),
    ],
)
def test_slips_are_one_line_with_file_field_and_line(old: str, new: str, line: str) -> None:
    assert old in TEXT
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(TEXT.replace(old, new, 1), "f.yaml")
    said = str(caught.value)
    assert said.startswith("f.yaml: slices.")
    assert line in re.sub(r" \(line \d+\)", "", said)
    assert said.isprintable()


def test_a_loop_watches_no_link() -> None:
    old = "monitors:\n  - {link: south>shop, at: south,"
    assert old in TEXT
    with pytest.raises(ScenarioError, match=r"monitors\[0\].agent.*: there is no agent at south"):
        parse_scenario(TEXT.replace(old, f"{old} agent: sem-own,"), "f.yaml")


def test_no_agent_and_no_pop_has_the_name_of_a_loop() -> None:
    added = "\nagents: [{name: sem-own, scope: slice}]\n"
    with pytest.raises(ScenarioError, match=r"makes the loop 'sem-own', which is an agent"):
        parse_scenario(TEXT + added, "f.yaml")


def test_a_thousand_functions_of_one_subnet_are_too_many() -> None:
    names = [f"f{number}" for number in range(1000)]
    more = "".join(f"    - {{name: {name}, kind: UPF, host: shop}}\n" for name in names)
    text = TEXT.replace("  subnets:\n", f"{more}  subnets:\n", 1)
    text = text.replace("functions: [own]", f"functions: [own, {', '.join(names)}]")
    with pytest.raises(ScenarioError, match="has 1001 entries; at most 256 allowed"):
        parse_scenario(text, "f.yaml")


@given(mutated(yaml.safe_load(SLICES)["slices"]))
@settings(max_examples=examples(16))
def test_whatever_is_done_to_the_text_it_is_taken_or_refused_in_one_line(tree: Any) -> None:
    text = PLAIN + yaml.safe_dump({"slices": tree})
    taken_or_refused(ScenarioError, lambda: parse_scenario(text, "f.yaml"))


def test_loops_are_agents_of_the_run_and_know_what_they_may_know() -> None:
    scenario = replace(parse_scenario(TEXT, "f.yaml"), duration_s=8.0)
    system = System(scenario)
    system.run()
    started = {e.agent: e.data for e in system.log.events if e.kind == "agent.started"}
    assert started["sem-own"]["scope"] == "network-function"
    assert started["sem-own"]["pop"] == scenario.hosts[0].at
    assert started["nsi-iot"]["scope"] == "slice"
    assert started["nsi-iot"]["pop"] is None
    told = system.log.events[0].data["loops"]
    assert [loop["name"] for loop in told] == [loop.name for loop in scenario.loops()]

    def known(agent: str) -> set[str]:
        return {*system.agents[agent].settings.loops}

    every = {loop.name for loop in scenario.loops()}
    assert known("north") == known("domain-CN") == every
    assert known("nsi-video") == every - {"nsi-iot"}
    assert every - known("nsi-iot") == {"nsi-video", "sem-own", "nssi-edge", "domain-TN"}


def test_a_plan_without_slices_is_what_it_was() -> None:
    plain, sliced = load_scenario(RING), parse_scenario(TEXT, "f.yaml")
    assert plain.loops() == ()
    assert fingerprint(plain) != fingerprint(sliced)
    assert fingerprint(plain) == fingerprint(replace(sliced, slices=None))
    assert "loops" not in System(plain).log.events[0].data


@at_night
def test_a_loop_that_leaves_says_first_that_others_have_not_done_what_it_passed_on():
    city = load_scenario(RING.with_name("isolated-slices.yaml"))
    leaves = FaultSpec(110.5, "drain", agent="nssi-telemetry")
    result = run_scenario(replace(city, duration_s=112, faults=(leaves,)))
    events = [e for e in result.events if e.agent == "nssi-telemetry"]
    assert [e.kind for e in events[-2:]] == ["loop.returned", "agent.left"]
    assert check(result.events) == []
