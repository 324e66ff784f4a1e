"""Services behind hosts: their metrics, and replicas that answer a share of what is asked.

A replica is the service's program in the namespace of another PoP. Where the traffic towards the
service is, new connections of its share get the replica's address instead, and the PoP's as their
source, so that answers come back the same way; both are undone there (NAT).
"""

from __future__ import annotations

from itertools import count
from typing import Protocol
from zlib import crc32

from phalanx.domain.actions import Failed, ReadService, ServiceSample
from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficRule
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.vnf.nft import SYN, share
from phalanx.infrastructure.linux.workers import DriverContext

FIRST_PORT = 20_000
"""Port of the first replica; each listens on others than those before it."""


class ServicePrograms(Protocol):
    """Runs the programs of services, and samples their exporters; all of it blocks."""

    def metrics(self, address: str, now: float) -> dict[str, float] | None:
        """Return metrics by name, with the unit in it; None: the service there tells none."""

    def replicate(self, name: str, address: str, pop: PopId, first: int) -> dict[int, int]:
        """Start another instance at a PoP, on ports from ``first`` on.

        Returns:
            For each port of the service that of the replica.

        Raises:
            KernelError: if it does not start.

        """

    def end(self, name: str) -> None:
        """End a replica; without effect if there is none."""


class Services:
    """Carries out ``ReadService`` and the verdict ``serve``."""

    def __init__(self, context: DriverContext, programs: ServicePrograms) -> None:
        self._context = context
        self._programs = programs
        self._first = count(FIRST_PORT, 100)
        self._places: dict[str, PopId] = {}
        """Where the NAT of each measure is."""

    def read(self, action: ReadService, answer: Answer) -> None:
        """Answer with the metrics of a service; nothing is known of its ways."""

        def done(metrics: dict[str, float] | None) -> None:
            unknown = Failed(f"no service at {action.target} tells its metrics")
            answer(unknown if metrics is None else ServiceSample(action.target, metrics))

        tasks, now = self._context.tasks, self._context.clock.now()
        work = tasks.thread(self._programs.metrics, action.target, now)
        tasks.start(work, done, lambda reason: answer(Failed(reason)))

    def serve(self, name: str, rule: TrafficRule, pop: PopId, at: PopId, device: str) -> None:
        """Have a replica at ``pop`` answer what a rule matches at ``at``; blocking.

        Args:
            name: of the measure.
            rule: its verdict is ``serve``.
            pop: where the replica is.
            at: where the traffic is met.
            device: by which it comes in there; empty: by any.

        Raises:
            KernelError, TaskError: if that is not possible.

        """
        match, linux = rule.match, self._context.linux
        assert match.target is not None
        ports = self._programs.replicate(name, match.target, pop, next(self._first))
        self._places[name] = at
        there = linux.underlay(pop)
        comes = f'iifname "{device}" ' if device else ""
        new = f"{comes}{SYN} {share('ip saddr', match.parts, match.part)} dnat ip to {there}"
        asked = f"ip daddr {match.target} tcp dport"
        lines = "".join(f"{asked} {port} {new}:{own}\n" for port, own in ports.items())
        listed = ", ".join(map(str, ports.values()))
        reaches = f"ip daddr {there} tcp dport {{ {listed} }}"
        over = f"limit rate over {max(1, round(rule.rate_mb_s * 1e6))} bytes/second drop"
        self._context.workers.nft(
            at,
            f"table inet {_table(name)} {{\n"
            f"chain in {{ type nat hook prerouting priority dstnat;\n{lines}}}\n"
            f"chain most {{ type filter hook forward priority filter; {reaches} {over}; }}\n"
            f"chain out {{ type nat hook postrouting priority srcnat; "
            f"{reaches} snat ip to {linux.underlay(at)}; }}\n}}\n",
        )

    def end(self, name: str) -> None:
        """Let the service answer again; blocking. Without effect if nothing serves."""
        at = self._places.pop(name, None)
        if at is not None:
            table = f"table inet {_table(name)}"
            self._context.workers.nft(at, f"add {table}\ndelete {table}\n")
        self._programs.end(name)


def _table(name: str) -> str:
    return f"phx_{crc32(name.encode()):08x}_serve"
