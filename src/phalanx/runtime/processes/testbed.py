"""A plan's network on this machine, for agents that are processes of their own."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.infrastructure.linux.kernel import runs, sweep
from phalanx.runtime.processes.stage import LINUX_LEAD_S, Say, Setting
from phalanx.runtime.real_packets import RealPackets, measures_left

_MADE = "testbed"
"""File below the state: the mark of the testbed, then what was told of it, a line each."""


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
        plan, run = setting.plan, runs.new_run()
        network, sources = plan.to_network(), plan.to_sources(setting.seed)
        sample_s = plan.timing.sample_s
        self._stack.callback(self._made.unlink, missing_ok=True)
        self._made.write_text(f"{run}\n")
        real = RealPackets(run, network, sources, sample_s, self._stack, self._tell)
        real.testbed()
        driver = real.driver(setting.vnfds, setting.clock, setting.recorder, setting.cause)
        real.start()
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
    home = runs.folder(run)
    in_force = measures_left(home)
    runs.remove(home)
    (state / _MADE).unlink()
    return f"cleared testbed {run} of an earlier life, with {in_force} measures in force"


def _lines(state: Path) -> list[str]:
    try:
        return (state / _MADE).read_text().splitlines()
    except FileNotFoundError:
        return []
