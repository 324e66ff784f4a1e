"""Where a run takes place: in simulation, or on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from rich.console import Console

from phalanx.cli.terminal import out, say
from phalanx.domain.errors import PhalanxError
from phalanx.runtime.environment import Environment
from phalanx.runtime.scenario import Scenario


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
        from phalanx.runtime.linux_environment import plan  # noqa: PLC0415  # an extra
    for line in plan(scenario):
        say(out, line)


def linux_environment(console: Console, *, quiet: bool) -> Environment:
    """Return the environment of real packets, which tells ``console`` what it makes.

    Raises:
        PhalanxError: with one line, if the extra packages are missing.

    """
    with needs_linux():
        from phalanx.runtime.linux_environment import LinuxEnvironment  # noqa: PLC0415  # an extra
    return LinuxEnvironment((lambda _: None) if quiet else (lambda line: say(console, line, "dim")))
