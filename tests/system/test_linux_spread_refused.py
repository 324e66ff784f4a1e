"""Real packets for agents in processes of their own are refused at the door, where they must be."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.identity.names import Role
from phalanx.infrastructure.linux import features
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes import spread as spreading
from phalanx.runtime.processes.network import open_network
from phalanx.runtime.processes.spec import NetworkProcessSpec, RunSpec
from phalanx.runtime.processes.spread import Spread
from tests.system.linux_spread_plan import plan

ROOT = features.Feature(
    "root", "no", "to make and remove what a run needs", "run as root", False, True
)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(plan()))
    return path


@pytest.fixture
def spec(tmp_path: Path, scenario: Path) -> NetworkProcessSpec:
    domain = Domain.create(
        tmp_path / "domain", DomainSpec("run", (BrokerSpec("broker1", "127.0.0.1", 4222),))
    )
    domain.add("network", Role.NETWORK)
    return NetworkProcessSpec(
        bus=str(domain.bundle("network") / "bus.toml"),
        state=str(tmp_path / "state"),
        plan=str(scenario),
        on="linux",
    )


@pytest.fixture
def unable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without root."""
    monkeypatch.setattr(features, "probe", lambda: (ROOT,))


@pytest.mark.usefixtures("unable")
def test_a_network_names_what_its_machine_lacks(spec: NetworkProcessSpec) -> None:
    with pytest.raises(PhalanxError, match=r"^no real packets on this machine: root: no \(run as"):
        open_network(spec)
    assert not Path(spec.state).exists()


@pytest.mark.usefixtures("unable")
def test_a_run_names_it_before_it_makes_anything(
    scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(spreading, "ProcessTestbed")
    with pytest.raises(PhalanxError, match=r"^no real packets on this machine: root: no"):
        Spread(load_scenario(scenario), scenario, on="linux").run()


def test_real_packets_keep_real_time(spec: NetworkProcessSpec) -> None:
    hurried = replace(spec, run=RunSpec(time.time(), speed=2.0))
    with pytest.raises(PhalanxError, match=r"^real packets keep real time; the run's speed is 2$"):
        open_network(hurried)
