"""Judges random plans, counts the rare states that they reach, and shrinks those that fail.

The plans are run by what the caller gives: this module knows documents and events alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from msgspec import Struct

from phalanx.checking import check
from phalanx.checking.measures import sources_of
from phalanx.checking.plans import ATTACKS, Document, Mode, owed
from phalanx.domain.events import Event

WATCHING = ("/link-monitor", "/service-monitor", "/service-analyst", "/edge-filter")
"""VNFs that may be there for as long as a service is watched."""
RELIEVING = ("/service-replica", "/service-scaler", ":replicated(", ":scaledUp(")
"""What takes load from a service."""
SEARCHING = ("/anomaly-detector", "/classifier", "/load-balancer", ":splitTraffic")
"""What works for the search of the published strategy."""
FETCHED_S = 10.0
"""Images that take longer than this over the narrowest link make that search a long one."""
FILTERS = ("attackFiltered(", "flowRateLimited(")
"""Effects that name whom they block."""
MANY_EVENTS = 200_000
"""A run with more events than this never comes to rest."""
RETURNED, BETWEEN = 0.9, 0.8
"""Shares of what users get without an attack that they get at the end of one, and of one whose
sources rest: to filter them again when they return takes some seconds."""
LATE_S = 30.0
"""The end of a run that is looked at, in seconds."""
HEARSAY_S = 60.0
"""Within which an agent hears that a measure ended, though it did not ask for it."""


class Failure(Struct, frozen=True):
    """A rule that a run broke."""

    rule: str
    text: str
    time: float | None = None
    """Second of the run; None: of the run as a whole."""


class Ran(Struct, frozen=True):
    """What a run left behind."""

    events: Sequence[Event]
    failures: tuple[Failure, ...] = ()
    """What was seen beside the log: an error, reservations that do not add up, no end."""


Run = Callable[[Document], Ran]
"""Runs a document; a document that cannot be used is a failure of the rule ``document``."""


class Trial(Struct, frozen=True):
    """A plan, run and judged."""

    failures: tuple[Failure, ...]
    rare: dict[str, int]
    """How often each rare state was reached."""
    events: int
    log: Sequence[Event] = ()
    """Of processes that failed: no other run has the same."""


def judge(document: Document, mode: Mode, run: Run) -> Trial:
    """Run a plan, and say what was wrong with it."""
    ran = run(document)
    failures = list(ran.failures)
    if not failures:
        failures += [Failure(v.rule, v.text, v.time) for v in check(ran.events)]
        if not any(e.kind == "run.ended" and e.data["reason"] == "finished" for e in ran.events):
            failures.append(Failure("run", "it did not finish"))
        failures += _unrest(document, ran.events) if mode == "safety" else ()
        failures += _blamed(document, ran.events)
        failures += [
            Failure("trust", f"{event.data['agent']} is expelled though genuine", event.time)
            for event in ran.events
            if event.kind == "trust.changed" and event.data["standing"] == "quarantined"
        ]
    rare = rare_states(ran.events)
    if mode == "liveness" and not failures and owed(document):
        rare["service is owed"] += 1
        failures += _without_service(document, ran.events, run)
    log = ran.events if failures and mode == "processes" else ()
    return Trial(tuple(failures), dict(rare), len(ran.events), log)


def _unrest(document: Document, events: Sequence[Event]) -> Iterator[Failure]:
    """Find what is still held at the end, long after attack and faults."""
    ends = [group.get("end_s") for group in document["traffic"] if group["profile"] in ATTACKS]
    if any(end is None or end > document["duration_s"] - 200 for end in ends):
        return
    since = document["duration_s"] - LATE_S
    calls = sum(e.kind == "auction.called" and e.time > since for e in events)
    if calls > LATE_S / 2:
        yield Failure("rest", f"{calls} auctions in the last {LATE_S:g} s, long after all is over")
    wanted = Counter[str]()
    for group in document["traffic"]:
        if group["profile"] not in ATTACKS:
            most = group["demand_mb_s"] * (1 + group.get("jitter", 0))
            wanted[str(group["target"])] += group["count"] * most
    # A limit that is not above what users want has something to hold back until it is reviewed.
    rate_mb_s = document.get("parameters", {}).get("ip_rate_mb_s", 2.0)
    low = max(wanted.values(), default=0.0) > 0.99 * rate_mb_s
    # Nothing that is only observed makes a service's load lighter, by which it is given back.
    stays: tuple[str, ...] = RELIEVING if document.get("mode") == "observe" else ()
    if document["strategy"] == "published":  # each step of its search may fetch an image
        images = sum(each.get("image_mb", 0) for each in document["functions"].values())
        slowest = min((k["bandwidth_mb_s"] for k in document["network"]["links"]), default=1e9)
        stays += SEARCHING if images / slowest > FETCHED_S else ()
        least = min((each["threshold_mb_s"] for each in document["monitors"]), default=1e9)
        low = low or sum(wanted.values()) > least  # whatever of it crosses that link
    for lease in next(e.data["leases"] for e in reversed(events) if e.kind == "run.ended"):
        limits = "/rate-limiter" in lease or "RateLimited(" in lease
        if not (lease.endswith(WATCHING) or (low and limits) or any(x in lease for x in stays)):
            yield Failure("rest", f"{lease} is held long after all is over")
    wrong = ("underAttack(", "threat(", *(() if low else ("overUsage(", "connectionFlood(")))
    # To have split traffic is a result, which stays one.
    last = {e.data["measure"]: e for e in events if e.kind in ("measure.applied", "measure.lifted")}
    late = since - HEARSAY_S
    kept = {x.data["effect"] for x in last.values() if x.kind != "measure.lifted" or x.time > late}
    over = {x.data["effect"] for x in last.values()} - kept
    for agent, belief in _believed(events, (*wrong, *(x for x in over if x[:5] != "split"))):
        yield Failure("rest", f"{agent} believes in {belief} long after all is over")


def _believed(events: Sequence[Event], kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield what agents that live believe in the end, of some kinds: an agent and a belief."""
    held: dict[str, dict[str, None]] = {}
    for event in events:
        match event.kind:
            case "belief.changed" if event.data["belief"].startswith(kinds):
                held.setdefault(event.agent, {}).pop(event.data["belief"], None)
                if event.data["value"]:
                    held[event.agent][event.data["belief"]] = None
            case "agent.crashed":
                held.pop(event.data["pop"], None)
            case "agent.left":
                held.pop(event.agent, None)
    yield from ((agent, belief) for agent, beliefs in held.items() for belief in beliefs)


def _blamed(document: Document, events: Sequence[Event]) -> Iterator[Failure]:
    """Find users that are blocked: sources of a group have addresses by its number and theirs."""
    users = {
        f"10.{number}.{one // 256}.{one % 256}": group["name"]
        for number, group in enumerate(document["traffic"], 1)
        if group["profile"] not in ATTACKS and number < 256
        for one in range(1, group["count"] + 1)
    }
    for event in events:
        blocks = event.kind == "measure.applied" and event.data["effect"].startswith(FILTERS)
        if blocks and not event.data["rate_mb_s"]:
            for source in filter(users.get, sources_of(event)):
                text = f"{source}, one of {users[source]}, is blocked at {event.data['pop']}"
                yield Failure("blamed", text, event.time)


def _without_service(document: Document, events: Sequence[Event], run: Run) -> Iterator[Failure]:
    """Compare what users get late in the attack with the same network without one.

    That is run if users of a host get less than that share of all that they want.
    """
    quiet = [group for group in document["traffic"] if group["profile"] not in ATTACKS]
    if len(quiet) == len(document["traffic"]):
        return
    rest = any("shape" in each or each.get("adapt") == "quiet" for each in document["traffic"])
    since, least = document["duration_s"] - LATE_S, BETWEEN if rest else RETURNED
    got = _shares(events, since)
    if all(share > least for share in got.values()):
        return
    peace = run(document | {"traffic": quiet})
    yield from peace.failures
    usual = _shares(peace.events, since)
    for host, share in usual.items():
        if share > 0 and got.get(host, 0.0) <= least * share:
            text = f"users of {host} get {got.get(host, 0.0):.0%}, without the attack {share:.0%}"
            yield Failure("service", text)


def _shares(events: Sequence[Event], since: float) -> dict[str, float]:
    """Return the share of what its users want that each host gets, from a second on."""
    late = [e.data["hosts"] for e in events if e.kind == "network.sample" and e.time > since]
    hosts = {name for sample in late for name in sample}
    shares = {}
    for name in sorted(hosts):
        found = [sample[name] for sample in late if name in sample]
        wanted = sum(each["wanted_mb_s"] for each in found)
        shares[name] = sum(each["legitimate_mb_s"] for each in found) / wanted if wanted else 0.0
    return shares


# -- what was reached ---------------------------------------------------------------------------

_STATES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "auction.called: a further round": lambda d: d["round"] > 1,
    "auction.failed: no winner": lambda _: True,
    "auction.waiting: an elder auction goes first": lambda _: True,
    "auction.awarded: an agent was silent": lambda d: bool(d.get("silent")),
    "auction.awarded: an instance is used again": lambda d: bool(
        d["ranking"] and d["ranking"][0]["reuse"]
    ),
    "auction.awarded: an agent keeps it so already": lambda d: bool(
        d["ranking"] and d["ranking"][0].get("kept")
    ),
    "auction.refused: beyond the deadline of the goal": lambda d: "T " in d["reason"],
    "auction.refused: no room": lambda d: "room" in d["reason"] or "free" in d["reason"],
    "contract.ended: in vain": lambda d: not d["fulfilled"],
    "lease.expired: a hold": lambda d: d["what"] == "hold",
    "lease.expired: an instance": lambda d: d["what"] == "instance",
    "instance.stopped: gave way": lambda d: "way" in d["reason"],
    "instance.replaced: measures moved to another version": lambda _: True,
    "instance.scaled: up": lambda d: d["to_units"] > d["from_units"],
    "instance.scaled: down": lambda d: d["to_units"] < d["from_units"],
    "image.evicted: for another": lambda _: True,
    "image.prefetching: before it is needed": lambda _: True,
    "measure.withdrawn: it harmed users": lambda _: True,
    "agent.restored: with its memory": lambda _: True,
    "agent.gone: a peer believes it dead": lambda _: True,
    "agent.left: in order": lambda _: True,
    "agent.left: goals that no agent took over": lambda d: bool(d["ended"]),
    "goal.taken_over: by a guardian": lambda _: True,
    "goal.ended: settled with another owner": lambda d: "whose duty" in d.get("reason", ""),
    "duty.taken_up: by an heir": lambda _: True,
    "plan.ended: an action failed": lambda d: not d["succeeded"],
    "action.failed: refused by the infrastructure": lambda _: True,
    "message.shed: a full queue": lambda _: True,
    "attestation.result: an agent is genuine": lambda d: d["tier"] == "affirming",
    "trust.changed: an agent is silent": lambda d: d["standing"] == "silent",
    "trust.changed: an agent comes back": lambda d: d["reason"].startswith("genuine again"),
}
"""Rare states that one event shows: its kind, and what its data says."""
_TWICE = {
    "goal.taken_over": "goal.taken_over: twice",
    "duty.taken_up": "duty.taken_up: twice or more",
    "agent.crashed": "agent.crashed: the same agent again",
}
_COMBINED = (
    *_TWICE.values(),
    "duty.taken_up: though its home lives (a partition, or silence)",
    "agent.crashed: while it works for another",
    "instance.downloading: from a PoP that has the image",
    "service is owed",
    "two faults at a time",
    "four kinds of faults",
)


def states() -> list[str]:
    """Return the names of all rare states that are counted."""
    return [*_STATES, *_COMBINED]


def rare_states(events: Sequence[Event]) -> Counter[str]:
    """Count the rare states that a log shows."""
    found: Counter[str] = Counter()
    by_kind: dict[str, list[tuple[str, Callable[[dict[str, Any]], bool]]]] = {}
    for name, test in _STATES.items():
        by_kind.setdefault(name.partition(":")[0], []).append((name, test))
    seen: Counter[tuple[str, str]] = Counter()
    working: Counter[str] = Counter()
    dead: set[str] = set()
    repository = ""
    kinds: set[str] = set()
    last_fault = -60.0
    for event in events:
        data = event.data
        found.update(name for name, test in by_kind.get(event.kind, ()) if test(data))
        if event.kind in _TWICE:
            about = event.kind, str(data.get("goal") or data.get("pop"))
            seen[about] += 1
            found[_TWICE[event.kind]] += seen[about] > 1
        match event.kind:
            case "run.started":
                repository = data["repository"]
            case "instance.downloading" if data.get("source", repository) != repository:
                found["instance.downloading: from a PoP that has the image"] += 1
            case "contract.accepted":
                working[event.agent] += 1
            case "contract.ended":
                working[event.agent] -= 1
            case "agent.crashed":
                dead.add(data["pop"])
                found["agent.crashed: while it works for another"] += working[data["pop"]] > 0
                working[data["pop"]] = 0
            case "agent.started" | "agent.restored":
                dead.discard(event.agent)
            case "duty.taken_up" if data["home"] not in {*dead, event.agent}:
                found["duty.taken_up: though its home lives (a partition, or silence)"] += 1
            case "fault.injected":
                found["two faults at a time"] += event.time - last_fault < 1.0
                last_fault = event.time
                kinds.add(data["fault"])
    found["four kinds of faults"] += len(kinds) > 3
    return +found


# -- shrinking ----------------------------------------------------------------------------------

_LISTS = ("faults", "updates", "traffic", "agents", "monitors", "hosts")
_OPTIONAL = ("goals", "control", "bidding", "parameters", "timing", "trust")


def shrink(document: Document, fails: Callable[[Document], bool], *, tries: int = 400) -> Document:
    """Return a smaller plan that still fails, by leaving out all that it can do without.

    Args:
        document: a plan that fails.
        fails: whether a plan fails in the same way.
        tries: how many plans are tried at most.

    """
    left = tries
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(document):
            if left == 0:
                return document
            left -= 1
            if fails(candidate):
                document, smaller = candidate, True
                break
    return document


def _candidates(document: Document) -> Iterator[Document]:
    """Yield plans with less in them, the boldest cuts first."""
    for name in _LISTS:
        entries = document.get(name, [])
        size = len(entries)
        while size:
            for start in range(0, len(entries), size):
                kept = entries[:start] + entries[start + size :]
                yield document | {name: kept}
            size //= 2
    yield from _smaller_networks(document)
    yield from _plainer(document)


def _smaller_networks(document: Document) -> Iterator[Document]:
    for pop in document["network"]["pops"]:
        if (without := _without(document, pop["name"])) is not None:
            yield without
    network = document["network"]
    for index in range(len(document["network"]["links"])):
        links = [link for number, link in enumerate(network["links"]) if number != index]
        yield document | {"network": network | {"links": links}}
    if network.get("default_link_loss"):
        yield document | {"network": network | {"default_link_loss": 0}}


def _plainer(document: Document) -> Iterator[Document]:
    for name in _OPTIONAL:
        if name in document:
            yield {key: value for key, value in document.items() if key != name}
    for name in document["functions"]:
        yield document | {
            "functions": {k: v for k, v in document["functions"].items() if k != name}
        }
    for part in (0.5, 0.8):
        if (end := round(document["duration_s"] * part, 1)) >= 5:
            yield document | {"duration_s": end}
    for name in ("traffic", "faults"):
        for index, entry in enumerate(document.get(name, [])):
            for field in ("shape", "jitter", "spread_s", "adapt", "asymmetric", "memory"):
                if entry.get(field):
                    yield _changed(document, name, index, field, None)
            if entry.get("count", 1) > 1:
                yield _changed(document, name, index, "count", entry["count"] // 2)


def _changed(document: Document, name: str, index: int, field: str, value: object) -> Document:
    copy = deepcopy(document)
    copy[name][index][field] = value
    if value is None:
        del copy[name][index][field]
    return copy


def _without(document: Document, pop: str) -> Document | None:
    """Return a plan without a PoP and all that names it; None where a host stands there."""
    network = document["network"]
    others = [each for each in network["pops"] if each["name"] != pop]
    if not others or any(host["at"] == pop for host in document["hosts"]):
        return None
    traffic = []
    for group in document["traffic"]:
        at = [place for place in group["at"] if place != pop]
        if at:
            traffic.append(group | {"at": at})
    agents = [agent for agent in document.get("agents", []) if agent.get("pop") != pop]
    gone = {pop, *(a["name"] for a in document.get("agents", []) if a.get("pop") == pop)}
    return document | {
        "network": network
        | {
            "pops": others,
            "links": [link for link in network["links"] if pop not in link["between"]],
            "repository": document["hosts"][0]["at"],
        },
        "traffic": traffic,
        "agents": agents,
        "monitors": [m for m in document["monitors"] if m["at"] != pop and pop not in m["link"]],
        "faults": [fault for fault in document["faults"] if not _names(fault, gone)],
    }


def _names(fault: Document, gone: set[str]) -> bool:
    """Whether a fault is about one of those agents or PoPs."""
    named = {fault.get("agent"), *fault.get("link", ())}
    named.update(*fault.get("groups", ()))
    return bool(named & gone)
