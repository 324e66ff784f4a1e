"""Agents: their name, the scope of what they look after, and the state that they advertise.

An agent has a name and a scope. It may stand at a point of presence; several may stand at
one, and agents of a slice or a domain stand at none.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from phalanx.domain.network import LinkState, PopId
from phalanx.domain.resources import NOTHING, Resources

AgentId = str
MOST_STAMP = 2**53
"""Largest number of a life, or of a change in one."""
Stamp = Annotated[int, Meta(ge=0, le=MOST_STAMP)]


class Scope(Struct, frozen=True):
    """What an agent looks after, as a value: the set of scopes is open.

    The built-in scopes are the levels of closed loops in multi-domain slice security:
    network function, sub-slice, slice, between slices, domain and end to end, beside the PoP.
    """

    name: str
    """As scenario files and registrations write it."""
    about: str = ""
    """What is looked after, in a few words."""
    capabilities: tuple[str, ...] = ()
    """Names of the capabilities that an agent of this scope has without being told to."""


POP = Scope("pop", "one point of presence")
SCOPES: dict[str, Scope] = {
    scope.name: scope
    for scope in (
        Scope("network-function", "one network function"),
        POP,
        Scope("sub-slice", "one network slice subnet (NSSI)"),
        Scope("slice", "one network slice (NSI)"),
        Scope("inter-slice", "several slices that meet"),
        Scope("domain", "one administrative domain"),
        Scope("end-to-end", "a service over all domains"),
    )
}
"""The built-in scopes by name; the entry-point group ``phalanx.scopes`` adds others."""


PHYSICAL = "PNF"
"""Form of a function that is a device: software neither scales nor replaces it."""


class Loop(Struct, frozen=True):
    """A closed loop of a slice: an agent, what it looks after, and whom it deals with.

    Monitoring, analytics, decision and enforcement are what every agent has: percepts and rules,
    goals, plans. Loops follow from a slice's descriptor (``phalanx.slices.model``).
    """

    name: AgentId
    scope: str
    """Name of a ``Scope``: network-function, sub-slice, slice, domain or end-to-end."""
    entity: str
    """The function, subnet, slice or domain that it looks after."""
    slices: tuple[str, ...]
    """Slices that use the entity, sorted: of these it may know, and of no other."""
    pop: PopId | None = None
    """Of the function's host; None: it stands at no PoP."""
    above: tuple[AgentId, ...] = ()
    """Loops that it may escalate to, sorted."""
    below: tuple[AgentId, ...] = ()
    """Loops that it may delegate to, sorted."""
    beside: tuple[AgentId, ...] = ()
    """Peers: loops of the same subnet or slice, sorted."""
    managers: tuple[AgentId, ...] = ()
    """Those that deploy and inform it, sorted; they command nothing."""
    capabilities: tuple[str, ...] = ()
    """What it can do beside what its scope brings."""
    kind: str = ""
    """Of a function, such as AMF; of a subnet, its domain."""
    form: str = ""
    """Of a function: VNF, CNF or PNF."""
    host: str = ""
    """Of a function: the host that it runs on."""
    address: str = ""
    """Of a function: its host's."""
    precedence: tuple[str, ...] = ()
    """Order of actions on the entity, as its slices declare it; empty: the default."""


class AgentState(Struct, frozen=True):
    """What an agent tells the others of itself and its PoP: an advertisement, allowed to be old."""

    agent: AgentId
    pop: PopId | None
    """Where it stands; None: nowhere, and the resources and links below are empty."""
    incarnation: Stamp
    """How often the agent was started; a higher one always wins."""
    version: Stamp
    """Counts the changes within one incarnation."""
    total: Resources = NOTHING
    """Resources of its PoP."""
    free: Resources = NOTHING
    """Resources not allocated to a VNF; holds of open proposals still count as free."""
    links: tuple[LinkState, ...] = ()
    """Links that leave its PoP."""
    alive: bool = True
    """False once its neighbours found the agent gone, or it has left."""
    remembers: int = 0
    """The earliest incarnation whose actions it still knows; 0: only its present one."""
    left: bool = False
    """Whether it left in order: nothing that it did is missing."""
    images: tuple[str, ...] = ()
    """Images that its PoP has (``Vnfd.image``), sorted."""

    @property
    def stamp(self) -> tuple[int, int]:
        """Order of this state among all states of the same agent."""
        return self.incarnation, self.version

    def forgets(self, incarnation: int) -> bool:
        """Whether the agent no longer knows what it did in an earlier ``incarnation``."""
        return incarnation < (self.remembers or self.incarnation)
