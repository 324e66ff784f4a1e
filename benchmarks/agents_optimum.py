"""The optimal placement of a service's agents, found by HiGHS as an integer program.

The model is that of ``phalanx.orchestration.mlfo.model``; the product of two neighbours'
choices becomes a flow between them, the tightest linear form (its relaxation is the local
polytope).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from msgspec import Struct
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from phalanx.orchestration.mlfo.model import Problem


class Optimum(Struct, frozen=True):
    """What HiGHS found."""

    objective: float
    """Infinite if there is no placement, or none was found in time."""
    proven: bool


class _Rows:
    """Linear constraints, collected row by row."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._factors: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, columns: list[int], factors: list[float], low: float, high: float) -> None:
        self._rows += [len(self._low)] * len(columns)
        self._columns += columns
        self._factors += factors
        self._low.append(low)
        self._high.append(high)

    def built(self, columns: int) -> Any:
        entries = (self._factors, (self._rows, self._columns))
        matrix = coo_array(entries, shape=(len(self._low), columns))
        return LinearConstraint(matrix.tocsr(), self._low, self._high)


def optimum(problem: Problem, seconds: float = 60.0) -> Optimum:
    """Return the least cost of a placement."""
    may = [np.flatnonzero(np.isfinite(row)).tolist() for row in problem.serving]
    if not all(may):
        return Optimum(math.inf, proven=True)
    costs: list[float] = []

    def column(cost: float) -> int:
        costs.append(cost)
        return len(costs) - 1

    serve = [{s: column(problem.serving[v, s]) for s in sites} for v, sites in enumerate(may)]
    agent = {s: column(problem.opening[s]) for s in sorted({s for sites in may for s in sites})}
    whole = len(costs)
    rows = _Rows()
    for own in serve:
        rows.add(list(own.values()), [1.0] * len(own), 1, 1)
        for s, x in own.items():
            rows.add([x, agent[s]], [1.0, -1.0], -math.inf, 0)
    for s, y in agent.items():
        served = [own[s] for own in serve if s in own]
        rows.add([*served, y], [1.0] * len(served) + [-float(problem.room[s])], -math.inf, 0)
    for u, v in problem.edges:
        out: dict[int, list[int]] = {s: [] for s in may[u]}
        into: dict[int, list[int]] = {s: [] for s in may[v]}
        for s in may[u]:
            for t in may[v]:
                if math.isfinite(problem.pairs[s, t]):
                    flow = column(problem.pairs[s, t])
                    out[s].append(flow)
                    into[t].append(flow)
        for ends, own in ((out, serve[u]), (into, serve[v])):
            for s, flows in ends.items():
                rows.add([*flows, own[s]], [1.0] * len(flows) + [-1.0], 0, 0)
    found = milp(
        costs,
        constraints=rows.built(len(costs)),
        bounds=Bounds(0, 1),
        integrality=np.arange(len(costs)) < whole,
        options={"time_limit": seconds, "mip_rel_gap": 1e-7},
    )
    proven = found.status in (0, 2)  # optimal, infeasible
    return Optimum(math.inf if found.x is None else float(found.fun), proven)
