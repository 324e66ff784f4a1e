"""Cleaning up: all that carries the mark of a dead run, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_needs import requires_netlink, requires_root

from phalanx.infrastructure.linux import clean as clean_module
from phalanx.infrastructure.linux.clean import clean
from phalanx.infrastructure.linux.kernel import cgroups, namespaces, runs, sweep
from phalanx.infrastructure.linux.kernel.errors import KernelError
from phalanx.infrastructure.linux.kernel.links import Links
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.vnf.nft import Nft

pytestmark = [pytest.mark.linux, requires_netlink, requires_root]

OWNER = """
import os, subprocess, sys, time
from phalanx.domain.network import Host, Link, Network, Pop
from phalanx.domain.resources import Resources
from phalanx.domain.traffic import SYN_FLOOD, Source
from phalanx.infrastructure.linux.kernel import namespaces, runs
from phalanx.testrange import Testbed

run = runs.new_run()
print(run, flush=True)
pops = [Pop(f"pop{i}", Resources(1.0, 0.5, 1.0)) for i in range(4)]
links = [Link(f"pop{i}", f"pop{(i + 1) % 4}", 8.0, 5.0, 0.01) for i in range(4)]
sources = [Source(f"x-{i}", "x", "pop1", f"10.9.0.{i + 1}", "10.0.0.1", 80, SYN_FLOOD, 0.1)
           for i in range(8)]
hosts = (Host("server", "pop3", "10.0.0.1", 6.0),)
testbed = Testbed(run, Network(tuple(pops), tuple(links), hosts, "pop0"), sources)
testbed.build()
inside = [*namespaces.prefix(testbed.home("x-1")), "sleep", "60"]
children = [
    subprocess.Popen(inside, env={}),
    subprocess.Popen(["sleep", "60"], env={"PHALANX_RUN": run}),
    subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
                     env={"PHALANX_RUN": run, "PATH": os.environ["PATH"]}),
    subprocess.Popen(["sleep", "60"], env={}),
]
testbed.cgroup("pop1").enter(children[-1].pid)
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that builds a testbed, and its run; killed and cleaned up at the end."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    try:
        yield process, run
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        clean([run])


def built(process: subprocess.Popen[str]) -> list[int]:
    """Wait until the testbed stands; return the processes that were started in it."""
    assert process.stdout is not None
    return [int(pid) for pid in process.stdout.readline().split()]


def traces(run: str) -> list[str]:
    """Return what is left of a run, looked for in another way than ``clean`` does."""
    listed = subprocess.check_output(["ip", "netns"], text=True)  # noqa: S607
    names = listed.splitlines()
    return [
        *(name for name in names if run in name),
        *map(str, Path("/sys/fs/cgroup").glob(f"*/phalanx/{run}")),
        *map(str, Path("/run/phalanx").glob(run)),
        *(str(p) for p in Path("/proc").glob("[0-9]*/environ") if holds(p, f"PHALANX_RUN={run}")),
    ]


def holds(file: Path, text: str) -> bool:
    try:
        return text.encode() in file.read_bytes()
    except OSError:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_nothing_is_left_of_a_run_that_was_killed() -> None:
    with owner() as (process, run):
        children = built(process)
        assert len(children) == 4
        process.kill()
        process.wait()
        assert traces(run)
        listed = clean([run], dry_run=True)
        assert all(any(f"process {pid} " in line for line in listed) for pid in children)
        assert all(map(alive, children))
        removed = clean([run])
        things = ("namespace", "group", "folder")  # processes come and go
        assert [line for line in removed if line.startswith(things)] == [
            line for line in listed if line.startswith(things)
        ]
        assert traces(run) == []
        assert not any(map(alive, children))
        assert clean([run]) == []


@pytest.mark.parametrize("attempt", range(5))
def test_nor_if_it_was_killed_while_it_was_being_built(attempt: int) -> None:
    with owner() as (process, run):
        time.sleep(random.uniform(0.0, 0.6))
        process.kill()
        process.wait()
        clean([run])
        assert traces(run) == []


def test_a_living_run_is_left_alone_unless_all_are_meant() -> None:
    with owner() as (process, run):
        children = built(process)
        assert clean([run]) == []
        assert all(map(alive, children))
        assert namespaces.names(f"phx-{run}-")
        assert clean_module.living()[run] == process.pid
        removed = clean([run], all=True)
        assert removed[0].startswith(f"process {process.pid}, ")
        assert process.wait(5) == -signal.SIGTERM
        assert traces(run) == []


def test_a_process_that_only_names_a_run_is_left_alone() -> None:
    with owner() as (process, run):
        bystander = subprocess.Popen(
            [sys.executable, "-c", "input()", f"/run/phalanx/{run}", f"PHALANX_RUN={run}", "phx"],
            stdin=subprocess.PIPE,
        )
        try:
            built(process)
            process.kill()
            process.wait()
            clean([run])
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.communicate()


def test_what_a_run_made_in_the_machines_namespace_is_found_by_its_mark(
    netns: Callable[[str], str],
) -> None:
    def make() -> None:
        with Links() as links:
            links.veth("phx0", "02:00:00:00:00:01", "other0", "02:00:00:00:00:02", name, 1500)
            links.bridge("mine", "02:00:00:00:00:03")
        Nft().run("table inet phx_00c0ffee\ntable inet mine\n")

    def look() -> list[str]:
        return [line for line, _ in clean_module._in_machine()]

    def remove() -> None:
        for _, work in clean_module._in_machine():
            work()

    name = netns("a")
    with Inside(netns("b")) as machine:
        machine.call(make)
        assert machine.call(look) == ["interface phx0", "table inet phx_00c0ffee"]
        machine.call(remove)
        assert machine.call(look) == []
        left = machine.call(lambda: [name for _, name in socket.if_nameindex()])
        assert left == ["lo", "mine"]


@pytest.mark.parametrize(
    ("living", "gone"),
    [(True, ["interface phx0"]), (False, ["interface phx0", "interface phx1"])],
)
def test_what_nobody_noted_stays_while_a_run_lives(
    living: bool, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, other = runs.new_run(), runs.new_run()
    try:
        runs.note(dead, "interface", "phx0")
        for run in [dead] if living else [dead, other]:
            (runs.folder(run) / "owner").unlink()
        removed: list[str] = []
        things = [(name, lambda name=name: removed.append(name)) for name in ("phx0", "phx1")]
        machine = [(f"interface {name}", work) for name, work in things]
        monkeypatch.setattr(clean_module, "_in_machine", lambda: machine)
        monkeypatch.setattr(clean_module, "_clear_empty", lambda *, everything: None)
        monkeypatch.setattr(sweep, "marked", lambda: {dead, other})
        assert [line for line in clean() if line.startswith("interface")] == gone
        assert [f"interface {name}" for name in removed] == gone
        assert (other in runs.known()) is living
    finally:
        for run in (dead, other):
            runs.remove(runs.folder(run))


@pytest.mark.parametrize("alive", [True, False])
def test_the_tables_of_observations_belong_to_the_vnf_that_made_them(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, other = runs.new_run(), runs.new_run()
    tables = ["netdev phx_00000001", "netdev phx_00000001_7", "inet phx_00000001"]
    others = ["netdev phx_00000002", "netdev phx_00000002_7", "netdev phx_00000003_1"]
    try:
        for run, number in ((dead, 1), (other, 2), (dead, 3), (other, 3)):
            for family in ("netdev", "inet"):
                runs.note(run, "table", f"{family} phx_0000000{number}")
        for run in [dead] if alive else [dead, other]:
            (runs.folder(run) / "owner").unlink()
        removed: list[str] = []
        machine = [
            (f"table {name}", lambda name=name: removed.append(name)) for name in (*tables, *others)
        ]
        monkeypatch.setattr(clean_module, "_in_machine", lambda: machine)
        monkeypatch.setattr(clean_module, "_clear_empty", lambda *, everything: None)
        monkeypatch.setattr(sweep, "marked", lambda: {dead, other})
        clean()
        # What the living one has noted too, after a dead one had, is the living one's.
        assert removed == (tables if alive else [*tables, *others])
    finally:
        for run in (dead, other):
            runs.remove(runs.folder(run))


def test_what_a_living_run_noted_is_known_to_be_its_own() -> None:
    run = runs.new_run()
    try:
        assert runs.noted(run) == set()
        runs.note(run, "interface", "phx0")
        runs.note(run, "table", "netdev phx_00c0ffee")
        assert runs.noted(run) == {"interface phx0", "table netdev phx_00c0ffee"}
        assert runs.folder(run).stat().st_mode & 0o777 == 0o700
        assert runs.owner(run) == runs.Owner(os.getpid(), runs.owner(run).started)
    finally:
        runs.remove(runs.folder(run))
    assert run not in runs.known()


def test_a_later_process_with_the_same_id_is_not_the_owner() -> None:
    run = runs.new_run()
    try:
        found = runs.owner(run)
        assert found is not None
        file = runs.folder(run) / "owner"
        file.write_text(f'{{"pid": {found.pid}, "started": {found.started - 1}}}')
        assert runs.owner(run) is None
        file.write_text("{")
        assert runs.owner(run) is None
    finally:
        runs.remove(runs.folder(run))


@pytest.mark.parametrize("wrong", ["..", ".", "", "phx", "1a2b3g", "1a2b3c/.."])
def test_what_is_no_run_never_becomes_a_path(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run"):
        sweep.find(wrong)
    with pytest.raises(ValueError, match="no folder of a run"):
        runs.remove(runs.ROOT / wrong)
    with pytest.raises(ValueError, match="no folder of a run"):
        runs.remove(tmp_path)


def test_what_is_mounted_in_a_folder_is_unmounted_not_removed(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    # The mounts are made in a private mount namespace, which ends with the process.
    script = f"""
import subprocess
from phalanx.infrastructure.linux.kernel import runs
run = runs.new_run()
for name in ("a", "b c"):
    place = runs.folder(run) / name
    place.mkdir()
    subprocess.run(["mount", "--bind", {str(tmp_path)!r}, place], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", runs.folder(run) / "a"], check=True)
runs.remove(runs.folder(run))
assert run not in runs.known()
"""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    subprocess.run(command, check=True)
    assert treasure.read_text() == "mine"


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KernelError, match="needs root"):
        clean([])


def test_groups_of_a_run_are_listed_from_below() -> None:
    run = runs.new_run()
    try:
        made = cgroups.create(run, "pop1", 1.0, 0.1)
        listed = cgroups.groups(run)
        assert all(folder in listed for folder in made.folders)
        for group in listed:
            cgroups.remove(group)
        assert cgroups.groups(run) == []
    finally:
        runs.remove(runs.folder(run))
