"""Agents of a domain that attest each other: each process is started by itself, as at a site."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from phalanx.identity.names import Role
from phalanx.runtime.processes.testbed import PHALANX, free_ports
from phalanx.runtime.processes.trusting import write_into
from phalanx.trust.processes import HASH_SEED, new_hash_seed
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import NETWORK, POPS, plan

pytestmark = [
    *processes(),
    pytest.mark.skipif(os.geteuid() != 0, reason="measuring other processes needs root"),
]

PERIOD_S = 15.0
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
SECAAS = "secaas"


class Site(Lab):
    """The processes of a domain, what measures its agents, and its ledger."""

    def __init__(self, folder: Path, measurer: str = "") -> None:
        document = plan(traffic=[], trust={"period_s": PERIOD_S})
        super().__init__(folder, document=document, others=[(SECAAS, Role.AGENT)])
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = self.testbed.bus(SECAAS).with_name("trust.secret")
        self.repository = folder / "measurer" / "repository"
        (folder / "pids").mkdir()
        agents = "".join(f'{pop} = "pids/{pop}.pid"\n' for pop in POPS)
        self.measurer = folder / "measurer.toml"
        self.measurer.write_text(
            f'state = "measurer"\nsocket = "measurer.sock"\n{measurer}[agents]\n{agents}'
        )

    def run(self, name: str) -> None:
        """Start the ledger or the measurer, as its unit does."""
        words = {
            "ledger": ("ledger", "serve", str(self.folder / "ledger.db"), "--port", str(self.port)),
            "measurer": ("trust", "measure", "--config", str(self.measurer)),
        }[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([*PHALANX, *words], stdout=log, stderr=log, env=UNBUFFERED)
        self.programs[name] = process
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def kill(self, name: str) -> None:
        """End it as kill -9 does."""
        self.programs[name].kill()
        self.programs[name].wait()

    def ask(self, *words: object, fails: bool = False) -> str:  # type: ignore[override]
        """Return what a command says, while the lab's clock runs."""
        with (self.folder / "said").open("w+b") as said:
            done = subprocess.Popen(
                [*PHALANX, *map(str, words)], stdout=said, stderr=subprocess.STDOUT
            )
            while done.poll() is None:
                self.rest(0.1)
        text = (self.folder / "said").read_text()
        assert "Traceback" not in text
        assert (done.returncode != 0) is fails, text
        return text

    def start(self, *pops: str, **_: Any) -> None:
        """Start agents that attest themselves, and note which processes they are."""
        for pop in pops:
            self.testbed.start("agent", pop, {"plan": str(self.plan)}, trust=self.trust(pop))
            (self.folder / "pids" / f"{pop}.pid").write_text(f"{self.testbed.pid(pop)}\n")

    def trust(self, name: str) -> dict[str, str]:
        """Return the table ``trust`` of a process's configuration."""
        return {
            "ledger": self.url,
            "secret": str(self.testbed.bus(name).with_name("trust.secret")),
            "repository": str(self.repository),
            "measurer": str(self.folder / "measurer.sock"),
        }

    def enrol(self, *names: str, fails: bool = False) -> str:
        """Enrol agents, and wait until they are verified."""
        words = (self.repository, *names, "--ledger", self.url, "--key", self.key)
        return self.ask("trust", "enrol", *words, fails=fails)

    def standings(self) -> dict[str, str]:
        """Return what each agent is by the ledger."""
        found = json.loads(self.ask("trust", "status", "--json", "--ledger", self.url))
        return {agent["agent"]: agent["standing"] for agent in found["agents"]}

    def rounds(self, count: int) -> None:
        """Let rounds pass that begin from now on."""
        opened = int(json.loads(self.ask("trust", "plan", "--json", "--ledger", self.url))["round"])
        self.until(lambda: self._round() > opened + count, f"{count} rounds")

    def _round(self) -> int:
        return max((h.event.data["round"] for h in self.of("attestation.result")), default=0)


@contextmanager
def attesting(folder: Path, measurer: str = "", *learn: str) -> Iterator[Site]:
    """Give a site all of whose agents are verified.

    ``measurer`` goes into the measurer's file, ``learn`` to the command that learns the agents.
    """
    with pytest.MonkeyPatch.context() as patch, Site(folder, measurer) as site:
        patch.setenv(HASH_SEED, new_hash_seed())  # of all agents, as their units have it
        site.run("ledger")
        log = site.folder / "ledger.log"
        site.eventually(lambda: "is at" in log.read_text(), "the ledger")
        operator = ("--key", site.key)
        site.url = site.ask("trust", "found", site.plan, "--ledger", site.url, *operator).strip()
        configs = []
        for pop in POPS:  # their files are there before they run
            site.testbed.start("agent", pop, {"plan": str(site.plan)}, trust=site.trust(pop))
            site.testbed.kill(pop)
            configs.append(site.folder / f"{pop}.toml")
        site.ask("trust", "learn", *configs, "--config", site.measurer, *learn)
        site.start(*POPS)
        site.until(lambda: site.serving(*POPS), "all agents serve")
        site.testbed.start(NETWORK, NETWORK, {"plan": str(site.plan)}, trust=site.trust(NETWORK))
        site.run("measurer")
        said = site.enrol()
        assert all(f"{pop} is trusted" in said for pop in POPS), said
        yield site
    assert site.testbed.tracebacks() == ()
    for name in ("ledger", "measurer"):
        assert "Traceback" not in (site.folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with attesting(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_all_are_verified_in_a_chain_and_the_status_shows_it(site: Site) -> None:
    first = site.of("attestation.result", round=0, tier="affirming")
    assert {h.event.data["attester"] for h in first} == {*POPS}
    assert not any(h.event.data["modelled"] for h in first)
    assert sum(h.event.agent == SECAAS for h in first) < len(POPS)  # agents verify agents
    bus = ("--bus", site.testbed.bus("lab"))
    report = json.loads(site.ask("status", *bus, "--json", "--ledger", site.url))
    trust = {row["agent"]: row["trust"] for row in report["rows"]}
    assert all(trust[pop].startswith("affirming") for pop in POPS)
    assert trust[NETWORK].startswith("unattested")
    assert SECAAS not in trust


def test_a_measurer_and_a_ledger_that_are_killed_accuse_nobody(site: Site) -> None:
    before = len(site.heard)
    site.kill("measurer")
    site.run("measurer")
    site.kill("ledger")
    site.rest(5.0)
    site.run("ledger")
    site.rounds(1)
    site.until(lambda: site.of("attestation.result", before, tier="affirming"), "measured again")
    assert site.standings() == dict.fromkeys(POPS, "trusted")
    found = [h.event.data["tier"] for h in site.of("attestation.result", before)]
    assert "contraindicated" not in found


def test_an_agent_that_is_written_into_is_expelled_and_comes_back_enrolled_anew(site: Site) -> None:
    victim, before = POPS[1], len(site.heard)
    write_into(site.testbed.pid(victim))
    site.until(
        lambda: site.of("trust.changed", before, agent=None, standing="quarantined"), "expelled"
    )
    assert site.standings()[victim] == "quarantined"
    bus = ("--bus", site.testbed.bus("lab"))
    report = json.loads(site.ask("status", *bus, "--json", "--ledger", site.url, fails=True))
    assert any(f"{victim} is contraindicated" in line for line in report["findings"])
    found = site.of("attestation.result", before, attester=victim, tier="contraindicated")
    assert all(any("text-altered" in d for d in h.event.data["deviations"]) for h in found)
    site.until(lambda: len(site.of("key.installed", before)) >= len(POPS) - 1, "another epoch")
    assert victim not in {h.event.agent for h in site.of("key.installed", before)}
    site.testbed.signal(victim, signal.SIGINT)
    assert site.testbed.wait(victim, 20.0)
    site.restart(victim)
    assert f"{victim} is trusted" in site.enrol(victim)
    assert site.standings() == dict.fromkeys(POPS, "trusted")
