"""Rules about measures, leases, traffic and what the end of a run says."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

from phalanx.checking.resources import near
from phalanx.checking.rules import ROUNDING, RuleGroup
from phalanx.domain.events import Event

UPDATE_S = 5.0
"""An agent knows of another version after so long."""
LEAVE_S = 5.0
"""An agent that hands over no longer has left after so long."""
MESSAGES = ("lose", "duplicate", "delay", "reorder", "partition")
"""Faults of messages."""


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
        "idle": "An instance ends as idle only after idle_timeout_s without a contract or a "
        "measure, and not much later than that unless something is broken.",
        "updates": "Where another version is offered, the agent of each instance that runs of an "
        "older one adopts the goal to update it, and of no other instance.",
        "drains": "An agent that is about to leave offers nothing and accepts nothing any more, "
        "leaves within drain_s, and leaves no instance behind.",
    }

    def begin(self) -> None:
        """Know of nothing in force."""
        self._in_force: dict[str, _InForce] = {}
        self._running: dict[str, str] = {}
        self._stopped: tuple[str, Event] | None = None
        self._goals: dict[str, str] = {}
        self._down: dict[str, float] = {}
        """When the last life of an agent ended that did not go on."""
        self._jobs: dict[str, str] = {}
        """By contract that is open, of an agent: the instance that works for it."""
        self._busy: dict[str, float] = {}
        """By instance that runs: when it had work last."""
        self._old: dict[str, tuple[float, str]] = {}
        """By instance that is to be updated: when that was known, and the version."""
        self._kinds: dict[str, tuple[str, str]] = {}
        """By instance that runs: its VNF and the version."""
        self._leaving: dict[str, float] = {}
        """By agent that is about to leave: when it has left."""
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

        for agent in [a for a, due in self._leaving.items() if now > due]:
            self.broken("drains", event, f"{agent} has not left by {self._leaving.pop(agent):g} s")
        for name in [n for n, (since, _) in self._old.items() if now > since + UPDATE_S]:
            _, version = self._old.pop(name)
            lives = owner(name) in self.run.life and owner(name) not in self._leaving
            if name in self._running and lives and not self.run.faulty:
                self.broken("updates", event, f"{name} is not to be updated to {version}")

    # -- work, updates and leaving -----------------------------------------------------------

    def on_network_sample(self, event: Event) -> None:
        """Look for instances that are idle for too long."""
        idle, lease = self.run.timing("idle_timeout_s"), self.run.timing("lease_s")
        if idle is None or lease is None or self.run.faulty or not self.run.one_clock:
            return
        for name, since in self._busy.items():
            if not self._works(name) and event.time > since + idle + lease + ROUNDING:
                self.broken("idle", event, f"{name} has nothing to do since {since:g} s")

    def _works(self, name: str) -> bool:
        held = any(measure.instance == name for measure in self._in_force.values())
        return held or name in self._jobs.values() or "/installed" in name

    def on_contract_accepted(self, event: Event) -> None:
        """Note what works for a contract."""
        self._offers(event)
        self._jobs[f"{event.agent} {event.data['auction']}"] = event.data["instance"]

    def on_contract_ended(self, event: Event) -> None:
        """Note what works for it no longer."""
        name = self._jobs.pop(f"{event.agent} {event.data['auction']}", None)
        if name in self._busy:
            self._busy[name] = event.time

    def _offers(self, event: Event) -> None:
        self.require(event.agent not in self._leaving, "drains", event, "it is about to leave")

    on_auction_bid = _offers

    def on_agent_draining(self, event: Event) -> None:
        """Expect it to leave."""
        lasts = self.run.timing("drain_s")
        if lasts is not None and self.run.one_clock:
            self._leaving[event.agent] = event.time + lasts + LEAVE_S

    def on_repository_changed(self, event: Event) -> None:
        """Expect the instances of that function to be updated."""
        function, version = event.data["function"], event.data["version"]
        for name, (vnf, known) in self._kinds.items() if self.run.one_clock else ():
            if vnf == function and known != version:
                self._old[name] = event.time, version

    # -- what measures need -------------------------------------------------------------

    def on_goal_adopted(self, event: Event) -> None:
        """Note which agent pursues something."""
        self._goals[event.data["instance_id"]] = event.agent
        name, _, version = event.data["goal"].removeprefix("updated(").rpartition(", ")
        if event.data["goal"].startswith("updated("):
            self._old.pop(name, None)
            known = self._kinds.get(name)
            if self.run.one_clock and known is not None and known[1] == version[:-1]:
                self.broken("updates", event, f"{name} has that version")

    def on_goal_ended(self, event: Event) -> None:
        """Note that a goal is over."""
        self._goals.pop(event.data["instance_id"], None)

    def on_instance_started(self, event: Event) -> None:
        """Note what runs."""
        name = event.data["instance"]
        self._running[name] = event.data["pop"]
        self._busy[name] = event.time
        self._kinds[name] = event.data["vnf"], event.data["version"]

    def on_instance_stopped(self, event: Event) -> None:
        """Expect its measures to end."""
        name = event.data["instance"]
        idle = self.run.timing("idle_timeout_s")
        if event.data["reason"].startswith("idle") and idle is not None and name in self._busy:
            # What its agent gives up ends in the network at the next tick.
            least_s = idle - (self.run.timing("tick_s") or 0.0) - ROUNDING
            early = self._works(name) or event.time < self._busy[name] + least_s
            self.require(not early, "idle", event, f"it had work at {self._busy[name]:g} s")
        for known in (self._running, self._busy, self._kinds):
            known.pop(name, None)
        self._stopped = name, event

    def on_instance_replaced(self, event: Event) -> None:
        """Give its measures to another."""
        for measure in self._in_force.values():
            if measure.instance == event.data["instance"]:
                measure.instance = event.data["by"]
        if "/installed" in event.data["instance"]:  # works for a duty, without a contract
            self._jobs[f" {event.data['by']}"] = event.data["by"]
        for contract, name in self._jobs.items():
            if name == event.data["instance"]:
                self._jobs[contract] = event.data["by"]

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
        if known is not None and known.instance in self._busy:
            self._busy[known.instance] = event.time
        if known is None:
            self.broken("measures", event, f"{data['measure']} is lifted, not in force")
        elif (known.pop, known.effect) != (data["pop"], data["effect"]):
            self.broken("reasons", event, f"it was {known.effect} at {known.pop}")

    # -- leases -------------------------------------------------------------------------

    def _ended(self, event: Event, agent: str) -> None:
        lease = self.run.timing("lease_s")
        self._down[agent] = event.time
        self._leaving.pop(agent, None)
        for contract in [c for c in self._jobs if c.partition(" ")[0] == agent]:
            del self._jobs[contract]
        if lease is not None and self.run.one_clock:
            had = frozenset(name for name in self._running if owner(name) == agent)
            self._due[agent] = event.time + lease, had

    def on_agent_crashed(self, event: Event) -> None:
        """Expect its leases to end."""
        self._ended(event, event.data["pop"])

    def on_agent_left(self, event: Event) -> None:
        """Expect its leases to end at once."""
        self._ended(event, event.agent)
        if event.agent in self._due:
            self._due[event.agent] = event.time + 1.0, self._due[event.agent][1]

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
        "samples": "Samples of the network come at the pause that the run says, to its end, and "
        "give the bandwidth that a link has then.",
        "beats": "Each agent that lives sends a sign of life at each heartbeat_s, and compares its "
        "view at each gossip_s, no more often and, where others live and none is cut off, no less.",
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
        self._sampled = 0.0
        self._bandwidth: dict[frozenset[str], float] = {}
        self._degraded_by: dict[frozenset[str], list[tuple[float, float]]] = {}
        """By link: when it is degraded, or mended, and the share of its bandwidth from then on."""
        self._lives: dict[str, float] = {}
        """When agents that live began to."""
        self._lived: list[float] = []
        """Seconds of each life that has ended."""
        self._deaf = self._ended = self._alone = False
        """Whether messages were hit by faults, an agent ended, and at most one lived on."""
        self._goals: dict[str, int] = {}
        self._shed = 0

    def on_run_started(self, event: Event) -> None:
        """Learn what hosts can take."""
        self._hosts = {host["name"]: host["bandwidth_mb_s"] for host in event.data["hosts"]}
        self._deaf = event.data.get("control") == "in-band"
        for link in event.data["links"]:
            self._bandwidth[frozenset((link["a"], link["b"]))] = link["bandwidth_mb_s"]
        for fault in event.data["faults"]:
            if fault["kind"] == "degrade":
                turns = self._degraded_by.setdefault(frozenset(fault["link"]), [])
                turns.append((fault["at_s"], fault.get("share", 0.0)))
                if "for_s" in fault:
                    turns.append((fault["at_s"] + fault["for_s"], 1.0))

    def _bandwidth_of(self, name: str, now: float) -> float | None:
        """Return the bandwidth of a link between PoPs; None if it changes just now."""
        ends = frozenset(name.split(">"))
        turns = sorted(self._degraded_by.get(ends, ()))
        if ends not in self._bandwidth or any(abs(at - now) < ROUNDING for at, _ in turns):
            return None
        share = next((share for at, share in reversed(turns) if at < now), 1.0)
        return share * self._bandwidth[ends] or None

    def on_network_sample(self, event: Event) -> None:
        """Compare rates with bandwidths."""
        if not self.run.one_clock:
            return
        pause = self.run.timing("sample_s")
        if pause is not None:
            since = event.time - self._sampled
            self.require(near(since, pause), "samples", event, f"{since:g} s after the one before")
        self._sampled = event.time
        for name, link in event.data["links"].items():
            known = self._bandwidth_of(name, event.time)
            if known is not None and not near(link["bandwidth_mb_s"], known):
                text = f"{name} has {link['bandwidth_mb_s']:g} MB/s, not {known:g}"
                self.broken("samples", event, text)
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
        self._deaf |= event.data["fault"] in MESSAGES

    def _within(self, event: Event, name: str, mb_s: float, most: float) -> None:
        if not -ROUNDING <= mb_s <= most * (1 + ROUNDING) + 2 * ROUNDING:
            self.broken("traffic", event, f"{name}: {mb_s:g} MB/s of {most:g}")

    def on_agent_started(self, event: Event) -> None:
        """Note when a life begins."""
        self._lives[event.agent] = event.time

    on_agent_restored = on_agent_started

    def _dead(self, event: Event, agent: str) -> None:
        self._lived.append(event.time - self._lives.pop(agent, event.time))
        self._ended = True
        self._alone |= len(self._lives) < 2

    def on_agent_crashed(self, event: Event) -> None:
        """Note how long a life lasted."""
        self._dead(event, event.data["pop"])

    def on_agent_left(self, event: Event) -> None:
        """Note how long a life lasted."""
        self._dead(event, event.agent)

    def _beaten(self, event: Event) -> None:
        """Compare how often agents told that they live with how long they did."""
        lasted = [*self._lived, *(event.time - since for since in self._lives.values())]
        for name, pause, fewer in (
            ("Heartbeat", "heartbeat_s", self._ended),
            ("Digest", "gossip_s", self._alone),
        ):
            each = self.run.timing(pause)
            if (
                each is None
                or self._deaf
                or not event.data["contents"]
                or len(self.run.started["agents"]) < 2
            ):
                continue
            said = event.data["contents"].get(name, 0)
            due = sum(life / each for life in lasted)
            slack = 2 * len(lasted)
            least = 0.0 if fewer else due - slack
            if not least <= said <= due + slack:
                self.broken("beats", event, f"{said} {name} messages, {due:g} are due")

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
            self._beaten(event)
            pause = self.run.timing("sample_s")
            if pause is not None and data["reason"] == "finished":
                late = event.time >= self._sampled + pause + ROUNDING
                self.require(not late, "samples", event, f"none since {self._sampled:g} s")
            self.require(data["shed"] == self._shed, "counts", event, f"{self._shed} were shed")
            known = data["delivered"] + data["lost"] + data["shed"] + data["queued"]
            sent = sum(data["messages"].values())
            self.require(sent == known, "counts", event, f"{sent} messages sent, {known} known of")
