"""Reading scenario files: a scenario, or one line that says what is wrong with the file.

``offences`` holds what the parts of a scenario say about each other, beyond the types of the
fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from ipaddress import IPv6Address
from pathlib import Path

from msgspec import structs

from phalanx.auction.terms import BUILT_IN, installed_terms
from phalanx.domain import predicates
from phalanx.domain.agents import POP
from phalanx.domain.network import link_ends, link_id
from phalanx.domain.rules import AllowedSources, AllowList
from phalanx.domain.traffic import PROFILES
from phalanx.loading import (
    MAX_BYTES,
    Offence,
    nearest,
    parse_as,
    read_text,
    refusal,
    show,
    twice,
    unknown,
)
from phalanx.policy.enforcement import part_of
from phalanx.policy.plan import PolicyPlan, member_offences, plan_offences
from phalanx.policy.rules import RuleSchedule
from phalanx.policy.ssla import PLACED
from phalanx.policy.traffic import wire_rules
from phalanx.runtime.scenario import ANALYST, MONITORS, STRATEGIES, FaultSpec, Scenario, TrafficSpec
from phalanx.slices.agreements import agreement_offences, naming_offences
from phalanx.slices.model import slice_offences

__all__ = ["MAX_BYTES", "load_scenario", "offences", "parse_scenario"]

MAX_SOURCES = 50_000
_SHORTEST_PULSE_S = 0.1
_SUM_TOLERANCE = 1e-6
_UNDER = "forecast.under_anomaly"
_RESERVED = {"network", "recorder", "run", "secaas"}
"""Names of identities that every run has."""
_GOALS = tuple(name for name in vars(predicates) if name[0].isupper() and name != "Predicate")
_OWN_FIELDS = {
    "crash": {"agent"},
    "restart": {"agent"},
    "drain": {"agent"},
    "link-down": {"link"},
    "link-up": {"link"},
    "lose": {"share"},
    "duplicate": {"share"},
    "delay": {"share"},
    "reorder": {"share"},
    "partition": {"groups"},
    "degrade": {"link", "share"},
    "drift": {"agent"},
    "slow-disk": {"agent"},
    "full-disk": {"agent"},
    "broker-down": {"broker"},
    "infect": {"agent"},
    "lie": {"agent"},
    "remove-rule": {"effect"},
    "stale": {"agent"},
    "blind": {"agent"},
}
_MESSAGES = {"lose", "duplicate", "delay", "reorder"}
_FIGURES: dict[str, tuple[float, set[str]]] = {
    "delay_s": (1.0, {"delay", "reorder", "slow-disk"}),
    "latency_ms": (0.0, {"degrade"}),
    "loss": (0.0, {"degrade"}),
    "rate": (1.0, {"drift"}),
    "jump_s": (0.0, {"drift"}),
}
"""Figures of faults: their defaults, and the kinds that they mean something for."""
_ENDING = {"restart", "drain", "link-up", "repository-back", "remove-rule"}
"""Faults that end another, or by themselves: they do not last."""


def load_scenario(path: str | Path) -> Scenario:
    """Return the scenario in the YAML file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    return parse_scenario(read_text(path), str(path))


def parse_scenario(text: str, name: str) -> Scenario:
    """Return the scenario that ``text`` (YAML) describes; ``name`` stands for it in errors.

    Raises:
        ScenarioError: as ``load_scenario``.

    """
    scenario, tree = parse_as(Scenario, text, name)
    for field, why in offences(scenario):
        raise refusal(name, tree, field, why)
    return scenario


def offences(scenario: Scenario) -> Iterator[Offence]:
    """Yield everything in ``scenario`` that does not fit together, in the order of the schema."""
    yield from _network(scenario)
    yield from _hosts(scenario)
    yield from _calls(scenario)
    yield from _slices(scenario)  # from here on there are loops
    yield from _traffic(scenario)
    yield from _monitors(scenario)
    yield from _goals(scenario)
    if scenario.bidding == "published" and scenario.prices() != "published":
        yield "pricing", f"{scenario.prices()}; bidding as published needs published prices"
    yield from allow_offences(scenario.allow)
    yield from _timing(scenario)
    yield from _agents(scenario)
    yield from _trust(scenario)
    yield from _agreement(scenario)
    yield from _policy(scenario)
    yield from _faults(scenario)
    yield from _updates(scenario)


def allow_offences(allow: Iterable[AllowedSources]) -> Iterator[Offence]:
    """Yield what is wrong with the entries of an allow list."""
    for place, entry in enumerate(allow):
        try:
            AllowList((entry,))
        except ValueError as error:
            yield f"allow[{place}].prefix", str(error)


def address_offences(field: str, addresses: Iterable[str]) -> Iterator[Offence]:
    """Yield what is wrong with IPv6 addresses, by which packets are told (RFC 5952)."""
    for place, address in enumerate(addresses):
        try:
            shortest = str(IPv6Address(address)) if ":" in address else address
        except ValueError:
            yield f"{field}[{place}].address", f"{show(address)} is no address"
        else:
            if shortest != address:
                yield f"{field}[{place}].address", f"{show(address)} is written as {shortest}"


def _network(scenario: Scenario) -> Iterator[Offence]:
    network = scenario.network
    names = [pop.name for pop in network.pops]
    yield from twice("network.pops", names, ".name")
    for index, name in enumerate(names):
        if name in _RESERVED:
            yield f"network.pops[{index}].name", f"{show(name)} is reserved; choose another name"
    known = dict.fromkeys(names)
    if network.repository not in known:
        yield "network.repository", unknown("PoP", network.repository, known)
    for index, link in enumerate(network.links):
        path = f"network.links[{index}].between"
        for end in link.between:
            if end not in known:
                yield path, unknown("PoP", end, known)
        if link.between[0] == link.between[1]:
            yield path, f"links {show(link.between[0])} with itself; two PoPs are expected"
    pairs = (" and ".join(sorted(link.between)) for link in network.links)
    yield from twice("network.links", pairs, ".between")
    apart = _not_reached(names, [link.between for link in network.links])
    if apart:
        yield "network.links", f"no path leads from {names[0]} to {apart}; all PoPs must be linked"


def _not_reached(names: list[str], links: list[tuple[str, str]]) -> str | None:
    """Return the first PoP that cannot be reached from the first one."""
    neighbours: dict[str, list[str]] = {name: [] for name in names}
    for a, b in links:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    reached = {names[0]}
    open_ends = [names[0]]
    while open_ends:
        for other in neighbours[open_ends.pop()]:
            if other not in reached:
                reached.add(other)
                open_ends.append(other)
    return next((name for name in names if name not in reached), None)


def _hosts(scenario: Scenario) -> Iterator[Offence]:
    pops = {pop.name: None for pop in scenario.network.pops}
    yield from twice("hosts", (host.name for host in scenario.hosts), ".name")
    yield from twice("hosts", (host.address for host in scenario.hosts), ".address")
    yield from address_offences("hosts", (host.address for host in scenario.hosts))
    for index, host in enumerate(scenario.hosts):
        path = f"hosts[{index}]"
        if host.at not in pops:
            yield f"{path}.at", unknown("PoP", host.at, pops)
        if host.name in pops:
            yield f"{path}.name", f"{show(host.name)} is a PoP already; choose another name"
        if ":" in host.address and scenario.traffic:
            yield f"{path}.address", "sources of traffic have IPv4 addresses, and so must hosts"
        group, _, rest = host.address.removeprefix("10.").partition(".")
        if host.address.startswith("10.") and rest and 1 <= int(group) <= len(scenario.traffic):
            yield (
                f"{path}.address",
                f"10.{group}.x.x belongs to the sources of traffic[{int(group) - 1}]; "
                "choose another, such as 10.0.x.x",
            )


def _calls(scenario: Scenario) -> Iterator[Offence]:
    asked = {host.name: host.calls or {} for host in scenario.hosts}
    missing = False
    for index, host in enumerate(scenario.hosts):
        for name in host.calls or {}:
            if name not in asked:
                missing = True
                yield f"hosts[{index}].calls.{name}", unknown("host", name, asked)
    try:
        TopologicalSorter({} if missing else asked).prepare()
    except CycleError as fault:
        circle = " calls ".join(reversed(fault.args[1]))
        yield "hosts", f"{circle}; calls must not lead back to where they began"


def _traffic(scenario: Scenario) -> Iterator[Offence]:
    pops = {pop.name: None for pop in scenario.network.pops}
    hosts = {host.name: None for host in scenario.hosts}
    yield from twice("traffic", (group.name for group in scenario.traffic), ".name")
    for index, group in enumerate(scenario.traffic):
        path = f"traffic[{index}]"
        for position, pop in enumerate(group.at):
            if pop not in pops:
                yield f"{path}.at[{position}]", unknown("PoP", pop, pops)
        for position, target in enumerate(group.targets):
            if target not in hosts:
                where = "" if isinstance(group.target, str) else f"[{position}]"
                yield f"{path}.target{where}", unknown("host", target, hosts)
        yield from _behaviour(group, path)
        last_start = group.start_s + group.spread_s
        if group.end_s is not None and group.end_s <= last_start:
            yield (
                f"{path}.end_s",
                f"{group.end_s:g} is not after the last start "
                f"(start_s + spread_s = {last_start:g}); a later time is expected",
            )
    total = sum(group.count * len(group.targets) for group in scenario.traffic)
    if total > MAX_SOURCES:
        yield "traffic", f"{total} sources in all; at most {MAX_SOURCES} are allowed"


def _behaviour(group: TrafficSpec, path: str) -> Iterator[Offence]:
    shape = group.shape
    if (shape.on_s > 0) != (shape.off_s > 0):
        yield f"{path}.shape", "on_s and off_s belong together; give both or neither"
    if 0 < shape.on_s < _SHORTEST_PULSE_S or 0 < shape.off_s < _SHORTEST_PULSE_S:
        yield f"{path}.shape", f"on_s and off_s are at least {_SHORTEST_PULSE_S:g} s"
    if len(set(group.targets)) < len(group.targets):
        yield f"{path}.target", "names a host twice"
    if group.adapt is not None and not PROFILES[group.profile].malicious:
        yield f"{path}.adapt", f"is what attackers do; {group.profile} is none"


def _monitors(scenario: Scenario) -> Iterator[Offence]:
    pops = {pop.name: None for pop in scenario.network.pops}
    links = [link_id(*ends) for link in scenario.network.links for ends in _both(link.between)]
    links += [link_id(host.at, host.name) for host in scenario.hosts]
    known = dict.fromkeys(links)
    served = {link_id(h.at, h.name) for h in scenario.hosts if h.limits and h.limits.requests_s}
    loops = {loop.name for loop in scenario.loops()}  # they run no function that could watch
    standing = {name: pop for name, pop in scenario.standing().items() if name not in loops}
    yield from twice("monitors", (monitor.link for monitor in scenario.monitors), ".link")
    watching = MONITORS[scenario.strategy]
    if scenario.monitors and watching not in {*scenario.functions, *STRATEGIES[scenario.strategy]}:
        yield "functions", f"{watching} is missing; monitors need it"
    for index, monitor in enumerate(scenario.monitors):
        path = f"monitors[{index}]"
        if monitor.link not in known:
            yield f"{path}.link", unknown("link", monitor.link, known)
        elif monitor.at not in pops:
            yield f"{path}.at", unknown("PoP", monitor.at, pops)
        elif monitor.at not in link_ends(monitor.link):
            ends = " or ".join(end for end in link_ends(monitor.link) if end in pops)
            yield f"{path}.at", f"{monitor.link} cannot be read at {monitor.at}; {ends} is expected"
        if monitor.service and ANALYST not in scenario.functions:
            yield "functions", f"{ANALYST} is missing; a monitor of a service needs it"
        if monitor.service and monitor.link not in served:
            why = f"{monitor.link} leads to no host whose limits say requests_s"
            yield f"{path}.service", why
        watcher = monitor.agent or monitor.at
        if monitor.at in pops and standing.get(watcher) != monitor.at:
            there = [name for name, pop in standing.items() if pop == monitor.at]
            yield f"{path}.agent", unknown(f"agent at {monitor.at}", watcher, there)


def _both(ends: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    return ends, (ends[1], ends[0])


def _goals(scenario: Scenario) -> Iterator[Offence]:
    under = {} if scenario.forecast is None else scenario.forecast.under_anomaly
    for name in {**scenario.goals, **under}:
        hint = nearest(name, _GOALS)
        # Functions may bring predicates of their own, but what nearly is a known one is a slip.
        if name != "default" and name not in _GOALS and hint:
            yield f"{'goals' if name in scenario.goals else _UNDER}.{name}", f"unknown goal{hint}"
    goals = scenario.goals.items()
    weighed = {f"goals.{name}.preferences": goal.preferences for name, goal in goals}
    weighed |= {f"{_UNDER}.{name}": weights for name, weights in under.items()}
    for path, weights in weighed.items():
        total = weights.time + weights.cost + weights.decentralisation + sum(weights.terms.values())
        if abs(total - 1) > _SUM_TOLERANCE:
            names = _listed("time", "cost", "decentralisation", *weights.terms)
            yield path, f"{names} sum to {total:g}; they must sum to 1"
    named = {path: weights.terms for path, weights in weighed.items()}
    limited = {f"goals.{name}.constraints": goal.constraints.terms for name, goal in goals}
    for path, terms in {**named, **limited}.items():
        own = [term.name for term in BUILT_IN] if path in limited else []
        known = [*own, *installed_terms()] if terms else ()
        for term in terms:
            if term not in known:
                yield f"{path}.terms", unknown("bid term", term, known)


def _listed(*names: str) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _timing(scenario: Scenario) -> Iterator[Offence]:
    timing = scenario.timing
    if timing.silence_s <= timing.heartbeat_s:
        yield (
            "timing.silence_s",
            f"{timing.silence_s:g} is not above heartbeat_s ({timing.heartbeat_s:g}); "
            "a living agent would be believed dead",
        )
    if timing.lease_s <= timing.auction_deadline_s:
        yield (
            "timing.lease_s",
            f"{timing.lease_s:g} is not above auction_deadline_s "
            f"({timing.auction_deadline_s:g}); proposals would lapse before the award",
        )


def _agents(scenario: Scenario) -> Iterator[Offence]:
    pops = {pop.name: None for pop in scenario.network.pops}
    hosts = {host.name for host in scenario.hosts}
    yield from twice("agents", (agent.name for agent in scenario.agents), ".name")
    for index, agent in enumerate(scenario.agents):
        path = f"agents[{index}]"
        if agent.name in _RESERVED:
            yield f"{path}.name", f"{show(agent.name)} is reserved; choose another name"
        elif agent.name in pops or agent.name in hosts:
            what = "an agent has the name of each PoP" if agent.name in pops else "it is a host"
            yield f"{path}.name", f"{show(agent.name)} is taken: {what}; choose another name"
        if agent.pop is not None and agent.pop not in pops:
            yield f"{path}.pop", unknown("PoP", agent.pop, pops)
        if agent.pop is None and agent.scope == POP.name:
            yield f"{path}.pop", "missing; an agent of the scope pop stands at a PoP"


def _trust(scenario: Scenario) -> Iterator[Offence]:
    if scenario.trust is None:
        return
    verifiers, others = scenario.trust.verifiers, len(scenario.all_agents()) - 1
    if (majority := verifiers // 2 + 1) > max(2, others):
        yield (
            "trust.verifiers",
            f"a majority of {verifiers} is {majority}, and an agent has {others} others to "
            f"verify it: nothing would ever be decided; at most {max(3, 2 * others - 1)}",
        )


def _slices(scenario: Scenario) -> Iterator[Offence]:
    spec = scenario.slices
    if spec is None:
        return
    hosts = {host.name: "a host" for host in scenario.hosts}
    agents = {agent.name: "an agent" for agent in scenario.agents}
    pops = {pop.name: "a PoP" for pop in scenario.network.pops}
    for field, why in slice_offences(spec, agents | hosts | pops):
        yield f"slices.{field}", why
    for index, function in enumerate(spec.functions):
        if function.host not in hosts:
            yield f"slices.functions[{index}].host", unknown("host", function.host, hosts)


def _agreement(scenario: Scenario) -> Iterator[Offence]:
    agreement, names = scenario.agreement, {pop.name for pop in scenario.network.pops}
    spec, hosts = scenario.slices, {host.name: host.at for host in scenario.hosts}
    named = (each.agreement for each in spec.slices) if spec else ()
    yield from naming_offences(named, agreement, "slices.slices")
    if agreement is None:
        return
    if scenario.trust is None:
        yield "trust", "is missing; scores by an agreement need agents that attest each other"
    yield from agreement_offences(agreement, "agreement.")
    for index, pop in enumerate(agreement.pops):
        if pop.name not in names:
            yield f"agreement.pops[{index}].name", unknown("PoP", pop.name, sorted(names))
    for index, function in enumerate(spec.functions if spec else ()):
        if why := agreement.outside(hosts.get(function.host)):
            yield f"slices.functions[{index}].host", f"may not stand there: {why}"


def _policy(scenario: Scenario) -> Iterator[Offence]:
    policy, spec = scenario.policy, scenario.slices
    if policy is None:
        return
    slices = policy.members.slices if spec is None else [each.name for each in spec.slices]
    every = (*plan_offences(policy, slices), *member_offences(policy))
    found = [(f"policy.{field}", why) for field, why in every]
    yield from found
    hosts = {host.name for host in scenario.hosts}
    if found or not all(each.host in hosts for each in (spec.functions if spec else ())):
        return
    standing = {pop.name for pop in scenario.network.pops if pop.agent}
    for place in scenario.policed():
        if place.pop not in standing:
            why = f"{place.entity} of {place.slice} stands at {place.pop}, where no agent enforces"
            yield "policy", why
    yield from policy_refusals(policy, scenario)


def policy_refusals(policy: PolicyPlan, scenario: Scenario) -> Iterator[Offence]:
    """Yield what the agents of a scenario cannot do of a policy that is without offences."""
    numbers = {rule.id: index for index, rule in enumerate(policy.rules.rules)}
    refused: dict[str, str] = {}
    encrypts = False
    places = scenario.policed()
    for place in places:
        rules = part_of(policy, places, {}, pop=place.pop).rules
        bare = tuple(structs.replace(rule, schedule=RuleSchedule()) for rule in rules.rules)
        for each in wire_rules(structs.replace(rules, rules=bare), place):
            encrypts |= each.encrypt
            if each.why_not:
                index = numbers.get(each.rule.id)
                path = "default" if index is None else f"rules[{index}]"
                refused.setdefault(f"policy.rules.{path}", f"cannot be enforced: {each.why_not}")
    yield from refused.items()
    agents = [name for name, pop in scenario.standing().items() if pop is not None]
    for index, agreement in enumerate(policy.agreements):
        path = f"policy.agreements[{index}].negotiated_with"
        for name in agreement.negotiated_with or ():
            if name not in agents:
                yield path, unknown("agent", name, agents)
        pops = {each.pop for each in places if each.slice == agreement.terms[0].slice}
        judged = len(pops) == 1 or (pops and scenario.slices is not None)
        if agreement.negotiated_with is not None and not judged:
            yield path, "needs a loop of the slice, or its functions at one PoP, to judge by it"
    terms = [term for agreement in policy.agreements for term in agreement.terms]
    remedies = {remedy for term in terms for remedy in term.remediation}
    needed = {PLACED[each] for each in remedies if each in PLACED}
    if encrypts:
        needed.add("gateway")
    for name in sorted(needed - set(scenario.functions)):
        yield "functions", f"{name} is missing; the policy needs it"


def _faults(scenario: Scenario) -> Iterator[Offence]:
    agents = {agent.name: None for agent in scenario.all_agents()}
    links = {end for link in scenario.network.links for end in _both(link.between)}
    loops = {loop.name for loop in scenario.loops()}
    enforcing = {name for name, pop in scenario.standing().items() if pop and name not in loops}
    for index, fault in enumerate(scenario.faults):
        path = f"faults[{index}]"
        yield from _fault_fields(fault, path)
        if fault.kind in ("stale", "blind") and scenario.policy is None:
            yield f"{path}.kind", "needs a policy, which the agent then does not see to by itself"
        elif fault.kind in ("stale", "blind") and fault.agent in agents.keys() - enforcing:
            yield f"{path}.agent", f"{fault.agent} enforces no policy: it has no PoP, or is a loop"
        if fault.agent is not None and fault.agent not in agents:
            yield f"{path}.agent", unknown("agent", fault.agent, agents)
        if fault.link is not None and fault.link not in links:
            yield f"{path}.link", f"there is no link between {' and '.join(fault.link)}"
        named = [agent for group in fault.groups or () for agent in group]
        yield from twice(f"{path}.groups", named)
        for agent in named:
            if agent not in agents:
                yield f"{path}.groups", unknown("agent", agent, agents)


def _fault_fields(fault: FaultSpec, path: str) -> Iterator[Offence]:
    needed = _OWN_FIELDS.get(fault.kind, set())
    allowed = needed | ({"agent"} if fault.kind in _MESSAGES else set())
    for field in ("agent", "link", "broker", "share", "groups", "effect"):
        given = getattr(fault, field) is not None
        if given and field not in allowed:
            yield f"{path}.{field}", f"has no meaning for {fault.kind}; leave it out"
        if not given and field in needed:
            yield f"{path}.{field}", f"missing; {fault.kind} needs it"
    for field, (default, kinds) in _FIGURES.items():
        if getattr(fault, field) != default and fault.kind not in kinds:
            yield f"{path}.{field}", f"has no meaning for {fault.kind}; leave it out"
    if fault.kind == "degrade" and fault.share == 0:
        yield f"{path}.share", "leaves nothing; a link without bandwidth is one that is down"
    if fault.kind == "drift" and fault.rate == 1 and not fault.jump_s:
        yield f"{path}.rate", "missing; drift needs a rate, jump_s or both"
    if fault.kind in _ENDING and fault.for_s is not None:
        yield f"{path}.for_s", f"has no meaning for {fault.kind}; leave it out"
    if fault.memory is not None and fault.kind not in ("restart", "crash"):
        yield f"{path}.memory", f"has no meaning for {fault.kind}; leave it out"
    elif fault.memory is not None and fault.kind == "crash" and fault.for_s is None:
        yield f"{path}.memory", "has no meaning for a crash that lasts; give for_s or leave it out"


def _updates(scenario: Scenario) -> Iterator[Offence]:
    for index, update in enumerate(scenario.updates):
        if update.function not in scenario.functions:
            path = f"updates[{index}].function"
            yield path, unknown("function", update.function, scenario.functions)
