"""Rules about measures, leases, traffic and what the end of a run says."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

from phalanx.checking.resources import near
from phalanx.checking.rules import ROUNDING, RuleGroup
from phalanx.domain.events import Event


def owner(instance: str) -> str:
    """Return the agent whose instance or measure it is: the name before its life."""
    life = instance.partition("/")[0].partition(":")[0]
    name, _, number = life.rpartition(".")
    return name if name and number.isdecimal() else life


class _InForce(Struct):
    instance: str
    pop: str
    effect: str


class MeasureRules(RuleGroup):
    """Measures have a reason, an instance with a lease, and an end."""

    rules: ClassVar = {
        "measures": "A measure is applied once before it is lifted, through an instance that runs "
        "at its PoP, and is lifted when that one stops.",
        "reasons": "A measure is applied for an agent that lives and pursues a goal, which says "
        "what it saw or wants; what a measure was applied for is lifted under the same name.",
        "leases": "A lease runs out only after its agent died or left, and not later than its "
        "length after that, unless the agent goes on with what it remembers.",
    }

    def begin(self) -> None:
        """Know of nothing in force."""
        self._in_force: dict[str, _InForce] = {}
        self._running: dict[str, str] = {}
        self._stopped: tuple[str, Event] | None = None
        self._goals: dict[str, str] = {}
        self._down: dict[str, float] = {}
        """When the last life of an agent ended that did not go on."""
        self._due: dict[str, tuple[float, frozenset[str]]] = {}
        """By agent that died: when its leases have ended, and those that it had."""

    def on_process_started(self, event: Event) -> None:
        """Forget what was there with an earlier life of the network."""
        if event.data["role"] == "network" and not self.run.started:
            self.begin()

    def always(self, event: Event) -> None:
        """Look for what stays in force without what it needs."""
        now = event.time
        if self._stopped is not None and self.passed(self._stopped[1], event):
            (name, stopped), self._stopped = self._stopped, None
            left = [m for m, of in self._in_force.items() if of.instance == name]
            self.require(not left, "measures", stopped, f"{name} stops, {left[:3]} stay in force")
        for agent in [a for a, (due, _) in self._due.items() if now > due + ROUNDING]:
            due, had = self._due.pop(agent)
            left = sorted(had & self._running.keys())
            self.require(not left, "leases", event, f"{left} outlive the lease of {agent}, {due} s")

    # -- what measures need -------------------------------------------------------------

    def on_goal_adopted(self, event: Event) -> None:
        """Note which agent pursues something."""
        self._goals[event.data["instance_id"]] = event.agent

    def on_goal_ended(self, event: Event) -> None:
        """Note that a goal is over."""
        self._goals.pop(event.data["instance_id"], None)

    def on_instance_started(self, event: Event) -> None:
        """Note what runs."""
        self._running[event.data["instance"]] = event.data["pop"]

    def on_instance_stopped(self, event: Event) -> None:
        """Expect its measures to end."""
        self._running.pop(event.data["instance"], None)
        self._stopped = event.data["instance"], event

    def on_instance_replaced(self, event: Event) -> None:
        """Give its measures to another."""
        for measure in self._in_force.values():
            if measure.instance == event.data["instance"]:
                measure.instance = event.data["by"]

    def on_measure_applied(self, event: Event) -> None:
        """Note a measure in force, and look for its reason."""
        data = event.data
        name, instance, effect = data["measure"], data["instance"], data["effect"]
        self.require(name not in self._in_force, "measures", event, f"{name} is in force already")
        self._in_force[name] = _InForce(instance, data["pop"], effect)
        if self._running.get(instance) != data["pop"] and self.run.started:
            self.broken("measures", event, f"{instance} does not run at {data['pop']}")
        if self.run.one_clock:
            agent = owner(name)
            self.require(agent in self.run.life, "reasons", event, f"{agent} does not live")
            pursued = agent in self._goals.values()
            self.require(pursued, "reasons", event, f"{agent} pursues no goal")

    def on_measure_lifted(self, event: Event) -> None:
        """Note that a measure is gone."""
        data = event.data
        known = self._in_force.pop(data["measure"], None)
        if known is None:
            self.broken("measures", event, f"{data['measure']} is lifted, not in force")
        elif (known.pop, known.effect) != (data["pop"], data["effect"]):
            self.broken("reasons", event, f"it was {known.effect} at {known.pop}")

    # -- leases -------------------------------------------------------------------------

    def _ended(self, event: Event, agent: str) -> None:
        lease = self.run.timing("lease_s")
        self._down[agent] = event.time
        if lease is not None and self.run.one_clock:
            had = frozenset(name for name in self._running if owner(name) == agent)
            self._due[agent] = event.time + lease, had

    def on_agent_crashed(self, event: Event) -> None:
        """Expect its leases to end."""
        self._ended(event, event.data["pop"])

    def on_agent_left(self, event: Event) -> None:
        """Expect its leases to end."""
        self._ended(event, event.agent)

    def on_agent_restored(self, event: Event) -> None:
        """Let it renew what it remembers."""
        self._due.pop(event.agent, None)

    def on_lease_expired(self, event: Event) -> None:
        """See that its agent did not live."""
        data = event.data
        if data["what"] != "instance" or not self.run.one_clock or self.run.skewed:
            return
        agent = owner(data["name"])
        if agent not in self._down:
            self.broken("leases", event, f"the lease of {data['name']} ends while {agent} lives")


class TrafficRules(RuleGroup):
    """What passes is conserved, and what the end says was counted."""

    rules: ClassVar = {
        "samples": "Samples of the network come at the pause that the run says.",
        "traffic": "No link and no host gets more than its bandwidth, nor users more in all "
        "than they wanted.",
        "counts": "run.ended counts goals and shed messages as the log does, and each message that "
        "was sent was delivered, lost, shed or waits.",
    }

    def begin(self) -> None:
        """Know nothing of the network yet."""
        self._degraded: set[str] = set()
        self._hosts: dict[str, float] = {}
        self._users: dict[str, tuple[float, float, float]] = {}
        """By host: the sums of what its users got and wanted, and the most that they wanted."""
        self._sampled: float | None = None
        self._goals: dict[str, int] = {}
        self._shed = 0

    def on_run_started(self, event: Event) -> None:
        """Learn what hosts can take."""
        self._hosts = {host["name"]: host["bandwidth_mb_s"] for host in event.data["hosts"]}

    def on_network_sample(self, event: Event) -> None:
        """Compare rates with bandwidths."""
        if not self.run.one_clock:
            return
        pause = self.run.timing("sample_s")
        if pause is not None:
            since = event.time - (self._sampled or 0.0)
            self.require(near(since, pause), "samples", event, f"{since:g} s after the one before")
        self._sampled = event.time
        for name, link in event.data["links"].items():
            if name not in self._degraded:  # the rate is a mean, the bandwidth that of the moment
                self._within(event, name, link["mb_s"], link["bandwidth_mb_s"])
        for name, host in event.data["hosts"].items():
            if "answered" in host:  # measured on real packets
                continue
            whole = host["legitimate_mb_s"] + host["malicious_mb_s"]
            self._within(event, name, whole, self._hosts[name])
            got, wanted, most = self._users.get(name, (0.0, 0.0, 0.0))
            got, wanted = got + host["legitimate_mb_s"], wanted + host["wanted_mb_s"]
            most = max(most, host["wanted_mb_s"])
            self._users[name] = got, wanted, most
            self._within(event, f"users of {name}, in all", got, wanted + 2 * most)

    def on_fault_injected(self, event: Event) -> None:
        """Expect other bandwidths of a link from now on."""
        if event.data["fault"] == "degrade":
            a, b = event.data["link"]
            self._degraded |= {f"{a}>{b}", f"{b}>{a}"}

    def _within(self, event: Event, name: str, mb_s: float, most: float) -> None:
        if not -ROUNDING <= mb_s <= most * (1 + ROUNDING) + 2 * ROUNDING:
            self.broken("traffic", event, f"{name}: {mb_s:g} MB/s of {most:g}")

    def on_goal_ended(self, event: Event) -> None:
        """Count outcomes."""
        outcome = event.data["outcome"]
        self._goals[outcome] = self._goals.get(outcome, 0) + 1

    def on_message_shed(self, event: Event) -> None:  # noqa: ARG002
        """Count what queues dropped."""
        self._shed += 1

    def on_run_ended(self, event: Event) -> None:
        """Compare counts."""
        data: dict[str, Any] = event.data
        self.require(data["goals"] == self._goals, "counts", event, f"goals: {self._goals}")
        if self.run.one_clock:
            self.require(data["shed"] == self._shed, "counts", event, f"{self._shed} were shed")
            known = data["delivered"] + data["lost"] + data["shed"] + data["queued"]
            sent = sum(data["messages"].values())
            self.require(sent == known, "counts", event, f"{sent} messages sent, {known} known of")
