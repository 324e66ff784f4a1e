"""What could change the answer of agents that have all refused a goal."""

from __future__ import annotations

from collections.abc import Sequence

from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.resources import Resources


class Change:
    """Whether something came, since ``begin``, that could change the answer.

    Args:
        key: the plan that waits for it is resumed by this.
        needs: what VNFs require that could do the work.

    """

    def __init__(self, key: str, needs: Sequence[Resources]) -> None:
        self.key = key
        self.came = False
        self._needs = needs
        self._view = NetworkView.EMPTY

    def begin(self, view: NetworkView) -> None:
        """Look for changes from ``view`` on."""
        self._view, self.came = view, False

    def see(self, view: NetworkView) -> bool:
        """Compare the next view with the one before."""
        self.came = self.came or could_change(self._view, self._needs, view)
        self._view = view
        return self.came


def could_change(before: NetworkView, needs: Sequence[Resources], now: NetworkView) -> bool:
    """Whether agents may answer otherwise than they did by the view ``before``.

    An agent is new, back or without its memory; one of ``needs`` (what VNFs require that could do
    the work) fits into a PoP where it did not; or a link is up again or carries less.
    """
    if now is before:
        return False
    return any(
        state.alive and _opens(before.get(state.agent), needs, state)
        for state in now.states
        if state is not before.get(state.agent)
    )


def _opens(old: AgentState | None, needs: Sequence[Resources], new: AgentState) -> bool:
    if old is None or not old.alive or old.incarnation != new.incarnation:
        return True
    if any(needed.within(new.free) and not needed.within(old.free) for needed in needs):
        return True
    links = {link.to: link for link in old.links if link.up}
    return any(
        link.up and (link.to not in links or link.reserved_mb_s < links[link.to].reserved_mb_s)
        for link in new.links
    )
