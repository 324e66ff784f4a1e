"""Cleaning up: all that carries the mark of a dead run, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_needs import requires_root
from tests.system.linux_runs import traces

from phalanx.infrastructure.linux.kernel import KernelError, cgroups, namespaces, runs
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.kernel.runs import clean
from phalanx.infrastructure.linux.vnf.nft import Nft

# It finds what other tests' killed runs left, too: not at the same time as those.
pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux"), requires_root]

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


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_nothing_is_left_of_a_run_that_was_killed() -> None:
    with owner() as (process, run), bystander(run) as other:
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
        assert other.poll() is None, "it only names the run"


@contextlib.contextmanager
def bystander(run: str) -> Iterator[subprocess.Popen[bytes]]:
    words = [f"/run/phalanx/{run}", f"PHALANX_RUN={run}", "phx"]
    command = [sys.executable, "-c", "input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


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
        assert runs.living()[run] == process.pid
        removed = clean([run], all=True)
        assert removed[0].startswith(f"process {process.pid}, ")
        assert process.wait(5) == -signal.SIGTERM
        assert traces(run) == []


@pytest.mark.parametrize("alive", [True, False])
def test_of_tables_only_those_that_a_dead_run_has_noted_are_removed(
    alive: bool, netns: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, other = runs.new_run(), runs.new_run()
    ours = ["netdev phx_00000001", "netdev phx_00000001_7", "inet phx_00000001"]
    others = ["netdev phx_00000002", "netdev phx_00000002_7", "netdev phx_00000003_1"]
    strangers = ["inet phx_00c0ffee", "inet mine"]
    try:
        for run, number in ((dead, 1), (other, 2), (dead, 3), (other, 3)):
            for family in ("netdev", "inet"):
                runs.note(run, f"{family} phx_0000000{number}")
        assert runs.noted(other) >= {"inet phx_00000002", "netdev phx_00000002"}
        for run in [dead] if alive else [dead, other]:
            (runs.folder(run) / "owner").unlink()
        monkeypatch.setattr(runs, "marked", lambda: {dead, other})
        # What the living one has noted too, after a dead one had, is the living one's.
        gone = sorted(ours if alive else [*ours, *others])
        left = sorted({*ours, *others, *strangers} - set(gone))
        with Inside(netns("a")) as machine:
            nft = machine.call(Nft)
            machine.call(
                nft.run, "".join(f"table {name}\n" for name in (*ours, *others, *strangers))
            )
            for dry_run in (True, False):
                lines = machine.call(clean, dry_run=dry_run)
                assert sorted(line for line in lines if line.startswith("table")) == [
                    f"table {name}" for name in gone
                ]
            listed = machine.call(nft.json, "list tables")["nftables"]
            tables = [item["table"] for item in listed if "table" in item]
            assert sorted(f"{t['family']} {t['name']}" for t in tables) == left
        assert (other in runs.known()) is alive
    finally:
        for run in (dead, other):
            runs.remove(runs.folder(run))


def test_a_run_belongs_to_the_process_that_made_it(run: str) -> None:
    assert runs.noted(run) == set()
    assert runs.folder(run).stat().st_mode & 0o777 == 0o700
    assert runs.owner(run) == runs.RunOwner(os.getpid(), runs.owner(run).started)
    runs.remove(runs.folder(run))
    assert run not in runs.known()


def test_a_later_process_with_the_same_id_is_not_the_owner(run: str) -> None:
    found = runs.owner(run)
    assert found is not None
    file = runs.folder(run) / "owner"
    for text in (f'{{"pid": {found.pid}, "started": {found.started - 1}}}', "{"):
        file.write_text(text)
        assert runs.owner(run) is None


@pytest.mark.parametrize("wrong", ["..", ".", "", "phx", "1a2b3g", "1a2b3c/.."])
def test_what_is_no_run_never_becomes_a_path(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run"):
        runs.find(wrong)
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


def test_groups_of_a_run_are_listed_from_below(run: str) -> None:
    made = cgroups.create(run, "pop1", 1.0, 0.1)
    listed = cgroups.groups(run)
    assert all(folder in listed for folder in made.folders)
    for group in listed:
        cgroups.remove(group)
    assert cgroups.groups(run) == []


def test_what_merely_has_a_name_like_ours_is_left_alone(run: str) -> None:
    strangers = "phx-abc123-uplink", "phxuplink"
    group = next(tree.top for tree in cgroups.trees()) / "phalanx" / "abc123"
    for name in strangers:
        namespaces.create(name)
    group.mkdir(parents=True)
    try:
        with Inside(strangers[1]) as machine:
            machine.call(ip, "link add name phxuplink type veth peer name phxother")
            nft = machine.call(Nft)
            machine.call(nft.run, "table netdev phx_custom")
            # What others killed meanwhile is theirs to remove.
            found = " ".join(machine.call(clean, dry_run=True))
            assert not [name for name in (*strangers, "phx_custom", "abc123") if name in found]
            assert "phx_custom" in str(machine.call(nft.json, "list tables"))
            machine.call(ip, "link show phxuplink")
        assert {*strangers} <= {*namespaces.names("phx")}
        assert group.is_dir()
    finally:
        for name in strangers:
            namespaces.delete(name)
        group.rmdir()
