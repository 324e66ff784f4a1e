"""Flow counters added up: one tally for a source, a target and a protocol."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from phalanx.domain.actions import FlowStats


class Tally(Struct):
    """What one source did towards one target over one protocol, over all ports and records.

    The fields mean what those of ``FlowStats`` mean.
    """

    source: str
    target: str
    protocol: str
    packets: int = 0
    octets: int = 0
    syn: int = 0
    established: int = 0
    replies: int = 0
    answered: int = 0
    open_at: dict[int, int] | None = None
    """Open connections by port; None: there are none."""

    def add(self, flow: FlowStats) -> None:
        """Add a record.

        A flow that is recorded again, in a later turn of one observation, has the connections
        that stayed open in both records: they count once.
        """
        self.packets += flow.packets
        self.octets += flow.octets
        self.syn += flow.syn
        self.established += flow.established
        self.replies += flow.replies
        self.answered += flow.answered
        if flow.open:
            self.open_at = self.open_at or {}
            self.open_at[flow.port] = max(flow.open, self.open_at.get(flow.port, 0))

    @property
    def open(self) -> int:
        """Connections held open at all ports."""
        return sum(self.open_at.values()) if self.open_at else 0


def tally(flows: Iterable[FlowStats]) -> list[Tally]:
    """Return one tally for each source, target and protocol."""
    tallies: dict[tuple[str, str, str], Tally] = {}
    for flow in flows:
        key = flow.source, flow.target, flow.protocol
        one = tallies.get(key)
        if one is None:
            one = tallies[key] = Tally(*key)
        one.add(flow)
    return list(tallies.values())
