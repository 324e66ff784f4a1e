"""How fast a VNF image can reach a PoP (the download time T of section 4.2.2)."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

from phalanx.auction.view import NetworkView
from phalanx.domain.network import PopId


def throughputs(view: NetworkView, repository: PopId) -> dict[PopId, float]:
    """Return the highest throughput from ``repository`` to each PoP, in MB/s.

    That is the bottleneck of the widest path, over what is free in the direction of the
    download. PoPs that nothing can reach are left out; the repository's own has ``inf``.
    One pass serves all PoPs and all agents that hold the view.
    """
    key = ("throughputs", repository)
    known: dict[PopId, float] | None = view.memo.get(key)
    if known is not None:
        return known
    outgoing = view.outgoing
    reached: dict[PopId, float] = {}
    queue = [(-inf, repository)] if repository in outgoing else []
    while queue:
        negated, pop = heappop(queue)
        if pop in reached:
            continue
        width = reached[pop] = -negated
        for to, _, _, _, room in outgoing[pop]:
            if to not in reached and room > 0.0:
                heappush(queue, (-min(width, room), to))
    return view.remember(key, reached)


def download_time_s(
    view: NetworkView, repository: PopId, pop: PopId, image_mb: float
) -> float | None:
    """Return how long an image of ``image_mb`` MB takes from ``repository`` to ``pop``, in s.

    0 at the repository's own PoP; None if no bandwidth is free or the PoP is cut off.
    """
    width = throughputs(view, repository).get(pop)
    return None if width is None else image_mb / width
