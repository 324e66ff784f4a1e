"""docs/routers.md, command by command: a gateway, a router and a street in namespaces."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.testrange import workload
from tests.system.machines import Machines, heard
from tests.system.process_lab import processes
from tests.system.sites_page import ROOT, Step, steps

requires = pytest.importorskip("tests.infrastructure.linux.linux_needs")

pytestmark = [
    *processes(pytest.mark.linux),
    requires.requires_root,
    requires.requires("ip", "nft", "nsenter", "unshare", "cc", "exabgp", "gobgpd", "gobgp"),
]

PATIENCE_S = 60.0
SERVER, PORT, ATTACKERS = "10.8.2.2", 8000, range(11, 19)
BEHIND = f"""
ip link add lan0 type veth peer name eth0 netns $(cat shop.pid)
ip addr add 10.8.2.1/24 dev lan0
ip link set lan0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
nsenter -n -t $(cat shop.pid) sh -c 'ip addr add {SERVER}/24 dev eth0; ip link set eth0 up
ip route add default via 10.8.2.1
exec {sys.executable} -m http.server {PORT} --bind {SERVER} >/dev/null 2>&1 &'
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """A gateway before a shop (1), a router (2), and a street full of attackers (3)."""
    program = tmp_path / "flood"
    source = Path(workload.__file__).with_name("flood.c")
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)  # noqa: S607
    with Machines(tmp_path, 3) as made:
        shop = "unshare -n sleep infinity >/dev/null 2>&1 & echo $! > shop.pid; sleep 1"
        street = "\n".join(f"ip addr add 192.0.2.{n}/24 dev eth0" for n in ATTACKERS)
        flood = "\n".join(
            f"{program} 192.0.2.{n} {SERVER} {PORT} 500 300 >/dev/null 2>&1 &" for n in ATTACKERS
        )
        for number, command in (
            (1, shop),
            (1, BEHIND),
            (3, f"{street}\nip route add 10.8.2.0/24 via 192.0.2.1\n{flood}"),
        ):
            code, said = made[number].run(command)
            assert code == 0, said
        yield made


def _follow(machines: Machines, step: Step) -> None:
    machine = machines[step.machines[0]]
    if step.says:
        found, said = heard(machine, step.commands, step.says, PATIENCE_S)
        assert found, said
        assert "Traceback" not in said
        return
    end = time.monotonic() + PATIENCE_S
    while True:
        code, said = machine.run(step.commands)
        if code == 0:
            return
        assert step.until == "succeeds", f"{step.commands}\n{said}"
        assert time.monotonic() < end, f"{step.commands}\n{said}"
        time.sleep(0.2)


def test_the_page_of_the_routers_leads_to_rules_at_a_router(machines: Machines) -> None:
    todo = [step for step in steps(ROOT / "docs" / "routers.md") if step.event != "skip"]
    assert [bool(step.says) for step in todo].count(True) == 1
    for step in todo:
        _follow(machines, step)
    code, said = machines[1].run("cat guard.jsonl*")
    assert code == 0
    assert "discard" in said
