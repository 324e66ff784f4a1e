"""docs/sites.md, command by command, on three machines in namespaces with its addresses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.machines import Machines, heard
from tests.system.process_lab import holds, processes
from tests.system.sites_page import Step, asked_in_tables, steps

requires = pytest.importorskip("tests.infrastructure.linux.linux_needs")

pytestmark = [
    *processes(pytest.mark.linux),
    requires.requires_root,
    requires.requires("ip", "nft", "nsenter", "unshare", "useradd"),
]

PATIENCE_S = 60.0
"""How long what is repeated until it succeeds may take."""
ENDS_WELL = (0, 1, 3)
"""Exit codes of a question whose answer may be bad news."""


class Walk:
    """A newcomer with the page and three machines."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.said: list[str] = []
        """What every command of the page said."""

    def do(self, step: Step) -> None:
        """Do what the page says next; fail if it does not go as the page says."""
        for number in step.machines:
            machine = self.machines
            if step.event == "lose":
                machine.lose(number)
            elif step.event == "return":
                machine.restore(number)
            else:
                self._run(step, number)

    def _run(self, step: Step, number: int) -> None:
        machine = self.machines[number]
        if step.says:
            found, said = heard(machine, step.commands, step.says, PATIENCE_S)
            assert found, said
            assert "Traceback" not in said, said
            self.said.append(said)
            return
        begun = time.monotonic()
        while True:
            code, said = machine.run(step.commands)
            assert "Traceback" not in said, said
            self.said.append(said)
            if (code != 0) == (step.until == "fails"):
                return
            if not step.until or time.monotonic() - begun > PATIENCE_S:
                pytest.fail(f"on machine {number}, exit code {code}:\n{step.commands}\n{said}")

    def ended(self, *numbers: int) -> None:
        """See that everything ends that the page ends: processes may have last words to send."""
        end = time.monotonic() + 10.0
        for number in numbers:
            while found := self.machines[number].run("pgrep -af 'phalanx|nats-server'")[1]:
                assert time.monotonic() < end, f"machine {number}: {found}"
                time.sleep(0.1)

    def events(self) -> list[dict[str, Any]]:
        """Return all that the brokers keep, in the order in which they took it."""
        code, said = self.machines[1].run("phalanx logs --domain edge --all --json 2>/dev/null")
        assert code == 0, said
        return [json.loads(line) for line in said.splitlines()]

    def held_off(self) -> bool:
        """Whether the attack is held off now, by what the network did last."""
        effects: dict[str, str] = {}
        for event in self.events():
            data = event["data"]
            if event["kind"] == "process.started" and event["agent"] == "network":
                effects.clear()
            elif event["kind"] == "measure.applied":
                effects[data["measure"]] = data["measure"].partition(":")[2]
            elif event["kind"] == "measure.lifted":
                effects.pop(data["measure"], None)
        return holds(effects.values())


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with Machines(tmp_path_factory.mktemp("machines"), 3) as machines:
        yield Walk(machines)
    left = subprocess.run(
        [sys.executable, "-m", "phalanx", "clean", "--dry-run"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "phxt-" not in left


def chapter(title: str) -> list[Step]:
    """Return what a chapter of the page says to do."""
    found = [step for step in steps() if step.chapter == title and step.event != "skip"]
    assert found, title
    return found


def test_a_newcomer_follows_the_page_from_one_machine_to_three(walk: Walk) -> None:
    for step in chapter("One machine"):
        walk.do(step)
    said = "\n".join(walk.said)
    blocked = r"flowRateLimited\(\S+, \S+\) is in force"
    assert len(re.findall(blocked, said)) >= 6, said  # two attackers, in each of three worlds
    assert "continues from its saved state (life 2)" in said
    walk.ended(1)

    for step in chapter("Three machines"):
        if "disable" in step.commands:  # the last one
            look_around(walk)
        walk.do(step)
        if step.event == "return":
            assert walk.held_off()
    walk.ended(1, 2, 3)


def look_around(walk: Walk) -> None:
    """See that all is as the page says before everything is taken down."""
    first = walk.machines[1]
    code, said = first.run("phalanx status --domain edge --json")
    report = json.loads(said)
    states = {row["agent"]: row["state"] for row in report["rows"]}
    serving = {"north", "east", "south", "network", "recorder"}
    assert {name for name, state in states.items() if state == "serving"} >= serving, said
    assert code == 0, said
    assert walk.held_off()
    for command in dict.fromkeys(asked_in_tables()):
        code, said = first.run(command)
        assert code in ENDS_WELL, f"{command}: {said}"
        assert "Traceback" not in said, said
    for number in (1, 2, 3):
        check_files(walk, number)


def check_files(walk: Walk, number: int) -> None:
    """See that a machine holds no key but of what runs there, and that its user owns them."""
    code, said = walk.machines[number].run(
        "find /etc/phalanx /var/lib/phalanx/domain -name '*key.pem' -printf '%p %u %m\\n'"
    )
    assert code == 0
    broker = f"/var/lib/phalanx/domain/brokers/broker{number}"
    bundles = {1: ("north", "network", "recorder"), 2: ("east",), 3: ("south",)}[number]
    owners = [broker, *(f"/etc/phalanx/{name}" for name in bundles)]
    assert sorted(said.splitlines()) == sorted(f"{o}/key.pem phalanx 600" for o in owners)
    logs = walk.machines[number].run("cat /var/log/phalanx-*.log")[1]
    assert "Traceback" not in logs, logs
