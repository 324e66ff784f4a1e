"""Good placements by local search, from any start."""

from __future__ import annotations

import numpy as np

from phalanx.orchestration.mlfo.model import Floats, Places, Problem


class LocalSearch:
    """Moves one VNF, or all VNFs of an agent, as long as that makes a placement cheaper.

    A broken limit costs ``too_much``, so that a start that breaks some is mended where moves
    can mend it.
    """

    def __init__(self, problem: Problem, too_much: float) -> None:
        self._opening = problem.opening
        self._room = problem.room
        self._too_much = too_much
        self._serving = np.where(np.isfinite(problem.serving), problem.serving, too_much)
        self._pairs = np.where(np.isfinite(problem.pairs), problem.pairs, too_much)
        self._beside: list[list[int]] = [[] for _ in problem.serving]
        for a, b in problem.edges:
            self._beside[a].append(b)
            self._beside[b].append(a)

    def improved(self, start: Places) -> Places:
        """Return a placement that no move makes cheaper."""
        places = start.copy()
        counts = np.bincount(places, minlength=len(self._opening))
        # Every round makes the placement cheaper, so this ends.
        while self._single(places, counts) or self._together(places, counts):
            pass
        return places

    def greedy(self) -> Places:
        """Return a placement to begin with: VNF by VNF, each where it is cheapest then."""
        places = np.full(len(self._serving), -1, dtype=np.int64)
        counts = np.zeros(len(self._opening), dtype=np.int64)
        for vnf in range(len(places)):
            costs = self._serving[vnf] + self._agents(counts, 1)
            for other in self._beside[vnf]:
                if places[other] >= 0:
                    costs = costs + self._pairs[places[other]]
            places[vnf] = int(costs.argmin())
            counts[places[vnf]] += 1
        return places

    def _agents(self, counts: Places, more: int) -> Floats:
        """Return what the sites cost with ``more`` VNFs above what they cost now."""
        after = counts + more
        before = np.maximum(0, counts - self._room)
        over = np.maximum(0, after - self._room) - before
        opened = np.where((counts == 0) & (after > 0), self._opening, 0.0)
        return np.asarray(opened + self._too_much * over)

    def _single(self, places: Places, counts: Places) -> bool:
        moved = False
        for vnf in range(len(places)):
            here = int(places[vnf])
            counts[here] -= 1
            costs = self._serving[vnf] + self._agents(counts, 1)
            for other in self._beside[vnf]:
                costs = costs + self._pairs[places[other]]
            there = int(costs.argmin())
            if costs[there] < costs[here] - 1e-9 * (1.0 + abs(costs[here])):
                places[vnf] = here = there
                moved = True
            counts[here] += 1
        return moved

    def _together(self, places: Places, counts: Places) -> bool:
        moved = False
        for here in np.unique(places):
            group = np.flatnonzero(places == here)
            inside = set(group.tolist())
            counts[here] -= len(group)
            costs = self._serving[group].sum(axis=0) + self._agents(counts, len(group))
            for vnf in group:
                for other in self._beside[vnf]:
                    if other not in inside:
                        costs = costs + self._pairs[places[other]]
            there = int(costs.argmin())
            if costs[there] >= costs[here] - 1e-9 * (1.0 + abs(costs[here])):
                there = int(here)
            places[group] = there
            counts[there] += len(group)
            moved = moved or there != here
        return moved
