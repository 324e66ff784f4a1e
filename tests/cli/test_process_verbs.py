"""What ``phalanx agent`` tells whoever starts it, where something is missing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.identity.names import Role
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec

PLAN = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of the agent of north, in a domain whose broker does not run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    domain = Domain.create(
        tmp_path / "edge", DomainSpec("edge", (BrokerSpec("broker1", "127.0.0.1", port),))
    )
    domain.add("north", Role.AGENT)
    path = tmp_path / "north.toml"
    path.write_text(
        f'bus = "edge/identities/north/bus.toml"\nplan = "{PLAN}"\nstate = "state/north"\n'
    )
    return path


def test_an_agent_without_a_broker_says_so_and_ends_in_order(config: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "phalanx", "agent", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "no connection to a broker of " in line
    assert "identities/north/bus.toml; tries go on: Connection refused" in line
    assert rest == ""  # once for each reason
    assert said == ("agent north of the domain edge, life 1\nagent north ended: interrupted\n")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "identities/north",
            "identities/west",
            "phalanx domain add DIR NAME --role agent makes it",
        ),
        ("identities/north", "identities/operator", "has the role operator; this process needs"),
        ("quickstart-ring", "nothing", "cannot be read"),
        ("state/north", "north.toml", "north.toml"),
    ],
)
def test_an_agent_that_cannot_start_says_why_in_a_line(
    config: Path, old: str, new: str, why: str
) -> None:
    config.write_text(config.read_text().replace(old, new))
    done = CliRunner().invoke(app, ["agent", "--config", str(config)])
    assert done.exit_code == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


# -- commands of an operator, before they connect ---------------------------------------------


def phalanx(*words: object, code: int = 0) -> Result:
    done = CliRunner(env={"PHALANX_DOMAIN": None}).invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("words", [("status",), ("logs",), ("stop", "a"), ("beliefs", "a")])
def test_without_a_domain_one_line_says_what_to_do(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = phalanx(*words, code=2)
    assert refused.stderr.startswith("which domain? Give --domain DIR or --bus FILE")
    assert refused.stderr.count("\n") == 1
    assert "is no domain's directory" in phalanx(*words, "--domain", ".", code=2).stderr
    assert "cannot be read" in phalanx(*words, "--bus", "bus.toml", code=2).stderr


SITE_PLAN = """
name: sites
duration_s: 60
network:
  repository: north
  pops:
    - {name: north, cores: 1, memory_gb: 1, disk_gb: 1}
    - {name: east, cores: 1, memory_gb: 1, disk_gb: 1}
  links: [{between: [north, east], bandwidth_mb_s: 5, latency_ms: 1}]
hosts:
  - {name: web, at: north, address: 10.0.0.1, bandwidth_mb_s: 5}
  - {name: shop, at: east, address: 10.0.0.2, bandwidth_mb_s: 5}
monitors: [{link: LINK, at: north, threshold_mb_s: 4}]
functions: {rate-limiter: {image_mb: 1, boot_s: 0}}
"""


@pytest.mark.parametrize(
    ("site", "link", "why"),
    [
        ('hosts = { web = "lo" }\ningress = "nowhere0"', "north>web", "no interface nowhere0"),
        ('hosts = { web = "nowhere0" }', "north>web", "site.hosts.web: no interface nowhere0"),
        ('hosts = { web = "../lo" }', "north>web", "site.hosts"),
        ('hosts = { web = "lo", shop = "lo" }', "north>web", "shop is no host at north; there are"),
        ('ingress = "lo"', "north>web", "site.hosts: web needs its interface"),
        ('egress = "lo"', "north>web", "egress"),
        ('hosts = { web = "lo" }', "north>east", "links between sites are not watched"),
    ],
)
def test_a_site_that_does_not_fit_is_refused_in_a_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, site: str, link: str, why: str
) -> None:
    monkeypatch.setattr("phalanx.runtime.processes.agent.check_linux", lambda: None)
    plan = config.parent / "sites.yaml"
    plan.write_text(SITE_PLAN.replace("LINK", link))
    config.write_text(config.read_text().replace(str(PLAN), str(plan)) + f"[site]\n{site}\n")
    done = CliRunner().invoke(app, ["agent", "--config", str(config)])
    assert done.exit_code == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (config.parent / "state").exists()


def test_a_site_and_trust_are_refused_together(config: Path) -> None:
    plan = config.parent / "sites.yaml"
    plan.write_text(SITE_PLAN.replace("LINK", "north>web"))
    files = "\n".join(f'{name} = "x"' for name in ("ledger", "secret", "repository", "measurer"))
    text = config.read_text().replace(str(PLAN), str(plan))
    config.write_text(f'{text}[site]\nhosts = {{ web = "lo" }}\n[trust]\n{files}\n')
    done = CliRunner().invoke(app, ["agent", "--config", str(config)])
    assert done.exit_code == 2
    assert "leave out trust or site" in done.stderr
