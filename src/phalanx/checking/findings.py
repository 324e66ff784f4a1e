"""Rules about analyses: what is found has evidence, is told to others, and is all that is named."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import ClassVar

from phalanx.checking.measures import owner, sources_of
from phalanx.checking.rules import RuleGroup
from phalanx.domain.events import Event

MOST_FOUND = 50_000
"""So many findings are remembered, those of the longest ago are forgotten first."""
BY_SOURCE = ("attackFiltered(", "flowRateLimited(")
"""Effects whose sources an analysis has to name."""


class FindingRules(RuleGroup):
    """What agents find in traffic, and what follows from it."""

    rules: ClassVar = {
        "findings": "What an analysis has found it names by addresses, and has evidence for, or "
        "others reported it, or it is an offender that it remembers.",
        "named": "A source that is filtered was found before: by an analysis of the same agent, "
        "or where it was auctioned by that of any.",
        "reports": "A monitor that finds an attack tells of it, where nothing was broken.",
    }

    def begin(self) -> None:
        """Know of no finding."""
        self._found: dict[str, set[str]] = {}
        """By flow that was found to attack: the agents that did."""
        self._reporting = 0
        """Analyses of monitors that found something."""

    def on_analysis_done(self, event: Event) -> None:
        """Look whether a finding has a reason, and keep it in mind."""
        data = event.data
        found: list[str] = data["found"]
        known = {*data["evidence"], *data.get("remembered", ()), *data.get("convicted", ())}
        told = {*data.get("reported", ())}
        for flow in (*found, *data.get("convicted", ())):
            source, _, target = flow.partition(">")
            whole = _addresses((source, target) if ">" in flow else (source,))
            reason = flow in known or source in told
            self.require(whole and reason, "findings", event, f"{flow} has no evidence")
            self._found.setdefault(flow, set()).add(event.agent)
        while len(self._found) > MOST_FOUND:
            del self._found[next(iter(self._found))]
        self._reporting += bool(found) and str(data["instance"]).endswith("/service-monitor")

    def on_measure_applied(self, event: Event) -> None:
        """See that its sources were found."""
        data = event.data
        if not (self.run.started and self.run.one_clock and data["effect"].startswith(BY_SOURCE)):
            return
        agent = owner(data["measure"])
        own = data["effect"].startswith(BY_SOURCE[0])
        target = data.get("target") or data["effect"].rpartition(" ")[2][:-1]
        flows = [f"{source}>{target}" for source in sources_of(event)]
        by = [self._found.get(flow, ()) for flow in flows]
        unknown = [f for f, of in zip(flows, by, strict=True) if not (agent in of if own else of)]
        few = ", ".join(unknown[:3])
        self.require(not unknown, "named", event, f"{agent} has not found {few}")

    def on_run_ended(self, event: Event) -> None:
        """Compare how often attacks were found and told of."""
        if self.run.one_clock and event.data["contents"] and not self.run.faulty:
            told = event.data["contents"].get("AttackReport", 0)
            text = f"{self._reporting} times attackers were found, {told} times reported"
            self.require(told >= self._reporting, "reports", event, text)


def _addresses(names: Iterable[str]) -> bool:
    try:
        return all(ip_address(name) for name in names)
    except ValueError:
        return False
