"""A plan's network on this machine, for agents that are processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.journal import Journal
from phalanx.infrastructure.linux.kernel import runs, sweep
from phalanx.infrastructure.linux.kernel.errors import KernelError
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.infrastructure.linux.repository import PORT, build_images
from phalanx.infrastructure.linux.testbed import Testbed
from phalanx.infrastructure.linux.testbed.workload import Workload
from phalanx.runtime.processes.stage import LINUX_LEAD_S, Say, Setting

_MADE = "testbed"
"""File below the state: the mark of the testbed, then what was told of it, a line each."""
_JOURNAL = "leases.db"


class LinuxStage:
    """Namespaces for PoPs and hosts, real servers, users, attackers and VNFs; needs root.

    There is no overlay: what agents say goes over the domain's brokers, not over the testbed.

    The testbed belongs to the process, as its measurements and its traffic do. What a process
    that was killed has left is cleared by the next one with the same state, before it builds
    its own: agents learn from the service that it began a new life.
    """

    lead_s = LINUX_LEAD_S

    def __init__(self, state: Path, say: Say) -> None:
        """Make nothing yet.

        Args:
            state: directory in which the mark of the testbed is kept, of one process alone.
            say: told in one line what is being made.

        """
        self._state = state
        self._made = state / _MADE
        self._say = say
        self._stack = ExitStack()

    def build(self, setting: Setting) -> LinuxNetwork:
        """Clear what an earlier life has left, and make everything anew; takes some seconds.

        Sources whose time is over by the clock are left out.

        Raises:
            KernelError: if the machine does not allow it.

        """
        if (cleared := clear(self._state)) is not None:
            self._say(cleared)
        plan, clock, stack = setting.plan, setting.clock, self._stack
        network, sources = plan.to_network(), plan.to_sources(setting.seed)
        run = runs.new_run()
        home = runs.folder(run)
        stack.callback(self._made.unlink, missing_ok=True)
        stack.callback(runs.remove, home)
        self._made.write_text(f"{run}\n")
        self._tell(f"testbed {run}: {len(network.pops)} PoPs, {len(sources)} sources")
        testbed = Testbed(run, network, sources)
        stack.callback(testbed.destroy)
        testbed.build()
        images = build_images(setting.vnfds, home / "repository")
        self._serve(testbed, network.repository, home / "repository")
        workload = Workload(
            testbed,
            network,
            [s for s in sources if s.end_s is None or s.end_s > clock.now()],
            clock=clock,
            recorder=setting.recorder("workload"),
            cause=setting.cause,
            folder=home,
            sample_s=plan.timing.sample_s,
        )
        stack.callback(workload.stop)
        workload.prepare()
        now = clock.now()
        self._tell("server and users are ready" + (f" at second {now:.1f}" if now > 0 else ""))
        journal = stack.enter_context(closing(Journal(home / _JOURNAL)))
        driver = LinuxNetwork(
            network,
            clock,
            setting.recorder(""),
            ground=testbed,
            images=images,
            journal=journal,
            cause=setting.cause,
        )
        stack.callback(driver.shutdown)
        workload.start()
        return driver

    def close(self) -> None:
        """End everything and leave nothing behind; who asks again meanwhile is not heard."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def _tell(self, line: str) -> None:
        with self._made.open("a") as file:
            file.write(f"{line}\n")
        self._say(line)

    def _serve(self, testbed: Testbed, repository: str, images: Path) -> None:
        """Start the VNF repository: a web server in the namespace of its PoP."""
        server = self._stack.enter_context(
            subprocess.Popen(  # noqa: S603  # our own interpreter
                [
                    *prefix(testbed.namespace(repository)),
                    *(sys.executable, "-m", "phalanx.infrastructure.linux.shelf"),
                    *(testbed.underlay(repository), str(PORT), str(images)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, runs.VARIABLE: testbed.run},
            )
        )
        self._stack.callback(server.kill)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise KernelError(f"the VNF repository at {repository} does not start")


def made(state: Path) -> list[str]:
    """Return what the process with this state has told of its testbed so far; it may be nothing."""
    return _lines(state)[1:]


def clear(state: Path) -> str | None:
    """Remove the testbed that a process with this state has left, which does not run any more.

    Returns:
        in words what that was; None: there was nothing.

    Raises:
        KernelError: if something of it cannot be removed.

    """
    run = next(iter(_lines(state)), "")
    if not (runs.is_run(run) and run in sweep.marked()):
        return None
    sweep.sweep(run)
    home, in_force = runs.folder(run), 0
    if (home / _JOURNAL).exists():
        with closing(Journal(home / _JOURNAL)) as journal:
            in_force = len(journal.remaining())
    runs.remove(home)
    (state / _MADE).unlink()
    return f"cleared testbed {run} of an earlier life, with {in_force} measures in force"


def _lines(state: Path) -> list[str]:
    try:
        return (state / _MADE).read_text().splitlines()
    except FileNotFoundError:
        return []
