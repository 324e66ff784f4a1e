"""The optimal placement of all requests at once, found by HiGHS as an integer program.

Each request has binary variables: whether it is left out; for each PoP, whether it is placed
there if that is the tap; for each directed link, whether its path begins with that link (and
so where it is placed), and whether its path goes on over it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from msgspec import Struct
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from placement import LEFT_OUT, Edge, Path, Problem


class Optimum(Struct, frozen=True):
    """What HiGHS found."""

    placed: dict[int, Path]
    proven: bool


class _Rows:
    """Linear constraints, collected row by row."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        row = len(self.low)
        self.entries += [(row, column, factor) for column, factor in terms]
        self.low.append(low)
        self.high.append(high)

    def built(self, columns: int) -> Any:
        rows, cols, factors = zip(*self.entries, strict=True)
        matrix = coo_array((factors, (rows, cols)), shape=(len(self.low), columns))
        return LinearConstraint(matrix.tocsr(), self.low, self.high)


class _Request:
    """Where the variables of one request begin: [left out, at the tap, first, other]."""

    def __init__(self, start: int, edges: list[Edge]) -> None:
        self.left_out, self.at_tap = start, start + 1
        self.first = {edge: start + 2 + place for place, edge in enumerate(edges)}
        self.other = {edge: start + 2 + len(edges) + place for place, edge in enumerate(edges)}
        self.end = start + 2 + 2 * len(edges)


def solve(problem: Problem, wanted: Collection[int], seconds: float) -> Optimum:
    """Place as many as possible of the requests ``wanted``, as cheaply as possible."""
    edges = list(problem.bandwidth)
    variables: dict[int, _Request] = {}
    columns = 0
    for number in sorted(wanted):
        variables[number] = _Request(columns, edges)
        columns = variables[number].end
    prices = np.zeros(columns)
    rows = _Rows()
    for number, own in variables.items():
        first, other = problem.prices(problem.requests[number])
        prices[own.left_out] = LEFT_OUT
        for edge in edges:
            prices[own.first[edge]], prices[own.other[edge]] = first[edge], other[edge]
        _one_path(rows, problem, number, own)
    _limits(rows, problem, variables)
    found = milp(
        prices,
        constraints=rows.built(columns),
        bounds=Bounds(0, 1),
        integrality=np.ones(columns),
        options={"time_limit": seconds, "mip_rel_gap": 1e-6},
    )
    if found.x is None:
        return Optimum({}, proven=False)
    chosen = found.x > 0.5
    placed = {
        number: _path(problem, number, own, chosen)
        for number, own in variables.items()
        if not chosen[own.left_out]
    }
    return Optimum(placed, proven=found.status == 0)


def _one_path(rows: _Rows, problem: Problem, number: int, own: _Request) -> None:
    """A path begins once, goes on from where it has come to, and ends at the tap."""
    request = problem.requests[number]
    edges = list(own.first)
    rows.add([(own.left_out, 1), (own.at_tap, 1), *((own.first[e], 1) for e in edges)], 1, 1)
    for state in problem.states:
        pop = state.pop
        out = [(own.other[e], 1.0) for e in edges if e[0] == pop]
        arriving = [v[e] for e in edges if e[1] == pop for v in (own.first, own.other)]
        if pop == request.tap:
            out += [(own.first[e], 1.0) for e in edges if e[0] == pop]
            rows.add(out, 0, 0)
            rows.add([(own.left_out, 1), (own.at_tap, 1), *((v, 1) for v in arriving)], 1, 1)
        else:
            rows.add([*out, *((v, -1) for v in arriving)], 0, 0)
    rows.add([(v[e], 1) for e in edges for v in (own.first, own.other)], 0, request.hops)


def _limits(rows: _Rows, problem: Problem, variables: dict[int, _Request]) -> None:
    """No PoP and no link gives more than it has; both directions share a link."""
    for state in problem.states:
        for resource in ("cores", "memory_gb", "disk_gb"):
            terms = []
            for number, own in variables.items():
                request = problem.requests[number]
                needed = getattr(request.vnfd.requires, resource)
                terms += [(own.first[e], needed) for e in own.first if e[0] == state.pop]
                if request.tap == state.pop:
                    terms.append((own.at_tap, needed))
            rows.add(terms, 0, getattr(state.free, resource))
    for (a, b), mb_s in problem.bandwidth.items():
        if a < b:
            terms = [
                (v[edge], problem.requests[number].mb_s)
                for number, own in variables.items()
                for edge in ((a, b), (b, a))
                for v in (own.first, own.other)
            ]
            rows.add(terms, 0, mb_s)


def _path(problem: Problem, number: int, own: _Request, chosen: Any) -> Path:
    tap = problem.requests[number].tap
    if chosen[own.at_tap]:
        return (tap,)
    path = list(next(edge for edge, column in own.first.items() if chosen[column]))
    onward = {edge[0]: edge[1] for edge, column in own.other.items() if chosen[column]}
    while path[-1] != tap:
        path.append(onward[path[-1]])
    return tuple(path)
