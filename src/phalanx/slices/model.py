"""Network slices as typed data, and the closed loops that follow from them.

The nouns are those of 3GPP: a network slice (NSI) is made of network slice subnets (NSSI), these
of managed functions (TS 28.541, clause 6.3; TS 28.622 for ``ManagedFunction``). The structs are the
schema of the section ``slices:`` of scenario files, and of slice descriptors.

Loops are derived, never written: each function, subnet and slice has one, each domain a manager,
and all together one more, end to end. A loop is an agent with a scope; what it may know of the
others follows from the slices that use what it looks after (``known_to``).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.agents import AgentId, Loop
from phalanx.domain.network import Host
from phalanx.loading import Name, Offence, show, twice, unknown

END_TO_END = "e2e"
"""The manager over all domains, and what it looks after."""
MANAGING = ("security-manager",)
"""What managers can do beside what every loop can."""
_WIDEST = "end-to-end"
"""Its scope."""
_KINDS = ("functions", "subnets", "slices")
_SCOPES = ("network-function", "sub-slice", "slice")
_RELATIONS = ("above", "below", "beside", "managers")
_LONGEST = 64
"""Signs that the name of an agent may have (``Name``)."""
_MOST = 10_000
_MOST_PARTS = 256


class ManagedFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """A network function of a slice, on a host of the network."""

    name: Name
    kind: Name
    """Such as AMF, SMF, UPF or gNB: the set is open."""
    host: Name
    """The host of the scenario that it runs on; the PoP of that host is the function's."""
    form: Literal["VNF", "CNF", "PNF"] = "CNF"
    """Virtual, cloud-native or physical; what is physical is neither scaled nor replaced."""
    capabilities: tuple[Name, ...] = ()
    """What its loop can do beside what every loop of its scope can."""


class NetworkSliceSubnet(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of slices in one domain (NSSI)."""

    name: Name
    domain: Name
    """RAN, CN or TN, or another administrative domain."""
    functions: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=_MOST_PARTS)]
    """Names of managed functions (``managedFunctionRef``)."""
    capabilities: tuple[Name, ...] = ()


class SNssai(Struct, frozen=True, forbid_unknown_fields=True):
    """What devices ask for a slice by (TS 23.003, clause 28.4)."""

    sst: Annotated[int, Meta(ge=0, le=255)]
    """Slice and service type: 1 is eMBB, 2 URLLC, 3 mIoT."""
    sd: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{6}\Z", max_length=6)] | None = None
    """Slice differentiator: 24 bits as six hexadecimal digits."""


class NetworkSlice(Struct, frozen=True, forbid_unknown_fields=True):
    """A network slice (NSI)."""

    name: Name
    s_nssai: SNssai
    subnets: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=_MOST_PARTS)]
    """Names of its subnets (``networkSliceSubnetRef``)."""
    sharing: Literal["shared", "non-shared"] = "non-shared"
    """Whether others may use its parts, too (``resourceSharingLevel``)."""
    precedence: tuple[Literal["isolate", "block", "throttle", "restart", "scale"], ...] = ()
    """Which of two actions that exclude each other wins, first to last; those that are not named
    come after these, in the order of the default. None named: the default."""
    agreement: Annotated[str, Meta(max_length=64)] = ""
    """Name of the trust level agreement under which it runs; empty: any, or none."""
    capabilities: tuple[Name, ...] = ()


_Entity = ManagedFunction | NetworkSliceSubnet | NetworkSlice


class SlicesSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The slices of a scenario, or of a slice descriptor."""

    functions: Annotated[tuple[ManagedFunction, ...], Meta(min_length=1, max_length=_MOST)]
    subnets: Annotated[tuple[NetworkSliceSubnet, ...], Meta(min_length=1, max_length=_MOST)]
    slices: Annotated[tuple[NetworkSlice, ...], Meta(min_length=1, max_length=_MOST)]
    agents: dict[Name, Name] = {}
    """Names of the agents that are loops, by loop, where they are not the loop's: a deployed
    service gives its own."""

    def users(self) -> dict[str, tuple[str, ...]]:
        """Return the slices that use each slice, subnet and function, by its name, sorted."""
        found: dict[str, set[str]] = {}
        functions = {subnet.name: subnet.functions for subnet in self.subnets}
        for each in self.slices:
            for part in (each.name, *each.subnets):
                for name in (part, *functions.get(part, ())):
                    found.setdefault(name, set()).add(each.name)
        return {name: _sorted(slices) for name, slices in found.items()}


def slice_offences(spec: SlicesSpec, taken: Mapping[str, str]) -> Iterator[Offence]:
    """Yield everything in ``spec`` that does not fit together, by its path in ``slices:``.

    Args:
        spec: typed as the schema has it.
        taken: names that no loop may have, each with what has it.

    """
    kinds: dict[str, str] = {}
    for subnet in spec.subnets:
        kinds[subnet.domain] = "a domain"
    kinds[END_TO_END] = "the manager end to end"
    loops = [("slices", END_TO_END)]
    loops += [(f"subnets[{i}].domain", f"domain-{s.domain}") for i, s in enumerate(spec.subnets)]
    for kind, prefix, entities in _levels(spec):
        yield from twice(kind, (each.name for each in entities), ".name")
        for index, each in enumerate(entities):
            path = f"{kind}[{index}].name"
            if kinds.setdefault(each.name, kind) != kind:
                held = kinds[each.name]
                yield path, f"{show(each.name)} is taken ({held}); choose another name"
            loops.append((path, f"{prefix}-{each.name}"))
    yield from _agent_offences(spec, loops, taken)
    lists = [(f"subnets[{i}].functions", s.functions) for i, s in enumerate(spec.subnets)]
    lists += [(f"slices[{i}].subnets", s.subnets) for i, s in enumerate(spec.slices)]
    for path, names in lists:
        wanted = path.rpartition(".")[2]
        yield from twice(path, names)
        for place, name in enumerate(names):
            if (of := kinds.get(name)) != wanted:
                known = (each for each, its in kinds.items() if its == wanted)
                also = f" ({name} is of {of})" if of in _KINDS else ""
                yield f"{path}[{place}]", unknown(wanted[:-1], name, known) + also
    for index, whole in enumerate(spec.slices):
        yield from twice(f"slices[{index}].precedence", whole.precedence)
    yield from _sharing(spec)


def _agent_offences(
    spec: SlicesSpec, loops: list[tuple[str, str]], taken: Mapping[str, str]
) -> Iterator[Offence]:
    """Yield what is wrong with the names of the agents of ``loops``, of (path, loop)."""
    named = dict.fromkeys(name for _, name in loops)
    for name in spec.agents:
        if name not in named:
            yield f"agents.{name}", unknown("loop", name, named)
    yield from twice("agents", (spec.agents.get(name, name) for name in named))
    for path, loop in loops:
        name = spec.agents.get(loop, loop)
        if len(name) > _LONGEST:
            yield path, f"makes the loop {show(name)}; at most {_LONGEST} signs are allowed"
        elif name in taken:
            yield path, f"makes the loop {show(name)}, which is {taken[name]}; rename one of them"


def _levels(spec: SlicesSpec) -> Iterator[tuple[str, str, tuple[_Entity, ...]]]:
    """Yield the field, the prefix of its loops' names and the entities of each level."""
    yield "functions", "sem", spec.functions
    yield "subnets", "nssi", spec.subnets
    yield "slices", "nsi", spec.slices


def _sharing(spec: SlicesSpec) -> Iterator[Offence]:
    """Yield what is used by no slice, or by several of which one does not share."""
    users = spec.users()
    slices = {each.name: each for each in spec.slices}
    for kind, _, parts in reversed([*_levels(spec)]):  # a shared subnet before what is in it
        for index, part in enumerate(parts):
            path, used = f"{kind}[{index}].name", users.get(part.name, ())
            alone = [name for name in used if slices[name].sharing != "shared"]
            if not used:
                yield path, f"no slice uses {show(part.name)}; list it, or leave it out"
            elif len(used) > 1 and alone:
                other = next(name for name in used if name != alone[0])
                yield (
                    path,
                    f"{show(part.name)} is used by {alone[0]}, which is non-shared, and {other}; "
                    "give each a part of its own, or let all be shared",
                )
            elif len({slices[name].precedence for name in used}) > 1:
                yield path, f"the slices that share {show(part.name)} differ in precedence"


def loops_of(spec: SlicesSpec, hosts: Iterable[Host] = ()) -> tuple[Loop, ...]:
    """Return the loops that look after ``spec``, sorted by name.

    Args:
        spec: without offences.
        hosts: of the network; the loop of a function stands at the PoP of its host, and at none if
            the host is not among them.

    """
    at = {host.name: host for host in hosts}
    users, slices = spec.users(), {each.name: each for each in spec.slices}
    named = {e.name: f"{prefix}-{e.name}" for _, prefix, each in _levels(spec) for e in each}
    parts = {s.name: s.functions for s in spec.subnets} | {s.name: s.subnets for s in spec.slices}
    wholes: dict[str, list[str]] = {}
    for whole, held in parts.items():
        for part in held:
            wholes.setdefault(part, []).append(whole)
    domains = {subnet.name: subnet.domain for subnet in spec.subnets}
    served: dict[str, set[str]] = {}
    loops: list[Loop] = []
    for (_, _, entities), scope in zip(_levels(spec), _SCOPES, strict=True):
        for each in entities:
            around, below = wholes.get(each.name, ()), parts.get(each.name, ())
            beside = {part for whole in around for part in parts[whole]} - {each.name}
            near = (each.name, *around, *below)
            managers = {f"domain-{domains[name]}" for name in near if name in domains}
            loop = Loop(
                *(named[each.name], scope, each.name, users[each.name]),
                above=_sorted(named[name] for name in around),
                below=_sorted(named[name] for name in below),
                beside=_sorted(named[name] for name in beside),
                managers=_sorted(managers | ({END_TO_END} if scope == "slice" else set())),
                capabilities=each.capabilities,
                precedence=slices[users[each.name][0]].precedence,
            )
            if isinstance(each, ManagedFunction):
                loop = replace(loop, kind=each.kind, form=each.form, host=each.host)
                if (host := at.get(each.host)) is not None:
                    loop = replace(loop, pop=host.at, address=host.address)
            elif isinstance(each, NetworkSliceSubnet):
                loop = replace(loop, kind=each.domain)
                served.setdefault(each.domain, set()).update(loop.slices)
            loops.append(loop)
    for domain, used in served.items():
        manager = Loop(f"domain-{domain}", "domain", domain, _sorted(used), managers=(END_TO_END,))
        loops.append(replace(manager, capabilities=MANAGING))
    loops.append(Loop(END_TO_END, _WIDEST, END_TO_END, _sorted(slices), capabilities=MANAGING))
    if spec.agents:
        loops = [_renamed(loop, spec.agents) for loop in loops]
    return tuple(sorted(loops, key=lambda loop: loop.name))


def _renamed(loop: Loop, agents: Mapping[str, AgentId]) -> Loop:
    """Return a loop whose agent, and those that it deals with, have other names."""
    others = {f: _sorted(agents.get(n, n) for n in getattr(loop, f)) for f in _RELATIONS}
    return replace(loop, name=agents.get(loop.name, loop.name), **others)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


class LoopIndex:
    """Which loops each agent may know of (isolation of slices).

    A loop knows those with which it shares a slice, and of each what concerns these slices alone:
    neither the names of the others, nor the loops that only they have. Agents that are no loops
    are the infrastructure provider's, and know all.
    """

    def __init__(self, loops: Iterable[Loop]) -> None:
        """Index ``loops`` by slice."""
        self.all: Mapping[AgentId, Loop] = {loop.name: loop for loop in loops}
        self._serving: dict[str, list[Loop]] = {}
        for loop in self.all.values():
            for name in loop.slices:
                self._serving.setdefault(name, []).append(loop)

    def known_to(self, agent: AgentId) -> Mapping[AgentId, Loop]:
        """Return the loops that ``agent`` may know of, itself included, by name."""
        mine = self.all.get(agent)
        if mine is None or mine.scope == _WIDEST:
            return self.all
        shared = {each.name: each for name in mine.slices for each in self._serving[name]}
        return {
            name: loop if set(loop.slices) <= set(mine.slices) else _seen(loop, mine, shared)
            for name, loop in sorted(shared.items())
        }


def _seen(loop: Loop, by: Loop, known: Container[AgentId]) -> Loop:
    """Return what ``by`` may know of a loop that serves slices which ``by`` does not."""
    kept = {field: tuple(n for n in getattr(loop, field) if n in known) for field in _RELATIONS}
    return replace(loop, slices=tuple(n for n in loop.slices if n in by.slices), **kept)
