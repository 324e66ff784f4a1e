"""Signalling load: devices that ask again, and network functions that ask each other.

A device whose registration is not answered waits for T3510 (15 s), then for T3511 (10 s), and asks
again; after five attempts it gives up for T3502 (12 min), longer than it is followed here (3GPP TS
24.501, 5.5.1.2.7 and table 10.2.1). A session that is not answered is asked for again after T3580
(16 s), as often (6.4.1.6); both are treated alike. So an overload feeds itself: nobody is answered
sooner because more ask again.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import count
from math import inf

import numpy as np
from msgspec.structs import replace

from phalanx.domain.network import Host, Network
from phalanx.domain.traffic import CALLS, Source
from phalanx.infrastructure.simulated.flows import Flows, Rows, part_of
from phalanx.infrastructure.simulated.fluid import Floats, Fluid

ATTEMPTS = 5
"""A device asks at most so often for one thing (TS 24.501, 5.5.1.2.7)."""
PARTS = 16
"""Shares of the devices, and of what a function asks for them: replicas answer some of these."""
_PORT = 443


def call_sources(network: Network) -> list[Source]:
    """Return what stands for the requests between functions, none of which begins by itself.

    All come from the address of the host that asks; those for attackers differ by the truth alone.

    Raises:
        ValueError: if a host asks one that there is not, or calls lead back to where they began.

    """
    return [source for _, _, _, sources in _calls(network) for source in sources]


def _calls(network: Network) -> Iterator[tuple[Host, Host, float, list[Source]]]:
    """Yield who asks which other for which share of its requests, those asked last first."""
    hosts = {host.name: host for host in network.hosts}
    asked = {host.name: host.calls or {} for host in network.hosts}
    for name in TopologicalSorter(asked).static_order():
        if name not in hosts:
            raise ValueError(f"no host {name} to call")
        for other, share in asked[name].items():
            sources = [_call(hosts[name], hosts[other], part) for part in range(PARTS)]
            storm = replace(CALLS, malicious=True)
            sources += [replace(source, profile=storm) for source in sources]
            yield hosts[name], hosts[other], share, sources


def _call(caller: Host, called: Host, part: int) -> Source:
    keys = (f"{caller.name}-{k}" for k in count())
    return Source(
        name=f"{caller.name}>{called.name}-{part}",
        group=f"{caller.name}>{called.name}",
        at=caller.at,
        address=caller.address,
        target=called.address,
        port=_PORT,
        profile=CALLS,
        demand_mb_s=0.0,
        start_s=inf,
        dealt_by=next(key for key in keys if part_of(key, PARTS) == part),
    )


class Signalling:
    """Adds to what sources ask for; follows the fluid one tick behind.

    Args:
        flows: the sources, with those of ``call_sources`` last.
        fluid: what they get.
        network: who asks whom.
        requests: requests that each source makes in a MB.
        now: the time, in seconds.

    """

    def __init__(
        self, flows: Flows, fluid: Fluid, network: Network, requests: Floats, now: float
    ) -> None:
        self._flows, self._fluid, self._requests = flows, fluid, requests
        sources, hosts = flows.sources, list(flows.hosts)
        self._host = np.array([hosts.index(s.target) for s in sources], dtype=np.intp)
        self.answered = np.ones(len(hosts))
        """Share of the requests that each host has taken for which those it asks answered."""
        again_s = np.array([source.profile.retry_s for source in sources])
        self._rows = np.flatnonzero(again_s)
        self._again_s = again_s[self._rows]
        self._demand = np.array([sources[row].demand_mb_s for row in self._rows])
        self._waiting = np.zeros((ATTEMPTS - 1, len(self._rows)))
        """What is going to be asked for again, in MB of requests, by attempt."""
        self._settled = now
        self._new = np.zeros(len(self._rows))
        """What was asked for the first time since then, in MB/s."""
        self._calls: list[tuple[int, int, float, Rows, Rows, Rows]] = []
        """Who asks whom, for which share, with the rows of who asks it, the part and the truth of
        each, and the rows of what it asks in turn."""
        kind = np.array(
            [flows.part(row, PARTS) + PARTS * s.profile.malicious for row, s in enumerate(sources)]
        )
        begin = len(sources) - len(call_sources(network))
        for caller, called, share, made in _calls(network):
            at, own = hosts.index(caller.address), np.arange(begin, begin + len(made))
            rows, begin = np.flatnonzero(self._host == at), begin + len(made)
            asked = hosts.index(called.address)
            self._calls.append((at, asked, share, rows, kind[rows], own))
            for row in own:
                flows.start(int(row), 1.0)

    def settle(self, now: float) -> bool:
        """Bring up to date what is asked for beside all demands; to be called before each tick.

        Returns:
            Whether it changes, though nothing else does.

        """
        elapsed, self._settled = now - self._settled, now
        delivering, sending = self._fluid.delivering, self._fluid.sending
        changed, self.answered = False, np.ones(len(self.answered))
        for caller, called, share, rows, kinds, own in self._calls:
            asked, got = float(sending[own].sum()), float(delivering[own].sum())
            if asked > 0:
                missing = share * (1.0 - self.answered[called] * got / asked)
                self.answered[caller] = max(0.0, self.answered[caller] - missing)
            made = np.bincount(kinds, delivering[rows] * self._requests[rows], len(own))
            changed |= self._flows.ask(own, share * made / self._requests[own])
        if len(rows := self._rows):
            sent, level = sending[rows], self._flows.level[rows]
            served = delivering[rows] * self.answered[self._host[rows]]
            missed = 1.0 - np.divide(served, sent, out=np.zeros_like(sent), where=sent > 0)
            made = np.vstack([self._new, self._waiting / self._again_s])
            self._new = self._demand * level
            steady = missed * made[:-1] * self._again_s
            kept = np.exp(-elapsed / self._again_s)
            self._waiting = (steady + (self._waiting - steady) * kept) * (level > 0)
            changed |= self._flows.ask(rows, self._waiting.sum(axis=0) / self._again_s)
        return changed
