"""A service of three VNFs on three sites, with real processes over a NATS broker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.bus.nats_lab import free_ports
from typer.testing import CliRunner

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.server import find_server
from phalanx.cli.main import app
from phalanx.fabric.operations import STATUS, StatusAnswer, StatusRequest
from phalanx.identity.names import Role
from phalanx.identity.trust import REVOKED_FILE
from phalanx.orchestration.iml.local import Slot
from phalanx.orchestration.workflow.context import StepRetryPolicy
from phalanx.orchestration.workflow.machine import RolledBackError
from phalanx.orchestration.workflow.model import Asked
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.domain.directory import Domain, Standing
from phalanx.runtime.domain.spec import BrokerSpec, DomainSpec
from phalanx.runtime.processes.operator import Operator, Survey, operator_bus
from phalanx.runtime.services import DomainMembership, opened, present_image, read_asked

pytestmark = [pytest.mark.nats, pytest.mark.processes]
SERVICE = Path(__file__).parents[2] / "scenarios" / "services" / "edge-video"
CRASHER = Path(__file__).parent / "service_crasher.py"
NAME = "edge-video-1"
SPARE = """\
  - name: bilbao
    pop: pop5
    cores: 32
    memory_gb: 128
    disk_gb: 4000
    load: 0.9
    trust: 0.81
    images:
      phalanx-agent: {digest}
links:
  - {{between: [bilbao, madrid], latency_ms: 1.5, bandwidth_mb_s: 1250}}
  - {{between: [bilbao, zaragoza], latency_ms: 1.5, bandwidth_mb_s: 1250}}
"""


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[Domain]:
    try:
        find_server()
    except BrokerError as error:
        pytest.skip(str(error))
    spec = DomainSpec("edge", (BrokerSpec("broker1", "127.0.0.1", *free_ports(1)),))
    domain = Domain.create(tmp_path / "edge", spec)
    brokers = Brokers(domain)
    brokers.start()
    try:
        brokers.prepare()
        yield domain
    finally:
        for path in (domain.folder / "sites").glob("*/*/pid"):
            process = Slot(path.parent).process()
            if process is not None:
                process.signal(signal.SIGKILL)
                process.wait(5)
        brokers.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the service, with the image that is here, and one more site to spare."""
    digest = present_image().digest
    made = tmp_path / "edge-video"
    made.mkdir()
    for path in SERVICE.glob("*.yaml"):
        text = re.sub("sha256:[0-9a-f]{64}", digest, path.read_text())
        (made / path.name).write_text(text.replace("links:\n", SPARE.format(digest=digest)))
    return made


def crashed(domain: Domain, point: str, verb: str, asked: Asked | None = None) -> int:
    """Run a command that is killed at ``point`` as often as it comes there; return how often."""
    command = {"verb": verb, "name": NAME, "asked": asked}
    text = msgspec.json.encode(command).decode()
    arguments = [sys.executable, str(CRASHER), str(domain.folder), point, text]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def processes(domain: Domain) -> dict[str, list[int]]:
    """Return the processes whose output goes to a unit's log, by unit, whoever started them."""
    root = f"{domain.folder / 'sites'}/"
    found: dict[str, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            said = str((path / "fd" / "1").readlink())
        except OSError:
            continue
        if said.startswith(root):
            found.setdefault(Path(said).parent.name, []).append(int(path.name))
    return found


def statuses(domain: Domain, names: list[str]) -> dict[str, StatusAnswer]:
    with Operator(operator_bus(domain.folder)) as operator:
        answers = {name: operator.call(name, STATUS, StatusRequest()) for name in names}
    assert all(isinstance(answer, StatusAnswer) for answer in answers.values()), answers
    return {n: answer for n, answer in answers.items() if isinstance(answer, StatusAnswer)}


def test_a_service_lives_through_crashes_after_every_step(domain: Domain, folder: Path) -> None:
    asked = read_asked(folder, None, None)
    assert crashed(domain, "after:*", "deploy", asked) == 26
    with opened(domain.folder) as orchestrator:
        view = orchestrator.show(NAME)
    assert view.state == "running"
    assert {a.member.key: a.member.site for a in view.agents} == {
        "network": "barcelona",
        "access": "barcelona",
        "cache": "valencia",
        "origin": "madrid",
    }
    before = processes(domain)
    assert before == {a.member.name: [a.pid] for a in view.agents}, "one process each"
    assert {a.trust.split(":")[0] for a in view.agents if a.member.serves} == {"unattested"}
    kept = [f"{NAME}.access.1", f"{NAME}.cache.1"]
    at_first = statuses(domain, kept)

    # One is moved, one is added; the two others are the same processes as before.
    wide = read_asked(folder, None, folder / "request-wide.yaml", ["madrid"])
    assert crashed(domain, "after:+", "reconfigure", wide) == 15
    moved, added = f"{NAME}.origin.1", f"{NAME}.cache-2.2"
    now = processes(domain)
    assert sorted(now) == sorted([*before, added])
    assert all(len(pids) == 1 for pids in now.values())
    assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
    after = statuses(domain, [*kept, moved, added])
    assert [after[name].incarnation for name in (*kept, moved, added)] == [1, 1, 2, 1]
    for name in kept:
        counters = after[name].counters
        assert counters.delivered > at_first[name].counters.delivered
        assert (counters.lost, counters.shed, counters.refused, counters.reconnects) == (
            0,
            {},
            {},
            0,
        )
    assert not (domain.folder / "sites" / "madrid").exists()
    with Operator(operator_bus(domain.folder)) as operator:
        survey = Survey(operator)
        assert survey.settle()
        entries = [e for e in survey.registry.entries() if e.owner.startswith(NAME)]
    plans = {e.registration.plan for e in entries if e.registration.role is Role.AGENT}
    assert len(plans) == 1, "those that stayed read the new plan"

    # What has died is started again with its memory.
    os.kill(now[moved][0], signal.SIGKILL)
    assert crashed(domain, "", "resume") == 0
    assert statuses(domain, [moved])[moved].incarnation == 3

    os.kill(processes(domain)[added][0], signal.SIGKILL)  # it cannot withdraw its entry
    assert crashed(domain, "after:*", "remove") > 10
    assert processes(domain) == {}
    assert not (domain.folder / "sites").exists() or not list((domain.folder / "sites").iterdir())
    left = {m.identity.name for m in domain.members() if m.standing is not Standing.REVOKED}
    assert left == {"broker1", "operator", "recorder", "orchestrator"}
    assert {p.name for p in domain.folder.glob("identities/*")} == left - {"broker1"}
    with Operator(operator_bus(domain.folder)) as operator:
        survey = Survey(operator)
        survey.read()
        assert [e.owner for e in survey.registry.entries() if e.available] == []


def test_a_service_is_kept_by_whoever_is_killed_as_well(
    domain: Domain, folder: Path, tmp_path: Path
) -> None:
    assert crashed(domain, "", "deploy", read_asked(folder, None, None)) == 0
    origin, network = f"{NAME}.origin.1", f"{NAME}.network.1"
    said = tmp_path / "said"
    command = [sys.executable, "-m", "phalanx", "service", "watch", NAME]

    def watch() -> subprocess.Popen[bytes]:
        with said.open("wb") as out:
            return subprocess.Popen(
                [*command, "--domain", str(domain.folder)], stdout=out, stderr=subprocess.STDOUT
            )

    def wait_for(pattern: str) -> None:
        for _ in range(1800):
            if re.search(pattern, said.read_text()):
                return
            time.sleep(0.1)
        pytest.fail(f"{pattern}\n{said.read_text()}")

    watching = watch()
    try:
        wait_for("4 processes are watched")
        first = processes(domain)
        os.kill(first[origin][0], signal.SIGKILL)
        wait_for(f"{origin} at madrid does not run; it is started in 1 s")
        wait_for(f"{origin} at madrid runs again")
        watching.kill()
        watching.wait()
        os.kill(first[network][0], signal.SIGKILL)
        watching = watch()
        wait_for(f"{network} at barcelona runs again")
        now = processes(domain)
        assert sorted(now) == sorted(first)
        assert all(len(pids) == 1 for pids in now.values()), "and they outlived the watcher"
        with Operator(operator_bus(domain.folder)) as operator:
            survey = Survey(operator)
            survey.settle([origin])
            entry = survey.registry.get(origin)
        assert entry is not None
        assert entry.registration.incarnation == 2
        assert crashed(domain, "", "remove") == 0
        assert watching.wait(60) == 0
        assert "there is no such service any more" in said.read_text()
    finally:
        watching.kill()
        watching.wait()


def test_agents_whose_seals_do_not_agree_are_named_though_both_answer(
    domain: Domain, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, others = f"{NAME}.origin.1", [f"{NAME}.access.1", f"{NAME}.cache.1"]
    files = DomainMembership.files

    def with_another_list(self: DomainMembership, name: str) -> dict[str, bytes]:
        """Return an identity's files; those of origin hold a list by which the others are out."""
        found = files(self, name)
        if name == origin:
            aside = tmp_path / "aside"
            ignored = shutil.ignore_patterns("server", "sites", "services.db*")
            shutil.copytree(domain.folder, aside, ignore=ignored)
            other = Domain.open(aside)
            for one in others:
                other.revoke(one)
            found[REVOKED_FILE] = (aside / "authority" / REVOKED_FILE).read_bytes()
        return found

    monkeypatch.setattr(DomainMembership, "files", with_another_list)
    retry = StepRetryPolicy(ready_s=12.0, look_s=1.0)
    with (
        opened(domain.folder, retry=retry) as orchestrator,
        pytest.raises(RolledBackError) as refused,
    ):
        orchestrator.deploy(read_asked(folder, None, None))
    said = str(refused.value)
    assert re.search(rf"({'|'.join(others)}) cannot reach {origin}: no answer within 1 s", said)
    assert f"{others[0]} cannot reach {others[1]}" not in said
    assert said.endswith("everything is as it was before")
    assert processes(domain) == {}
    assert not list(domain.folder.glob("sites/*"))
    revoked = {m.identity.name for m in domain.members() if m.standing is Standing.REVOKED}
    assert revoked == {f"{NAME}.{key}.1" for key in ("network", "access", "cache", "origin")}
    # The same name is deployed again, under identities of its own.
    monkeypatch.undo()
    assert crashed(domain, "", "deploy", read_asked(folder, None, None)) == 0
    assert sorted(processes(domain))[0] == f"{NAME}.access.2"


def test_slices_are_deployed_with_their_loops_and_removed(domain: Domain, folder: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*words, "--domain", where])
        assert done.exit_code == code, done.output
        return done.stdout

    def loops() -> dict[str, str]:
        return {loop["name"]: loop["state"] for loop in json.loads(run("loops", "--json"))}

    where = str(domain.folder)
    run("slice", "deploy", str(folder))
    assert "video  1-000001  non-shared" in run("slice", "list")
    found = loops()
    wanted = ("e2e", "nsi-video", "nssi-delivery", "sem-cache", "sem-origin", "domain-CN")
    assert found.keys() >= {f"{NAME}.{loop}.1" for loop in wanted}
    assert set(found.values()) == {""}
    gone = f"{NAME}.nssi-delivery.1"
    (pid,) = processes(domain)[gone]
    os.kill(pid, signal.SIGKILL)
    assert {name for name, state in loops().items() if state} == {gone}
    assert "does not run" in run("slice", "show", "video")
    run("slice", "deploy", str(folder))  # starts what has died
    assert set(loops().values()) == {""}
    descriptor = folder / "slices.yaml"
    descriptor.write_text(descriptor.read_text().replace("kind: UPF", "kind: AMF"))
    run("slice", "deploy", str(folder))
    assert "(AMF access at pop1, for video)" in run("loops")
    run("slice", "remove", "video")
    assert not processes(domain)
    assert run("slice", "list") == "no slice is deployed\n"
