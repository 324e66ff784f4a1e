"""Where the network of a plan stands that a process serves: simulated, or on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Recorder
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.simulated import SimulatedNetwork
from phalanx.runtime.processes.spec import On
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.world import RunNetwork

Say = Callable[[str], None]

LINUX_LEAD_S = 6.0
"""How long it may take to make a testbed of a few PoPs and some dozen sources, in seconds."""


class ServedNetwork(RunNetwork, Protocol):
    """A network as the process sees it that serves it."""

    def check(self) -> None:
        """Check the books.

        Raises:
            InvariantError: if a PoP or a link is over-committed.

        """


@dataclass(frozen=True, slots=True)
class Setting:
    """What a network is made from."""

    plan: Scenario
    seed: int
    vnfds: Mapping[str, Vnfd]
    clock: WallClock
    """It runs: seconds before 0 are there to build in."""
    recorder: Callable[[str], Recorder]
    """Makes a recorder of the network's events; its argument sets their ids apart."""
    cause: str
    """Event that is the root of all causes."""


class Stage(Protocol):
    """Makes a plan's network, with its traffic, and takes it apart again."""

    lead_s: float
    """How long before second 0 it should be begun, in seconds."""

    def build(self, setting: Setting) -> ServedNetwork:
        """Make the network; blocks until it stands.

        Raises:
            PhalanxError: with one line, if the machine does not allow it.

        """

    def close(self) -> None:
        """Take apart what was built, once the clock has stopped; its loop is still open."""


class SimulatedStage:
    """Flows as figures: nothing is made, and nothing stays."""

    lead_s = 0.0

    def __init__(self) -> None:
        self._network: SimulatedNetwork | None = None

    def build(self, setting: Setting) -> SimulatedNetwork:
        """Make the simulated network."""
        plan = setting.plan
        self._network = SimulatedNetwork(
            plan.to_network(),
            plan.to_sources(setting.seed),
            setting.clock,
            setting.recorder(""),
            seed=setting.seed,
            cause=setting.cause,
            tick_s=plan.timing.tick_s,
            sample_s=plan.timing.sample_s,
            watched=tuple(monitor.link for monitor in plan.monitors),
        )
        return self._network

    def close(self) -> None:
        """Let nothing happen any more."""
        if self._network is not None:
            self._network.shutdown()


def stage_of(on: On, state: Path, say: Say) -> Stage:
    """Return where a network shall stand.

    Args:
        on: simulated, or with real packets on this machine.
        state: directory of the process that serves it.
        say: told in one line what is being made.

    Raises:
        PhalanxError: with one line, if this machine cannot do it.

    """
    if on == "simulation":
        return SimulatedStage()
    check_linux()
    from phalanx.runtime.processes.testbed import LinuxStage  # noqa: PLC0415  # an extra

    return LinuxStage(state, say)


def check_linux() -> None:
    """Refuse real packets where this machine cannot have them.

    Raises:
        PhalanxError: with one line that says what is missing, and how to get it.

    """
    try:
        # An extra, and only these runs need it.
        from phalanx.infrastructure.linux.features import missing, probe  # noqa: PLC0415
    except ModuleNotFoundError as absent:
        raise PhalanxError(
            f"real packets need {absent.name}: pip install 'phalanx[linux]'"
        ) from None
    if lacking := missing(probe()):
        raise PhalanxError(f"no real packets on this machine: {'; '.join(lacking)}")
