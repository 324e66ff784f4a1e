"""Workload prediction on each agent (deliverable D3.3, 4.2): what its PoP's load is going to be.

It follows what the infrastructure tells of the PoP and of its links, and tells all who listen
what is expected, how likely an anomaly is, and what should be done. Bids and preferences read the
same figures from the view (``phalanx.auction.terms``).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from math import nan

import numpy as np
from msgspec.structs import asdict

from phalanx.analytics.metrics import MetricTable
from phalanx.analytics.workload import TREND_ROWS, DampedTrend, assess
from phalanx.auction.outlook import Assessment, Outlook
from phalanx.auction.settings import Configured
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, starts, when
from phalanx.bdi.steps import Perceive
from phalanx.domain.actions import LinkSample, Outcome, ReadLink
from phalanx.domain.network import LinkId, link_ends, link_id
from phalanx.domain.predicates import AttackFiltered, Threat, UnderAttack
from phalanx.domain.series import INDICATORS, WorkloadForecast

KEPT = 120
"""Looks that are kept: what is usual is told from them."""
READ_S, ANSWERED_S = 2.0, 3.0
"""Seconds over which the counters of links are read, and within which they are answered; what comes
later is not in the look. Where nothing observes a link its driver reads twice."""
ATTACKS = (UnderAttack, Threat, AttackFiltered)
"""What explains abnormal growth."""


class WorkloadForecaster(Configured, Capability):
    """Forecasts the load of the agent's PoP, where the scenario asks for it."""

    name = "workload"

    def __init__(self) -> None:
        self.latest: WorkloadForecast | None = None
        """What was told last."""
        self._rows: deque[tuple[float, ...]] = deque(maxlen=KEPT)
        self._shares: dict[LinkId, float] = {}

    @starts
    def begin(self, me: Agent) -> None:
        """Look at the PoP now and again, all agents at other times."""
        terms, peers = self.settings.forecast, self.settings.peers
        if terms is not None and me.pop is not None:
            turn = peers.index(me.name) + 1 if me.name in peers else 1
            me.call_at(me.now + terms.every_s * turn / (len(peers) + 1), partial(self._look, me))

    def _look(self, me: Agent) -> None:
        terms, site = self.settings.forecast, me.capability(Outlook).view.get(me.name)
        assert terms is not None
        here = me.pop or ""
        me.call_at(me.now + terms.every_s, partial(self._look, me))
        self._shares = {}
        for link in () if site is None else site.links:
            for way in ((here, link.to), (link.to, here)) if link.up else ():
                read = ReadLink(link_id(*way), READ_S)
                me.perform(read, partial(self._counted, self._shares))
        me.call_at(me.now + ANSWERED_S, partial(self._add, me))

    @staticmethod
    def _counted(shares: dict[LinkId, float], outcome: Outcome) -> None:
        if isinstance(outcome, LinkSample) and outcome.bandwidth_mb_s > 0:
            shares[outcome.link] = outcome.rate_mb_s / outcome.bandwidth_mb_s

    def _add(self, me: Agent) -> None:
        """Add a row of what was read, and tell what it leads one to expect."""
        site = me.capability(Outlook).view.get(me.name)
        if site is None:
            return
        row = [me.now, *(site.total - site.free).shares(site.total).values()]
        for way in (0, 1):
            ways = [s for link, s in self._shares.items() if link_ends(link)[way] == me.pop]
            row.append(max(ways, default=nan))
        self._rows.append(tuple(row))
        self._assess(me)

    @when(UnderAttack)
    def attacked(self, me: Agent, _: UnderAttack) -> None:
        """Tell at once what the last look means now."""
        self._assess(me)

    def _assess(self, me: Agent) -> None:
        terms = self.settings.forecast
        if len(self._rows) < TREND_ROWS or terms is None or me.pop is None:
            return
        seen = np.array(self._rows)
        told = np.isfinite(seen[:, 1:]).any(axis=0)  # some drivers count what is sent alone
        names = tuple(name for name, there in zip(INDICATORS, told, strict=True) if there)
        table = MetricTable(seen[:, 0], names, seen[:, 1:][:, told])
        attacks = (p for kind in ATTACKS for p in me.beliefs.matching(kind))
        alarm = next((str(p) for p in attacks), "")
        said = self.latest = assess(me.pop, table, DampedTrend(terms.ahead)(me.pop, table), alarm)
        rows = [asdict(each) for each in said.indicators]
        data = asdict(said) | {"indicators": rows, "signs": [*said.signs]}
        me.record("workload.forecast", **data)
        known = {"anomaly": said.anomaly, "ahead_s": said.ahead_s}
        for each in said.indicators:
            known |= {each.name: each.now, f"{each.name}_expected": each.expected}
        me.do_step(Perceive(Assessment(me.pop, known)))
