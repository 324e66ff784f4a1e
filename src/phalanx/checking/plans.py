"""Random scenarios, each drawn from one number: networks, resources, traffic, attacks, faults.

A plan does not mix everything with everything: it switches a random part of the features on
(swarm testing: Groce et al., ISSTA 2012), since some failures show only where others are absent.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, Literal

Document = dict[str, Any]
"""A scenario as plain data: what its YAML file holds."""
Mode = Literal["safety", "liveness", "processes"]


TIMES: dict[Mode, tuple[float, float, float, float]] = {
    "safety": (50.0, 50.0, 70.0, 260.0),  # leases and goals have the time to end
    "liveness": (180.0, 50.0, 70.0, 180.0),  # the attack lasts to the end
    "processes": (40.0, 30.0, 45.0, 75.0),  # in real time
}
"""When the attack ends, the last fault begins, faults are over and a plan ends, in seconds."""

FLOODS = (
    "syn-flood",
    "udp-flood",
    "dns-reflection",
    "ntp-reflection",
    "ack-flood",
    "syn-ack-flood",
)
FORGED = ("syn-flood-spoofed", "udp-flood-spoofed", "ack-flood-spoofed", "syn-ack-flood-spoofed")
LATER = ("rst-flood", "udp-fragments", "icmp-flood")
"""Kinds of floods that the generator learnt later: plans without them stay what they were."""
ROOM = 0.1
"""Cores, and GB of memory, that a filter takes."""
ATTACKS = {*FLOODS, *FORGED, *LATER, *(f"{kind}-spoofed" for kind in LATER), "slow-http"}
ATTACKS |= {"http-flood", "signalling-storm"}
FAULTS = {
    "crash": 3,
    "restart": 1,
    "drain": 1,
    "link-down": 1,
    "repository-away": 1,
    "lose": 1,
    "duplicate": 1,
    "delay": 1,
    "reorder": 1,
    "partition": 2,
    "degrade": 1,
    "drift": 1,
    "slow-disk": 1,
    "full-disk": 1,
}
"""Kinds of faults, with how often they are drawn."""
IN_ONE_PROCESS = {"degrade", "drift", "slow-disk"}
"""Faults that processes cannot do."""
SETTLED_S = 45.0
"""An attack is held off so long after it begins: the last 30 s of that are looked at."""
MOVED_S = 100.0
"""So much later if its sources move: each has sixteen places to go to, one every five seconds or
six, three of which it waits to see itself blocked."""
LEARNT_S = 40.0
"""So long after a link has failed, what users lost by it is still among what is usual."""
_VNFS = (
    "link-monitor",
    "rate-limiter",
    "anomaly-detector",
    "classifier",
    "classifier-lite",
    "load-balancer",
    "syn-proxy",
)
_BY_SERVICE = ("edge-filter", "service-monitor")
"""Functions of the strategy ``service``: their images are empty unless a plan fills them."""
_FEATURES = (
    "apart",
    "carpet",
    "constraints",
    "crowd",
    "deadline",
    "forged",
    "hosts",
    "images",
    "in-band",
    "limits",
    "link-watch",
    "loss",
    "moving",
    "mixed",
    "pulse",
    "ramp",
    "scarce",
    "slow-http",
    "small-disks",
    "spread",
    "starved",
    "tight",
    "updates",
)


ATTESTED = 0.15
"""Share of the plans in which agents attest each other; in one process, since it takes root."""


def random_plan(seed: int, mode: Mode = "safety") -> Document:
    """Return the plan of a number: the same number, the same plan, everywhere.

    In liveness mode the strategy is ``service``, every fault is over by second 70, and the
    attack lasts until the end; whether service must return then says ``owed``.
    """
    return _Draw(seed, mode).document()


def owed(document: Document) -> bool:
    """Whether a plan in liveness mode owes users their service at its end.

    It does if each host is watched for a while, by an agent that stays beside it, and what can
    never be filtered where it enters fits into every link beside the users. An attack can be
    filtered at a PoP that has an agent which does not leave, and room for a filter. A filter's
    image must be there before the first attack or fault, since nothing can be fetched over full
    links later, and must not be deleted for want of disk space. Sources that pulse and move are
    new ones with each pulse; those of an HTTP flood are answered as users are, so that it follows
    from much else who is one; and nobody may block what is allowed. A weak attack, which fills no
    host's own link, takes no more from users than a link that has failed just before; and UDP that
    was there before a crowd is what users were served beside.
    """
    network, hosts, faults = document["network"], document["hosts"], document.get("faults", ())
    attacks = [group for group in document["traffic"] if group["profile"] in ATTACKS]
    if any("adapt" in group and "on_s" in group.get("shape", ()) for group in attacks):
        return False
    if any(group["profile"] == "http-flood" for group in attacks) or "allow" in document:
        return False
    left = {fault.get("agent") for fault in faults if fault["kind"] == "drain"}
    agents = [(pop["name"], pop["name"]) for pop in network["pops"] if pop.get("agent", True)]
    agents += [(each["name"], each.get("pop")) for each in document.get("agents", ())]
    staffed = {pop for name, pop in agents if name not in left}
    watched = {monitor["link"] for monitor in document["monitors"]}
    if any(h["at"] not in staffed or f"{h['at']}>{h['name']}" not in watched for h in hosts):
        return False
    settled = [g["start_s"] + SETTLED_S + MOVED_S * (g.get("adapt") == "move") for g in attacks]
    if any(each > document["duration_s"] for each in settled):
        return False
    most = sum(_most(group, place) for group in attacks for place in {*group["at"]})
    weak = most < min(host["bandwidth_mb_s"] for host in hosts)
    failed = [f for f in faults if f["kind"] in ("link-down", "degrade")]
    if weak and any(
        fault["at_s"] < group["start_s"] < fault["at_s"] + fault.get("for_s", 0.0) + LEARNT_S
        for fault in failed
        for group in attacks
    ):
        return False
    crowds = [g["start_s"] for g in document["traffic"] if g["name"] == "crowd"]
    udp = [g["start_s"] for g in attacks if g["profile"] in ("udp-flood", "udp-fragments")]
    if weak and crowds and udp and min(udp) < max(crowds):
        return False
    able = {
        pop["name"]
        for pop in network["pops"]
        if pop["name"] in staffed and min(pop["cores"], pop["memory_gb"]) >= ROOM
    }
    unfiltered = sum(
        _most(group, place) for group in attacks for place in group["at"] if place not in able
    )
    slowest = min((link["bandwidth_mb_s"] for link in network["links"]), default=1e9)
    images = [document["functions"].get(name, {}).get("image_mb", 0) for name in _BY_SERVICE]
    if images[0]:
        ways = ("repository-away", "link-down", "degrade")
        first = [fault["at_s"] for fault in faults if fault["kind"] in ways]
        begin = min(first + [group["start_s"] for group in attacks], default=1e9)
        due_s = len(network["pops"]) * sum(images) / slowest
        scarce = any(pop["disk_gb"] * 1e3 < sum(images) for pop in network["pops"])
        timed = "time_s" in document["goals"]["default"].get("constraints", ())
        if due_s > begin or scarce or timed:
            return False
    if not unfiltered:
        return True
    slowest = min(slowest, *(host["bandwidth_mb_s"] for host in hosts))
    return unfiltered < slowest / 2 and not any("limits" in host for host in hosts)


def _most(group: Document, place: str) -> float:
    """Return the most that a group of sources may send from one PoP, in MB/s."""
    sources = -(-group["count"] * group["at"].count(place) // len(group["at"]))
    most: float = sources * group["demand_mb_s"] * (1 + group.get("jitter", 0))
    return most


class _Draw:
    """One plan while it is drawn."""

    def __init__(self, seed: int, mode: Mode) -> None:
        self._seed = seed
        self._live, self._spread = mode == "liveness", mode == "processes"
        self._end_s, self._last_fault_s, self._faults_end_s, self._duration_s = TIMES[mode]
        self._rng = rng = random.Random(f"phalanx/{mode}/{seed}")
        share = rng.choice([0.1, 0.3, 0.5])
        self._on = {feature for feature in _FEATURES if rng.random() < share}
        faults = [kind for kind in FAULTS if not self._spread or kind not in IN_ONE_PROCESS]
        self._kinds = [kind for kind in faults if rng.random() < rng.choice([0.2, 0.6])]
        if self._spread and rng.random() < 0.5:
            self._kinds.append("broker-down")
        count = rng.randint(2, 4 if self._spread else 6)
        self._wide = random.Random(f"phalanx/{seed}/wide")
        self._widened = not self._spread and self._wide.random() < 0.5
        if self._widened and self._wide.random() < 0.4:
            count = self._wide.randint(7, 10)
        self._pops = [f"pop{i}" for i in range(1, count + 1)]
        self._agents = list(self._pops)
        self._links = self._topology()

    def _between(self, low: float, high: float) -> float:
        return round(self._rng.uniform(low, high), 3)

    def document(self) -> Document:
        """Draw the parts in an order that never changes."""
        rng, on = self._rng, self._on
        published = not self._live and rng.random() < 0.4
        hosts = self._hosts()
        second = self._second(hosts)
        document: Document = {
            "name": "random-plan",
            "duration_s": self._duration_s,
            "seed": self._seed,
            "strategy": "published" if published else "service",
            "network": self._network(hosts),
            "hosts": hosts,
            "traffic": self._widen(self._later(self._traffic(hosts)), hosts),
            "monitors": self._monitors(hosts),
            "functions": self._functions(published=published),
            "goals": self._goals(),
            "parameters": {
                "link_rate_mb_s": round(0.6 * hosts[0]["bandwidth_mb_s"], 3),
                "ip_rate_mb_s": round(0.3 * hosts[0]["bandwidth_mb_s"], 3),
                "analysis_s": 4,
                "classify_s": 4,
                "quiet_s": 6,
                "hold_s": 10,
                "calm_s": 5,
            },
            "timing": self._timing(),
            "bidding": rng.choice(["exact", "published"] if published else ["exact"]),
            "faults": [self._fault() for _ in range(rng.randint(0, 6) if self._kinds else 0)],
        }
        if self._widened and self._wide.random() < 0.5:
            document["parameters"] = {}
        if "in-band" in on:
            document["control"] = "in-band"
        if second:
            document["agents"] = second
        if "updates" in on:
            document["updates"] = [
                {
                    "at_s": self._between(5, 40 if self._spread else 80),
                    "function": rng.choice(list(document["functions"])),
                    "version": f"2.{number}",
                }
                for number in range(rng.randint(1, 2))
            ]
        if self._live and any(fault["kind"] == "drain" for fault in document["faults"]):
            document["timing"]["drain_s"] = self._faults_end_s - self._last_fault_s
        trust = random.Random(f"phalanx/{self._seed}/trust")  # so that plans without it stay
        if not self._spread and trust.random() < ATTESTED:
            agents = sum(pop.get("agent", True) for pop in document["network"]["pops"])
            few = agents + len(document.get("agents", ())) < 4  # 3 of 4 have to agree
            document["trust"] = {
                "period_s": trust.choice([5.0, 8.0, 15.0]),
                "verifiers": min(trust.choice([2, 3, 4]), 3 if few else 4),
                "ledger": trust.choice(["memory:", "memory:", "witness:"]),
            }
        return document if self._spread else self._furnish(document)

    def _later(self, groups: list[Document]) -> list[Document]:
        """Return groups of traffic, some with kinds that were learnt later in place of others."""
        rng = random.Random(f"phalanx/{self._seed}/later")
        for group in groups:
            kind = rng.choice(LATER) if rng.random() < 0.25 else ""
            if kind and group["profile"] in (*FLOODS, *FORGED):
                group["profile"] = f"{kind}-spoofed" if group["profile"] in FORGED else kind
            elif kind and group["profile"] == "video":
                group |= {"profile": "dns", "port": 53, "count": 3 * group["count"]}
                group["demand_mb_s"] = round(group["demand_mb_s"] / 10, 4)
        return groups

    def _widen(self, groups: list[Document], hosts: list[Document]) -> list[Document]:
        """Return groups of traffic, in half of the plans with other numbers, users and ports."""
        rng, capacity = self._wide, {host["name"]: host["bandwidth_mb_s"] for host in hosts}
        for group in groups if self._widened else ():
            if group["profile"] in ATTACKS:
                if group["profile"] in (*FLOODS, *LATER) and rng.random() < 0.2:  # a swarm
                    count = rng.choice([40, 200])
                    group |= {"count": count, "demand_mb_s": 8 / count}
                if group["profile"] != "slow-http" and rng.random() < 0.2:
                    group["port"] = rng.choice([53, 123, 9000])
            elif group["name"] != "crowd":
                group["count"] = count = rng.choice([1, 2, 5, 20, 60])
                most = 0.6 * capacity[group["target"]] / count
                group["demand_mb_s"] = round(min(group["demand_mb_s"], most), 4)
                if rng.random() < 0.3:
                    group["jitter"] = rng.choice([0.2, 0.5, 0.9])
                if rng.random() < 0.3:
                    group["at"] = rng.sample(self._pops, rng.randint(1, len(self._pops)))
                if rng.random() < 0.2:
                    group |= {"spread_s": self._wide.randint(0, 30), "end_s": rng.randint(60, 200)}
        if self._widened and rng.random() < 0.25:
            feed = {"name": "feed", "profile": "udp-flood", "count": rng.choice([1, 3])}
            at = {"at": [rng.choice(self._pops)], "target": hosts[0]["name"], "port": 9999}
            groups.append(feed | at | {"demand_mb_s": 0.02, "start_s": 0.0, "end_s": self._end_s})
        return groups

    def _furnish(self, document: Document) -> Document:
        """Return a plan, some with services that scale, forecasts, and other prices and times."""
        rng = random.Random(f"phalanx/{self._seed}/further")
        if rng.random() < 0.6:
            return document
        for group in document["traffic"]:
            if group["profile"] in FLOODS and group["count"] < 20 and rng.random() < 0.3:
                group |= {"profile": "http-flood", "port": 80}
        if rng.random() < 0.5 and "images" not in self._on and not self._live:
            self._watch_services(document, rng)
        if rng.random() < 0.4:
            weights = {"time": 0.1, "cost": 0.1, "decentralisation": 0.0}
            terms = weights | {"terms": {"load": 0.7, "energy": 0.1}}
            document["forecast"] = {"every_s": 5, "ahead": rng.choice([1, 4])}
            document["forecast"]["under_anomaly"] = {"default": terms}
        if rng.random() < 0.3:
            allowed = {"prefix": rng.choice(["10.1.0.0/16", "10.1.0.0/30"]), "reason": "known"}
            document["allow"] = [allowed]
        if rng.random() < 0.2 and not self._live:
            document["mode"] = "observe"
        if rng.random() < 0.5 and document["strategy"] == "service":
            document["pricing"] = rng.choice(["capacity", "scarcity", "published"])
            document["utility"] = rng.choice(["published", "reference"])
        if rng.random() < 0.5:
            document["timing"] |= {
                "probe_s": rng.choice([1, 5, 20]),
                "gossip_s": rng.choice([1, 5, 20]),
                "auction_deadline_s": rng.choice([0.2, 1, 3]),
                "message_latency_ms": rng.choice([0, 1, 50]),
            }
        return document

    @staticmethod
    def _watch_services(document: Document, rng: random.Random) -> None:
        """Have the metrics of hosts watched that can answer three times what users ask for."""
        for host, monitor in zip(document["hosts"], document["monitors"], strict=False):
            users = [
                group["count"] * group["demand_mb_s"]
                for group in document["traffic"]
                if group["profile"] not in ATTACKS and group["target"] == host["name"]
            ]
            asked_s = 600.0 * sum(users)
            enough = {"requests_s": max(20.0, round(asked_s)), "connections": 512}
            host["limits"] = host.get("limits", {}) | enough
            monitor["service"] = True
        for name in ("service-analyst", "service-scaler", "service-replica"):
            document["functions"][name] = {"image_mb": rng.choice([1, 20]), "boot_s": 1.0}
        document["functions"]["service-replica"]["handles_mb_s"] = rng.choice([0.1, 0.5, 1.5])

    # -- the network ------------------------------------------------------------------------

    def _topology(self) -> list[tuple[str, str]]:
        """Return the links of a ring, star, tree, line, full mesh or random graph."""
        rng, pops = self._rng, self._pops
        shape = rng.choice(["ring", "star", "tree", "line", "mesh", "random", "random"])
        match shape:
            case "ring" | "line":
                pairs = set(pairwise(pops))
                if shape == "ring":
                    pairs.add((pops[0], pops[-1]))
            case "star":
                pairs = {(pops[0], pop) for pop in pops[1:]}
            case "mesh":
                pairs = {(a, b) for i, a in enumerate(pops) for b in pops[i + 1 :]}
            case _:
                pairs = {(rng.choice(pops[:i]), pops[i]) for i in range(1, len(pops))}
                if shape == "random":
                    more = [tuple(sorted(rng.sample(pops, 2))) for _ in pops[: rng.randint(0, 8)]]
                    pairs.update((a, b) for a, b in more if (b, a) not in pairs)
        return sorted(pairs)

    def _network(self, hosts: list[Document]) -> Document:
        rng = self._rng
        homes = {host["at"] for host in hosts}
        rich = rng.random() < 0.2
        least = 6 if rich else 3 if self._live else 1
        most = 24 if rich else 8
        pops: list[Document] = [
            {
                "name": pop,
                "cores": rng.randint(max(least, 4 if pop in homes else 1), most),
                "memory_gb": rng.randint(max(least, 4 if pop in homes else 2), max(most, 12)),
                "disk_gb": rng.choice([20, 100, 1000]),
            }
            for pop in self._pops
        ]
        watches = {p: sum(host["at"] == p for host in hosts) + 1 for p in self._pops}
        for pop in pops:
            if pop["name"] in homes:  # what watches there has room
                needs = watches[pop["name"]] * 3 // 2  # a half for the analyst of each
                pop |= {what: max(pop[what], needs) for what in ("cores", "memory_gb")}
        if "starved" in self._on:
            for pop in pops:
                if pop["name"] not in homes and rng.random() < 0.6:
                    pop |= {"cores": rng.choice([0, 0.5, 1]), "memory_gb": rng.choice([0.5, 1])}
        if "small-disks" in self._on:
            self._on.add("images")
            for pop in pops:
                least_gb = 2.0 * watches[pop["name"]] if pop["name"] in homes else 0
                pop["disk_gb"] = round(least_gb + rng.choice([0.03, 0.1, 0.6]), 3)
        for pop in pops:
            if pop["name"] not in self._agents:
                pop["agent"] = False
        return {
            "repository": rng.choice(self._pops),
            "default_link_loss": rng.choice([0.005, 0.025]) if "loss" in self._on else 0,
            "pops": pops,
            "links": [
                {
                    "between": list(pair),
                    "bandwidth_mb_s": rng.choice([3, 5, 10, 20]),
                    "latency_ms": self._between(1, 30),
                }
                for pair in self._links
            ],
        }

    def _hosts(self) -> list[Document]:
        rng = self._rng
        hosts = []
        for number in range(rng.randint(2, 4) if {"hosts", "carpet"} & self._on else 1):
            host: Document = {
                "name": f"server{number + 1}",
                "at": rng.choice(self._pops),
                "address": f"10.0.0.{10 + number}",
                "bandwidth_mb_s": rng.choice([2, 6, 10]),
            }
            if "limits" in self._on:
                host["limits"] = {
                    "backlog": rng.choice([128, 4096]),
                    "syn_cookies": rng.random() < 0.5,
                    "connections": rng.choice([16, 64, 512]),
                    "packets_s": rng.choice([2000, 300000]),
                }
            hosts.append(host)
        return hosts

    def _second(self, hosts: list[Document]) -> list[Document]:
        """Return agents that do not have the name of a PoP; one may stand in for that of a PoP."""
        if "apart" not in self._on:
            return []
        homes = {host["at"] for host in hosts}
        pop = next((pop for pop in reversed(self._pops) if pop not in homes), self._pops[0])
        if pop not in homes and self._rng.random() < 0.7:
            self._agents.remove(pop)
        agents: list[Document] = [{"name": "second", "pop": pop}]
        if self._rng.random() < 0.5:
            agents.append({"name": "slicer", "scope": self._rng.choice(["slice", "domain"])})
        self._agents += [agent["name"] for agent in agents]
        return agents

    def _functions(self, *, published: bool) -> Document:
        """Return functions with their images; without some where they are scarce."""
        rng = self._rng
        functions: Document = {
            name: {"image_mb": rng.choice([1, 10, 40]), "boot_s": self._between(0, 2)}
            for name in _VNFS
            if name == "link-monitor" or "scarce" not in self._on or rng.random() < 0.8
        }
        if not published:
            sizes = [0.2, 1, 3] if self._live else [0.2, 2, 20, 40]
            sizes = sizes if "images" in self._on else [0]
            functions |= {
                name: {"image_mb": rng.choice(sizes), "boot_s": self._between(0, 1)}
                for name in _BY_SERVICE
            }
        return functions

    # -- what agents are told -----------------------------------------------------------------

    def _monitors(self, hosts: list[Document]) -> list[Document]:
        monitors = [
            {
                "link": f"{host['at']}>{host['name']}",
                "at": host["at"],
                "threshold_mb_s": round(0.75 * host["bandwidth_mb_s"], 3),
            }
            for host in hosts
        ]
        home = hosts[0]["at"]
        trunks = [f"{a}>{b}" for pair in self._links for a, b in (pair, pair[::-1]) if b == home]
        if "link-watch" in self._on and trunks:
            trunk = self._rng.choice(trunks)
            monitors.append({"link": trunk, "at": home, "threshold_mb_s": 2.5})
        if "crowd" in self._on:
            monitors[0]["connections"] = 200
        return monitors

    def _goals(self) -> Document:
        constraints: Document = {}
        if "constraints" in self._on:
            constraints = self._rng.choice([{"latency_ms": 60}, {"loss": 0.08, "hops": 4}])
        if "tight" in self._on:
            constraints = constraints | {"hops": 1, "latency_ms": 5}
        if "deadline" in self._on:
            constraints = constraints | {"time_s": self._rng.choice([0.5, 2, 8])}
        preferences = [
            {"time": 0.8, "cost": 0.1, "decentralisation": 0.1},
            {"time": 0.0, "cost": 0.2, "decentralisation": 0.8},
            {"time": 0.3, "cost": 0.7, "decentralisation": 0.0},
        ]
        return {
            "default": {"preferences": self._rng.choice(preferences), "constraints": constraints}
        }

    def _timing(self) -> Document:
        rng = self._rng
        return {
            "idle_timeout_s": rng.choice([5, 15]),
            "lease_s": rng.choice([4, 9]),
            "heartbeat_s": rng.choice([1, 2]),
            "silence_s": rng.choice([4, 7]),
            "tick_s": rng.choice([0.2, 0.5]),
            "sample_s": 1 if self._live else 10,
        }

    # -- traffic ------------------------------------------------------------------------------

    def _traffic(self, hosts: list[Document]) -> list[Document]:
        rng = self._rng
        groups: list[Document] = [
            {
                "name": f"users-{host['name']}",
                "profile": rng.choice(["http", "video"]),
                "count": rng.randint(1, 12),
                "at": self._pops,
                "target": host["name"],
                "port": 80,
                "demand_mb_s": self._between(0.005, 0.05),
            }
            for host in hosts
        ]
        if "crowd" in self._on:
            start = self._between(10, 30)
            groups.append(
                {
                    "name": "crowd",
                    "profile": "http",
                    "count": rng.randint(20, 50),
                    "at": self._pops,
                    "target": hosts[0]["name"],
                    "port": 80,
                    "demand_mb_s": self._between(0.005, 0.02),
                    "start_s": start,
                    "spread_s": 10,
                    "end_s": self._end_s,
                }
            )
        attacks = rng.choice([0, 1, 1, 1, 2]) if not self._live else rng.choice([1, 1, 2])
        for number in range(attacks if "mixed" not in self._on else 4):
            groups.append(self._attack(f"attackers{number + 1}", hosts))
        return groups

    def _attack(self, name: str, hosts: list[Document]) -> Document:
        rng, on = self._rng, self._on
        slow = "slow-http" in on and rng.random() < 0.5
        floods = FORGED if "forged" in on and rng.random() < 0.4 else FLOODS
        group: Document = {
            "name": name,
            "profile": "slow-http" if slow else rng.choice(floods),
            "count": rng.choice([30, 150]) if slow else rng.randint(1, 8),
            "at": sorted(rng.sample(self._pops, rng.randint(1, len(self._pops)))),
            "target": hosts[0]["name"],
            "port": rng.choice([80, [80, 443]]) if not slow else 80,
            "demand_mb_s": 0.001 if slow else self._between(0.2, 2.0),
            "start_s": self._between(5, 20),
            "end_s": self._end_s,
        }
        if group["profile"] in FORGED:  # each packet is a flow of its own
            group["demand_mb_s"] = self._between(0.05, 0.2)
        if "carpet" in on and not slow:
            group["target"] = [host["name"] for host in hosts]
        shape: Document = {}
        if "ramp" in on:
            shape["ramp_s"] = self._between(2, 20)
        if "pulse" in on:
            shape |= {"on_s": self._between(0.5, 10), "off_s": self._between(0.5, 15)}
        if shape:
            group["shape"] = shape
        if "spread" in on:
            group |= {"spread_s": self._between(0, 15), "jitter": self._between(0, 0.5)}
        if "moving" in on:
            group["adapt"] = rng.choice(["quiet", "move"])
        if not self._live and rng.random() < 0.1:
            group["asymmetric"] = True
        return group

    # -- faults -------------------------------------------------------------------------------

    def _fault(self) -> Document:
        rng = self._rng
        kind = rng.choices(self._kinds, [FAULTS.get(kind, 2) for kind in self._kinds])[0]
        at_s = self._between(0, self._last_fault_s)
        fault: Document = {"at_s": at_s, "kind": kind}
        lasting = not self._live and kind == "crash" and rng.random() < 0.4
        if kind not in ("restart", "drain") and not lasting:
            fault["for_s"] = self._between(0.5, self._faults_end_s - at_s)
        agents = self._agents
        match kind:
            case "crash" | "restart" | "drain":
                fault["agent"] = rng.choice(agents)
                if "for_s" in fault or kind == "restart":
                    fault["memory"] = rng.random() < 0.5
            case "link-down":
                fault["link"] = list(rng.choice(self._links))
            case "degrade":
                fault |= {
                    "link": list(rng.choice(self._links)),
                    "share": rng.choice([0.05, 0.3, 0.9]),
                    "latency_ms": self._between(0, 400),
                    "loss": rng.choice([0, 0.05, 0.4]),
                }
            case "partition":
                mixed = rng.sample(agents, len(agents))
                cut = rng.randint(1, max(1, len(mixed) - 1))
                fault["groups"] = [sorted(mixed[:cut])]
            case "drift":
                fault |= {"agent": rng.choice(agents), **self._drift()}
            case "slow-disk":
                fault |= {"agent": rng.choice(agents), "delay_s": self._between(0.01, 3)}
            case "full-disk":
                fault["agent"] = rng.choice(agents)
            case "broker-down":
                fault["broker"] = rng.randint(1, 3)
            case "lose" | "duplicate" | "delay" | "reorder":
                fault["share"] = rng.choice([0.05, 0.3, 1.0])
                if rng.random() < 0.3:
                    fault["agent"] = rng.choice(agents)
        return fault

    def _drift(self) -> Document:
        """Return how a clock goes wrong: it runs fast or slow, or jumps, or both."""
        rate = {"rate": self._rng.choice([0.5, 0.9, 0.99, 1.01, 1.1, 2.0])}
        jump = {"jump_s": self._between(0.1, 30)}
        return self._rng.choice([rate, rate, jump, rate | jump])
