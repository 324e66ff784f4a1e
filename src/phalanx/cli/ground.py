"""Where a run takes place: in simulation, or on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from rich.console import Console

from phalanx.cli.terminal import out, say
from phalanx.domain.errors import PhalanxError
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.world import World


class Ground(Enum):
    """Values of ``--on``."""

    SIMULATION = "simulation"
    LINUX = "linux"


@contextmanager
def needs_linux() -> Iterator[None]:
    """Say how to get the packages that real packets need, where an import does not find them.

    Raises:
        PhalanxError: with one line.

    """
    try:
        yield
    except ModuleNotFoundError as missing:
        raise PhalanxError(
            f"real packets need {missing.name}: pip install 'phalanx[linux]'"
        ) from None


def say_plan(scenario: Scenario) -> None:
    """Say what a run on this machine would make.

    Raises:
        PhalanxError: with one line, if the extra packages are missing.

    """
    with needs_linux():
        from phalanx.runtime.on_linux import plan  # noqa: PLC0415  # an extra
    for line in plan(scenario):
        say(out, line)


def linux_world(console: Console, *, quiet: bool) -> World:
    """Return the world of real packets, which tells ``console`` what it makes.

    Raises:
        PhalanxError: with one line, if the extra packages are missing.

    """
    with needs_linux():
        from phalanx.runtime.on_linux import LinuxWorld  # noqa: PLC0415  # an extra
    return LinuxWorld((lambda _: None) if quiet else (lambda line: say(console, line, "dim")))
