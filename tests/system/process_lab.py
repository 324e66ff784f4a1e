"""A small domain of real processes under attack, to break things in and to read what follows.

The agents are started as in production: each has its own clock and its own state. The network
begins its traffic when it starts; whoever looks reads the stream of events, with the moments
at which the broker took them, so that no clock but the broker's says what was when.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Stored
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.server import NatsServer, find_server
from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import CallClient, CallError
from phalanx.fabric.envelope import event_of
from phalanx.fabric.operations import (
    INVENTORY,
    STATUS,
    InventoryAnswer,
    InventoryRequest,
    Operation,
    StatusAnswer,
    StatusRequest,
)
from phalanx.fabric.registration import ServiceState
from phalanx.fabric.registry import Registry
from phalanx.identity.credentials import Files, LiveCredentials
from phalanx.identity.names import Identity, Role
from phalanx.runtime.course import RESERVATIONS, ReservationsAnswer, ReservationsRequest
from phalanx.runtime.domain.spec import Bundle, read_bundle
from phalanx.runtime.processes.process import connected
from phalanx.runtime.processes.spec import RunSpec
from phalanx.runtime.processes.testbed import PHALANX, ProcessTestbed
from tests.system.process_log import Heard, effect_of, holds, timeline
from tests.system.process_plan import NETWORK, POPS, plan
from tests.system.tcp_relay import Relay

SKEWED = Path(__file__).with_name("skewed_clock.py")

PATIENCE_S = 120.0
"""How long what must come may take on a machine that is busy; says nothing about speed."""


def processes(*marks: pytest.MarkDecorator) -> list[pytest.MarkDecorator]:
    """Return the marks of tests that start processes over NATS."""
    try:
        find_server()
    except PhalanxError as error:
        return [pytest.mark.skip(reason=str(error))]
    return [pytest.mark.nats, pytest.mark.processes, *marks]


class Lab:
    """A domain with a simulated network and an agent for each PoP, all of them processes.

    It ends every process on leaving, also after a failure.
    """

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        document: dict[str, Any] | None = None,
        others: Iterable[tuple[str, Role]] = (),
    ) -> None:
        self.pops = POPS
        self.folder = folder
        self.heard: list[Heard] = []
        """In the order of the stream."""
        self.plan = folder / "plan.yaml"
        self.plan.write_text(json.dumps(document or plan()))
        members = [("lab", Role.OPERATOR), (NETWORK, Role.NETWORK), *others]
        members += [(pop, Role.AGENT) for pop in self.pops]
        self._stack = ExitStack()
        self.testbed = ProcessTestbed(folder, members, brokers=brokers)
        self._stack.callback(self.testbed.close, within_s=5.0)
        self._stack.callback(self._wake)
        self.clock = WallClock()
        self._stack.callback(self.clock.close)
        self.relays: dict[str, Relay] = {}
        """Between an agent and the broker, where there is one."""
        try:
            self.exchange = self.join("lab")
        except BaseException:
            self._stack.close()  # nobody else would: it is not entered yet
            raise
        self.client = CallClient(self.exchange, self.clock, life="1")
        self.registry = Registry(self.exchange, self.clock)
        self.exchange.follow(subjects.EVENTS, self._stored)

    def join(self, name: str) -> BrokerClient:
        """Return the exchange of a member, in this process and on the lab's clock."""
        path = self.testbed.bus(name)
        return self._stack.enter_context(connected(read_bundle(path), self.clock))

    def relay(self, *pops: str) -> None:
        """Let the agents of ``pops`` reach the only broker by relays from their next start on."""
        (server,) = self.testbed.brokers.servers
        for pop in pops:
            relay = self.relays[pop] = Relay(self.clock.loop, server.address)
            self._stack.callback(relay.close)
            path = self.testbed.bus(pop)
            host, port = server.address
            path.write_text(path.read_text().replace(f"{host}:{port}", f"{host}:{relay.port}"))

    def leader(self) -> str:
        """Return the broker that leads the stream of events."""
        name = self.testbed.brokers.running[0]
        files = Files.of(self.testbed.domain.broker(name))
        keeper = Bundle(
            Identity(name, Role.BROKER, self.testbed.domain.spec.name),
            tuple((b.host, b.port) for b in self.testbed.domain.spec.brokers),
            LiveCredentials(files),
        )
        replies: list[dict[str, Any]] = []
        with connected(keeper, self.clock) as exchange:
            assert isinstance(exchange, NatsClient)
            self.until(lambda: exchange.connected, "the brokers answer")
            exchange.administer(f"STREAM.INFO.{subjects.EVENTS}", {}, replies.append)
            self.until(lambda: replies, "the brokers know their leader")
        found: str = replies[0]["cluster"]["leader"]
        return found

    def broker(self, name: str) -> NatsServer:
        """Return a broker by its name."""
        servers = self.testbed.brokers.servers
        return next(server for server in servers if server.settings.name == name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wake(self) -> None:
        for name in (*self.pops, NETWORK):
            self.testbed.signal(name, signal.SIGCONT)
        for server in self.testbed.brokers.servers:
            if server.pid is not None:
                os.kill(server.pid, signal.SIGCONT)

    # -- what runs --------------------------------------------------------------------------

    def start(
        self, *pops: str, skew_s: float = 0.0, settings: dict[str, str] | None = None
    ) -> None:
        """Start the agents of ``pops``, with clocks ``skew_s`` before that of the machine."""
        program: Sequence[str] = PHALANX
        if skew_s:
            program = (sys.executable, str(SKEWED), str(skew_s))
        for pop in pops:
            told = {"plan": str(self.plan), **(settings or {})}
            self.testbed.start("agent", pop, told, program=program)

    def start_network(self) -> None:
        """Start the network; its traffic begins now."""
        run = RunSpec(time.time() + 1.0)
        self.testbed.start(NETWORK, NETWORK, {"plan": str(self.plan)}, run)

    def start_all(self, **skewed: float) -> None:
        """Start the agents, and the network once all of them are there."""
        for pop in self.pops:
            self.start(pop, skew_s=skewed.get(pop, 0.0))
        self.until(lambda: self.serving(*self.pops), "all agents serve")
        self.start_network()
        self.until(lambda: self.serving(NETWORK), "the network serves")

    def restart(self, pop: str, **how: Any) -> None:
        """Start an agent whose process has ended once more."""
        lives = len(self.of("process.started", agent=pop))
        self.start(pop, **how)
        self.until(
            lambda: len(self.of("process.started", agent=pop)) > lives and self.serving(pop),
            f"{pop} is back",
        )

    def serving(self, *names: str) -> bool:
        """Whether these are registered as serving, by a lease that holds."""
        entries = (self.registry.get(name) for name in names)
        return all(entry is not None and entry.state is ServiceState.SERVING for entry in entries)

    # -- waiting ----------------------------------------------------------------------------

    def until(self, true: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
        """Run the clock until something is true; fail if it does not come."""
        self.clock.run(self.clock.now() + within_s, lambda: bool(true()))
        if not true():
            pytest.fail(f"not within {within_s:g} s: {what}\n{self.story()}")

    def eventually(self, true: Callable[[], object], what: str) -> None:
        """Ask again and again, by calls of processes, until something is true."""
        end = self.clock.now() + PATIENCE_S
        while not true():
            if self.clock.now() > end:
                pytest.fail(f"not within {PATIENCE_S:g} s: {what}\n{self.story()}")
            self.rest(0.3)

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now() + seconds)

    def story(self, last: int = 60, kinds: tuple[str, ...] = ("",)) -> str:
        """Return the last events, one a line, and what the processes said last.

        ``kinds`` are the beginnings of the kinds that tell it.
        """
        noise = ("network.sample", "plan.", "belief.", "traffic.")
        told = [
            h
            for h in timeline(self.heard)
            if h.event.kind.startswith(kinds) and not h.event.kind.startswith(noise)
        ]
        zero = told[0].at if told else 0.0
        lines = [
            f"{h.at - zero:7.2f} {h.event.agent:8} {h.event.kind:19} "
            + ", ".join(str(value) for value in h.event.data.values())[:80]
            for h in told[-last:]
        ]
        for name in self.testbed.ended():
            lines.append(f"{name} ended: {self.testbed.end_of(name)}")
        return "\n".join(lines)

    # -- asking -----------------------------------------------------------------------------

    def ask(self, owner: str, operation: Operation[Any, Any], request: Any) -> Any:
        """Return the answer of an operation, or why there is none."""
        answers: list[Any] = []
        self.client.invoke(owner, operation, request, answers.append, timeout_s=4.0, attempts=2)
        self.until(lambda: answers, f"{owner} answers {operation.name}")
        return answers[0]

    def books(self) -> ReservationsAnswer:
        """Return what the network has booked."""
        found = self.ask(NETWORK, RESERVATIONS, ReservationsRequest())
        assert isinstance(found, ReservationsAnswer), found
        return found

    def status(self, pop: str) -> StatusAnswer:
        """Return how an agent is."""
        found = self.ask(pop, STATUS, StatusRequest())
        assert isinstance(found, StatusAnswer), found
        return found

    def answers(self, pop: str) -> bool:
        """Return whether an agent answers: after a restart of the brokers not all do at once."""
        return isinstance(self.ask(pop, STATUS, StatusRequest()), StatusAnswer)

    def estate(self, *pops: str) -> set[str]:
        """Return the ids of all that the agents say they hold."""
        found: set[str] = set()
        for pop in pops:
            inventory: InventoryAnswer | CallError = self.ask(pop, INVENTORY, InventoryRequest())
            if isinstance(inventory, InventoryAnswer):
                found |= {i.instance for i in inventory.instances}
                found |= {m.measure for m in inventory.measures}
        return found

    # -- reading ----------------------------------------------------------------------------

    def _stored(self, stored: Stored) -> None:
        stored.acknowledge()
        event = event_of(stored, self.exchange.identity.domain)
        self.heard.append(Heard(event, stored.received, stored.sequence))

    def of(self, kind: str, since: int = 0, **data: Any) -> list[Heard]:
        """Return what was heard of a kind, after the first ``since`` events.

        ``agent`` in ``data`` stands for who said it, the rest for fields.
        """
        agent = data.pop("agent", None)
        return [
            h
            for h in self.heard[since:]
            if h.event.kind == kind
            and agent in (None, h.event.agent)
            and all(h.event.data.get(field) == value for field, value in data.items())
        ]

    def holder(self) -> str:
        """Return the agent whose measures hold the attack off now."""
        self.until(self.held_off, "the attack is held off")
        return sorted(self.in_force())[0].split(".")[0]

    @property
    def last(self) -> float:
        """When the broker took the last event that was heard, in seconds since 1970."""
        return self.heard[-1].at

    def in_force(self) -> set[str]:
        """Return the measures in force, by the network's events."""
        found: set[str] = set()
        for one in timeline(self.of("measure.applied") + self.of("measure.lifted")):
            if one.event.kind == "measure.applied":
                found.add(one.event.data["measure"])
            elif one.event.kind == "measure.lifted":
                found.discard(one.event.data["measure"])
        return found

    def held_off(self) -> bool:
        """Whether the attack is held off now."""
        return holds(effect_of(measure) for measure in self.in_force())

    def settled(self) -> bool:
        """Whether it is held off by what stays: each attacker is blocked, every limit lifted."""
        effects = [effect_of(measure) for measure in self.in_force()]
        return holds(effects) and all(e.startswith("flowRateLimited") for e in effects)
