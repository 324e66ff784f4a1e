"""Rules about measures, leases, traffic and what the end of a run says."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any, ClassVar

from phalanx.checking.resources import near
from phalanx.checking.rules import ROUNDING, MeasureInForce, RuleGroup
from phalanx.domain.events import Event

UPDATE_S = 5.0
"""An agent knows of another version after so long."""
LEAVE_S = 5.0
"""An agent that hands over no longer has left after so long."""


def owner(instance: str) -> str:
    """Return the agent whose instance or measure it is: the name before its life."""
    life = instance.partition("/")[0].partition(":")[0]
    name, _, number = life.rpartition(".")
    return name if name and number.isdecimal() else life


def sources_of(event: Event) -> list[str]:
    """Return the sources that a measure names which is put in force."""
    one = re.match(r"flowRateLimited\(([\da-f.:/]+), ", event.data["effect"])
    return [*event.data.get("sources", ()), *(one.groups() if one else ())]


class MeasureRules(RuleGroup):
    """Measures have a reason, an instance with a lease, and an end."""

    rules: ClassVar = {
        "measures": "A measure is applied once before it is lifted, through an instance that runs "
        "at its PoP; what was auctioned is in force once, where nothing was broken.",
        "reasons": "A measure is applied for an agent that lives and pursues a goal, which says "
        "what it saw or wants.",
        "allowed": "No measure blocks or limits a source that the run's allow list has.",
        "leases": "A lease runs out only after its agent died, left or was distrusted, and at most "
        "its length after it died or left, unless the agent goes on with what it remembers.",
        "idle": "An instance ends as idle only without a contract or a measure; after "
        "idle_timeout_s where messages arrive, and not much later unless something is broken.",
        "updates": "Where another version is offered, the agent of each instance that runs of an "
        "older one adopts the goal to update it, and of no other instance.",
        "drains": "An agent that is about to leave offers nothing and accepts nothing any more, "
        "leaves within drain_s, and leaves no instance behind; nor does it end a goal before its "
        "time is over, nor ever a duty, where others live and messages arrive.",
    }

    def begin(self) -> None:
        """Know of nothing in force."""
        self.run.in_force, self.run.withheld = {}, {}
        self._down: dict[str, float] = {}
        self._distrusted: set[str] = set()
        """Agents that were ever refused: the network does not renew what such an agent holds."""
        self._new: set[str] = set()
        """Agents that nobody has verified yet: for long it does not either."""
        self._jobs: dict[str, str] = {}
        """By contract that is open, of an agent: the instance that works for it."""
        self._far: set[tuple[str, str]] = set()
        """(auction, agent) of bidders that no path leads to within the limits of the goal."""
        self._old: dict[str, tuple[float, str]] = {}
        """By instance that is to be updated: when that was known, and the version."""
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
        for agent in [a for a, (due, _) in self._due.items() if now > due + ROUNDING]:
            due, had = self._due.pop(agent)
            left = sorted(had & self.run.running.keys())
            self.require(not left, "leases", event, f"{left} outlive the lease of {agent}, {due} s")

        for agent in [a for a, due in self._leaving.items() if now > due and not self.run.skewed]:
            self.broken("drains", event, f"{agent} has not left by {self._leaving.pop(agent):g} s")
        for name in [n for n, (since, _) in self._old.items() if now > since + UPDATE_S]:
            _, version = self._old.pop(name)
            lives = owner(name) in self.run.life and owner(name) not in self._leaving
            if name in self.run.running and lives and not self.run.faulty:
                self.broken("updates", event, f"{name} is not to be updated to {version}")

    # -- work, updates and leaving -----------------------------------------------------------

    def on_network_sample(self, event: Event) -> None:
        """Look for instances that are idle for too long."""
        idle, lease = self.run.timing("idle_timeout_s"), self.run.timing("lease_s")
        if idle is None or lease is None or self.run.faulty or not self.run.one_clock:
            return
        for name, known in self.run.running.items():
            if not self._works(name) and event.time > known.busy + idle + lease + ROUNDING:
                self.broken("idle", event, f"{name} has nothing to do since {known.busy:g} s")

    def _works(self, name: str) -> bool:
        measures = (*self.run.in_force.values(), *self.run.withheld.values())
        held = any(measure.instance == name for measure in measures)
        return held or name in self._jobs.values() or "/installed" in name

    def on_contract_accepted(self, event: Event) -> None:
        """Note what works for a contract."""
        self._offers(event)
        self._jobs[f"{event.agent} {event.data['auction']}"] = event.data["instance"]

    def on_contract_ended(self, event: Event) -> None:
        """Note what works for it no longer."""
        self._rests(event, self._jobs.pop(f"{event.agent} {event.data['auction']}", None))

    def _rests(self, event: Event, instance: str | None) -> None:
        if instance in self.run.running:
            self.run.running[instance].busy = event.time

    def _offers(self, event: Event) -> None:
        self.require(event.agent not in self._leaving, "drains", event, "it is about to leave")

    on_auction_bid = _offers

    def on_agent_draining(self, event: Event) -> None:
        """Expect it to leave."""
        lasts = self.run.timing("drain_s")
        if lasts is not None and self.run.one_clock:
            self._leaving[event.data.get("agent", event.agent)] = event.time + lasts + LEAVE_S

    def on_fault_injected(self, event: Event) -> None:
        """Expect an agent to leave that is told to."""
        if event.data["fault"] == "drain" and event.data["agent"] in self.run.life:
            self.on_agent_draining(event)

    def on_agent_left(self, event: Event) -> None:
        """See that it hands over what it can, where others live and messages arrive."""
        due = self._leaving.get(event.agent, 0.0) - LEAVE_S
        since = due - (self.run.timing("drain_s") or 0.0)
        others = self.run.telling() & self.run.life.keys() - self._leaving.keys()
        ready = sorted(agent for agent in others if self.run.turned[agent] < since)
        ended = {*event.data["ended"]} if event.agent in self.run.telling() else set()
        if event.time >= due - ROUNDING:
            ended &= {duty["goal"] for duty in self.run.started.get("duties", ())}
        if ready and ended and not self._distrusted and not self.run.lossy:
            self.broken("drains", event, f"it ends {sorted(ended)}, and {ready} were there")
        super().on_agent_left(event)

    def on_repository_changed(self, event: Event) -> None:
        """Expect the instances of that function to be updated."""
        function, version = event.data["function"], event.data["version"]
        for name, known in self.run.running.items() if self.run.one_clock else ():
            if known.vnf == function and known.version != version:
                self._old[name] = event.time, version

    # -- what measures need -------------------------------------------------------------

    def on_goal_adopted(self, event: Event) -> None:
        """See that what is to be updated is of another version."""
        name, _, version = event.data["goal"].removeprefix("updated(").rpartition(", ")
        if event.data["goal"].startswith("updated("):
            self._old.pop(name, None)
            known = self.run.running.get(name)
            if self.run.one_clock and known is not None and known.version == version[:-1]:
                self.broken("updates", event, f"{name} has that version")

    def on_auction_refused(self, event: Event) -> None:
        """Note who cannot keep the limits of a goal, whatever it keeps true already."""
        if event.data["reason"].startswith("no path to "):
            self._far.add((event.data["auction"], event.agent))

    def on_instance_stopped(self, event: Event) -> None:
        """See that it had nothing to do if it ends for that."""
        name, idle = event.data["instance"], self.run.timing("idle_timeout_s")
        known = self.run.running.get(name)
        if event.data["reason"].startswith("idle") and idle is not None and known is not None:
            # What its agent gives up ends in the network at the next tick, or far away later.
            end = known.busy + idle - (self.run.timing("tick_s") or 0.0) - ROUNDING
            early = self._works(name) or (not self.run.lossy and event.time < end)
            self.require(not early, "idle", event, f"it had work at {known.busy:g} s")
            said = event.data["reason"] == f"idle for {idle:g} s"
            self.require(said, "idle", event, f"{event.data['reason']}, of {idle:g} s")

    def on_instance_replaced(self, event: Event) -> None:
        """Give its measures to another."""
        for measure in (*self.run.in_force.values(), *self.run.withheld.values()):
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
        known = name in self.run.in_force
        self.require(not known, "measures", event, f"{name} is in force already")
        won = [g.contract for g in self.run.goals.values() if g.contract and g.goal == effect]
        once = "parts" not in data  # who looks at parts of the traffic may not be the only one
        if won and once and self.run.one_clock and not (self.run.faulty or self.run.quiet):
            others = [
                other
                for other, each in self.run.in_force.items()
                if each.effect == effect and not any((c, owner(other)) in self._far for c in won)
            ]
            self.require(not others, "measures", event, f"{others} is in force as well")
        self.run.in_force[name] = MeasureInForce(instance, data["pop"], effect)
        self._spares(event)
        runs = self.run.running.get(instance)
        if (runs is None or runs.pop != data["pop"]) and self.run.started:
            self.broken("measures", event, f"{instance} does not run at {data['pop']}")
        if self.run.one_clock:
            agent = owner(name)
            self.require(agent in self.run.life, "reasons", event, f"{agent} does not live")
            pursued = any(goal.agent == agent for goal in self.run.goals.values())
            self.require(pursued, "reasons", event, f"{agent} pursues no goal")

    def on_measure_withheld(self, event: Event) -> None:
        """Note what would be in force."""
        data = event.data
        measure = MeasureInForce(data["instance"], data["pop"], data["effect"])
        self.run.withheld[data["measure"]] = measure

    def on_measure_unneeded(self, event: Event) -> None:
        """Note what would be no longer."""
        known = self.run.withheld.pop(event.data["measure"], None)
        self._rests(event, None if known is None else known.instance)

    def _spares(self, event: Event) -> None:
        """See that a block or limit leaves out what is allowed."""
        data, limit = event.data, "RateLimited" in event.data["effect"]
        allow = [each["prefix"] for each in self.run.started.get("allow", ())]
        if not allow or data.get("verdict", "drop" if limit else "") not in ("drop", "limit"):
            return
        sources = sources_of(event)
        left = {*allow} - {*data.get("outside", ())}
        hit = [s for s in sources if any(ip_network(s).overlaps(ip_network(net)) for net in left)]
        hit = hit if sources else sorted(left)
        self.require(not hit, "allowed", event, f"{hit} are in the allow list")

    def on_measure_lifted(self, event: Event) -> None:
        """Note that a measure is gone."""
        name = event.data["measure"]
        known = self.run.in_force.pop(name, None)
        self._rests(event, None if known is None else known.instance)
        self.require(known is not None, "measures", event, f"{name} is lifted, not in force")

    # -- leases -------------------------------------------------------------------------

    def gone(self, event: Event, agent: str) -> None:
        """Expect its leases to end, at once if it left."""
        lease = self.run.timing("lease_s")
        self._down[agent] = event.time
        self._leaving.pop(agent, None)
        self._jobs = {c: i for c, i in self._jobs.items() if c.partition(" ")[0] != agent}
        if lease is not None and self.run.one_clock:
            had = frozenset(name for name in self.run.running if owner(name) == agent)
            lasts = 1.0 if event.kind == "agent.left" else lease
            self._due[agent] = event.time + lasts, had

    def on_agent_restored(self, event: Event) -> None:
        """Let it renew what it remembers."""
        self._due.pop(event.agent, None)

    def on_trust_enrolled(self, event: Event) -> None:
        """Note an agent that is still to be verified."""
        self._new.add(event.data["agent"])

    def on_trust_changed(self, event: Event) -> None:
        """Note whether the network still serves an agent."""
        self._new.discard(event.data["agent"])
        if event.data["standing"] in ("silent", "quarantined"):
            self._distrusted.add(event.data["agent"])
            self.run.quiet = max(self.run.quiet, event.time)  # nobody hears how its PoP is

    def on_lease_expired(self, event: Event) -> None:
        """See that its agent did not live."""
        data = event.data
        if data["what"] != "instance" or not self.run.one_clock or self.run.skewed:
            return
        agent = owner(data["name"])
        if agent not in self._down.keys() | self._distrusted | self._new:
            self.broken("leases", event, f"the lease of {data['name']} ends while {agent} lives")


class TrafficRules(RuleGroup):
    """What passes is conserved, and what the end says was counted."""

    rules: ClassVar = {
        "samples": "Samples of the network come at the pause that the run says, to its end, and "
        "give the bandwidth that a link has then.",
        "beats": "Each agent that lives, but for loops of slices, sends a sign of life at each "
        "heartbeat_s, and compares its view at each gossip_s, no more often and, where others "
        "live and none is cut off, no less.",
        "traffic": "No link and no host gets more than its bandwidth, nor users more in all "
        "than they wanted.",
        "counts": "run.ended counts goals and shed messages as the log does, and each message that "
        "was sent was delivered, lost, shed or waits.",
    }

    def begin(self) -> None:
        """Know nothing of the network yet."""
        self._hosts: dict[str, float] = {}
        self._users: dict[str, tuple[float, float, float]] = {}
        """By host: the sums of what its users got and wanted, and the most that they wanted."""
        self._replicated = False
        self._sampled = 0.0
        self._degraded_by: dict[frozenset[str], list[tuple[float, float]]] = {}
        """By link: when it is degraded, or mended, and the share of its bandwidth from then on."""
        self._lives: dict[str, float] = {}
        """When agents that live began to."""
        self._lived: list[float] = []
        """Seconds of each life that has ended."""
        self._back = 0
        """How often one was trusted again; it asks others at once for what it missed."""
        self._ended = self._alone = False
        """Whether an agent ended, and at most one lived on."""
        self._goals: dict[str, int] = {}
        self._shed = 0

    def on_run_started(self, event: Event) -> None:
        """Learn what hosts can take."""
        self._hosts = {host["name"]: host["bandwidth_mb_s"] for host in event.data["hosts"]}
        for fault in event.data["faults"]:
            if fault["kind"] == "degrade":
                turns = self._degraded_by.setdefault(frozenset(fault["link"]), [])
                turns.append((fault["at_s"], fault.get("share", 0.0)))
                if "for_s" in fault:
                    turns.append((fault["at_s"] + fault["for_s"], 1.0))

    def _bandwidth_of(self, name: str, now: float) -> float | None:
        """Return the bandwidth of a link between PoPs; None if it changes just now."""
        a, _, b = name.partition(">")
        turns = sorted(self._degraded_by.get(frozenset((a, b)), ()))
        if (a, b) not in self.run.links or any(abs(at - now) < ROUNDING for at, _ in turns):
            return None
        share: float = next((share for at, share in reversed(turns) if at < now), 1.0)
        return share * self.run.links[a, b]["bandwidth_mb_s"] or None

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
            # The rate is a mean, the bandwidth that of the moment.
            if tuple(name.split(">")) not in self.run.degraded:
                self._within(event, name, link["mb_s"], link["bandwidth_mb_s"])
        for name, host in event.data["hosts"].items():
            if "answered" in host:  # measured on real packets
                continue
            whole = host["legitimate_mb_s"] + host["malicious_mb_s"]
            if not self._replicated:  # a replica answers beside the host's link
                self._within(event, name, whole, self._hosts[name])
            got, wanted, most = self._users.get(name, (0.0, 0.0, 0.0))
            got, wanted = got + host["legitimate_mb_s"], wanted + host["wanted_mb_s"]
            most = max(most, host["wanted_mb_s"])
            self._users[name] = got, wanted, most
            self._within(event, f"users of {name}, in all", got, wanted + 2 * most)

    def on_measure_applied(self, event: Event) -> None:
        """Note that a host is not alone in what it answers."""
        self._replicated |= event.data.get("verdict") == "serve"

    def _within(self, event: Event, name: str, mb_s: float, most: float) -> None:
        if not -ROUNDING <= mb_s <= most * (1 + ROUNDING) + 2 * ROUNDING:
            self.broken("traffic", event, f"{name}: {mb_s:g} MB/s of {most:g}")

    def on_trust_changed(self, event: Event) -> None:
        """Note that an agent has nobody to tell that it lives, or catches up with the others."""
        agent = event.data["agent"]
        if event.data["standing"] in ("silent", "quarantined"):
            self._ended = True
            self.run.out.add(agent)
        elif agent in self.run.out:
            self.run.out.discard(agent)
            self._back += 1

    def on_agent_started(self, event: Event) -> None:
        """Note when a life begins, of agents that work with others."""
        if event.agent in self.run.telling():
            self._lives[event.agent] = event.time

    on_agent_restored = on_agent_started

    def gone(self, event: Event, agent: str) -> None:
        """Note how long a life lasted."""
        self._lived.append(event.time - self._lives.pop(agent, event.time))
        self._ended = True
        self._alone |= len(self._lives) < 2

    def _beaten(self, event: Event) -> None:
        """Compare how often agents told that they live with how long they did."""
        if self.run.lossy or not event.data["contents"] or len(self.run.telling()) < 2:
            return
        lasted = [*self._lived, *(event.time - since for since in self._lives.values())]
        for name, pause, fewer, more in (
            ("Heartbeat", "heartbeat_s", self._ended, 0.0),
            ("Digest", "gossip_s", self._alone, 0.25),  # views that differ have another exchanged
        ):
            each = self.run.timing(pause)
            if each is None:
                continue
            said = event.data["contents"].get(name, 0)
            due = sum(life / each for life in lasted)
            slack = 2 * len(lasted) + 4 * self._back
            least = 0.0 if fewer else due - slack
            if not least <= said <= due * (1 + more) + slack:
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
