"""Rules about causes, the lives of agents, and what agents pursue."""

from __future__ import annotations

from collections import Counter, deque
from math import inf, isfinite
from typing import Any, ClassVar

from phalanx.checking.rules import MESSAGES, PursuedGoal, RuleGroup, Violation
from phalanx.domain.events import Event, numbered

MOVED = "fault.injected image.evicted link.changed"
"""Why an image comes from elsewhere than it was to."""
CAUSED_BY = {
    event: set(causes.split())
    for causes, events in {
        # It is put in force anew where its VNF was replaced, or its rules were lost.
        "action.failed analysis.done measure.applied measure.lifted plan.started policy.lost "
        "source.spared": "measure.applied",
        "agent.draining": "agent.left",
        "attestation.result run.started": "trust.changed",
        "auction.called": "auction.bid auction.refused",
        "auction.failed": "ssla.conceded",
        "fault.injected": "agent.crashed agent.restored link.changed",
        "fault.injected run.started": "agent.draining agent.started trust.enrolled",
        "goal.adopted plan.ended": "plan.started",
        "goal.ended loop.passed": "loop.relieved",
        "hold.granted": "hold.ended",
        f"{MOVED} hold.granted instance.downloading instance.started plan.started": "lease.expired",
        f"{MOVED} image.prefetching instance.downloading run.started": "image.cached",
        f"{MOVED} instance.downloading plan.started": "instance.downloading",
        f"{MOVED} instance.downloading plan.started run.started": "instance.started",
        "instance.started": "instance.replaced",
        "loop.passed loop.replaced loop.returned plan.started": "loop.passed",
        "plan.started": "contract.accepted scaling.refused",
        "run.started": "key.installed measures.counted network.sample repository.changed run.ended "
        "traffic.changed",
        "ssla.breached": "ssla.restored",
    }.items()
    for event in events.split()
}
"""By kind of event: the kinds that its cause can have, in a run in one process."""
SAME: dict[str, list[tuple[str, str]]] = {}
"""By kind of event: fields of it, and of its cause if that has them, that name the same."""
for _fields, _events in {
    "agreement": "ssla.restored",
    "auction": "auction.awarded auction.bid auction.failed auction.refused",
    "by=instance": "instance.replaced",
    "conversation": "loop.returned",
    "goal": "analysis.done loop.passed loop.relieved",
    "goal_id": "plan.started",
    "goal_id=instance_id": "plan.started",
    "group=auction": "hold.granted",
    "hold": "hold.ended",
    "instance": "analysis.done instance.scaled instance.started instance.stopped measure.applied "
    "measure.withheld resources.changed",
    "instance=name": "instance.stopped resources.changed",
    "name=hold": "lease.expired",
    "name=instance": "lease.expired",
    "pop": "image.cached instance.replaced lease.expired",
    "pop=agent": "agent.crashed",
    "vnf": "image.cached",
}.items():
    for _event in _events.split():
        _own, _, _its = _fields.partition("=")
        SAME.setdefault(_event, []).append((_own, _its or _own))
THINGS = {
    "auction": ("auction", "goal"),
    "goal_id": ("goal", "goal"),
    "group": ("group", "malicious", "profile"),
    "hold": ("hold", "pop"),
    "instance": ("instance", "pop", "vnf"),
    "instance_id": ("goal", "goal"),
    "measure": ("measure", "effect", "entry", "pop", "target"),
}
"""By field that names a thing: its kind, and what all events say of it alike."""
KEPT_S = 1.0
"""A process that is killed has kept what is older."""
RECENT = 5000
"""So many events are remembered to look at causes."""
EPOCHS_S = 1e9
"""Times apart by more have two beginnings: 1970, and the start of a domain's network."""
UNDONE = {"crash": "restart", "link-down": "link-up", "repository-away": "repository-back"}
"""By fault that a run plans: the fault that takes it back."""
OF_AGENTS = ("crash", "drain", "restart")
SAYING = {
    "delay_s": {"delay", "reorder", "slow-disk"},
    "rate": {"drift"},
    "memory": {"restart"},
}
"""By figure of a fault: those that say it, if not all do."""
TAKEN = {"agent.restored", "duty.taken_up", "goal.taken_over"}
"""What has an agent see to the duty of another one, beside contracts."""
ENROLLER = "secaas"
"""The name that hardens and enrols agents: it verifies, and takes over nothing."""
PATIENCE_S = 30.0
"""A duty may be without an owner for so long besides the time to find agents dead."""
OUTCOMES = ("achieved", "failed", "dropped", "taken over")


class CauseRules(RuleGroup):
    """Every event has one place in the log, and a cause before it."""

    rules: ClassVar = {
        "ids": "An id stands for one event, and those of one recorder count up without gaps.",
        "causes": "The cause of an event stands before it; run.started alone has none, and in "
        "processes process.started. A life that did not end in order may have died before it "
        "kept its last events. In a part of a log this holds for causes of the same recorder.",
        "kept": "What a process did not keep when it was killed, and others built on, it had "
        "recorded at most 1 s before.",
        "kinds": "What an event says is what its cause can bring about, and of the same auction, "
        "goal, hold or instance.",
        "things": "What events say of one auction, goal, hold, instance, measure or group of "
        "sources is the same; each is told by whom it names, and nothing twice at once.",
        "times": "Times are finite and never go back: in a run in one process at all, else in "
        "the events of one recorder, and from a cause to its effect by no more than clocks are "
        "apart.",
        "run": "run.started is the first event of a run, and run.ended the last; a run that "
        "finished lasts as long as planned.",
    }

    def begin(self) -> None:
        """Know nothing yet."""
        self._last: dict[str, tuple[int, float]] = {}
        self._time = 0.0
        self._shed = False
        self._recent: dict[str, Event] = {}
        self._gaps: list[Violation] = []
        self._unknown: dict[str, Event] = {}
        """By cause that is not above: an event of another recorder that names it."""
        self._ended: list[str] = []
        """Lives that ended in order."""
        self._killed: list[tuple[str, float]] = []
        self._said: dict[tuple[str, str], dict[str, Any]] = {}
        """By kind and name of a thing that was named lately: what was said of it."""
        self._at_once: dict[tuple[str, str, str | None], list[dict[str, Any]]] = {}
        self._instead: dict[str, str] = {}

    def always(self, event: Event) -> None:
        """Check id, cause and time."""
        run = self.run
        run.cause = self._recent.get(event.cause or "")
        prefix, number = numbered(event.id)
        before, since = self._last.get(prefix, (0, 0.0 if run.one_clock else -inf))
        if number <= before:
            self.broken("ids", event, f"id {event.id} after {prefix}-{before}")
        elif run.whole and number != before + 1:
            text = f"id {event.id} after {prefix}-{before}"
            self._gaps.append(Violation("ids", event.id, event.time, text))
        self._last[prefix] = (max(number, before), event.time)
        earlier = self._time if run.one_clock else since
        if not isfinite(event.time):
            self.broken("times", event, f"its time is {event.time}")
        elif event.time < earlier:
            self.broken("times", event, f"at {event.time} s, after an event at {earlier} s")
        if run.started:
            self._agrees(event, prefix)
        self._time = max(self._time, event.time)
        late = run.ended and event.kind != "audit.sealed"  # which seals run.ended itself
        self.require(not late, "run", event, "an event after run.ended")
        if event.kind == "run.started" and self._recent:
            self.broken("run", event, "a second beginning")
        if event.cause is None:
            root = event.kind in ("run.started", "process.started")
            self.require(root or not run.whole, "causes", event, f"{event.kind} has no cause")
        else:
            self._caused(event, event.cause, prefix)
        if event.kind != "network.sample":
            self._recent[event.id] = event
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]

    def _agrees(self, event: Event, prefix: str) -> None:
        """Compare an event with what was said of the same things."""
        data = event.data
        own = f"{prefix}.".startswith(f"{event.agent}.") or event.kind == "audit.sealed"
        self.require(own, "things", event, f"{event.agent} tells it as {prefix}")
        for field, (kind, *others) in THINGS.items():
            if field in data:
                known = self._said.setdefault((kind, str(data[field])), {})
                for other in others:
                    said = known.setdefault(other, data[other]) if other in data else None
                    if other in data and said != data[other]:
                        self.broken("things", event, f"{data[field]}: {other} was {said}")
        while len(self._said) > RECENT:
            del self._said[next(iter(self._said))]
        if event.time > self._time:
            self._at_once = {}
        if self.run.one_clock and not event.kind.endswith(".refused"):  # as often as it is asked
            same = self._at_once.setdefault((event.agent, event.kind, event.cause), [])
            self.require(data not in same, "things", event, f"{event.kind} is told twice at once")
            same.append(data)

    def _caused(self, event: Event, cause: str, prefix: str) -> None:
        run, (recorder, at) = self.run, numbered(cause)
        known = self._last.get(recorder, (0, 0.0))[0]
        if at > known - (event.id == cause):
            if run.one_clock or recorder == prefix:
                self.broken("causes", event, f"its cause {cause} is no event above")
            elif run.whole:
                self._unknown[cause] = event
        if (late := self._unknown.pop(event.id, None)) is not None:
            self.broken("causes", late, f"its cause {event.id} is no event above")
        if (before_it := run.cause) is None:
            return
        if run.one_clock:
            self._follows(event, before_it)
        elif run.apart_s < (early := before_it.time - event.time) < EPOCHS_S:
            self.broken("times", event, f"{early:g} s before its cause")

    def _follows(self, event: Event, cause: Event) -> None:
        """Compare an event with its cause."""
        if cause.kind not in CAUSED_BY.get(event.kind, (cause.kind,)):
            self.broken("kinds", event, f"{event.kind} by {cause.kind}, {cause.id}")
        for own, its in SAME.get(event.kind, ()):
            said = event.data.get(own)
            # Where an image is no more says nothing of where it is wanted.
            known = cause.data.get(its, said) if cause.kind != "image.evicted" else said
            text = f"{own} of {event.kind} is {said}, and its cause {cause.id} says {known}"
            same: list[Any] = [None, known]
            while own == "instance" and self._instead.get(same[-1], known) not in same:
                same.append(self._instead[same[-1]])
            self.require(said in same, "kinds", event, text)

    def on_instance_replaced(self, event: Event) -> None:
        """Note which instance goes on with what another did: who looks again is another version."""
        self._instead[event.data["instance"]] = event.data["by"]

    def on_run_started(self, event: Event) -> None:
        """Learn what the run is."""
        self.run.started, self.run.whole = event.data, True
        self.run.one_clock = event.data.get("clocks") == 1
        self.run.faulty = event.data.get("control") == "in-band"
        self.run.lossy = self.run.faulty or not self.run.one_clock

    def on_process_ended(self, event: Event) -> None:
        """Note that a life has told all that it had to."""
        self._ended.append(numbered(event.id)[0].removesuffix(".0"))

    def on_agent_crashed(self, event: Event) -> None:
        """Note when a process was killed."""
        self._killed.append((event.data["pop"], event.time))

    def on_outbox_shed(self, event: Event) -> None:  # noqa: ARG002
        """Expect gaps: the log says itself that events are lost."""
        self._shed = True

    on_history_gap = on_outbox_shed

    def on_run_ended(self, event: Event) -> None:
        """Compare how long it lasted with the plan."""
        self.run.ended = True
        data, planned = event.data, event.data["planned_s"]
        if self.run.one_clock and data.get("messages") and not data.get("lost"):
            for found in self.run.suspects if not self.run.faulty else ():
                self._report(found)
        if event.data["reason"] == "finished" and self.run.one_clock:
            self.require(event.time == planned, "run", event, f"{event.time} s of {planned} s")

    def end(self, last: Event) -> None:
        """A run that began has an end, and a log that is whole lacks no event."""
        over = self.run.ended or not self.run.started
        self.require(over, "run", last, "the log ends before the run")
        if self._shed:
            return
        for gap in self._gaps:
            self._report(gap)
        for cause, event in self._unknown.items():
            recorder, number = numbered(cause)
            in_order = any(f"{recorder}.".startswith(f"{life}.") for life in self._ended)
            if in_order or number <= self._last.get(recorder, (0, 0.0))[0]:
                self.broken("causes", event, f"its cause {cause} is no event")
            apart_s = self.run.apart_s
            for agent, at in self._killed:
                if recorder.startswith(f"{agent}.") and at > event.time - apart_s:
                    text = f"{cause} is lost, {at - event.time:g} s before {agent} was killed"
                    self.require(at <= event.time + KEPT_S + apart_s, "kept", event, text)
                    break


def _hit(fault: dict[str, Any]) -> Any:
    """Return the agent or the link that a fault hits."""
    return fault.get("agent") or tuple(fault.get("link", ()))


def _figures(kind: str, fault: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a fault, but for when it begins and ends, that its event says."""
    return {
        name: value
        for name, value in fault.items()
        if isinstance(value, int | float) and value and name not in ("at_s", "for_s")
        if kind in SAYING.get(name, (kind,))
    }


class CourseRules(RuleGroup):
    """What a run plans happens, at its time and no other."""

    rules: ClassVar = {
        "planned": "Each fault and update that run.started plans happens at its time and by its "
        "figures, and ends at its time, unless its agent has ended, or lives, already; and no "
        "other happens. The agents that it names begin to live at once.",
    }

    def begin(self) -> None:
        """Know of no plan."""
        self._due: list[tuple[float, str, Any]] = []
        self._planned: list[dict[str, Any]] = []
        self._done: list[tuple[float, str, Any]] = []
        self._now = 0.0

    def on_run_started(self, event: Event) -> None:
        """Learn what is planned."""
        data = event.data
        if data.get("clocks") != 1:
            return
        self._planned = data["faults"]
        for fault in data["faults"]:
            kind, about = fault["kind"], _hit(fault)
            self._due.append((fault["at_s"], kind, about))
            if kind in UNDONE and "for_s" in fault:
                self._due.append((fault["at_s"] + fault["for_s"], UNDONE[kind], about))
        known = {function["name"] for function in data["functions"]}
        self._due += [
            (update["at_s"], update["version"], update["function"])
            for update in data["updates"]
            if update["function"] in known
        ]
        self._due.sort(key=lambda due: due[0])

    def always(self, event: Event) -> None:
        """Look for what did not happen."""
        if event.time <= self._now or not self.run.one_clock:
            return
        if self._now == 0.0:
            asleep = sorted({*self.run.started["agents"]} - self.run.turned.keys())
            self.require(not asleep, "planned", event, f"{asleep} do not begin")
        self._missed(event, event.time)
        self._now, self._done = event.time, []

    def _missed(self, event: Event, until: float) -> None:
        while self._due and self._due[0][0] < until:
            at, what, about = due = self._due.pop(0)
            lives = about in self.run.life
            now = self.run.turned.get(about) == self._now
            idle = what in OF_AGENTS and (lives == (what == "restart") or now)
            if due in self._done:
                self._done.remove(due)
            elif not idle:
                self.broken("planned", event, f"no {what} of {about} at {at:g} s")

    def _happens(self, event: Event, what: str, about: Any) -> None:
        due = next((d for d in self._due if d[1:] == (what, about) and d[0] == event.time), None)
        if self.run.one_clock and self.run.started["faults"]:  # else a test breaks things by hand
            self.require(due is not None, "planned", event, f"{what} of {about} is not planned")
        if due is not None:
            self._done.append(due)

    def on_fault_injected(self, event: Event) -> None:
        """Compare a fault with the plan."""
        kind, about = event.data["fault"], _hit(event.data)
        self._happens(event, kind, about)
        said = _figures(kind, event.data)
        planned = [
            _figures(kind, fault)
            for fault in self._planned
            if _hit(fault) == about and kind in (fault["kind"], UNDONE.get(fault["kind"]))
            if event.time in (fault["at_s"], fault["at_s"] + fault.get("for_s", 0.0))
        ]
        if planned:
            self.require(said in planned, "planned", event, f"by {said}, not {planned[0]}")

    def on_repository_changed(self, event: Event) -> None:
        """Compare an update with the plan."""
        self._happens(event, event.data["version"], event.data["function"])

    def on_run_ended(self, event: Event) -> None:
        """Look for what was due before the end."""
        self._missed(event, event.time)


class LifeRules(RuleGroup):
    """Agents begin, die and return in turn, and do nothing while dead."""

    rules: ClassVar = {
        "lives": "An agent starts once before it dies or leaves, and each life has a higher "
        "number than the one before.",
        "beliefs": "A belief that changes was another before, and only what is believed is "
        "removed, but for what an agent remembers of an earlier life.",
        "undo": "An agent that asks another one to undo a measure has believed that it keeps that: "
        "it asked for it, took it over, or works for an agent that did. Calls for proposals tell "
        "nobody so.",
        "dead": "A dead agent records nothing until it starts again.",
        "gone": "No agent takes another for dead that lives, unless something was broken or lost; "
        "who returns was taken for dead, or has died or left before, as often as it returns.",
    }

    def begin(self) -> None:
        """Know nothing yet."""
        self._dead: dict[str, int] = {}
        """By agent that is dead: the number of its last life."""
        self._beliefs: dict[str, dict[str, tuple[Any, Any]]] = {}
        self._told: set[tuple[str, str, str]] = set()
        """A measure, its holder, and an agent that was told so by more than a call."""
        self._entitled: deque[tuple[str, str]] = deque(maxlen=1_000)
        """Requests to undo, by the start of their plans, and the holder that it was then."""
        self._trusted: set[str] = set()
        """Agents that were verified, if agents attest each other."""
        self._absences = Counter[str]()
        """How often each agent ended, or was taken for dead."""
        self._returns = Counter[tuple[str, str]]()
        """By (agent, another): how often that came back to it."""

    def always(self, event: Event) -> None:
        """Look for events of the dead."""
        if event.agent in self._dead and event.kind not in ("agent.started", "agent.restored"):
            self.broken("dead", event, f"{event.kind} of {event.agent}, which is dead")

    def on_agent_started(self, event: Event) -> None:
        """Note that an agent lives."""
        agent, incarnation = event.agent, event.data["incarnation"]
        before = self._dead.pop(agent, None)
        if agent in self.run.life and self.run.one_clock:
            self.broken("lives", event, f"{agent} starts while it lives")
        if before is not None and incarnation <= before:
            self.broken("lives", event, f"{agent} starts life {incarnation} after {before}")
        self._returns.subtract({at: n for at, n in self._returns.items() if at[0] == agent})
        self.run.life[agent] = incarnation
        self.run.turned[agent] = event.time
        if event.kind == "agent.started" and self.run.one_clock:
            self._beliefs[agent] = {}

    on_agent_restored = on_agent_started

    def on_belief_changed(self, event: Event) -> None:
        """Compare a belief with what was believed."""
        known, name = self._beliefs.get(event.agent), event.data["belief"]
        if known is None:
            return
        now = event.data["value"], event.data.get("holder")
        before = known.pop(name, (None, None))
        self.require(before != now, "beliefs", event, f"{name} is {now[0]} already")
        if now[0] is not None:
            known[name] = now
        cause, holder = self.run.cause, now[1]
        if now[0] and holder not in (None, event.agent):
            if cause is None or cause.kind != "auction.called":
                self._told.add((name, holder, event.agent))
        elif not now[0]:  # who believes in it still is not told again if it is done again
            self._told -= {
                (told, holder, to)
                for told, holder, to in self._told
                if told == name and event.agent in (holder, to)
                if self._beliefs.get(to, {}).get(name) != (True, holder)
            }

    def on_plan_started(self, event: Event) -> None:
        """Note who may ask: by the time that its request is heard it may believe otherwise."""
        if event.data["plan"] == "request undo":
            name = event.data["goal"].removeprefix("¬")
            told = (holder for what, holder, to in self._told if (what, to) == (name, event.agent))
            self._entitled.extend((event.id, holder) for holder in told)

    def on_goal_adopted(self, event: Event) -> None:
        """See that what another agent asks for is its to ask."""
        asks, name = self.run.cause, event.data["goal"].removeprefix("¬")
        if asks is None or asks.agent == event.agent or asks.data.get("plan") != "request undo":
            return
        known = self._beliefs.get(event.agent, {}).get(name) == (True, event.agent)
        if known and asks.agent in self._beliefs and self.run.one_clock:
            so = (name, event.agent, asks.agent) in self._told
            so = so or (asks.id, event.agent) in self._entitled
            self.require(so, "undo", event, f"{asks.agent} was never told of {name}")

    def on_fault_injected(self, event: Event) -> None:
        """Note that durations of an agent are not those of the run any more."""
        self.run.faulty = True
        self.run.lossy |= event.data["fault"] in MESSAGES
        for_ever = inf if event.data["fault"] in MESSAGES else 0.0
        self.run.quiet = max(self.run.quiet, event.time + event.data.get("for_s", for_ever))
        self.run.skewed |= event.data["fault"] in ("drift", "slow-disk", "full-disk")
        if event.data["fault"] == "degrade":
            a, b = event.data["link"]
            self.run.degraded |= {(a, b), (b, a)}

    def on_agent_gone(self, event: Event) -> None:
        """See that there is a reason to believe that."""
        pop = event.data["pop"]
        self._absences[pop] += 1
        strange = bool(self._trusted) and not {pop, event.agent} <= self._trusted
        if pop in self.run.life and not self.run.faulty and not strange:
            self.suspect(event, "gone", f"{pop} lives")

    def on_agent_returned(self, event: Event) -> None:
        """See that it was away."""
        pop, at = event.data["pop"], (event.agent, event.data["pop"])
        self._returns[at] += 1
        so = self._absences[pop] >= self._returns[at] or not self.run.started
        self.require(so, "gone", event, f"{pop} returns, and was not gone")

    def on_trust_changed(self, event: Event) -> None:
        """Note who is verified: one that is not yet is not listened to."""
        if event.data["standing"] == "trusted":
            self._trusted.add(event.data["agent"])

    def gone(self, event: Event, agent: str) -> None:
        """Note that an agent died or left."""
        life = self.run.life.pop(agent, None)
        self._absences[agent] += 1
        self._beliefs.pop(agent, None)
        self.run.quiet = max(self.run.quiet, event.time)
        self.run.turned[agent] = event.time
        if not self.run.one_clock:
            return
        if life is None:
            self.broken("lives", event, f"{agent} ends, which does not live")
        else:
            self._dead[agent] = life


class GoalRules(RuleGroup):
    """Goals and plans begin once and end once."""

    rules: ClassVar = {
        "goals": "A goal that is adopted ends once, with a known outcome, and none is open at "
        "the end of a run.",
        "plans": "A plan is for an open goal of its agent, alone; it ends once, before its goal.",
        "duties": "Each duty is a goal of its home while that lives and is trusted, else of "
        "another agent, and of no further one once its VNF runs, within a bound after the last "
        "death or fault; who is not its home has taken it up or over, or works for who has.",
        "achieved": "A goal is achieved by a plan that succeeded, or the event says how else; what "
        "fails says why.",
    }

    def begin(self) -> None:
        """Know nothing yet."""
        self._duties: dict[str, float] = {}
        """When the right agent alone saw to them last."""

    def on_goal_adopted(self, event: Event) -> None:
        """Open a goal."""
        name = event.data["instance_id"]
        self.require(name not in self.run.goals, "goals", event, f"{name} is adopted twice")
        goal, contract = event.data["goal"], event.data.get("contract")
        self.run.goals[name] = PursuedGoal(event.agent, goal, event.time, contract)
        duties, cause = self.run.started.get("duties", ()), self.run.cause
        of_another = any(d["goal"] == goal and d["home"] != event.agent for d in duties)
        if of_another and contract is None and cause is not None:
            self.require(cause.kind in TAKEN, "duties", event, f"after {cause.kind}")

    def on_agent_started(self, event: Event) -> None:
        """Forget what a process pursued whose memory was lost."""
        if not self.run.one_clock:
            self.run.goals = {n: g for n, g in self.run.goals.items() if g.agent != event.agent}

    def on_goal_ended(self, event: Event) -> None:
        """Close a goal."""
        data = event.data
        goal = self.run.goals.pop(data["instance_id"], None)
        outcome = data["outcome"]
        self.require(outcome in OUTCOMES, "goals", event, f"unknown outcome {outcome}")
        if goal is None:
            self.broken("goals", event, f"{data['instance_id']} ends, which is not open")
            return
        if goal.plan is not None:
            self.broken("plans", event, f"plan {goal.plan!r} does not end before its goal")
        if (outcome != "achieved" or not goal.succeeded) and not data.get("reason"):
            self.broken("achieved", event, f"{goal.goal} is {outcome} without a plan or a reason")

    def on_plan_started(self, event: Event) -> None:
        """Open a plan."""
        goal = self.run.goals.get(event.data["goal_id"])
        if goal is None:
            self.broken("plans", event, f"for {event.data['goal_id']}, which is not open")
            return
        self.require(goal.agent == event.agent, "plans", event, f"a goal of {goal.agent}")
        self.require(goal.plan is None, "plans", event, f"beside the plan {goal.plan!r}")
        goal.plan, goal.runs = event.data["plan"], "instance" in event.data

    def on_plan_ended(self, event: Event) -> None:
        """Close a plan."""
        data = event.data
        goal = self.run.goals.get(data["goal_id"])
        if goal is None or goal.plan != data["plan"]:
            self.broken("plans", event, f"plan {data['plan']!r} ends, which is not followed")
            return
        goal.plan, goal.succeeded, goal.runs = None, data["succeeded"], False
        why = goal.succeeded or data.get("reason")
        self.require(bool(why), "achieved", event, f"plan {data['plan']!r} fails without a reason")

    def on_agent_draining(self, event: Event) -> None:
        """Let an agent that leaves hand its duties over."""
        lasts = self.run.timing("drain_s") or 0.0
        self.run.quiet = max(self.run.quiet, event.time + lasts)

    def on_contract_ended(self, event: Event) -> None:
        """See that nothing is pursued for a contract that has ended."""
        of = event.agent, event.data["auction"]
        left = [goal.goal for goal in self.run.goals.values() if (goal.agent, goal.contract) == of]
        self.require(not left, "goals", event, f"{left} are pursued for it still")
        why = event.data["fulfilled"] or event.data.get("reason")
        self.require(bool(why), "achieved", event, "a contract fails without a reason")

    def gone(self, event: Event, agent: str) -> None:  # noqa: ARG002
        """End the plans of an agent that died: they are in its memory alone."""
        for goal in self.run.goals.values():
            if goal.agent == agent:
                goal.plan = None

    on_agent_restored = RuleGroup.on_agent_left

    def on_network_sample(self, event: Event) -> None:
        """Look for duties without an owner, or with more than one."""
        run, now = self.run, event.time
        silence, beat = run.timing("silence_s"), run.timing("heartbeat_s")
        if silence is None or beat is None or not run.one_clock:
            return
        lives = {f"{agent}.{life}" for agent, life in run.life.items()}
        owners: dict[str, dict[str, bool]] = {}
        for name, goal in self.run.goals.items():
            if name.partition("/")[0] in lives:
                owners.setdefault(goal.goal, {})[goal.agent] = goal.runs
        bound = (silence + 2 * beat) * (2 + len(run.started["pops"])) + PATIENCE_S
        # Whose cancellation was lost works on until it takes its auctioneer for silent.
        twice = max(bound, 6 * (run.timing("probe_s") or 0.0))
        for duty in run.started["duties"] if run.life.keys() - {ENROLLER} else ():
            goal, home = duty["goal"], duty["home"]
            seen = {a: runs for a, runs in owners.get(goal, {}).items() if a not in run.out}
            right = len(seen) == 1 or not seen.get(home, sum(seen.values()) > 1)
            there = home in run.life and home not in run.out
            right = right and (home in seen if there else bool(seen))
            since = self._duties.setdefault(goal, now)
            if right:
                self._duties[goal] = now
            elif now > max(since, run.quiet) + (twice if len(seen) > 1 else bound):
                text = f"{goal} of {home} is seen to by {sorted(seen)} since {since:g} s"
                self.broken("duties", event, text)

    def end(self, last: Event) -> None:
        """Look for goals that never end."""
        run = self.run
        whole_length = run.one_clock or last.time >= run.started.get("duration_s", inf)
        for name, goal in self.run.goals.items() if run.ended and whole_length else ():
            if run.one_clock or goal.agent in run.life:  # else it went with its process
                self.broken("goals", last, f"{goal.goal} ({name} of {goal.agent}) never ends")
