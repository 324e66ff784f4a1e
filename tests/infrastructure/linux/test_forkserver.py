"""Fork servers: what a child runs is its image, and whatever happens to whom, nobody is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from phalanx.infrastructure.linux import forkserver, vnf
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.vnf_processes import Child, ForkServer

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")

PATIENCE_S = 10.0
SLEEPER = "import signal\nprint('here', flush=True)\nwhile True: signal.pause()\n"


def image(folder: Path, name: str, **modules: str) -> Path:
    """Return an image of the modules given; ``main`` stands for ``__main__``."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for module, source in modules.items():
            archive.writestr("__main__.py" if module == "main" else f"{module}.py", source)
    return path


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[ForkServer]:
    server = await ForkServer.start([], folder, {"PHALANX_RUN": "c0ffee"})
    try:
        yield server
    finally:
        await server.close(PATIENCE_S)


def run(folder: Path, work: Callable[[ForkServer], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(folder) as server, asyncio.timeout(PATIENCE_S):
            await work(server)

    asyncio.run(whole())


async def says(log: Path) -> str:
    """Wait until a child has said something, and return it."""
    while not (log.exists() and log.read_text()):
        await asyncio.sleep(0.01)
    return log.read_text()


def gone(pid: int) -> bool:
    """Whether a process ends within a while, or has ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            return bool(select.select([handle], [], [], PATIENCE_S)[0])
        finally:
            os.close(handle)
    return True


def test_a_child_runs_its_image_and_its_end_is_told(tmp_path: Path) -> None:
    source = (
        "import os, sys\nprint(*sys.argv, os.environ['PHALANX_RUN'], os.getsid(0))\nsys.exit(3)"
    )
    path = image(tmp_path, "one.pyz", main=source)

    async def work(server: ForkServer) -> None:
        child = await server.fork(path, ["--role", "x y"], tmp_path / "log")
        assert await child.wait() == child.returncode == 3
        said = (tmp_path / "log").read_text()
        assert said == f"{path} --role x y c0ffee {child.pid}\n"  # a session of its own

    run(tmp_path, work)


def test_images_share_no_code(tmp_path: Path) -> None:
    main = "import part\nprint(part.NAME)"
    paths = [image(tmp_path, f"{n}.pyz", main=main, part=f"NAME = {n}") for n in (1, 2)]

    async def work(server: ForkServer) -> None:
        for number, path in enumerate(paths, 1):
            child = await server.fork(path, [], tmp_path / "log")
            assert await child.wait() == 0
            assert (tmp_path / "log").read_text() == f"{number}\n"

    run(tmp_path, work)


def test_what_fails_in_an_image_stands_in_its_log(tmp_path: Path) -> None:
    path = image(tmp_path, "bad.pyz", main="raise ValueError('so it is')")

    async def work(server: ForkServer) -> None:
        for missing in (path, tmp_path / "nowhere.pyz"):
            child = await server.fork(missing, [], tmp_path / "log")
            assert await child.wait() == 1
            last = (tmp_path / "log").read_text().splitlines()[-1]
            assert "so it is" in last or "nowhere.pyz" in last

    run(tmp_path, work)


def test_a_child_shows_its_image_and_ends_by_a_signal(tmp_path: Path) -> None:
    path = image(tmp_path, "sleeper.pyz", main=SLEEPER)

    async def work(server: ForkServer) -> None:
        children: list[Child] = []
        for number in (1, 2):
            children.append(await server.fork(path, ["--n", str(number)], tmp_path / "log"))
            await says(tmp_path / "log")
            (tmp_path / "log").unlink()
        for number, child in enumerate(children, 1):
            words = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            assert [os.fsdecode(word) for word in words] == [
                *(forkserver.NAME, str(path), "--n", str(number))
            ]
            assert Path(f"/proc/{child.pid}/comm").read_text() == f"{forkserver.NAME}\n"
            # Nothing of the server's: its channel, or handles of other children.
            kept = {entry.name for entry in Path(f"/proc/{child.pid}/fd").iterdir()}
            assert kept == {"0", "1", "2"}
        children[0].send_signal(signal.SIGTERM)
        assert await children[0].wait() == -signal.SIGTERM
        children[0].send_signal(signal.SIGTERM)  # too late: no error, and nobody else is hit
        children[1].send_signal(signal.SIGKILL)
        assert await children[1].wait() == -signal.SIGKILL

    run(tmp_path, work)


def test_closing_ends_whoever_is_left(tmp_path: Path) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    pids: list[int] = []

    async def work() -> None:
        server = await ForkServer.start([], tmp_path, {})
        for name, source in (("mild.pyz", SLEEPER), ("deaf.pyz", deaf)):
            log = tmp_path / f"{name}.log"
            child = await server.fork(image(tmp_path, name, main=source), [], log)
            pids.append(child.pid)
            await says(log)
        await server.close(0.2)
        pids.append(server.pid)

    asyncio.run(work())
    assert all(gone(pid) for pid in pids)


def test_a_start_that_nobody_waits_for_leaves_no_process(tmp_path: Path) -> None:
    path = image(tmp_path, "sleeper.pyz", main=SLEEPER)

    async def work(server: ForkServer) -> None:
        start = asyncio.ensure_future(server.fork(path, [], tmp_path / "log"))
        await asyncio.sleep(0)
        start.cancel()
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        child = await server.fork(path, [], tmp_path / "log2")  # the first was answered before
        while children.read_text().split() != [str(child.pid)]:
            await asyncio.sleep(0.01)

    run(tmp_path, work)


def test_children_end_with_their_server_and_it_starts_no_more(tmp_path: Path) -> None:
    path = image(tmp_path, "sleeper.pyz", main=SLEEPER)

    async def work(server: ForkServer) -> None:
        child = await server.fork(path, [], tmp_path / "log")
        await says(tmp_path / "log")
        os.kill(server.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
        assert gone(child.pid)
        assert not server.alive
        with pytest.raises(TaskError, match="fork server is gone"):
            await server.fork(path, [], tmp_path / "log")

    run(tmp_path, work)


def test_children_live_on_when_the_driver_is_gone(tmp_path: Path) -> None:
    path = image(tmp_path, "sleeper.pyz", main=SLEEPER)
    source = f"""
import asyncio, os, pathlib, sys
from phalanx.infrastructure.linux.vnf_processes import ForkServer

async def work():
    server = await ForkServer.start([], pathlib.Path({str(tmp_path)!r}), {{}})
    child = await server.fork(pathlib.Path({str(path)!r}), [], pathlib.Path("log"))
    print(server.pid, child.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(work())
"""
    killed = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    server, child = map(int, killed.stdout.split())
    try:
        assert gone(server)
        asyncio.run(asyncio.wait_for(says(tmp_path / "log"), PATIENCE_S))
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    assert gone(child)


def test_functions_find_all_that_they_import_in_the_server_already() -> None:
    source = f"""
import importlib, runpy, sys
sys.argv = ["forkserver"]
runpy.run_path({forkserver.__file__!r})
before = set(sys.modules)
sys.path.insert(0, {str(Path(vnf.__file__).parents[1])!r})
for name in {sorted(p.stem for p in Path(vnf.__file__).parent.glob("[a-z]*.py"))!r}:
    importlib.import_module("vnf." + name)
print(*(name for name in set(sys.modules) - before if name.partition(".")[0] != "vnf"))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
