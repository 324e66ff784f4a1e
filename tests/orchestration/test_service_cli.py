"""``phalanx service``: what can be seen without processes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.orchestration.mlfo.need import need_of
from phalanx.orchestration.mlfo.pipeline import compute
from phalanx.orchestration.workflow.model import arranged
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.services import plan_of, present_image, read_asked

SERVICE = Path(__file__).parents[2] / "scenarios" / "services" / "edge-video"


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    spec = DomainSpec("edge", (BrokerSpec("broker1", "192.0.2.1"),))
    return Domain.create(tmp_path / "edge", spec)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["service", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("show", "a", "--domain", "{}/none"), "is no domain's directory"),
        (("show", "a", "--domain", "{}/edge"), "there is no service 'a'"),
        (("remove", "a", "--domain", "{}/edge"), "there is no service 'a'"),
        (("deploy", "{}/none", "--domain", "{}/edge"), "cannot be read: No such file"),
        (("list", "--domain", "{}/edge", "--store", "other"), "the store must be sqlite:///PATH"),
    ],
)
def test_bad_input_is_one_line(
    domain: Domain, tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    code, said = run(*(argument.format(tmp_path) for argument in arguments))
    assert code == 2
    assert line in said.replace("\n", "")
    assert "Traceback" not in said


def test_nothing_is_deployed_at_first(domain: Domain) -> None:
    assert run("list", "--domain", domain.folder) == (0, "no service is deployed\n")
    code, said = run("resume", "--domain", domain.folder)
    assert (code, said) == (0, "no service is deployed or unfinished\n")


def test_the_digest_is_put_into_a_file_of_sites(tmp_path: Path) -> None:
    shutil.copy(SERVICE / "sites.yaml", tmp_path)
    code, said = run("image", "--write", tmp_path / "sites.yaml")
    digest = present_image().digest
    assert code == 0
    assert f"phalanx-agent: {digest}" in said
    found = re.findall(r"sha256:\w+", (tmp_path / "sites.yaml").read_text())
    assert found == [digest] * 4
    assert "# Four sites" in (tmp_path / "sites.yaml").read_text()


def test_the_slice_has_the_sites_of_agents_as_pops_and_the_vnfs_as_hosts() -> None:
    asked = read_asked(SERVICE, None, None)
    service = asked.service()
    need = need_of(service)
    target = arranged(asked, need, compute(need), None, 1)
    plan = parse_scenario(plan_of(service, target, ()), "plan")
    assert {p.name: p.cores for p in plan.network.pops} == {
        "pop1": 19.2,
        "pop2": 22.4,
        "pop3": 16.0,
    }
    # The shortest way from barcelona to madrid is that over zaragoza, at which no agent stands.
    assert {(*link.between, link.latency_ms) for link in plan.network.links} == {
        ("pop1", "pop2", 1.6),
        ("pop1", "pop3", 2.9),
        ("pop2", "pop3", 1.7),
    }
    at = {"access": "pop1", "cache": "pop2", "origin": "pop3"}
    assert {a.name: a.pop for a in plan.all_agents()} == {
        f"edge-video-1.{vnf}.1": pop for vnf, pop in at.items()
    }
    assert {host.name: host.at for host in plan.hosts} == at
    assert {m.link: m.agent for m in plan.monitors} == {
        f"{pop}>{vnf}": f"edge-video-1.{vnf}.1" for vnf, pop in at.items()
    }
