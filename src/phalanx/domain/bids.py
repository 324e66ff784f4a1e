"""Bids of the NFV-A protocol (definition 7) and refusals with their reason."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from phalanx.domain.agents import AgentId
from phalanx.domain.network import PopId
from phalanx.domain.vnf import InstanceId


class Bid(Struct, frozen=True):
    """An atomic bid: what it costs that one agent achieves one goal with one VNF."""

    vnf: str
    """Name of the capability whose VNF would do the work."""
    units: Annotated[int, Meta(ge=1, le=1_000_000)]
    """How many units of it (scaling)."""
    terms: dict[str, float]
    """Value of each term by its name: T, C and D, then those that the goal weighs or limits."""
    path: tuple[PopId, ...]
    """PoPs from the bidder to the tap, both included."""
    reuse: InstanceId | None = None
    """The idle or shared instance that would be used again; None: a new one."""
    accuracy: float = 1.0
    """Accuracy that the VNF claims."""
    kept: bool = False
    """Whether the bidder keeps the goal true already, by the instance that it names."""

    def __hash__(self) -> int:
        return hash((self.vnf, self.units, self.path, self.reuse, frozenset(self.terms.items())))

    def row(self) -> dict[str, Any]:
        """Return the bid as the log shows it (a line of table 5.8)."""
        return {
            "vnf": self.vnf,
            "units": self.units,
            **{name: round(value, 6) for name, value in self.terms.items()},
            "path": list(self.path),
            "reuse": self.reuse,
            **({"kept": True} if self.kept else {}),
        }


class RankedBid(Struct, frozen=True):
    """A bid beside its bidder and its utility for the auctioneer (eq. 3.1; low wins)."""

    bidder: AgentId
    bid: Bid
    utility: float

    def row(self) -> dict[str, Any]:
        """Return the bid as the log shows it in a ranking."""
        return {"agent": self.bidder, "utility": round(self.utility, 6), **self.bid.row()}
