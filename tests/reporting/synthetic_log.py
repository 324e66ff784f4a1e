"""A made-up but plausible log of the DDoS scenario (dissertation, sections 5.3 and 5.4).

It follows docs/reference/events.md, so that the report can be tested without a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from phalanx.domain.events import Event, Recorder

SERVER = "10.0.6.10"
LINK = "pop6>server"
ATTACKERS = [f"10.2.0.{n}" for n in range(1, 9)]
TOTALS = {
    "pop1": (6, 6, 700),
    "pop2": (4, 6, 400),
    "pop3": (2, 4, 1000),
    "pop4": (2, 6, 1000),
    "pop5": (4, 6, 400),
    "pop6": (2, 4, 500),
}
LINKS = [
    ("pop1", "pop5", 10, 10),
    ("pop1", "pop2", 9, 5.5),
    ("pop5", "pop6", 8, 14),
    ("pop4", "pop6", 7, 19),
    ("pop1", "pop4", 5, 8),
    ("pop2", "pop3", 5, 6.5),
    ("pop3", "pop4", 5, 14.5),
]
NEEDS = {
    "link-monitor": (1, 1, 2),
    "rate-limiter": (1, 1, 2),
    "anomaly-detector": (1, 2, 10),
    "classifier": (2, 4, 10),
    "load-balancer": (1, 1, 2),
}
PATHS = {
    "pop1": ["pop1", "pop5", "pop6"],
    "pop2": ["pop2", "pop1", "pop5", "pop6"],
    "pop3": ["pop3", "pop4", "pop6"],
    "pop4": ["pop4", "pop6"],
    "pop5": ["pop5", "pop6"],
    "pop6": ["pop6"],
}
# T, C, D and utility of table 5.8, agents 1 to 6; None: refused.
Row = tuple[float, float, float, float] | None
LINK_BIDS: list[Row] = [
    (50, 16.88, 25.84, 0.50),
    (55.56, 26.91, 39.63, 0.54),
    (100, 16.87, 33.12, 0.88),
    (100, 4.88, 18.01, 0.87),
    (0, 5.65, 13.22, 0.09),
    (62.5, 0, 0, 0.60),
]
ANOMALY_BIDS: list[Row] = [
    (50, 17.22, 26.43, 0.50),
    (55.56, 27.48, 41.94, 0.78),
    (100, 21.84, 34.92, 0.87),
    (100, 11.84, 17.48, 0.63),
    (0, 6.55, 12.64, 0.00),
    None,
]
IP_BIDS: list[Row] = [
    (50, 2.80, 8.44, 0.49),
    (55.56, 21.84, 12.34, 0.62),
    (100, 20.72, 43.10, 0.89),
    (100, 8.73, 31.03, 0.87),
    (0, 0, 0, 0.10),
    (62.5, 1.09, 12.34, 0.58),
]
SPLIT_BIDS: list[Row] = [
    (50, 2.80, 9.07, 0.24),
    (55.56, 21.84, 18.06, 0.87),
    (100, 20.72, 49.21, 0.96),
    (100, 8.73, 33.38, 0.58),
    (0, 0, 0, 0.00),
    (62.5, 1.09, 14.52, 0.22),
]
FIRST_FLOW: list[Row] = [
    (50, 0.40, 11.04, 0.80),
    (55.56, 19.62, 13.06, 0.92),
    (100, 24.61, 52.69, 0.20),
    (100, 14.61, 39.15, 0.38),
    None,
    None,
]
SECOND_FLOW: list[Row] = [
    (50, 0.40, 13.65, 0.80),
    (55.56, 19.62, 19.14, 0.85),
    None,
    (100, 12.23, 42.57, 0.15),
    None,
    None,
]


class Play:
    """Writes the events of one run, in order of time."""

    def __init__(self, pops: int = 6, seed: int = 1, end_s: float = 520) -> None:
        self.events: list[Event] = []
        self.time = 0.0
        self.end_s = end_s
        self.names = [f"pop{n}" for n in range(1, pops + 1)]
        self.agents = {
            name: Recorder(name, self._keep, lambda: self.time)
            for name in [*self.names, "network", "run"]
        }
        self.free = {name: list(self.total(name)) for name in self.names}
        self.count = 0
        self.auctions = 0
        self.sampled = 0
        self.seed = seed

    def _keep(self, event: Event) -> None:
        self.events.append(event)

    def total(self, pop: str) -> tuple[float, float, float]:
        return TOTALS[f"pop{(int(pop[3:]) - 1) % 6 + 1}"]

    def tell(self, agent: str, kind: str, cause: str | None, /, **data: Any) -> str:
        return self.agents[agent].record(kind, cause, **data)

    def until(self, time: float) -> None:
        """Let time pass, with a sample each second."""
        while self.sampled < time:
            self.time = float(self.sampled)
            self._sample()
            self.sampled += 1
        self.time = time

    def _sample(self) -> None:
        t = self.time
        wobble = 0.06 * math.sin(t / 3.7 + self.seed) + 0.04 * math.sin(t / 1.3)
        wanted = 1.0 + wobble
        attack = 6.0 if 20 <= t < 420 else 0.0
        allowed = 0.0 if t >= 164 else max(0.0, 6.0 - 0.75 * max(0, (t - 140) // 3))
        arriving = min(attack, allowed)
        room = 6.0 if t < 45 else 4.0 if t < 90 else 2.0 if t < 150 else 6.0
        share = min(1.0, room / max(1e-9, wanted + arriving))
        legitimate, malicious = wanted * (share**2 if arriving else 1.0), arriving * share
        load = round(legitimate + malicious, 3)
        self.tell(
            "network",
            "network.sample",
            "run-1",
            hosts={
                "server": {
                    "legitimate_mb_s": round(legitimate, 4),
                    "malicious_mb_s": round(malicious, 4),
                    "wanted_mb_s": round(wanted, 4),
                },
                "office": {
                    "legitimate_mb_s": 0.2,
                    "malicious_mb_s": 0.0,
                    "wanted_mb_s": 0.2,
                },
            },
            links={
                LINK: {"mb_s": load, "bandwidth_mb_s": 6.0, "queue_ms": 2.0 if load > 5 else 0.0},
                "pop5>pop6": {"mb_s": 0.6 * load, "bandwidth_mb_s": 8.0, "queue_ms": 0.0},
                "pop4>pop6": {"mb_s": 0.4 * load, "bandwidth_mb_s": 7.0, "queue_ms": 0.0},
                "pop1>pop5": {"mb_s": 0.5 * load, "bandwidth_mb_s": 10.0, "queue_ms": 0.0},
            },
            downloads=0,
        )

    def take(self, pop: str, vnf: str, units: int, cause: str) -> str:
        """Take resources of a PoP (give them back with negative units)."""
        for index, need in enumerate(NEEDS[vnf]):
            self.free[pop][index] -= need * units
        return self.tell(
            "network",
            "resources.changed",
            cause,
            pop=pop,
            free=_resources(self.free[pop]),
            total=_resources(self.total(pop)),
        )

    def start(
        self, at: float, pop: str, vnf: str, cause: str, *, path: list[str], units: int = 1
    ) -> str:
        """Place an instance: download, boot, path; returns its name and moves time to ``at``."""
        self.count += 1
        name = f"{vnf}-{self.count}"
        cause = self.tell(
            "network",
            "instance.downloading",
            cause,
            instance=name,
            vnf=vnf,
            pop=pop,
            image_mb=500.0,
            path=["pop5", pop] if pop != "pop5" else ["pop5"],
        )
        self.take(pop, vnf, units, cause)
        begun = self.time
        self.until(at)
        cores, memory, disk = (need * units for need in NEEDS[vnf])
        self.tell(
            "network",
            "instance.started",
            cause,
            instance=name,
            vnf=vnf,
            version="1.0",
            pop=pop,
            units=units,
            cores=cores,
            memory_gb=memory,
            disk_gb=disk,
            downloaded_s=self.time - begun,
        )
        self.tell(
            "network",
            "chain.opened",
            cause,
            chain=f"chain-{self.count}",
            purpose="mirror" if vnf in {"anomaly-detector", "classifier"} else "steer",
            instance=name,
            path=path,
            mb_s=2.0,
        )
        return name

    def auction(
        self,
        auctioneer: str,
        goal: str,
        cause: str,
        rows: Sequence[Row],
        preferences: tuple[float, float, float],
        *,
        traffic: float,
        vnf: str,
        units: int = 1,
        latency: float | None = None,
        reuse: str | None = None,
        reason: str = "needs 4 cores, 2 free",
    ) -> tuple[str, str]:
        """Hold an auction; returns the winner and the event of its acceptance or failure."""
        self.auctions += 1
        auction = f"{auctioneer}-auction-{self.auctions}"
        constraints = {"loss": 0.08} | ({"latency_ms": latency} if latency else {})
        called = self.tell(
            auctioneer,
            "auction.called",
            cause,
            auction=auction,
            goal=goal,
            round=1,
            tap="pop6",
            traffic_mb_s=traffic,
            constraints=constraints,
            preferences=dict(zip(("time", "cost", "decentralisation"), preferences, strict=True)),
            bidders=len(self.names),
        )
        ranking = []
        refusals = {}
        for index, agent in enumerate(self.names):
            row = rows[index % len(rows)]
            path = PATHS.get(agent, [agent, *PATHS[f"pop{index % 6 + 1}"]])
            if row is None:
                refusals[agent] = reason
                self.tell(
                    agent, "auction.refused", called, auction=auction, goal=goal, reason=reason
                )
                continue
            time_s, cost, latency_ms, utility = row
            bid = {"vnf": vnf, "units": units, "T": time_s, "C": cost, "D": latency_ms}
            bid |= {"path": path, "reuse": reuse if agent == "pop5" else None}
            if index >= 6:
                utility = round(utility + 0.001 * index, 4)
            ranking.append({"agent": agent, **bid, "utility": utility})
            self.tell(agent, "auction.bid", called, auction=auction, goal=goal, bids=[bid])
        ranking.sort(key=lambda row: (row["utility"], row["agent"]))
        self.until(self.time + 1)
        if not ranking:
            failed = self.tell(
                auctioneer,
                "auction.failed",
                called,
                auction=auction,
                goal=goal,
                reason="nobody could bid",
                refusals=refusals,
                silent=[],
            )
            return "", failed
        winner = ranking[0]["agent"]
        awarded = self.tell(
            auctioneer,
            "auction.awarded",
            called,
            auction=auction,
            goal=goal,
            winner=winner,
            ranking=ranking,
            refusals=refusals,
            silent=[],
        )
        accepted = self.tell(
            winner,
            "contract.accepted",
            awarded,
            auction=auction,
            goal=goal,
            vnf=vnf,
            instance=reuse or f"{vnf}-{self.count + 1}",
            initiator=auctioneer,
        )
        return winner, accepted

    def apply(self, instance: str, effect: str, rate: float, cause: str, pop: str = "pop5") -> str:
        """Put a measure in force and tell of it."""
        applied = self.tell(
            "network",
            "measure.applied",
            cause,
            measure=effect,
            instance=instance,
            pop=pop,
            effect=effect,
            rate_mb_s=rate,
        )
        return self.tell(pop, "belief.changed", applied, belief=effect, value=True, holder=pop)

    def lift(self, effect: str, reason: str, cause: str, pop: str = "pop5") -> str:
        """Take a measure back."""
        data = {"measure": effect, "pop": pop, "effect": effect, "reason": reason}
        return self.tell("network", "measure.lifted", cause, **data)


def _resources(amounts: Sequence[float]) -> dict[str, float]:
    return dict(zip(("cores", "memory_gb", "disk_gb"), amounts, strict=True))


def _opening(play: Play, *, positions: bool) -> str:
    """Tell of the network; returns the first agent's standing goal."""
    size = len(play.names)
    extra = [
        (name, play.names[other], 10, 4 + index % 5)
        for index, name in enumerate(play.names)
        if index >= 6
        for other in (index // 3, index - 3)[: 1 + (index % 4 == 0)]
    ]
    sources = [
        ("video", ["pop1", "pop2"], "video", 8, 0.03, 0.0, 300.0),
        ("http", ["pop1", "pop2", "pop3", "pop4", "pop5"], "http", 42, 0.018, 0.0, None),
        ("attack", ["pop1", "pop2", "pop3", "pop4"], "syn-flood", 8, 0.75, 20.0, 420.0),
    ]
    play.tell(
        "run",
        "run.started",
        None,
        scenario="ddos-resilience",
        seed=play.seed,
        version="0.1.0",
        duration_s=play.end_s,
        pops=[
            {"name": name}
            | _resources(play.total(name))
            | ({"x": math.cos(i * 2.4) * i, "y": math.sin(i * 2.4) * i} if positions else {})
            for i, name in enumerate(play.names)
        ],
        links=[
            {"a": a, "b": b, "bandwidth_mb_s": mb_s, "latency_ms": ms, "loss": 0.025}
            for a, b, mb_s, ms in [*LINKS, *extra]
            if int(a[3:]) <= size and int(b[3:]) <= size
        ],
        hosts=[
            {"name": "server", "at": "pop6", "address": SERVER, "bandwidth_mb_s": 6.0},
            {"name": "office", "at": "pop6", "address": "10.0.6.20", "bandwidth_mb_s": 2.0},
        ],
        repository="pop5",
        sources=[
            {
                "group": group,
                "at": pop,
                "target": SERVER,
                "profile": profile,
                "malicious": profile == "syn-flood",
                "count": count // len(at) + (place < count % len(at)),
                "demand_mb_s": demand,
                "start_s": start,
                "end_s": end,
            }
            for group, at, profile, count, demand, start, end in sources
            for place, pop in enumerate(at)
        ],
        functions=[
            {"name": name, "version": "1.0", "image_mb": 500.0, "handles_mb_s": None}
            | _resources(need)
            for name, need in NEEDS.items()
        ],
    )
    for name in play.names:
        begun = play.tell(name, "agent.started", "run-1", incarnation=1, capabilities=[])
        if name == "pop6":
            monitor = begun
    play.start(0.0, "pop6", "link-monitor", monitor, path=["pop6"])
    for group, profile, count, mb_s in (("video", "video", 8, 0.24), ("http", "http", 42, 0.76)):
        play.tell(
            "network",
            "traffic.changed",
            "run-1",
            group=group,
            profile=profile,
            count=count,
            active=True,
            demand_mb_s=mb_s,
            malicious=False,
        )
    return play.tell(
        "pop6",
        "goal.adopted",
        monitor,
        goal=f"monitored({LINK})",
        instance_id="pop6-goal-1",
        priority=0,
    )


def _want(play: Play, agent: str, goal: str, cause: str, number: int) -> str:
    adopted = play.tell(
        agent,
        "goal.adopted",
        cause,
        goal=goal,
        instance_id=f"{agent}-goal-{number}",
        priority=5,
    )
    return play.tell(
        agent,
        "plan.started",
        adopted,
        plan="GoalRequest",
        capability="auction",
        goal=goal,
        goal_id=f"{agent}-goal-{number}",
    )


def _attack(play: Play, *, active: bool) -> None:
    play.tell(
        "network",
        "traffic.changed",
        "run-1",
        group="attack",
        profile="syn-flood",
        count=8,
        active=active,
        demand_mb_s=6.0 if active else 0.0,
        malicious=True,
    )


def ddos_log(
    pops: int = 6, *, until: float | None = None, positions: bool = False, seed: int = 1
) -> list[Event]:
    """Return the whole log; ``until`` breaks it off then, as a killed run would."""
    play = Play(pops, seed)
    watching = _opening(play, positions=positions)
    play.until(20)
    _attack(play, active=True)
    play.until(22)
    data: dict[str, Any] = {"belief": f"overUsage({LINK})", "value": True}
    alarm = play.tell("pop6", "belief.changed", watching, **data)

    limit_goal, why_goal = f"linkRateLimited({LINK})", f"?anomalousUsage({LINK}, 0, 1)"
    asked = _want(play, "pop6", limit_goal, alarm, 2)
    quick, thrifty, spread = (0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.0, 0.2, 0.8)
    _, won = play.auction(
        "pop6",
        limit_goal,
        asked,
        LINK_BIDS,
        quick,
        traffic=6.0,
        vnf="rate-limiter",
        latency=100.0,
    )
    limiter = play.start(45.0, "pop5", "rate-limiter", won, path=["pop5", "pop6"])
    limited = play.apply(limiter, limit_goal, 4.0, won)
    play.tell("pop6", "goal.ended", limited, goal=limit_goal, outcome="achieved")

    asked = _want(play, "pop6", why_goal, alarm, 3)
    _, won = play.auction(
        "pop6",
        why_goal,
        asked,
        ANOMALY_BIDS,
        thrifty,
        traffic=4.0,
        vnf="anomaly-detector",
        units=2,
    )
    detector = play.start(58.0, "pop5", "anomaly-detector", won, path=["pop5", "pop6"], units=2)
    play.until(80)
    seen = play.tell(
        "pop5",
        "analysis.done",
        won,
        goal=why_goal,
        instance=detector,
        flows=58,
        coverage=0.93,
        found=[SERVER],
        evidence={SERVER: {"share": 0.86, "syn_share": 0.97}},
    )
    target = play.tell(
        "pop5", "belief.changed", seen, belief=f"anomalous({SERVER})", value=True, holder="pop5"
    )

    ip_goal, record_goal = f"ipRateLimited({SERVER})", f"flowRecord({SERVER}, 0, 1)"
    asked = _want(play, "pop5", ip_goal, target, 4)
    _, won = play.auction(
        "pop5",
        ip_goal,
        asked,
        IP_BIDS,
        quick,
        traffic=4.0,
        vnf="rate-limiter",
        latency=100.0,
        reuse=limiter,
    )
    play.until(90)
    ip_limited = play.apply(limiter, ip_goal, 2.0, won)
    undo = _want(play, "pop5", f"¬{limit_goal}", ip_limited, 5)
    play.lift(limit_goal, "the address is limited instead", undo)

    asked = _want(play, "pop5", record_goal, target, 6)
    _, failed = play.auction(
        "pop5",
        record_goal,
        asked,
        [None],
        spread,
        traffic=2.0,
        vnf="classifier",
        reason="needs 8 GB memory, 6 free",
    )
    split_goal = f"splitTrafficTowardsIp({SERVER}, 0, 1)"
    asked = _want(play, "pop5", split_goal, failed, 7)
    _, won = play.auction(
        "pop5",
        split_goal,
        asked,
        SPLIT_BIDS,
        (0.3, 0.7, 0.0),
        traffic=2.0,
        vnf="load-balancer",
    )
    balancer = play.start(104.0, "pop5", "load-balancer", won, path=["pop5"])
    split = play.apply(balancer, split_goal, 0.0, won)
    _classify(play, split, limiter, ip_goal)
    play.until(420)
    _attack(play, active=False)
    _close(play, limiter, detector, balancer)
    if until is not None:
        return [event for event in play.events if event.time <= until]
    return play.events


def _classify(play: Play, split: str, limiter: str, ip_goal: str) -> None:
    """Two classifiers find the attackers, the rate limiter blocks them one by one."""
    spread, found = (0.0, 0.2, 0.8), []
    for part, rows in enumerate((FIRST_FLOW, SECOND_FLOW)):
        goal = f"flowRecord({SERVER}, {part}, 2)"
        asked = _want(play, "pop5", goal, split, 8 + part)
        winner, won = play.auction("pop5", goal, asked, rows, spread, traffic=1.0, vnf="classifier")
        path = ["pop3", "pop4", "pop6", "pop5"] if winner == "pop3" else ["pop4", "pop6", "pop5"]
        instance = play.start(play.time + 12, winner, "classifier", won, path=path)
        found.append(
            play.tell(
                winner,
                "analysis.done",
                won,
                goal=goal,
                instance=instance,
                flows=30,
                coverage=1.0,
                found=[f"{a}>{SERVER}" for a in ATTACKERS[part::2]],
                evidence={},
            )
        )
    play.until(142)
    for number, attacker in enumerate(ATTACKERS):
        agent = "pop3" if number % 2 == 0 else "pop4"
        goal = f"flowRateLimited({attacker}, {SERVER})"
        asked = _want(play, agent, goal, found[number % 2], 20 + number)
        _, won = play.auction(
            agent,
            goal,
            asked,
            IP_BIDS,
            (0.8, 0.1, 0.1),
            traffic=0.75,
            vnf="rate-limiter",
            latency=100.0,
            reuse=limiter,
        )
        play.until(play.time + 1.5)
        blocked = play.apply(limiter, goal, 0.0, won)
    undo = _want(play, "pop5", f"¬{ip_goal}", blocked, 40)
    play.lift(ip_goal, "every attacker is blocked", undo)


def _close(play: Play, limiter: str, detector: str, balancer: str) -> None:
    """The attack is over: blocks are lifted, instances stop, the run ends."""
    quiet = [e for e in play.events if e.kind == "measure.applied"]
    play.until(460)
    for event in quiet:
        if event.data["effect"].startswith("flow"):
            play.lift(event.data["effect"], "nothing to hold back for 30 s", event.id)
            play.until(play.time + 0.5)
    play.until(490)
    for event in [e for e in play.events if e.kind == "instance.started"]:
        vnf, pop, name = event.data["vnf"], event.data["pop"], event.data["instance"]
        if vnf == "link-monitor":
            continue
        stopped = play.tell(
            "network",
            "instance.stopped",
            event.id,
            instance=name,
            vnf=vnf,
            pop=pop,
            reason="idle for 30 s",
        )
        play.take(pop, vnf, -event.data["units"], stopped)
        play.tell("network", "chain.closed", stopped, chain=f"chain-{name.rpartition('-')[2]}")
    play.until(play.end_s)
    play.tell(
        "run",
        "run.ended",
        "run-1",
        reason="finished",
        messages={"cfp": 90, "propose": 77, "refuse": 13, "accept-proposal": 14, "inform": 61},
        shed=0,
        free={name: _resources(play.free[name]) for name in play.names},
        leases=1,
        goals={"achieved": 27, "failed": 1},
    )
