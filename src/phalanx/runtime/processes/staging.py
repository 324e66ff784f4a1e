"""What a run spread out has to do with the machine that its network stands on."""

from __future__ import annotations

from pathlib import Path

from phalanx.runtime.processes.spec import On
from phalanx.runtime.processes.stage import LINUX_LEAD_S, Say, check_linux


class Staging:
    """The ground below the network's process: checked before it, and cleared after it.

    Args:
        on: simulated, or real packets on this machine.
        say: told in one line what the process makes.

    """

    def __init__(self, on: On, say: Say) -> None:
        self.on = on
        self.lead_s = LINUX_LEAD_S if on == "linux" else 0.0
        self._say = say
        self._said = 0

    def check(self) -> None:
        """Refuse to begin where the machine cannot do it.

        Raises:
            PhalanxError: with one line.

        """
        if self.on == "linux":
            check_linux()

    def look(self, state: Path) -> None:
        """Tell what the network's process with this state has made since the last look."""
        if self.on == "linux":
            from phalanx.runtime.processes.testbed import made  # noqa: PLC0415  # an extra

            lines = made(state)
            for line in lines[self._said :]:
                self._say(line)
            self._said = max(self._said, len(lines))

    def clear(self, state: Path) -> None:
        """Remove what the network's process has left if it was killed; it does not run.

        Raises:
            KernelError: if something cannot be removed.

        """
        if self.on == "linux":
            from phalanx.runtime.processes.testbed import clear  # noqa: PLC0415  # an extra

            if (cleared := clear(state)) is not None:
                self._say(cleared)
