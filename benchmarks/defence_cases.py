"""Cases of attacks on networks, each made into a scenario by its name and a seed.

A case is named by what makes it, such as ``syn/pulses/ring-8/scarce/crash``: the attack, its
shape, the topology and its size, then what is out of the ordinary. The same name and seed give
the same scenario; another seed gives other places, links, resources and starts.
"""

from __future__ import annotations

import random
from itertools import pairwise
from math import dist
from pathlib import Path

import networkx as nx
from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.loading.refusals import nearest
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import (
    ConstraintsSpec,
    FaultSpec,
    FunctionSpec,
    GoalSpec,
    HostLimitsSpec,
    HostSpec,
    LinkSpec,
    MonitorSpec,
    NetworkSpec,
    PopSpec,
    PreferencesSpec,
    Scenario,
    ShapeSpec,
    TrafficSpec,
)
from phalanx.runtime.topology import from_graphml

DEMO = Path(__file__).resolve().parents[1] / "scenarios" / "ddos-resilience.yaml"
START_S, END_S = 20.0, 140.0
"""When an attack begins and ends, unless its shape says otherwise."""
AFTERMATH_S = 30.0
"""How long a run goes on after the attack."""
ACCESS_MB_S = 6.0
IMAGE_MB = 100.0
PREFIX = tuple(f"guest{number}" for number in range(1, 25))
"""Hosts of a prefix that is attacked as a whole."""

ATTACKS = {
    "syn": "syn-flood",
    "syn-forged": "syn-flood-spoofed",
    "udp": "udp-flood",
    "udp-forged": "udp-flood-spoofed",
    "slow": "slow-http",
    "dns": "dns-reflection",
    "ntp": "ntp-reflection",
    "ack": "ack-flood",
    "ack-forged": "ack-flood-spoofed",
    "syn-ack": "syn-ack-flood",
    "syn-ack-forged": "syn-ack-flood-spoofed",
}
"""Profiles by the name of the attack."""
PEACE = {
    "crowd": "no attack, but 200 users more than usual; with `+crowd` 60 more beside an attack",
    "calm": "nothing out of the ordinary but what the rest of the name says",
}
SHAPES = {
    "steady": "from second 20 to 140",
    "ramp": "as steady, but one source after another within 60 s",
    "pulses": "three times 40 s, each with other sources, with pauses of 40 s",
    "beats": "five times 20 s by the same sources, with pauses of 20 s",
    "quiet": "as steady, but a source that gets little through sends nothing for 30 s",
    "move": "as steady, but a source that gets little through moves to another address and PoP",
    "oneway": "as steady, but answers take another way, where only the target's PoP sees them",
    "waves": "from second 20 to 140, and from 80 to 200 from other sources and PoPs",
}
FAMILIES = ("ring", "star", "tree", "mesh", "line")
AIMS = {
    "two": "two servers at different PoPs are attacked at once",
    "neighbour": "24 MB/s on an unmonitored host at the server's PoP",
    "upstream": "30 MB/s, which the server's own link could carry and those before it cannot",
    "15mb": "15 MB/s on a server behind 6 MB/s",
    "60mb": "60 MB/s on a server behind 6 MB/s",
    "swarm": "6 MB/s from 200 sources",
    "carpet": "20 MB/s spread over the 24 addresses of a prefix, whose links to others are watched",
    "fragile": "a server without SYN cookies, with a backlog of 1,024 and 20,000 packets/s",
    "uneven": "each user wants up to 60 % more or less than others, by the seed",
    "inside": "all attackers stand at the server's own PoP",
}
RESOURCES = {
    "scarce": "1 or 2 cores and 1.5 to 3 GB at each PoP",
    "far": "the VNF repository behind a link of 0.5 MB/s",
    "full": "PoPs at which the attack enters have room for nothing",
}
FAULTS = {
    "crash": "the agent at a PoP where the attack enters dies as it begins",
    "restart": "the agent at the server's PoP is away from second 25 to 35",
    "away": "the repository is away from second 15 to 75",
    "cut": "a link on the attack's way is down from second 40 to 80",
    "lossy": "10 % of the agents' messages are lost",
    "blackout": "the agents at all PoPs where the attack enters die as it begins",
    "split": "all links of the server's PoP are down from second 40 to 60",
    "noisy": "every link loses 3 % of all packets",
}
_EXTRAS = {"aim": AIMS, "resources": RESOURCES, "fault": FAULTS}


class Case(Struct, frozen=True):
    """What makes a case; empty fields are as usual."""

    attack: str
    shape: str
    topology: str
    aim: str = ""
    resources: str = ""
    fault: str = ""

    @property
    def name(self) -> str:
        """All that is not as usual, joined by strokes."""
        return "/".join(
            filter(
                None,
                (self.attack, self.shape, self.topology, self.aim, self.resources, self.fault),
            )
        )

    @property
    def crowded(self) -> bool:
        """Whether far more users than usual come."""
        return self.attack.endswith("crowd")

    @property
    def profile(self) -> str | None:
        """The profile of the attackers; None: there are none."""
        return ATTACKS.get(self.attack.removesuffix("+crowd"))


def named(name: str) -> Case:
    """Return the case of a name.

    Raises:
        ValueError: with one line, if a part of the name is not known.

    """
    attack, shape, topology, *extras = [*name.split("/"), "", ""][: max(3, name.count("/") + 1)]
    kind = attack.removesuffix("+crowd")
    _known("attack", kind, [*ATTACKS, *PEACE])
    _known("shape", shape, list(SHAPES))
    family, _, size = topology.partition("-")
    _known("topology", family, ["demo", *FAMILIES])
    if family != "demo" and not (size.isdigit() and int(size) >= 3):
        raise ValueError(f"{name}: a {family} needs a size from 3, such as {family}-8")
    fields = {}
    for extra in extras:
        field = next((f for f, words in _EXTRAS.items() if extra in words), None)
        if field is None or field in fields:
            _known("circumstance", extra, [w for f, ws in _EXTRAS.items() for w in ws])
            raise ValueError(f"{name}: only one of {', '.join(_EXTRAS[field or 'aim'])}")
        fields[field] = extra
    return Case(attack, shape, topology, **fields)


def _known(what: str, word: str, words: list[str]) -> None:
    if word not in words:
        raise ValueError(f"no {what} {word!r}{nearest(word, words)}; known are {', '.join(words)}")


def random_case(rng: random.Random) -> Case:
    """Draw a case of 3 to 40 PoPs, of which nobody has seen how it ends."""
    topology = f"{rng.choice(FAMILIES)}-{rng.randint(3, 40)}"
    attack, shape = rng.choice([*ATTACKS, *PEACE]), rng.choice(list(SHAPES))
    extras = [rng.choice(["", "", *words]) for words in _EXTRAS.values()]
    if attack in PEACE:
        return Case(attack, rng.choice(["steady", "ramp"]), topology, "", *extras[1:])
    if rng.random() < 0.2:
        attack += "+crowd"
    return Case(attack, shape, topology, *extras)


def scenario(case: Case, seed: int) -> Scenario:
    """Return the scenario of a case."""
    if case.topology == "demo":
        return _on_the_demo(case, seed)
    return _Builder(case, seed).scenario()


def on_graph(path: Path, seed: int) -> Scenario:
    """Return a SYN flood on a server at the best linked node of a GraphML file.

    The attackers enter at up to six other nodes, drawn by the seed.

    Raises:
        ScenarioError: with one line, if the file cannot be used.

    """
    moved = from_graphml(path, scenario(Case("syn", "steady", "ring-8"), seed))
    server = moved.hosts[0].at
    nodes = [pop.name for pop in moved.network.pops if pop.name != server]
    if not nodes:
        raise ScenarioError(f"{path}: a single node; an attack needs two")
    rng = random.Random(f"{path.stem}/{seed}")
    entries = tuple(rng.sample(nodes, min(6, len(nodes))))
    traffic = tuple(
        replace(group, at=entries) if group.name == "attackers" else group
        for group in moved.traffic
    )
    return replace(moved, name=path.stem, traffic=traffic)


def _on_the_demo(case: Case, seed: int) -> Scenario:
    demo = load_scenario(DEMO)
    if case != Case("syn", "steady", "demo"):
        demo = replace(demo, traffic=_others(case, demo))
    return replace(demo, name="demo", seed=seed)


def _others(case: Case, demo: Scenario) -> tuple[TrafficSpec, ...]:
    """Return the demo's traffic with its attackers replaced by those of the case."""
    if case.shape != "steady" or case.aim or case.resources or case.fault:
        raise ValueError(f"{case.name}: on the demo's network only the attack can be chosen")
    users = [group for group in demo.traffic if group.name != "attackers"]
    attackers = next(group for group in demo.traffic if group.name == "attackers")
    if case.profile is not None:
        demand = 0.001 if case.profile == "slow-http" else attackers.demand_mb_s
        users.append(replace(attackers, profile=case.profile, demand_mb_s=demand))
    if case.crowded:
        crowd = next(group for group in users if group.name == "web-users")
        users.append(replace(crowd, name="crowd", count=300, start_s=40, end_s=160, spread_s=20))
    return tuple(users)


class _Builder:
    """One case on its way to a scenario; everything random is drawn in one order."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case = case
        self._seed = seed
        self._rng = rng = random.Random(f"{case.name}/{seed}")
        family, _, size = case.topology.partition("-")
        self._graph, self._places = _graph(family, int(size), rng)
        self._pops = list(self._graph)
        self._server = rng.choice(self._pops)
        others = [pop for pop in self._pops if pop != self._server]
        self._entries = rng.sample(others, min(4, len(others)))
        if case.aim == "inside":
            self._entries = [self._server]
        self._late = rng.sample(others, min(4, len(others)))
        self._second = rng.choice(others)
        self._repository = rng.choice(self._pops)
        self._user_pops = tuple(rng.sample(self._pops, min(10, len(self._pops))))
        self._access_mb_s = 40.0 if case.aim == "upstream" else ACCESS_MB_S

    def scenario(self) -> Scenario:
        demo = load_scenario(DEMO)
        case, server = self._case, self._server
        traffic = self._traffic()
        ends = [group.end_s for group in traffic if group.end_s is not None]
        monitors = [MonitorSpec(f"{server}>server", server, 0.75 * self._access_mb_s, 256)]
        if case.aim == "carpet":  # the flood is on no single host's link
            monitors = [
                MonitorSpec(f"{a if b == server else b}>{server}", server, 6.0)
                for a, b in self._graph.edges
                if server in (a, b)
            ]
        if case.aim == "two":
            monitors.append(MonitorSpec(f"{self._second}>shop", self._second, 4.5, 256))
        proxied = GoalSpec(PreferencesSpec(0.6, 0.3, 0.1), ConstraintsSpec(hops=0))
        return replace(
            demo,
            name="case",
            description=case.name,
            seed=self._seed,
            duration_s=max(ends, default=END_S) + AFTERMATH_S,
            network=self._network(),
            hosts=self._hosts(),
            traffic=traffic,
            monitors=tuple(monitors),
            functions={
                **{n: replace(f, image_mb=IMAGE_MB) for n, f in demo.functions.items()},
                "syn-proxy": FunctionSpec(image_mb=IMAGE_MB),
            },
            goals={**demo.goals, "HandshakesProxied": proxied},
            faults=self._faults(),
        )

    def _network(self) -> NetworkSpec:
        rng = self._rng
        # The server's PoP comes first: on another graph, it gets the node with the most links.
        order = sorted(self._pops, key=lambda pop: pop != self._server)
        pops = [self._pop(pop) for pop in order]
        links = [
            LinkSpec((a, b), rng.choice([8.0, 10.0, 15.0, 20.0]), round(rng.uniform(1, 8), 2))
            for a, b in self._graph.edges
        ]
        repository = self._repository
        if self._case.resources == "far":
            pops.append(PopSpec("depot", 1, 1, 100, -1.0, -1.0))
            links.append(LinkSpec(("depot", repository), 0.5, 20.0))
            repository = "depot"
        loss = 0.03 if self._case.fault == "noisy" else 0.001
        return NetworkSpec(tuple(pops), repository, tuple(links), loss)

    def _pop(self, pop: str) -> PopSpec:
        rng = self._rng
        cores, memory = rng.choice([4.0, 6.0, 8.0]), rng.choice([8.0, 12.0, 16.0])
        if self._case.resources == "scarce":
            cores, memory = rng.choice([1.0, 2.0]), rng.choice([1.5, 2.0, 3.0])
            if pop in (self._server, self._second):  # their monitors run from the start
                cores, memory = 2.0, 2.0
        elif self._case.resources == "full" and pop in {*self._entries} - {
            self._server,
            self._second,
        }:
            cores, memory = 0.2, 0.2
        return PopSpec(pop, cores, memory, 300.0, *self._places[pop])

    def _hosts(self) -> tuple[HostSpec, ...]:
        fragile = HostLimitsSpec(backlog=1024, syn_cookies=False, packets_s=20_000)
        limits = fragile if self._case.aim == "fragile" else None
        hosts = [
            HostSpec("server", self._server, "10.0.0.10", self._access_mb_s, limits=limits),
            HostSpec("office", self._server, "10.0.0.20", ACCESS_MB_S),
        ]
        if self._case.aim == "carpet":
            hosts += [
                HostSpec(name, self._server, f"10.0.1.{number}", ACCESS_MB_S)
                for number, name in enumerate(PREFIX, 1)
            ]
        if self._case.aim == "two":
            hosts.append(HostSpec("shop", self._second, "10.0.0.30", ACCESS_MB_S))
        return tuple(hosts)

    def _traffic(self) -> tuple[TrafficSpec, ...]:
        at = self._user_pops
        users = [
            TrafficSpec("users", "http", 20, at, "server", 443, 0.04, spread_s=5),
            TrafficSpec("viewers", "video", 4, at, "server", 8080, 0.05, spread_s=5),
            TrafficSpec("office-users", "http", 5, at, "office", 443, 0.05, spread_s=5),
        ]
        if self._case.aim == "uneven":
            users = [replace(group, jitter=0.6) for group in users]
        aimed: dict[str, str | tuple[str, ...]] = {"neighbour": "office", "carpet": PREFIX}
        targets = [aimed.get(self._case.aim, "server")]
        if self._case.aim == "carpet":
            users.append(TrafficSpec("guests", "http", 24, at, PREFIX, 443, 0.04, spread_s=5))
        if self._case.aim == "two":
            targets.append("shop")
            users.append(TrafficSpec("buyers", "http", 20, at, "shop", 443, 0.04, spread_s=5))
        if self._case.crowded:
            count = (
                60 if self._case.profile else {"15mb": 375, "60mb": 1500}.get(self._case.aim, 200)
            )
            spread = 60.0 if self._case.shape == "ramp" else 10.0
            users.append(
                TrafficSpec("crowd", "http", count, at, "server", 443, 0.04, START_S, END_S, spread)
            )
        if self._case.profile is None:
            return tuple(users)
        return (*users, *(group for target in targets for group in self._attackers(target)))

    def _attackers(self, target: str | tuple[str, ...]) -> list[TrafficSpec]:
        case = self._case
        count, total = {
            "neighbour": (12, 24.0),
            "upstream": (12, 30.0),
            "15mb": (8, 15.0),
            "60mb": (24, 60.0),
            "swarm": (200, 6.0),
            "carpet": (24, 20.0),
        }.get(case.aim, (8, 6.0))
        assert case.profile is not None
        name = "attackers" if target != "shop" else "shop-attackers"
        group = TrafficSpec(
            name,
            case.profile,  # type: ignore[arg-type]  # a profile's name
            count,
            tuple(self._entries),
            target,
            (443, 8080) if target == "server" else 443,
            0.001 if case.profile == "slow-http" else total / count,
            START_S,
            END_S,
        )
        match case.shape:
            case "ramp":
                return [replace(group, spread_s=60.0)]
            case "beats":
                return [replace(group, end_s=200.0, shape=ShapeSpec(on_s=20.0, off_s=20.0))]
            case "quiet":
                return [replace(group, adapt="quiet")]
            case "move":
                return [replace(group, adapt="move")]
            case "oneway":
                return [replace(group, asymmetric=True)]
            case "waves":
                late = replace(
                    group, name=f"late-{name}", at=tuple(self._late), start_s=80.0, end_s=200.0
                )
                return [group, late]
            case "pulses":
                return [
                    replace(group, name=f"{name}-{n}", start_s=at, end_s=at + 40.0)
                    for n, at in enumerate((20.0, 100.0, 180.0), 1)
                ]
        return [group]

    def _faults(self) -> tuple[FaultSpec, ...]:
        match self._case.fault:
            case "crash":
                return (FaultSpec(START_S + 1, "crash", agent=self._entries[0]),)
            case "restart":
                return (FaultSpec(25.0, "crash", agent=self._server, for_s=10.0),)
            case "away":
                return (FaultSpec(15.0, "repository-away", for_s=60.0),)
            case "lossy":
                return (FaultSpec(0.0, "lose", share=0.1),)
            case "blackout":
                return tuple(FaultSpec(START_S + 1, "crash", agent=pop) for pop in self._entries)
            case "split":
                return tuple(
                    FaultSpec(40.0, "link-down", link=(a, b), for_s=20.0)
                    for a, b in self._graph.edges
                    if self._server in (a, b)
                )
            case "cut":
                return (FaultSpec(40.0, "link-down", link=self._on_the_way(), for_s=40.0),)
        return ()

    def _on_the_way(self) -> tuple[str, str]:
        """Return a link from an entry to the server, if there is one that can be spared."""
        bridges = {frozenset(pair) for pair in nx.bridges(self._graph)}
        way = nx.shortest_path(self._graph, self._entries[0], self._server)
        spared = [pair for pair in pairwise(way) if frozenset(pair) not in bridges]
        a, b = (spared or [*pairwise(way)])[0]
        return (a, b) if self._graph.has_edge(a, b) else (b, a)


def _graph(
    family: str, size: int, rng: random.Random
) -> tuple[nx.Graph[str], dict[str, tuple[float, float]]]:
    """Return a connected graph of ``size`` nodes, and a place of each in a unit square."""
    names = [f"p{number}" for number in range(1, size + 1)]
    places = {name: (round(rng.random(), 3), round(rng.random(), 3)) for name in names}
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(names)
    for number, name in enumerate(names[1:], 1):
        match family:
            case "star":
                ends = names[:1]
            case "tree":
                ends = [names[(number - 1) // 2]]
            case "mesh":  # each joins the two nearest of those before it
                before = sorted(names[:number], key=lambda n: dist(places[n], places[name]))
                ends = before[:2]
            case _:
                ends = [names[number - 1]]
        graph.add_edges_from((end, name) for end in ends)
    if family == "ring":
        graph.add_edge(names[-1], names[0])
    return graph, places


def _listed(names: str) -> tuple[Case, ...]:
    return tuple(named(name) for name in names.split())


TABLE = _listed("""
    syn/steady/demo  syn-forged/steady/demo  udp/steady/demo  slow/steady/demo
    crowd/steady/demo  syn+crowd/steady/demo
    syn/steady/ring-6  syn/steady/star-8  syn/steady/tree-15  syn/steady/mesh-24
    syn/steady/line-6  syn/steady/ring-24  syn/steady/mesh-100
    syn-forged/steady/ring-6  syn-forged/steady/star-8  syn-forged/steady/tree-15
    syn-forged/steady/mesh-24
    udp/steady/ring-6  udp/steady/star-8  udp/steady/tree-15  udp/steady/mesh-24
    udp-forged/steady/ring-6  udp-forged/steady/star-8  udp-forged/steady/tree-15
    udp-forged/steady/mesh-24
    slow/steady/ring-6  slow/steady/star-8  slow/steady/mesh-24
    crowd/steady/ring-6  crowd/steady/tree-15  crowd/steady/mesh-24  crowd/ramp/star-8
    syn+crowd/steady/ring-6  udp+crowd/steady/mesh-24  slow+crowd/steady/star-8
    syn-forged+crowd/steady/tree-15
    syn/pulses/ring-6  syn/pulses/mesh-24  udp/pulses/tree-15  slow/pulses/ring-6
    syn-forged/pulses/star-8
    syn/ramp/mesh-24  udp/ramp/ring-6  slow/ramp/tree-15
    syn/waves/ring-6  syn/waves/mesh-24  udp/waves/star-8  udp-forged/waves/mesh-12
    syn/steady/ring-6/two  udp/steady/mesh-24/two  syn-forged/steady/tree-15/two
    slow/steady/star-8/two
    syn/steady/ring-6/neighbour  udp/steady/mesh-24/neighbour
    udp-forged/steady/tree-15/neighbour
    syn/steady/ring-8/carpet  udp/steady/mesh-24/carpet  udp-forged/steady/star-8/carpet
    dns/steady/tree-15/carpet  syn-forged/steady/mesh-24/carpet  syn/pulses/ring-8/carpet
    syn/steady/mesh-12/uneven  udp/ramp/tree-15/uneven  crowd/steady/ring-8/full
    syn/steady/ring-6/upstream  udp/steady/mesh-24/upstream  udp-forged/steady/line-6/upstream
    syn/steady/ring-6/15mb  udp/steady/tree-15/15mb  syn-forged/steady/mesh-24/15mb
    syn/steady/mesh-24/60mb  udp/steady/ring-24/60mb  udp-forged/steady/star-8/60mb
    syn/steady/ring-6/scarce  udp/steady/mesh-24/scarce  slow/steady/tree-15/scarce
    syn-forged/pulses/ring-6/scarce
    syn/steady/mesh-24/far  udp/steady/ring-6/far  syn-forged/steady/star-8/far
    syn/steady/ring-6/full  udp/steady/mesh-24/full  syn/steady/tree-15/15mb/full
    syn/steady/ring-6/crash  udp/steady/mesh-24/crash  syn/steady/tree-15/scarce/crash
    syn/steady/ring-6/restart  udp/steady/mesh-24/restart  slow/steady/ring-6/restart
    syn/steady/ring-6/away  udp/steady/mesh-24/away  syn/pulses/tree-15/away
    syn/steady/ring-6/cut  udp/steady/mesh-24/cut  syn/steady/mesh-24/60mb/cut
    calm/steady/ring-6/lossy  calm/steady/tree-15/split  calm/steady/mesh-24/noisy
    calm/steady/line-6/scarce/restart  crowd/steady/tree-15/15mb  crowd/steady/mesh-24/60mb
    crowd/steady/mesh-24/noisy  crowd/ramp/line-6/split
    dns/steady/ring-6  dns/steady/mesh-24/15mb  ntp/steady/star-8  ntp/pulses/tree-15
    ack/steady/ring-6  ack-forged/steady/mesh-24  syn-ack/steady/tree-15
    syn-ack-forged/steady/star-8  ack-forged/steady/ring-6/upstream  dns+crowd/steady/ring-6
    syn/beats/ring-6  udp/beats/mesh-24  syn-forged/beats/tree-15  slow/beats/star-8
    syn/quiet/mesh-24  udp/quiet/ring-6  syn/move/ring-6  udp/move/mesh-24  ack/move/star-8
    syn/oneway/mesh-24  udp/oneway/ring-6  syn-forged/oneway/tree-15
    syn/steady/ring-6/fragile  syn-forged/steady/mesh-24/fragile  ack/steady/star-8/fragile
    syn/steady/ring-24/swarm  udp/steady/ring-6/swarm  slow/steady/star-8/swarm
    syn/steady/ring-6/inside  udp-forged/steady/mesh-24/inside  slow/steady/tree-15/inside
    syn/steady/ring-6/blackout  udp/steady/mesh-24/blackout  syn-forged/steady/tree-15/blackout
    syn/steady/ring-6/split  syn-forged/steady/mesh-24/split
    syn/steady/mesh-24/noisy  slow/steady/ring-6/noisy  udp-forged/pulses/line-6/noisy
    syn/steady/ring-6/lossy  udp/steady/mesh-24/lossy  slow/steady/star-8/lossy
""")
"""The cases of the table."""

QUICK = _listed("""
    syn/steady/demo  syn-forged/steady/ring-6  udp/steady/star-8  udp-forged/steady/tree-15
    slow/steady/ring-6  crowd/steady/ring-6  syn+crowd/steady/ring-6  syn/pulses/ring-6
    syn/steady/ring-6/two  syn/steady/ring-6/upstream  syn/steady/ring-6/scarce
    syn/steady/ring-6/crash
""")
"""A dozen, for a quick look."""

LARGE = _listed("""
    syn/steady/ring-1000  udp/steady/mesh-1000  syn-forged/steady/tree-1000
    syn/steady/star-1000/15mb
""")
"""Networks of a thousand PoPs, for nightly runs."""
