"""Agents in processes of their own measure up: one is written into, another lies."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from phalanx.console.report import read_report, render_report
from phalanx.domain.events import Event
from phalanx.ledger.entries import Associated, Breached, KeyHandedOut
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.processes.trusting import derived
from phalanx.runtime.system import RunResult
from phalanx.store.jsonl import encode_line
from phalanx.trust.keys import open_key, pair_secret
from tests.nightly import long_processes
from tests.system.process_lab import processes

RING = Path(__file__).parents[2] / "scenarios" / "quickstart-ring.yaml"
PERIOD_S = 30.0


pytestmark = processes(
    pytest.mark.skipif(os.geteuid() != 0, reason="measuring other processes needs root")
)


def prepared(
    folder: Path, *faults: dict[str, object], until: float = 130.0, **trust: object
) -> Spread:
    """Return a run of the ring over processes; its flood begins once all agents are verified."""
    plan = yaml.safe_load(RING.read_text(encoding="utf-8"))
    plan |= {"duration_s": until, "trust": {"period_s": PERIOD_S} | trust, "faults": [*faults]}
    plan["traffic"][1] |= {"start_s": 50, "end_s": None}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return Spread(load_scenario(path), path)


def of(result: RunResult, kind: str, **data: object) -> list[Event]:
    return [e for e in result.events if e.kind == kind and data.items() <= e.data.items()]


def expelled(result: RunResult) -> set[str]:
    return {e.data["agent"] for e in of(result, "trust.changed", standing="quarantined")}


@pytest.fixture(scope="module")
def infected(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Secrets]:
    """Return a run in which an agent is written into, and what it had to keep to itself."""
    fault: dict[str, object] = {"kind": "infect", "agent": "east", "at_s": 60}
    run = prepared(tmp_path_factory.mktemp("infected"), fault, until=110.0)
    made: list[Secrets] = []

    def look(now: float) -> None:
        if not made:
            made.append(Secrets(run))
        made[0].look(now)

    return run.run(on_progress=look), made[0]


def test_an_agent_into_which_another_process_writes_is_expelled(
    infected: tuple[RunResult, Secrets],
) -> None:
    result, _ = infected
    assert result.defects == ()
    first = of(result, "attestation.result", round=0, tier="affirming")
    assert {e.data["attester"] for e in first} == {"north", "east", "south", "west"}
    assert not any(e.data["modelled"] for e in result.events if e.kind == "attestation.result")
    activities = [e.data["activity"] for e in first]
    assert all(20 < a["memory_mb"] < 2000 and a["cpu_s"] > 0.1 for a in activities), activities
    assert expelled(result) == {"east"}
    found = of(result, "attestation.result", attester="east", tier="contraindicated")
    assert min(e.time for e in found) > 60
    assert all(any("text-altered" in d for d in e.data["deviations"]) for e in found)
    others = of(result, "key.installed", epoch=2)
    assert {e.agent for e in others} == {"north", "south", "west"}
    ended = of(result, "measure.lifted", pop="east")
    assert "not trusted" in ended[0].data["reason"]
    again = [e for e in of(result, "measure.applied") if e.time > ended[0].time]
    assert again
    assert again[0].data["pop"] != "east"


@long_processes
def test_a_liar_whose_program_is_genuine_is_expelled_for_what_it_does(tmp_path: Path) -> None:
    result = prepared(tmp_path, {"kind": "lie", "agent": "west", "at_s": 40}).run()
    assert result.defects == ()
    assert expelled(result) == {"west"}
    found = of(result, "attestation.result", attester="west", tier="contraindicated")
    lies = ("bid-false ", "rule-other ")
    assert all(d.startswith(lies) for e in found for d in e.data["deviations"])


@long_processes
def test_agents_agree_on_a_level_and_see_that_no_way_is_so_short(tmp_path: Path) -> None:
    """Of 0.01 ms there and back, beside what measuring takes."""
    level = {"max_latency_ms": 0.01, "max_loss": 0.5}
    run = prepared(tmp_path, until=200.0, period_s=15.0, service_levels=level)
    result = run.run()
    assert result.defects == ()
    agreed = {frozenset((e.agent, e.data["agent"])) for e in of(result, "association.agreed")}
    assert len(agreed) == 6
    seen = of(result, "association.breached")
    assert seen
    assert all(e.data["loss"] == 0 for e in seen)
    assert all(0.01 < e.data["latency_ms"] < 2_000 for e in seen)
    assert run._trust is not None
    recorded = [each.entry for each in run._trust._node.recorded]
    assert sum(isinstance(entry, Associated) for entry in recorded) <= 12
    said = [entry for entry in recorded if isinstance(entry, Breached)]
    assert len(said) in (len(seen), len(seen) - 1)  # the last one may still be on its way
    assert not expelled(result)


class Secrets:
    """All that a run has to keep to itself, and where it may be looked for while it lasts."""

    def __init__(self, run: Spread) -> None:
        trust = run._trust
        assert trust is not None
        self.run, self.trust, self.folder = run, trust, run._processes.folder
        self.looks = 0
        self.found: set[str] = set()
        self.held: dict[str, bytes] = {"account of secaas": trust._operator}
        self._exchange: dict[str, X25519PrivateKey] = {}
        for path in trust.folder.glob("*.secret"):
            secret = self.held[f"secret of {path.stem}"] = bytes.fromhex(path.read_text())
            for purpose in ("account", "exchange", "looks"):
                self.held[f"{purpose} of {path.stem}"] = derived(secret, purpose)
            self._exchange[path.stem] = X25519PrivateKey.from_private_bytes(
                derived(secret, "exchange")
            )
        for name, measured in trust._measurer._agents.items():
            self.held[f"measurer of {name}"] = measured.key.private_bytes_raw()
        for path in self.folder.rglob("*key.pem"):  # of the seals, of TLS, of the authority
            key = load_pem_private_key(path.read_bytes(), None)
            assert isinstance(key, EllipticCurvePrivateKey)
            number = key.private_numbers().private_value
            about = str(path.relative_to(self.folder))
            self.held[about] = number.to_bytes((key.key_size + 7) // 8, "big")
            self.held[f"PEM of {about}"] = b"".join(path.read_bytes().splitlines()[1:-1])

    def epochs(self) -> None:
        """Open what was handed out over the ledger, as the agents do."""
        for recorded in self.trust._node.recorded:
            entry = recorded.entry
            if isinstance(entry, KeyHandedOut):
                key = self._exchange[entry.agent]
                secret = open_key(entry.ciphertext, key, entry.agent, entry.epoch)
                self.held[f"epoch {entry.epoch}"] = secret
                self.held[f"pair of epoch {entry.epoch}"] = pair_secret(secret, "north", "east")

    def looked_for(self, where: str, octets: bytes) -> None:
        for name, secret in self.held.items():
            forms = secret, secret.hex().encode(), b64encode(secret), repr(secret)[2:-1].encode()
            if any(form in octets for form in forms):
                self.found.add(f"{name} in {where}")

    def look(self, _now: float) -> None:
        """Look through the arguments and the environment of every process, and the ledger."""
        self.looks += 1
        self.epochs()
        for name in ("cmdline", "environ"):
            for path in Path("/proc").glob(f"[0-9]*/{name}"):
                with suppress(OSError):  # it has ended
                    self.looked_for(f"{name} of a process", path.read_bytes())
        self.looked_for("the ledger", b"".join(self.ledger()))
        for path in self.folder.glob("*.log"):
            self.looked_for("the output of a process", path.read_bytes())

    def ledger(self) -> Iterator[bytes]:
        """Give what every node of the ledger is shown."""
        for block in self.trust._chain._blocks:
            for log in block.logs:
                yield bytes.fromhex(log["data"].removeprefix("0x"))
                yield "".join(log["topics"]).encode()


def test_no_secret_stands_in_lists_of_processes_the_log_the_ledger_or_the_report(
    infected: tuple[RunResult, Secrets],
) -> None:
    result, secrets = infected
    assert of(result, "key.installed")
    assert "epoch 1" in secrets.held
    assert len(secrets.held) > 40
    assert secrets.looks > 50
    # What is looked for is found where it stands: the search itself is no empty one.
    secrets.looked_for("its own test", b"x" + secrets.held["epoch 1"].hex().encode())
    assert secrets.found == {"epoch 1 in its own test"}
    secrets.found.clear()
    secrets.looked_for("the log", b"".join(map(encode_line, result.events)))
    secrets.looked_for("the report", read_report(render_report(result.events)))
    assert secrets.found == set()
