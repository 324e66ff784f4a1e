"""Rules about auctions: what is awarded follows from what was offered, and prices from the network.

Utilities (eq. 3.1), prices (eq. 4.3 and 4.4), latencies and losses are worked out anew here, from
what the events record, and not by the code that made them.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from math import inf, isfinite
from typing import Any, ClassVar

from msgspec import Struct

from phalanx.checking.resources import amounts
from phalanx.checking.rules import Amounts, RuleGroup
from phalanx.domain.events import Event

WEIGHTS = {"time": "T", "cost": "C", "decentralisation": "D"}
KEPT = 1000
"""So many of the latest auctions are remembered, besides those with a contract."""
CALM_S = 1.0
"""So long after a change all agents know of it."""
ANSWERED_S = 0.5
"""An answer arrives within so long; after that of a winner the next pause begins."""
ROUNDED = 2e-6
"""Most by which a figure of a bid may differ: the log has six digits."""


def harmonic(part: Amounts, total: Amounts) -> float:
    """Return the harmonic mean of the shares that ``part`` has of ``total``; 0 at a limit."""
    if min(part) <= 0 or min(total) <= 0:
        return 0.0
    return 3.0 / sum(whole / some for some, whole in zip(part, total, strict=True))


class PriceList:
    """What using a PoP or a link costs (eq. 4.3 and 4.4, or by total capacity)."""

    def __init__(self, pricing: str, needs: list[Amounts]) -> None:
        self.pricing = pricing
        self._needs = needs

    def passing(self, total: Amounts, free: Amounts) -> float:
        """Return the cost of passing a PoP."""
        if self.pricing == "published":
            return harmonic(free, total) if self._fits(free) else 0.0
        return 2.0 - harmonic(free, total) if self.pricing == "scarcity" else 1.0

    def hosting(self, total: Amounts, free: Amounts, takes: Amounts) -> float:
        """Return the cost of deploying at a PoP what takes so much."""
        if self.pricing == "published":
            return self._consumed(total, free, takes)
        return self._consumed(total, total, takes) * self.passing(total, free)

    def link(self, bandwidth: float, free: float) -> float:
        """Return the weight of a link."""
        if self.pricing == "published":
            return free
        return 2.0 * bandwidth - free if self.pricing == "scarcity" else bandwidth

    def _fits(self, free: Amounts) -> bool:
        return any(all(n <= f for n, f in zip(need, free, strict=True)) for need in self._needs)

    def _after(self, free: Amounts, takes: Amounts) -> bool:
        cores, memory, disk = (f - t for f, t in zip(free, takes, strict=True))
        return self._fits((cores, memory, disk))

    def _consumed(self, total: Amounts, free: Amounts, takes: Amounts) -> float:
        if not self._after(free, takes) and any(self._after(free, need) for need in self._needs):
            return harmonic(free, total)
        return harmonic(takes, total)


class _Auction(Struct):
    agent: str
    called: float
    data: dict[str, Any]
    bids: dict[str, list[dict[str, Any]]] = {}
    awarded: list[str] = []
    refused: dict[str, str] = {}
    failed: bool = False
    decided: bool = False
    answered: float | None = None
    """When the last of those who were asked has answered."""


class AuctionRules(RuleGroup):
    """Auctions are decided in time, by what was offered, and what was offered is true."""

    rules: ClassVar = {
        "auctions": "An auction is called once; it is decided when all have answered, and where "
        "nothing was broken no later, or at its deadline, unless its plan ends before; after it "
        "has failed nothing is awarded.",
        "bids": "A bid is for an auction that was called, over links that exist, from the PoP of "
        "its agent to the tap, with the units that the traffic needs, or by an instance that "
        "keeps the goal so already; D is the latency of the path, and no image arrives faster "
        "than the links of the PoP allow (T).",
        "prices": "C is the price of the path by eq. 4.3 and 4.4, or by total capacity, from what "
        "the bid says was free.",
        "paths": "Where nothing was broken, and nothing changed for a while, no path that keeps "
        "the limits is cheaper than that of a bid, no image comes faster than T, and who refuses "
        "since no path keeps them is right (exact bidding).",
        "limits": "A bid keeps the limits of latency, loss, hops, time and bandwidth.",
        "utilities": "Utilities follow from the values of all bids by eq. 3.1, or from the fixed "
        "references, further terms with the direction and the reference that the call says, and "
        "the ranking is in their order.",
        "awards": "The winner is the best of the ranking that has not failed and that the "
        "auctioneer never took for dead; the ranking has what its agents bid, or those alone who "
        "keep the goal so already, if there are any, and all who were asked are in it, refused, "
        "or were silent; where nothing broke since, nobody at work is passed over as silent.",
        "contracts": "Only an agent that an auction was awarded to accepts a contract, once, and "
        "while it lives it ends each that it accepted; where nothing is broken soon after the "
        "auctioneer's plan has ended. What an auctioneer believes of it "
        "that another keeps so, the winner has reported to it as fulfilled.",
        "asked": "Where nothing was broken a winner is asked each probe_s whether it is at work, "
        "until its contract ends, and no more often.",
    }

    def begin(self) -> None:
        """Know no auction yet."""
        self._auctions: dict[str, _Auction] = {}
        self._waiting: dict[str, None] = {}
        self._functions: dict[str, dict[str, Any]] = {}
        self._at: dict[str, str] = {}
        self._prices = PriceList("", [])
        self._images: set[tuple[str, str]] = set()
        """By PoP and VNF: that were there in any version, and that are."""
        self._here: set[tuple[str, str]] = set()
        self._at_work: dict[str, float] = {}
        """When each auction was awarded whose winner is at work."""
        self._vain: dict[str, float] = {}
        """By auction whose winner is at work, and whose plan has ended: since when."""
        self._asked = [0.0, 0.0]
        """How often awards are sent, at least and at most: again while a winner is at work."""
        self._restored: set[str] = set()
        """Agents that ever went on with what they remember."""
        self._contracts: dict[tuple[str, str], bool] = {}
        """By agent and auction: contracts that it has accepted; whether it lived on since."""
        self._most = 2 * KEPT
        self._fetched: set[str] = set()
        """Instances and images that are being downloaded."""
        self._doubted: set[tuple[str, str]] = set()
        """An agent, and another that it has ever taken for dead."""
        self._stirred = 0.0
        """When the network, or who lives, changed last."""
        self._liars: set[str] = set()

    def on_fault_injected(self, event: Event) -> None:
        """Note whose bids are false from now on."""
        if event.data["fault"] == "lie":
            self._liars.add(event.data["agent"])

    def on_run_started(self, event: Event) -> None:
        """Learn the catalogue."""
        data = event.data
        self._functions = {function["name"]: function for function in data["functions"]}
        self._prices = PriceList(data["pricing"], [amounts(f) for f in data["functions"]])

    def on_agent_started(self, event: Event) -> None:
        """Learn where an agent stands."""
        self._at[event.agent] = event.data["pop"]
        self._stirred = event.time

    def on_resources_changed(self, event: Event) -> None:
        """Note that other bids may be best now."""
        self._stirred = event.time

    on_chain_opened = on_chain_closed = on_resources_changed

    def gone(self, event: Event, agent: str) -> None:  # noqa: ARG002
        """Expect no decision of an agent that died, nor an end of its contracts."""
        self._contracts.update({at: False for at in self._contracts if at[0] == agent})
        for _, name in [at for at in self._contracts if at[0] == agent]:
            self._vain.pop(name, None)
        for name in [n for n in self._waiting if self._auctions[n].agent == agent]:
            del self._waiting[name]

    def on_agent_restored(self, event: Event) -> None:
        """Expect it to end again what had ended when its memory could be written last."""
        self.gone(event, event.agent)
        self._restored.add(event.agent)

    def on_auction_waiting(self, event: Event) -> None:
        """Expect no decision of an auction that lets an elder one of the same goal go first."""
        self._waiting.pop(event.data["auction"], None)

    def on_plan_ended(self, event: Event) -> None:
        """Expect no decision about a goal that its plan pursues no longer."""
        for name in list(self._waiting):
            auction = self._auctions[name]
            if (auction.agent, auction.data["goal"]) == (event.agent, event.data["goal"]):
                del self._waiting[name]
        if event.data["plan"] == "goal request":  # beside it the same agent may work as winner
            since = self.run.turned.get(event.agent, 0.0)
            if (pursued := self.run.goals.get(event.data["goal_id"])) is not None:
                since = max(since, pursued.since)  # that of another plan ended with it
            for (winner, name), lived in self._contracts.items():
                auction = self._auctions[name]
                own = auction.agent == event.agent and auction.called >= since and lived
                works = not auction.failed and auction.awarded[-1:] == [winner]
                if own and works and auction.data["goal"] == event.data["goal"]:
                    self._vain.setdefault(name, event.time)

    def on_image_cached(self, event: Event) -> None:
        """Note where an image is."""
        self._images.add((event.data["pop"], event.data["vnf"]))
        self._here.add((event.data["pop"], event.data["vnf"]))
        self._fetch(event, on=False)

    def on_image_evicted(self, event: Event) -> None:
        """Note where an image is no more."""
        self._here.discard((event.data["pop"], event.data["vnf"]))
        self._fetch(event, on=False)

    def on_instance_downloading(self, event: Event) -> None:
        """Note a download."""
        self._fetch(event, on=True)

    on_image_prefetching = on_instance_downloading

    def _fetch(self, event: Event, *, on: bool) -> None:
        name = event.data.get("instance") or f"{event.data['pop']}/{event.data['vnf']}"
        (self._fetched.add if on else self._fetched.discard)(name)
        self._stirred = event.time

    def on_instance_started(self, event: Event) -> None:
        """Note the end of a download."""
        self._fetch(event, on=False)

    on_instance_stopped = on_instance_started

    def on_repository_changed(self, event: Event) -> None:
        """Note that no PoP has the image of another version."""
        self._here = {at for at in self._here if at[1] != event.data["function"]}
        self._stirred = event.time

    def on_belief_changed(self, event: Event) -> None:
        """Note which agent is taken for dead; compare a success with what the winner says."""
        kind, _, agent = event.data["belief"][:-1].partition("(")
        if kind in ("gone", "left"):
            self._doubted.add((event.agent, agent))
        ended = self.run.cause
        held = event.data["value"] and event.data.get("holder") not in (None, event.agent)
        if held and ended is not None and ended.kind == "contract.ended":
            auction = self._auctions.get(ended.data["auction"])
            own = auction is None or auction.agent == event.agent
            said = bool(ended.data["fulfilled"]) and own
            text = f"{ended.agent} did not report {event.data['belief']} to {event.agent}"
            self.require(said, "contracts", event, text)

    # -- conversations ------------------------------------------------------------------

    def always(self, event: Event) -> None:
        """Look for auctions that nobody decides."""
        deadline = self.run.timing("auction_deadline_s")
        while self._waiting and deadline is not None and self.run.one_clock:
            name = next(iter(self._waiting))  # the oldest
            if event.time <= self._auctions[name].called + deadline + ROUNDED:
                return
            del self._waiting[name]
            self.broken("auctions", event, f"{name} is not decided at its deadline")

    def on_auction_called(self, event: Event) -> None:
        """Note an auction."""
        name = event.data["auction"]
        self.require(name not in self._auctions, "auctions", event, f"{name} is called twice")
        self._auctions[name] = _Auction(event.agent, event.time, event.data)
        self._waiting[name] = None
        if len(self._auctions) > self._most:
            used = {*self._waiting, *(auction for _, auction in self._contracts)}
            for old in [*self._auctions][:-KEPT]:
                if old not in used:
                    del self._auctions[old]
            self._most = len(self._auctions) + KEPT

    def on_auction_bid(self, event: Event) -> None:
        """Work out what a bid says."""
        auction = self._auctions.get(event.data["auction"])
        if auction is None:
            self.broken("bids", event, f"{event.data['auction']} was not called")
            return
        auction.bids.setdefault(event.agent, []).extend(event.data["bids"])
        self._answers(event, auction)
        for bid in event.data["bids"] if self.run.one_clock else ():
            self._true(event, auction.data, bid)

    def _answers(self, event: Event, auction: _Auction) -> None:
        if len(auction.bids.keys() | auction.refused.keys()) == auction.data["bidders"]:
            auction.answered = event.time

    def _true(self, event: Event, call: dict[str, Any], bid: dict[str, Any]) -> None:
        path, vnf = bid["path"], self._functions[bid["vnf"]]
        links = [self.run.links.get(ends) for ends in pairwise(path)]
        if path[0] != self._at[event.agent] or path[-1] != call["tap"] or None in links:
            self.broken("bids", event, f"a path over {path} to {call['tap']}")
            return
        exact = self.run.started["bidding"] == "exact"  # algorithm 1 loses its own sums
        exact = exact and self.run.degraded.isdisjoint(pairwise(path))
        known = [link for link in links if link is not None]
        latency, loss = sum(link["latency_ms"] for link in known), 0.0
        for link in known:
            loss += (1.0 - loss) * link["loss"]
        if exact and abs(bid["D"] - latency) > ROUNDED:
            self.broken("bids", event, f"D is {bid['D']}, the latency of the path {latency:.6f}")
        self._enough(event, call, bid)
        here = path[0] == self.run.started["repository"] or (path[0], bid["vnf"]) in self._images
        widest = max(
            (at["bandwidth_mb_s"] for (a, _), at in self.run.links.items() if a == path[0]),
            default=0.0,
        )
        if (
            not here
            and bid["reuse"] is None
            and bid["T"] * widest < vnf["image_mb"] - ROUNDED * 1e3
        ):
            self.broken("bids", event, f"{vnf['image_mb']} MB in {bid['T']} s, {widest} MB/s")
        if bid["reuse"] is None and self._calm(event) and not self._fetched:
            wide = self._widest(bid["vnf"], path[0])
            least_s = vnf["image_mb"] / wide if wide else inf
            if bid["T"] > least_s + ROUNDED * max(1.0, least_s):
                self.broken("paths", event, f"T is {bid['T']} s, {least_s:.6f} s are possible")
        limits = call["constraints"]
        values = {
            **bid,
            "latency_ms": latency,
            "loss": loss,
            "hops": len(known),
            "time_s": bid["T"],
        }
        for name in ("latency_ms", "loss", "hops", "time_s", "T", "C"):
            if exact and name in limits and values[name] > limits[name] + ROUNDED:
                text = f"{name} is {values[name]:g}, at most {limits[name]:g} wanted"
                self.broken("limits", event, text)
        if known:
            self._priced(event, call, bid, known)
            least = self._cheapest(event, call, bid) if exact else None
            if least is not None and bid["C"] > least + ROUNDED * max(1.0, least):
                self.broken("paths", event, f"C is {bid['C']}, another path costs {least:.6f}")
        elif bid["C"] != 0:
            self.broken("prices", event, f"C is {bid['C']} at the tap itself")

    def _enough(self, event: Event, call: dict[str, Any], bid: dict[str, Any]) -> None:
        if bid.get("kept"):
            measures = (*self.run.in_force.values(), *self.run.withheld.values())
            kept = {m.effect for m in measures if m.instance == bid["reuse"]}
            so = call["goal"] in kept or self.run.faulty
            self.require(so, "bids", event, f"{bid['reuse']} does not keep {call['goal']} so")
            return
        traffic, each = call["traffic_mb_s"], self._functions[bid["vnf"]]["handles_mb_s"]
        needed = 1 if each is None else max(1, -int(-(traffic - ROUNDED) // each))
        self.require(bid["units"] >= needed, "bids", event, f"{needed} units are needed")
        self.require(bid["units"] <= needed + 1, "bids", event, f"{needed} units are enough")

    # -- what a bidder could have found ---------------------------------------------------

    def _calm(self, event: Event) -> bool:
        """Whether every agent knows what is free everywhere."""
        unchanged = not (self.run.faulty or self.run.quiet)  # no agent has left either
        calm = event.time > self._stirred + CALM_S and unchanged
        return calm and self.run.started.get("bidding") == "exact" and self.run.one_clock

    def _widest(self, vnf: str, pop: str) -> float:
        """Return the most MB/s from the repository, or a PoP that has the image, to a PoP."""
        rooms = self._rooms()
        sources = {self.run.started["repository"], *(p for p, name in self._here if name == vnf)}
        waiting, reached = [(-inf, source) for source in sources], set[str]()
        while waiting:
            width, at = heappop(waiting)
            if at == pop:
                return -width
            if at not in reached:
                reached.add(at)
                for (here, to), room in rooms.items():
                    if here == at and room > 0:
                        heappush(waiting, (max(width, -room), to))
        return 0.0

    def _rooms(self) -> dict[tuple[str, str], float]:
        rooms = {ends: link["bandwidth_mb_s"] for ends, link in self.run.links.items()}
        for path, _, mb_s in self.run.chains.values():
            for a, b in pairwise(path):
                rooms[a, b] -= mb_s
                rooms[b, a] -= mb_s
        return rooms

    def _cheapest(self, event: Event, call: dict[str, Any], bid: dict[str, Any]) -> float | None:
        """Return what the cheapest path from a bidder to the tap costs within all limits."""
        if not self._calm(event):
            return None
        source = self._at[event.agent]
        totals, free = self.run.total, self.run.free
        costs = {pop: self._prices.passing(total, free[pop]) for pop, total in totals.items()}
        own = self._prices.hosting(totals[source], free[source], self._takes(bid))
        rooms = self._rooms()
        wanted, limits = call["traffic_mb_s"], call["constraints"]
        most = tuple(limits.get(name, inf) for name in ("latency_ms", "loss", "hops"))
        waiting = [(0.0, source, (0.0, 0.0, 0.0))]
        best: dict[str, list[tuple[float, ...]]] = {}
        while waiting:
            cost, pop, used = heappop(waiting)
            if pop == call["tap"]:
                return cost
            known = best.setdefault(pop, [])
            if any(all(map(float.__le__, one, used)) for one in known):
                continue
            known.append(used)
            for (here, to), link in self.run.links.items():
                room = rooms[here, to]
                if here != pop or to == source or room < wanted - ROUNDED:
                    continue
                latency, loss, hops = used
                after = (latency + link["latency_ms"], loss + (1 - loss) * link["loss"], hops + 1.0)
                if all(map(float.__le__, after, (each + 1e-9 for each in most))):
                    ends = (own if pop == source else costs[pop]) + costs[to]
                    price = self._prices.link(link["bandwidth_mb_s"], room) * ends
                    waiting_for = tuple(a * (m < inf) for a, m in zip(after, most, strict=True))
                    heappush(waiting, (cost + price, to, waiting_for))
        return None

    def _takes(self, bid: dict[str, Any]) -> Amounts:
        """Return what a bid needs beside what the instance has that it uses again."""
        runs = self.run.running.get(bid["reuse"])
        units = max(0, bid["units"] - (runs.units if runs else bid["units"] * bool(bid["reuse"])))
        cores, memory, disk = amounts(self._functions[bid["vnf"]])
        return units * cores, units * memory, units * disk

    def _priced(
        self, event: Event, call: dict[str, Any], bid: dict[str, Any], links: list[dict[str, Any]]
    ) -> None:
        path, free_mb_s = bid["path"], event.data["free_mb_s"]
        free = [amounts(at) for at in event.data["free"]]
        if not bid.get("kept") and min(free_mb_s) < call["traffic_mb_s"] - ROUNDED:
            self.broken("limits", event, f"{free_mb_s} MB/s are free for {call['traffic_mb_s']}")
        totals = [self.run.total[pop] for pop in path]
        prices = self._prices
        costs = [prices.passing(*pop) for pop in zip(totals, free, strict=True)]
        costs[0] = prices.hosting(totals[0], free[0], self._takes(bid))
        price = sum(
            prices.link(link["bandwidth_mb_s"], room) * sum(ends)
            for link, room, ends in zip(links, free_mb_s, pairwise(costs), strict=True)
        )
        if abs(price - bid["C"]) > ROUNDED * max(1.0, price):
            self.broken("prices", event, f"C is {bid['C']}, the path costs {price:.6f}")

    # -- decisions ----------------------------------------------------------------------

    def on_auction_awarded(self, event: Event) -> None:
        """Work out who wins."""
        data = event.data
        auction = self._auctions.get(data["auction"])
        if auction is None:
            self.broken("auctions", event, f"{data['auction']} was not called")
            return
        self.require(event.agent == auction.agent, "auctions", event, f"of {auction.agent}")
        self.require(not auction.failed, "auctions", event, "it has failed before")
        self._waiting.pop(data["auction"], None)
        lost, ranking, after = auction.awarded, data["ranking"], data.get("after")
        if bool(lost) != (after is not None) or (lost and after != lost[-1]):
            self.broken("awards", event, f"after {after}, awarded so far: {lost}")
        calm = not self.run.lossy and self._at_work.get(data["auction"], 0.0) > self.run.quiet
        busy = after not in self.run.out and self._contracts.get((str(after), data["auction"]))
        if busy and data.get("reason") == "does not answer" and calm:
            self.broken("awards", event, f"{after} is at work for it, and can be asked")
        self._decided(event, auction, {row["agent"] for row in ranking})
        left = [row["agent"] for row in ranking if row["agent"] not in lost]
        ahead = left[: left.index(data["winner"])] if data["winner"] in left else left
        lives = [a for a in ahead if not lost or (event.agent, a) not in self._doubted]
        if data["winner"] not in left or (lives and (self.run.whole or not lost)):
            self.broken("awards", event, f"{data['winner']} wins, {left[:3]} are left")
        auction.awarded.append(data["winner"])
        self._works_no_more(data["auction"], event.time)
        self._at_work[data["auction"]] = event.time
        for row in ranking:
            bid = {name: value for name, value in row.items() if name not in ("agent", "utility")}
            offered = auction.bids.get(row["agent"], [])
            if row["agent"] in self._liars or not self.run.one_clock:
                continue
            lifted = {*auction.data.get("bounded", ())}  # may count as worse than was said
            for name in lifted & bid.keys():
                offered = [one | {name: bid[name]} for one in offered]
            if not any(one.items() <= bid.items() for one in offered):
                self.broken("awards", event, f"{row['agent']} did not bid {bid}")
        answered = auction.bids.keys() - {*data["refusals"], *data["silent"], *lost}
        kept = {a for a in answered if any(bid.get("kept") for bid in auction.bids[a])}
        if kept and not all(row.get("kept") for row in ranking):
            self.broken("awards", event, f"{sorted(kept)} keep it so already")
        self._utilities(event, auction.data, ranking)

    def _in_time(self) -> bool:
        """Whether answers arrive before the deadline; a bidder waits for 3/4 of what is left."""
        way_ms: float = sum(link["latency_ms"] for link in self.run.links.values())
        way_ms += self.run.timing("message_latency_ms") or 0.0
        return way_ms / 1e3 < (self.run.timing("auction_deadline_s") or 0.0) / 5

    def _decided(self, event: Event, auction: _Auction, offered: set[str]) -> None:
        refused, silent = set(event.data["refusals"]), set(event.data["silent"])
        for agent, reason in event.data["refusals"].items():
            known = auction.refused.get(agent)
            by_terms = known is None and agent in auction.bids  # of the auctioneer, on bids
            if self.run.one_clock and not by_terms and reason not in (known, "is gone"):
                self.broken("awards", event, f"{agent} refuses ({reason}), and said {known}")
        heard = sorted(silent & (auction.bids.keys() | auction.refused.keys()))
        if heard and not self.run.faulty and self._in_time():
            self.suspect(event, "awards", f"{heard} answered and count as silent")
        answered = len(offered | refused | silent)
        if answered != auction.data["bidders"]:
            self.broken("awards", event, f"{answered} of {auction.data['bidders']} are named")
        deadline = self.run.timing("auction_deadline_s")
        if not auction.decided and silent and deadline is not None and self.run.one_clock:
            early = event.time < auction.called + deadline - ROUNDED
            self.require(not early, "auctions", event, f"decided before {sorted(silent)} answered")
        at = auction.answered
        late = at is not None and not auction.decided and event.time > at + ANSWERED_S
        if late and not self.run.faulty and self._in_time():
            self.suspect(event, "auctions", f"all have answered at {at:g} s")
        auction.decided = True

    def _utilities(self, event: Event, call: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        further = {"D": {"higher_is_better": True}, **call.get("terms", {})}
        references, doubt = call.get("references"), 0.0
        worths = [0.0] * len(rows)
        for what, weight in call["preferences"].items():
            name = WEIGHTS.get(what, what)
            if not weight:
                continue
            values = [row[name] for row in rows]
            if references is not None:
                unit = references[name] if name in references else further[name]["reference"]
                scaled = [value / unit for value in values]
                doubt += ROUNDED / unit
            else:
                least, spread = min(values), max(values) - min(values)
                if 0 < spread < 1e3 * ROUNDED:
                    return  # rounded away
                scaled = [(value - least) / spread if spread else 0.0 for value in values]
                doubt += 2 * ROUNDED / spread if spread else 0.0
            more = further.get(name, {}).get("higher_is_better", False)
            flat = references is None and not any(scaled)
            better = [1 - s if more and not flat else s for s in scaled]
            worths = [w + weight * b for w, b in zip(worths, better, strict=True)]
        for row, worth in zip(rows, worths, strict=True):
            if not isfinite(worth) or abs(worth - row["utility"]) > ROUNDED + doubt:
                text = f"{row['agent']} has {row['utility']}, eq. 3.1 yields {worth:.6f}"
                self.broken("utilities", event, text)
        ordered = all(a["utility"] <= b["utility"] + ROUNDED for a, b in pairwise(rows))
        self.require(ordered, "utilities", event, "the ranking is not in its order")

    def on_auction_failed(self, event: Event) -> None:
        """See that nobody was left."""
        data = event.data
        auction = self._auctions.get(data["auction"])
        if auction is None or auction.failed:
            self.broken("auctions", event, f"{data['auction']} fails, which is not open")
            return
        self._waiting.pop(data["auction"], None)
        auction.failed = True
        self._decided(event, auction, set(auction.bids) if auction.awarded else set())

    def on_contract_accepted(self, event: Event) -> None:
        """See that its agent has won."""
        auction = self._auctions.get(event.data["auction"])
        won = auction is not None and event.agent in auction.awarded
        self.require(won, "contracts", event, f"{event.agent} did not win")
        at = event.agent, event.data["auction"]
        self.require(not self._contracts.get(at), "contracts", event, "it is accepted already")
        self._contracts[at] = True
        if auction is not None:
            same = (auction.agent, auction.data["goal"]) == (
                event.data["initiator"],
                event.data["goal"],
            )
            self.require(same, "contracts", event, f"{auction.agent} called it")

    def _in_vain(self, event: Event, auction: str) -> None:
        """See that work for a plan that has ended does not go on."""
        since = self._vain.pop(auction, event.time)
        late = event.time > since + CALM_S and since > self.run.quiet and not self.run.skewed
        if late and self.run.started.get("control") != "in-band":
            text = f"{auction} goes on, and its plan ended at {since:g} s"
            self.broken("contracts", event, text)

    def _works_no_more(self, auction: str, now: float) -> None:
        since, pause = self._at_work.pop(auction, None), self.run.timing("probe_s")
        if since is not None and pause is not None:
            self._asked[0] += 1 + max(0.0, (now - since) // (pause + ANSWERED_S) - 1)
            self._asked[1] += 2 + (now - since) // pause

    def on_run_ended(self, event: Event) -> None:
        """Compare how often winners were asked with how long they worked."""
        for auction in list(self._vain):
            self._in_vain(event, auction)
        for auction in list(self._at_work):
            self._works_no_more(auction, event.time)
        if self.run.one_clock and event.data["contents"] and not self.run.faulty:
            said, (least, most) = event.data["contents"].get("Award", 0), self._asked
            so = least <= said <= most
            self.require(so, "asked", event, f"{said} times, {least:g} to {most:g} are due")

    def on_contract_ended(self, event: Event) -> None:
        """Forget a contract."""
        self._in_vain(event, event.data["auction"])
        self._works_no_more(event.data["auction"], event.time)
        known = self._contracts.pop((event.agent, event.data["auction"]), None)
        auction = self._auctions.get(event.data["auction"])
        won = auction is None or event.agent in auction.awarded
        again = event.agent in self._restored and won
        if known is None and not again and self.run.started and event.data["fulfilled"]:
            self.broken("contracts", event, "it is fulfilled, and was not accepted")

    def end(self, last: Event) -> None:
        """Look for contracts that never end."""
        for (agent, auction), lived in self._contracts.items() if self.run.ended else ():
            if lived and agent in self.run.life:
                self.broken("contracts", last, f"{agent} never ends that of {auction}")

    def on_auction_refused(self, event: Event) -> None:
        """Note a refusal."""
        auction = self._auctions.get(event.data["auction"])
        if auction is None:
            self.broken("bids", event, f"{event.data['auction']} was not called")
        else:
            auction.refused[event.agent] = reason = event.data["reason"]
            self._answers(event, auction)
            if reason.startswith("no path to ") and ";" not in reason and self._calm(event):
                bid = {"vnf": next(iter(self._functions)), "units": 0, "reuse": None}
                least = self._cheapest(event, auction.data, bid)
                self.require(least is None, "paths", event, f"a path keeps all limits ({reason})")
