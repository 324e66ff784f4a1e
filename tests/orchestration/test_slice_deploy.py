"""Slices beside a service: their loops are processes of it, and a slip leaves nothing behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from msgspec.structs import replace
from service_world import NAME, SERVICE, World, asked
from tests.mutations import mutated
from tests.nightly import examples, sample
from tests.one_line import taken_or_refused
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.domain.errors import ScenarioError
from phalanx.loading import parse_as
from phalanx.orchestration.mlfo.need import need_of
from phalanx.orchestration.mlfo.pipeline import compute
from phalanx.orchestration.workflow.model import Asked, arranged
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.services import plan_of
from phalanx.slices.model import SlicesSpec, loops_of

TEXT = (SERVICE / "slices.yaml").read_text(encoding="utf-8")
SPEC, _ = parse_as(SlicesSpec, TEXT, "slices.yaml")
LOOPS = tuple(loop.name for loop in loops_of(SPEC))


def sliced(text: str = TEXT) -> Asked:
    return replace(asked(), slices=("slices.yaml", text))


def test_loops_are_processes_beside_the_agents_of_their_functions() -> None:
    world = World()
    deployment = world.orchestrator().deploy(sliced())
    at = {m.key: m.site for m in deployment.loops}
    assert tuple(at) == LOOPS
    sites = {vnf: agent.site for agent in deployment.agents for vnf in agent.serves}
    assert {f.name: at[f"sem-{f.name}"] for f in SPEC.functions} == {
        f.name: sites[f.host] for f in SPEC.functions
    }
    names = {name for _, name in world.processes}
    assert {f"{NAME}.{loop}.1" for loop in LOOPS} <= names == world.identities
    assert (f"{NAME}.sem-cache.1", f"{NAME}.nssi-delivery.1") in world.probed
    view = world.orchestrator().show(NAME)
    assert {a.trust.partition(":")[0] for a in view.agents} == {"", "unattested"}
    (done,) = [e for e in world.sent if e.kind == "service.deployed"]
    assert done.data["agents"].keys() >= {f"{NAME}.e2e.1"}


def test_the_plan_gives_loops_the_names_of_their_identities() -> None:
    wanted = sliced()
    service = wanted.service()
    need = need_of(service)
    target = arranged(wanted, need, compute(need), None, 3)
    plan = parse_scenario(plan_of(service, target, ()), "plan")
    loops = {loop.name: loop for loop in plan.loops()}
    assert loops.keys() == {f"{NAME}.{loop}.3" for loop in LOOPS}
    cache = loops[f"{NAME}.sem-cache.3"]
    assert cache.above == (f"{NAME}.nssi-delivery.3",)
    assert cache.beside == (f"{NAME}.sem-origin.3",)
    assert cache.pop == next(host.at for host in plan.hosts if host.name == "cache")
    assert {agent.name for agent in plan.all_agents()} >= loops.keys()


def test_another_descriptor_starts_all_anew_and_the_same_one_nothing() -> None:
    world = World()
    world.orchestrator().deploy(sliced())
    lives = dict(world.started)
    world.orchestrator().deploy(sliced())
    assert world.started == lives
    more = TEXT.replace("form: VNF}\n", "form: CNF}\n", 1)
    world.orchestrator().reconfigure(NAME, sliced(more))
    agents = {name for name in lives if name != f"{NAME}.network.1"}
    assert all(world.started[name] == lives[name] + 1 for name in agents)
    less = re.sub(r"(?m)^.*name: access.*\n|^.*name: transport.*\n", "", TEXT)
    less = less.replace("[transport, delivery]", "[delivery]")
    world.orchestrator().reconfigure(NAME, sliced(less))
    gone = {f"{NAME}.{loop}.1" for loop in ("sem-access", "nssi-transport", "domain-TN")}
    assert world.identities == lives.keys() - gone
    world.orchestrator().remove(NAME)
    assert not world.identities
    assert not world.folders


@pytest.mark.parametrize("moment", sample([60, 4, 130], 3))
def test_whatever_moment_it_crashes_at_it_comes_to_the_same_end(moment: int) -> None:
    plain, world = World(), World(crashes=[moment])
    for each in (plain, world):
        assert each.until_done(lambda orchestrator: orchestrator.deploy(sliced())) is None
    assert world.standing() == plain.standing()


HOSTILE = [
    ("host: cache", "host: cach", "functions[1].host (line 4): there is no VNF 'cach'; did you"),
    ("functions: [access]", "functions: [transport]", "there is no function 'transport'"),
    ("subnets: [transport", "subnets: [video, transport", "there is no subnet 'video'"),
    ("name: origin", "name: cache", "functions[2].name (line 5): 'cache' is already that of"),
    ("form: VNF", "form: PNF", "functions[0].form (line 3): access is a VNF of the service, so it"),
    ("kind: UPF", "kind: 7", "functions[0].kind (line 3): 7 is not allowed"),
    ("sd: '000001'", "sd: '0x1'", "six hexadecimal digits"),
    ("name: video", "name: '▒\\e[31m'", "slices[0].name (line 10): "),
    ("slices:\n", "slices: &a\n", "anchors and aliases"),
    ("functions:\n", "agents: {e2e: root}\nfunctions:\n", "the orchestrator names the agents"),
    ("functions:\n", "- x\nfunctions:\n", "no YAML"),
]


@pytest.mark.parametrize(("old", "new", "line"), HOSTILE)
def test_a_slip_is_one_line_and_deploys_nothing(old: str, new: str, line: str) -> None:
    assert old in TEXT
    world = World()
    with pytest.raises(ScenarioError) as caught:
        world.orchestrator().deploy(sliced(TEXT.replace(old, new, 1)))
    assert str(caught.value).startswith("slices.yaml: ")
    assert line in str(caught.value)
    assert str(caught.value).isprintable()
    assert not world.effects
    assert not world.orchestrator().list()


def agreed(**pops: str) -> Asked:
    """Return the service under an agreement by which it may stand in Spain alone."""
    wanted = sliced(TEXT.replace("subnets: [transport", "agreement: core, subnets: [transport", 1))
    name, text = wanted.sites
    sites = yaml.safe_load(text)
    at = {site["pop"]: "ES" for site in sites["sites"]} | pops
    where = [{"name": n, "jurisdiction": j, "operator": "north"} for n, j in at.items()]
    sites["agreement"] = {"name": "core", "as_of": "2026-01-01", "pops": where}
    sites["agreement"]["locations"] = {"jurisdictions": ["ES"]}
    for site in sites["sites"]:
        site["trust"] = 1.0
    return replace(wanted, sites=(name, yaml.safe_dump(sites)))


def test_a_function_is_not_deployed_where_the_agreement_does_not_let_it_stand() -> None:
    world, here = World(), agreed().service()
    assert here.slices is not None
    assert here.slices.slices[0].agreement == "core"
    pop = next(s.pop for s in here.sites.sites if s.name == here.request.vnfs["cache"])
    with pytest.raises(ScenarioError) as caught:
        world.orchestrator().deploy(agreed(**{pop: "FR"}))
    assert f"{pop} is in FR; the agreement core allows ES" in str(caught.value)
    assert "vnfs.cache" in str(caught.value)
    assert not world.effects


def test_a_slice_that_names_an_agreement_needs_it_and_runs_under_it() -> None:
    with pytest.raises(ScenarioError, match="there is no agreement 'core'; there is none"):
        replace(agreed(), sites=sliced().sites).service()
    service = agreed().service()
    need = need_of(service)
    need = replace(need, vnfs=tuple(replace(vnf, least_trust=0.6) for vnf in need.vnfs))
    target = arranged(agreed(), need, compute(need), None, 1)
    assert parse_scenario(plan_of(service, target, ()), "plan").agreement is None


@given(mutated(yaml.safe_load(TEXT)))
@settings(max_examples=examples(3))
def test_whatever_a_descriptor_holds_it_is_taken_or_refused_in_one_line(tree: object) -> None:
    text = yaml.safe_dump(tree)
    taken_or_refused(ScenarioError, lambda: sliced(text).service())


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    spec = DomainSpec("edge", (BrokerSpec("broker1", "192.0.2.1"),))
    return Domain.create(tmp_path / "edge", spec).folder


def run(domain: Path, *arguments: object) -> tuple[int, str]:
    words = ["slice", *map(str, arguments), "--domain", str(domain)]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, words)
    return done.exit_code, done.output


def test_nothing_is_deployed_at_first(domain: Path) -> None:
    assert run(domain, "list") == (0, "no slice is deployed\n")
    for verb in ("show", "remove"):
        assert run(domain, verb, "video") == (2, "there is no slice 'video'; there is none\n")


def test_a_folder_without_a_descriptor_and_one_that_is_too_large_are_refused(
    domain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "service"
    shutil.copytree(SERVICE, folder)
    (folder / "slices.yaml").write_text(TEXT + "# " + "x" * (1 << 20))
    assert run(domain, "deploy", folder)[1].endswith("is larger than 1024 KiB, the most allowed\n")
    (folder / "slices.yaml").unlink()
    code, said = run(domain, "deploy", folder)
    assert (code, "slices.yaml: cannot be read: No such file" in said) == (2, True)
    assert run(domain, "list") == (0, "no slice is deployed\n")
