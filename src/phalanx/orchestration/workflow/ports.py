"""What the workflow acts on: identities, files of processes, the bus, sites. Small protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.orchestration.descriptors import Service
from phalanx.orchestration.iml import Iml, Kind
from phalanx.orchestration.workflow.model import Deployment, Member


class PassingFault(PhalanxError):  # noqa: N818  # it is not an error that stays
    """Something did not work now, and may in a moment."""


class Seen(Struct, frozen=True):
    """What a process answered over the bus."""

    incarnation: int
    serving: bool
    goals: int = 0
    """Open goals of its own; of the network none."""
    detail: str = ""


Pair = tuple[str, str]
"""Identities of two agents that speak with each other."""


class Probed(Struct, frozen=True):
    """Whether one agent of a pair reaches the other, by messages as they send each other."""

    round_trip_ms: float | None
    """None: it does not."""
    reason: str = ""
    """Why not, in words."""


class Membership(Protocol):
    """Who belongs to the domain; each call may be repeated without harm.

    Raises:
        PassingFault: by all of its methods, if it may work in a moment.
        PhalanxError: if it will not.

    """

    def issue(self, name: str, kind: Kind) -> None:
        """Make an identity, unless it is there."""

    def revoke(self, name: str) -> None:
        """Take an identity back, unless it is gone; the brokers know it when this returns."""

    def reload(self) -> None:
        """Tell the brokers who belongs to the domain."""

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files that prove an identity, by name; secrets are among them."""

    def revocations(self) -> dict[str, bytes]:
        """Return those of the files that tell who was revoked."""


class Outfitter(Protocol):
    """Knows what processes are started with."""

    def functions(self) -> tuple[str, ...]:
        """Return the capabilities that agents can have."""

    def plan(self, service: Service, target: Deployment, leaving: tuple[Member, ...]) -> str:
        """Return the slice's network, with places for those that are about to leave.

        Raises:
            PhalanxError: if there can be none.

        """

    def files(self, member: Member, deployment: Deployment) -> dict[str, bytes]:
        """Return the files of a process, ``config.toml`` among them, but its identity's."""


class Watcher(Protocol):
    """Looks at the processes of a service over the bus.

    Raises:
        PassingFault: by all of its methods, if the bus cannot be reached now.

    """

    def look(self, members: Iterable[Member], within_s: float) -> dict[str, Seen]:
        """Ask ``members`` how they are, and return what those said that answered, by name."""

    def probe(self, pairs: Iterable[Pair], within_s: float) -> dict[Pair, Probed]:
        """Have the first of each pair ask the second over the bus, all at the same time."""

    def reload(self, name: str) -> str:
        """Have an agent read its plan again, and return what it says of that.

        Raises:
            PhalanxError: if it cannot follow that plan.

        """

    def forget(self, name: str) -> None:
        """See to it that the registry has no entry of an identity that does not run any more."""

    def send(self, events: list[Event]) -> list[Event]:
        """Send events to where all events go; return those that have arrived."""

    def close(self) -> None:
        """Give the connection back; whoever asks for something again connects anew."""


class Patience(Struct, frozen=True):
    """How often and how long something is tried."""

    attempts: int = 4
    """Of a step, before it has failed for good."""
    pause_s: float = 0.5
    """Before the second attempt; twice as long before each further one."""
    ready_s: float = 30.0
    """How long processes may take to do their work."""
    look_s: float = 2.0
    """How long one look at them takes at most."""
    stop_s: float = 10.0
    """How long a process may take to end."""
    drain_s: float = 60.0
    """How long an agent may take to hand over."""


class Sites(Protocol):
    """Finds the IML of a site."""

    def __call__(self, site: str) -> Iml:
        """Return the IML of the site of this name."""


Moment = Literal["before", "within", "after"]
Hook = Callable[[Moment, str], None]
"""Called before the intention of a step is written, between its work and its result, and after
that; of a step that is taken back the name begins with ``undo``. For tests."""


def no_hook(_moment: Moment, _step: str) -> None:
    """Do nothing."""
