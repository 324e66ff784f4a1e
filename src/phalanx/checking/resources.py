"""Rules about what is reserved, what runs, and what is in force."""

from __future__ import annotations

from itertools import pairwise
from operator import ge
from typing import Any, ClassVar

from msgspec import Struct

from phalanx.checking.rules import ROUNDING, Amounts, RuleGroup, RunningVnf
from phalanx.domain.events import Event

AMOUNTS = ("cores", "memory_gb", "disk_gb")


def amounts(data: dict[str, Any]) -> Amounts:
    """Return cores, memory and disk."""
    return data["cores"], data["memory_gb"], data["disk_gb"]


def near(one: float, other: float) -> bool:
    """Whether two figures are the same but for rounding."""
    return abs(one - other) <= ROUNDING * max(1.0, abs(one), abs(other))


class _Held(Struct):
    pop: str
    amounts: Amounts
    path: list[str]
    mb_s: float
    group: str
    since: float
    ttl_s: float


class ReservationRules(RuleGroup):
    """What the PoPs and links have is never promised twice."""

    rules: ClassVar = {
        "resources": "What instances and holds have of a PoP is never more than it has, and what "
        "is free is the rest; until something is broken a bidder "
        "counts on what is left of its PoP at least, and may count on what would give way.",
        "links": "What chains and holds reserve of a link, in each group the larger of its largest "
        "hold and the sum of its chains, is never more than its bandwidth.",
        "holds": "A hold is granted once, ends once as used, released or expired, and expires "
        "when its time has come and not before. Until something is "
        "broken an agent holds what it offers and has room for.",
        "chains": "A chain is opened once before it is closed, over links, for an instance that "
        "has resources at the PoP where it begins.",
        "instances": "An instance has the resources that its VNF needs before it starts; it starts "
        "and stops once, and gives them back and has its measures lifted at the same time.",
        "ends": "run.ended says what the log shows: what is free, reserved and leased.",
    }

    def begin(self) -> None:
        """Know nothing of the network yet."""
        self.run.total, self.run.free, self.run.chains, self.run.running = {}, {}, {}, {}
        self._has: dict[str, dict[str, Amounts]] = {}
        self._held: dict[str, dict[str, _Held]] = {}
        self._changed: dict[str, float] = {}
        """By PoP: when what it has free changed last."""
        self._claims: dict[tuple[str, str], dict[str, dict[str, tuple[bool, float]]]] = {}
        """By link and group: the holds (True) and chains, with their MB/s."""
        self._stopped: tuple[str, Event] | None = None
        self._needs: dict[str, Amounts] = {}
        self._at_start: dict[str, Amounts] | None = None

    def on_run_started(self, event: Event) -> None:
        """Learn what there is."""
        for pop in event.data["pops"]:
            self.run.total[pop["name"]] = self.run.free[pop["name"]] = amounts(pop)
        for link in event.data["links"]:
            self.run.links[link["a"], link["b"]] = self.run.links[link["b"], link["a"]] = link
        self._needs = {f["name"]: amounts(f) for f in event.data["functions"]}

    def on_process_started(self, event: Event) -> None:
        """Forget what was there with an earlier life of the network."""
        if event.data["role"] == "network" and not self.run.started:
            self.begin()

    def always(self, event: Event) -> None:
        """See that what a stopped instance had is given back before time goes on."""
        if self._stopped is not None and self.passed(self._stopped[1], event):
            (name, stopped), self._stopped = self._stopped, None
            if any(name in has for has in self._has.values()):
                self.broken("instances", stopped, f"{name} stops and keeps its resources")
            left = [chain for chain, (_, of, _) in self.run.chains.items() if of == name]
            left += [measure for measure, of in self.run.in_force.items() if of.instance == name]
            self.require(not left, "instances", stopped, f"{name} stops and keeps {left}")
        if self._at_start is None and event.time > 0:
            self._at_start = dict(self.run.free)

    # -- PoPs ---------------------------------------------------------------------------

    def on_resources_changed(self, event: Event) -> None:
        """Work out what is free, and compare."""
        data = event.data
        pop, name, now = data["pop"], data["instance"], amounts(data["has"])
        has = self._has.setdefault(pop, {})
        if any(now):
            has[name] = now
        elif has.pop(name, None) is None:
            self.broken("resources", event, f"{name} gives back what it does not have")
        total = self.run.total.setdefault(pop, amounts(data["total"]))
        self.require(total == amounts(data["total"]), "resources", event, f"{pop} has {total}")
        self.run.free[pop], self._changed[pop] = amounts(data["free"]), event.time
        for index, free in enumerate(self.run.free[pop]):
            left = total[index] - sum(amount[index] for amount in has.values())
            text = f"{pop} says {free:g} {AMOUNTS[index]} are free, not {left:g}"
            self.require(near(left, free), "resources", event, text)
        self._fits(event, pop)

    def _fits(self, event: Event, pop: str) -> None:
        taken = [*self._has.get(pop, {}).values()]
        taken += [held.amounts for held in self._held.get(pop, {}).values()]
        for index, total in enumerate(self.run.total.get(pop, ())):
            wanted = sum(amount[index] for amount in taken)
            text = f"{pop} has {total:g} {AMOUNTS[index]}, {wanted:g} are promised"
            self.require(wanted <= total + ROUNDING, "resources", event, text)

    def on_hold_granted(self, event: Event) -> None:
        """Note a hold, and see whether it fits."""
        data = event.data
        pop, name = data["pop"], data["hold"]
        held = self._held.setdefault(pop, {})
        self.require(name not in held, "holds", event, f"{name} is granted twice")
        held[name] = _Held(
            pop, amounts(data), data["path"], data["mb_s"], data["group"], event.time, data["ttl_s"]
        )
        self._fits(event, pop)
        self._claim(event, f"hold {name}", held[name].path, held[name].group, data["mb_s"], True)

    def on_hold_ended(self, event: Event) -> None:
        """Forget a hold."""
        data = event.data
        held = self._held.get(data["pop"], {}).pop(data["hold"], None)
        if held is None:
            self.broken("holds", event, f"{data['hold']} ends, which is not held")
            return
        age, reason = event.time - held.since, data["reason"]
        self.require(reason in ("used", "released", "expired"), "holds", event, f"it is {reason}")
        if reason == "expired" and age < held.ttl_s - ROUNDING:
            self.broken("holds", event, f"expires after {age:g} of {held.ttl_s:g} s")
        elif reason == "expired" and not self.run.faulty:
            self.suspect(event, "holds", "it expires, and was neither used nor released")
        self._give_back(f"hold {data['hold']}", held.path, held.group)

    def on_auction_bid(self, event: Event) -> None:
        """See that what is offered was free and is held."""
        data, run = event.data, self.run
        pop, own = data["bids"][0]["path"][0], f"@{data['auction']}"
        if not run.one_clock or run.faulty or pop not in self.run.total:
            return
        holds = self._held.get(pop, {})
        taken = [held.amounts for name, held in holds.items() if not name.endswith(own)]
        taken += self._has.get(pop, {}).values()
        left = []
        for index, total in enumerate(self.run.total[pop]):
            left.append(total - sum(each[index] for each in taken))
            said = amounts(data["free"][0])[index] if "free" in data else total
            # Its agent may not have heard yet of what ended at this very moment.
            least = left[index] if self._changed.get(pop) != event.time else 0.0
            if not least - ROUNDING <= said <= total:
                text = f"the bid counts on {said:g} {AMOUNTS[index]}, {left[index]:g} are left"
                self.broken("resources", event, text)
        needs = []
        for bid in data["bids"]:
            reused = run.running.get(bid["reuse"])
            units = bid["units"] - (0 if reused is None else reused.units)
            if bid["reuse"] is None or reused is not None:
                needs.append([max(0, units) * need for need in self._needs[bid["vnf"]]])
        most = [max(each) for each in zip(*needs, strict=True)]  # one hold for all that it offers
        if any(most) and all(map(ge, left, most)):
            held = (one.amounts for name, one in holds.items() if name.endswith(own))
            known = any(all(map(near, one, most)) for one in held)
            self.require(known, "holds", event, f"no hold at {pop} for what is offered")

    def on_network_sample(self, event: Event) -> None:
        """Look for holds that are overdue."""
        for held in self._held.values() if self.run.one_clock else ():
            for name, one in held.items():
                if event.time > one.since + one.ttl_s + ROUNDING:
                    self.broken("holds", event, f"{name} outlives its {one.ttl_s:g} s")

    # -- links --------------------------------------------------------------------------

    def _claim(
        self, event: Event, name: str, path: list[str], group: str, mb_s: float, hold: bool
    ) -> None:
        for a, b in pairwise(path):
            ends = min(a, b), max(a, b)
            groups = self._claims.setdefault(ends, {})
            groups.setdefault(group, {})[name] = (hold, mb_s)
            wanted = 0.0
            for claims in groups.values():
                held = max((most for holds, most in claims.values() if holds), default=0.0)
                wanted += max(held, sum(most for holds, most in claims.values() if not holds))
            link = self.run.links.get(ends)
            room = 0.0 if link is None else link["bandwidth_mb_s"]
            if link is None:
                self.require(not self.run.links, "links", event, f"no link joins {a} and {b}")
            elif wanted > room + ROUNDING:
                text = f"link {a}-{b} has {room:g} MB/s, {wanted:g} are promised"
                self.broken("links", event, text)

    def _give_back(self, name: str, path: list[str], group: str) -> None:
        for a, b in pairwise(path):
            groups = self._claims[min(a, b), max(a, b)]
            groups[group].pop(name, None)
            if not groups[group]:
                del groups[group]

    def on_chain_opened(self, event: Event) -> None:
        """Note a chain, and see whether it fits."""
        data = event.data
        name, path, instance = data["chain"], data["path"], data["instance"]
        self.require(name not in self.run.chains, "chains", event, f"{name} is open already")
        self.run.chains[name] = path, instance, data["mb_s"]
        self.require(len(path) > 1, "chains", event, f"over {path}")
        purpose = "mirror" if data["mb_s"] > 0 else "steer"
        self.require(data["purpose"] == purpose, "chains", event, f"{data['mb_s']} MB/s")
        if instance in self.run.running and self.run.running[instance].pop != path[0]:
            self.broken("chains", event, f"{instance} does not run at {path[0]}")
        self._claim(event, name, path, data["group"], data["mb_s"], False)

    def on_chain_closed(self, event: Event) -> None:
        """Forget a chain."""
        chain = self.run.chains.pop(event.data["chain"], None)
        if chain is None:
            self.broken("chains", event, f"{event.data['chain']} is closed, not open")
            return
        for a, b in pairwise(chain[0]):
            for group in list(self._claims[min(a, b), max(a, b)]):
                self._give_back(event.data["chain"], [a, b], group)

    # -- instances ----------------------------------------------------------------------

    def on_instance_started(self, event: Event) -> None:
        """Note that an instance runs."""
        data = event.data
        name, pop, running = data["instance"], data["pop"], self.run.running
        self.require(name not in running, "instances", event, f"{name} runs already")
        running[name] = RunningVnf(pop, data["vnf"], data["version"], data["units"], event.time)
        self._sized(event, name)
        has = self._has.get(pop, {}).get(name, (0.0, 0.0, 0.0))
        if not all(map(near, has, amounts(data))):
            self.broken("instances", event, f"{name} says {amounts(data)} and has {has}")

    def on_instance_scaled(self, event: Event) -> None:
        """Note another size."""
        name = event.data["instance"]
        known, said = self.run.running[name], event.data["from_units"]
        self.require(known.units == said, "instances", event, f"{name} had {known.units} units")
        known.units = event.data["to_units"]
        self._sized(event, name)

    def _sized(self, event: Event, name: str) -> None:
        known = self.run.running[name]
        needs = [known.units * need for need in self._needs.get(known.vnf, ())]
        has = self._has.get(known.pop, {}).get(name, (0.0, 0.0, 0.0))
        if not all(map(near, has, needs)):
            self.broken("instances", event, f"{name} has {has}, {needs} are needed")

    def on_instance_stopped(self, event: Event) -> None:
        """Note that an instance is gone."""
        name = event.data["instance"]
        had = self.run.running.pop(name, None) or self._has.get(event.data["pop"], {}).get(name)
        if not had and any(self._needs.get(event.data["vnf"], ())):
            self.broken("instances", event, f"{name} stops, which was not there")
        self._stopped = name, event

    # -- the end ------------------------------------------------------------------------

    def on_run_ended(self, event: Event) -> None:
        """Compare what the end says with what the log shows."""
        data = event.data
        if not self.run.one_clock:
            return
        for pop, free in data["free"].items():
            known = self.run.free.get(pop)
            if known is not None and not all(map(near, known, amounts(free))):
                self.broken("ends", event, f"{pop} has {known} free")
        chains = sum(mb_s * (len(path) - 1) for path, _, mb_s in self.run.chains.values())
        self.require(near(chains, data["reserved_mb_s"]), "ends", event, f"{chains} MB/s reserved")
        back = self.run.free == (self._at_start or self.run.free)
        self.require(back == data["given_back"], "ends", event, f"given back: {back}")
        leased = {name for held in self._held.values() for name in held}
        leased |= {name for has in self._has.values() for name in has} | {*self.run.running}
        wrong = sorted((leased | self.run.in_force.keys()) ^ {*data["leases"]})
        self.require(not wrong, "ends", event, f"leases not as in the log: {wrong[:4]}")
