"""A site on this machine: one process for each unit, whatever ends whoever starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.orchestration.iml.local import LocalProcesses, SiteProcess, Slot
from phalanx.orchestration.iml.unit import AgentImage, ImlError, Unit, UnitKind, image_of

IMAGE = AgentImage("phalanx-agent", "sha256:" + "0" * 64, ("classifier", "link-monitor"))
UNIT = Unit("a.1", "a", UnitKind.AGENT, 1, IMAGE.name, IMAGE.digest, ("classifier",))
FILES = {"config.toml": b"x = 1\n", "identity/key.pem": b"secret"}
SLEEPER = "import sys, time; print('began', *sys.argv[1:], flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(2, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
)


def site(root: Path, name: str = "madrid", program: str = SLEEPER) -> LocalProcesses:
    return LocalProcesses(root, name, IMAGE, lambda kind, _: [sys.executable, "-c", program, kind])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.glob("*/*/pid"):
        process = Slot(path.parent).process()
        if process is not None:
            process.signal(signal.SIGKILL)
            process.wait(5)


def wait_for(site: LocalProcesses, name: str, words: str) -> None:
    for _ in range(6000):
        if words in site.logs(name):
            return
        time.sleep(0.01)
    raise AssertionError(site.logs(name))


def test_a_unit_is_started_once_and_stopped_once(root: Path) -> None:
    madrid = site(root)
    first = madrid.start(UNIT, FILES, fence=1)
    assert madrid.start(UNIT, FILES, fence=1) == first
    assert site(root).running() == (first,), "another process sees it as well"
    wait_for(madrid, UNIT.name, "began agent")
    folder = root / "madrid" / UNIT.name
    assert (folder / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert os.getsid(first.pid or 0) == first.pid
    with pytest.raises(ImlError, match=r"another revision of a\.1 runs"):
        madrid.start(replace(UNIT, revision=2), FILES, fence=1)
    with pytest.raises(ImlError, match="still runs"):
        madrid.clear(UNIT.name, fence=1)
    for _ in range(2):
        madrid.stop(UNIT.name, fence=1, gracefully=True, within_s=5)
        assert [r.pid for r in madrid.running()] == [None]
    again = madrid.start(replace(UNIT, revision=2), FILES, fence=1)
    assert again.pid not in (None, first.pid)
    madrid.stop(UNIT.name, fence=1, gracefully=False, within_s=5)
    for _ in range(2):
        madrid.clear(UNIT.name, fence=1)
    assert list(root.iterdir()) == []


def test_who_does_not_end_is_ended(root: Path) -> None:
    madrid = site(root, program=STUBBORN)
    madrid.start(UNIT, FILES, fence=1)
    wait_for(madrid, UNIT.name, "on")
    madrid.stop(UNIT.name, fence=1, gracefully=False, within_s=0.1)
    assert [r.pid for r in madrid.running()] == [None]


def test_a_starter_that_is_killed_leaves_no_second_process(root: Path) -> None:
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from phalanx.orchestration.iml import local
        local.Slot._begun = lambda self, pid: os.kill(os.getpid(), signal.SIGKILL)
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from test_local_processes import FILES, UNIT, site
        site(Path({str(root)!r})).start(UNIT, FILES, fence=1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    found = site(root).start(UNIT, FILES, fence=2)
    # What it says goes to the unit's log: by that it is known, whoever started it.
    said = str(root / "madrid" / UNIT.name / "log")

    def running() -> list[int]:
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if _log_of(pid) == said]

    for _ in range(6000):  # what the starting shell runs has the same log for a moment
        if running() == [found.pid]:
            break
        time.sleep(0.01)
    assert running() == [found.pid]


def _log_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return ""


def test_a_recycled_number_is_not_signalled(root: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])  # noqa: S607
    try:
        time.sleep(0.05)  # a start is told in ticks of 10 ms, and these are two processes
        folder = root / "madrid" / UNIT.name
        madrid = site(root)
        madrid.start(UNIT, FILES, fence=1)
        madrid.stop(UNIT.name, fence=1, gracefully=False, within_s=5)
        fields = (folder / "pid").read_text().split()
        (folder / "pid").write_text(" ".join([str(other.pid), *fields[1:]]))
        assert [r.pid for r in madrid.running()] == [None]
        madrid.stop(UNIT.name, fence=1, gracefully=True, within_s=1)
        SiteProcess(other.pid, 1).signal(signal.SIGKILL)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_state_goes_with_a_unit_that_moves(root: Path) -> None:
    madrid, zaragoza = site(root), site(root, "zaragoza")
    madrid.start(UNIT, FILES, fence=1)
    madrid.stop(UNIT.name, fence=1, gracefully=False, within_s=5)
    assert madrid.state(UNIT.name) is None
    state = root / "madrid" / UNIT.name / "state" / "deep"
    state.mkdir(parents=True)
    (state / "memory").write_bytes(b"what it knows")
    packed = madrid.state(UNIT.name)
    zaragoza.start(UNIT, FILES, fence=1, state=packed)
    there = root / "zaragoza" / UNIT.name / "state" / "deep" / "memory"
    assert there.read_bytes() == b"what it knows"
    there.write_bytes(b"what it learnt")
    zaragoza.start(UNIT, FILES, fence=1, state=packed)
    assert there.read_bytes() == b"what it learnt"
    zaragoza.stop(UNIT.name, fence=1, gracefully=False, within_s=5)
    zaragoza.start(replace(UNIT, revision=2), FILES, fence=1, state=packed)
    assert there.read_bytes() == b"what it knows"


def test_an_older_order_is_refused(root: Path) -> None:
    madrid = site(root)
    madrid.start(UNIT, FILES, fence=1)
    madrid.stop(UNIT.name, fence=5, gracefully=False, within_s=5)
    for order in (
        lambda: madrid.start(UNIT, FILES, fence=4),
        lambda: madrid.stop(UNIT.name, fence=4, gracefully=False, within_s=1),
        lambda: madrid.clear(UNIT.name, fence=4),
        lambda: madrid.update(UNIT.name, {}, fence=4),
    ):
        with pytest.raises(ImlError, match="another orchestrator has taken it over"):
            order()


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        (replace(UNIT, digest="sha256:" + "1" * 64), "the image phalanx-agent here is sha256:0"),
        (replace(UNIT, image="other"), "has no image 'other'; there is phalanx-agent"),
        (replace(UNIT, capabilities=("classifier", "juggler")), "cannot do juggler"),
    ],
)
def test_the_wrong_image_is_not_started(root: Path, unit: Unit, line: str) -> None:
    with pytest.raises(ImlError, match=f"^madrid: .*{line}"):
        site(root).start(unit, FILES, fence=1)
    assert list(root.iterdir()) == []


def test_a_digest_is_that_of_files_and_capabilities(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "a.py").write_text("1")
    first = image_of(tmp_path, ("b", "a"))
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert image_of(tmp_path, ("a", "b")) == first
    assert image_of(tmp_path, ("a",)).digest != first.digest
    (tmp_path / "a.py").write_text("2")
    assert image_of(tmp_path, ("a", "b")).digest != first.digest


def test_a_site_may_be_entered_by_a_command(root: Path) -> None:
    (root / "madrid").mkdir()
    (root / "madrid" / "site.toml").write_text('enter = ["env", "WHERE=madrid"]\n')
    program = "import os, time; print('at', os.environ['WHERE'], flush=True); time.sleep(60)"
    madrid = site(root, program=program)
    running = madrid.start(UNIT, FILES, fence=1)
    wait_for(madrid, UNIT.name, "at madrid")
    assert [r.pid for r in madrid.running()] == [running.pid]


def test_what_the_orchestrator_knows_is_not_passed_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    program = "import os, time; print(sorted(os.environ), 'all', flush=True); time.sleep(60)"
    madrid = site(root, program=program)
    madrid.start(UNIT, FILES, fence=1)
    wait_for(madrid, UNIT.name, "all")
    assert "PATH" in madrid.logs(UNIT.name)
    assert "PGPASSWORD" not in madrid.logs(UNIT.name)


def test_a_disk_that_refuses_is_one_line(root: Path) -> None:
    (root / "madrid").mkdir()
    (root / "madrid" / UNIT.name).write_text("in the way")
    with pytest.raises(ImlError, match=r"^madrid: Not a directory: "):
        site(root).start(UNIT, FILES, fence=1)


def test_a_long_log_is_put_aside(root: Path) -> None:
    program = "import time; print('x' * 1_500_000, 'end', flush=True); time.sleep(60)"
    madrid = site(root, program=program)
    madrid.start(UNIT, FILES, fence=1)
    wait_for(madrid, UNIT.name, "end")
    madrid.running()
    folder = root / "madrid" / UNIT.name
    assert (folder / "log").stat().st_size == 0
    assert (folder / "log.1").stat().st_size == 1 << 20
    assert madrid.logs(UNIT.name, 1).endswith("end")
