"""MMT-Security rules on traffic: packets and their times go in, verdicts come out.

A machine without I/O and without a clock. A rule is a finite automaton: an event leads from one
state to the next, and the time that a part has to follow another opens a window in which the
automaton may wait. An instance of it is what began with one packet. The instances that wait for
an event are found by the values that it must share with the packets before
(``ip.src == ip.src.1``), so that a packet meets only the instances of its own flow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from msgspec import Struct

from phalanx.policy.mmt import (
    MmtAttribute,
    MmtCall,
    MmtConstant,
    MmtError,
    MmtEvent,
    MmtExpression,
    MmtOperation,
    MmtOperator,
    MmtRule,
)
from phalanx.policy.mmt_expressions import (
    LIBRARY,
    Bound,
    MmtCompiler,
    MmtContext,
    Values,
    asked_for,
    used_by,
)
from phalanx.policy.mmt_packets import FIELDS, NUMBER, MmtDecoder, shown

INSTANCES = 4_096
"""Instances of a rule that are held at a time; the oldest goes when there are more."""
WAYS = 4_096
"""Parts of an automaton; a rule that needs more is refused."""
TIMERS = 1_000
"""Timers from which on those of ended instances are removed."""
NONE: frozenset[tuple[int, int]] = frozenset()
VERDICTS = {
    ("ATTACK", True): "detected",
    ("EVASION", True): "detected",
    ("SECURITY", False): "not_respected",
    ("TEST", True): "respected",
    ("TEST", False): "not_respected",
}
"""What is said when a rule is satisfied (True) or not (``doc/verdict.md``)."""


class MmtMatch(Struct, frozen=True):
    """A packet that was an event."""

    event: int
    time_s: float
    counter: int
    """Number of the packet, from 1 on."""
    attributes: dict[str, Any]


class MmtVerdict(Struct, frozen=True):
    """What a rule says, and the packets by which it came to that."""

    rule: int
    verdict: str
    """detected, respected or not_respected."""
    type: str
    description: str
    time_s: float
    """Of the last packet; or when the time of what did not come was over."""
    events: tuple[MmtMatch, ...]


def _conjuncts(part: MmtExpression) -> list[MmtExpression]:
    """Return what must hold for ``part`` to hold."""
    if isinstance(part, MmtOperation) and part.operator == "&&":
        return [one for operand in part.operands for one in _conjuncts(operand)]
    return [part]


class _Event:
    """An event that is ready to be looked for."""

    def __init__(self, event: MmtEvent, rule: MmtRule, compiler: MmtCompiler) -> None:
        self.id = event.id
        self.guard = compiler.guard(event.expression)
        used = used_by(event.expression)
        own = [u for u in used if u.event is None]
        own += [u for e in rule.events() for u in used_by(e.expression) if u.event == event.id]
        self.shown = {f"{u.protocol}.{u.name}": compiler.slot(u) for u in own}
        lax = {(u.protocol, u.name) for u in asked_for(event.expression)}
        needed = {compiler.slot(u)[0] for u in own if (u.protocol, u.name) not in lax}
        self.need = sum(1 << slot for slot in needed)
        """The attributes that a packet must have, a bit each."""
        self.refers = {u.event for u in used if u.event is not None}
        self.tests: dict[int, Any] = {}
        """Values that a packet must have, by slot, as far as the expression names constants."""
        self.same: list[tuple[int, int, int]] = []
        """Slots whose values must be those that an earlier event's packet has in a slot."""
        for part in _conjuncts(event.expression):
            if not isinstance(part, MmtOperation) or part.operator != "==":
                continue
            for one, other in (part.operands, part.operands[::-1]):
                if not isinstance(one, MmtAttribute) or one.event is not None:
                    continue
                slot, kind = compiler.slot(one)
                if isinstance(other, MmtConstant) and kind == NUMBER:
                    self.tests.setdefault(slot, other.value)
                elif isinstance(other, MmtAttribute) and other.event is not None:
                    self.same.append((slot, other.event, compiler.slot(other)[0]))
        self.probe = next(iter(self.tests.items()), (-4, None))
        """One of them; the values of a packet have None at -4."""


class _Window(Struct, eq=False):
    least: int
    most: int


class _State:
    """A state: the windows that are open in it, where it leads, and where when time is over."""

    def __init__(self, windows: tuple[_Window, ...] = (), timeout: _State | None = None) -> None:
        self.windows, self.timeout = windows, timeout
        self.at_once = bool(windows) and not windows[-1].most
        """Whether the same packet decides what follows."""
        self.edges: list[tuple[_Event, _State, bool]] = []
        """Event, state that follows, and whether the instance also stays where it is."""


class _Instance:
    """How far one beginning of a rule has come; ``family``: all that began with its packet."""

    def __init__(
        self, state: _State, family: dict[_Instance, None], bound: Bound, opened: dict[int, int]
    ) -> None:
        self.state, self.family, self.bound, self.opened = state, family, bound, opened
        self.since: int = next(reversed(bound.values()))[-1]
        """Number of the packet that it met last, which is no further event of it."""
        self.earliest = max(opened[id(window)] + window.least for window in state.windows)
        self.latest = min(opened[id(window)] + window.most for window in state.windows)
        self.places: list[tuple[int, dict[Any, dict[_Instance, int]], Any]] = []
        """Where it waits: event, instances by key, and its key."""


class _Automaton:
    """A rule at work."""

    def __init__(
        self,
        rule: MmtRule,
        compiler: MmtCompiler,
        number: int,
        sought: dict[Any, set[tuple[int, int]]],
    ) -> None:
        if rule.code:
            called = {part.name for part in rule.parts() if isinstance(part, MmtCall)}
            names = called - LIBRARY.keys()
            what = f" for {', '.join(sorted(names))}" if names else ""
            raise MmtError(f"brings code of its own, in C{what}; it is not run")
        if rule.if_not_satisfied:
            raise MmtError(
                f"if_not_satisfied calls {rule.if_not_satisfied[:60]}; that is not known"
            )
        self.rule = rule
        self.events = {event.id: _Event(event, rule, compiler) for event in rule.events()}
        self.react = compiler.reaction(rule) if rule.if_satisfied else None
        self.good, self.bad, self.vain, self.start = _State(), _State(), _State(), _State()
        self.number, self.sought, self.size = number, sought, 0
        """By slot and value: rules and events that instances wait for; this one's number."""
        self.build(rule.root, self.start, self.good, self.bad, ())
        self.begins: dict[int, list[_State]] = {}
        """Where the rule begins, by event; an event that refers to another begins none."""
        for event, after, _ in self.start.edges:
            if not event.refers:
                self.begins.setdefault(event.id, []).append(after)
        self.waiting: dict[int, dict[Any, dict[_Instance, int]]] = {}
        """By event and key: the instances that wait for it, and the edge that it is to each."""
        self.instances: dict[_Instance, None] = {}

    def build(
        self,
        part: MmtEvent | MmtOperator,
        start: _State,
        good: _State,
        bad: _State,
        windows: tuple[_Window, ...],
        stays: bool = True,
    ) -> None:
        """Let ``part`` lead from ``start`` to ``good``, or to ``bad`` if its time is over."""
        self.size += 1
        if self.size > WAYS:
            raise MmtError(f"has more than {WAYS:,} ways to be found: AND and BEFORE double them")
        if isinstance(part, MmtEvent):
            start.edges.append((self.events[part.id], good, stays))
            return
        context, trigger = part.context, part.trigger
        if trigger is None or part.value == "OR":
            self.build(context, start, good, bad, windows, stays)
            if trigger:
                self.build(trigger, start, good, bad, windows, stays)
            return
        orders = [(context, trigger, good, bad)]
        if part.value == "NOT":
            orders = [(context, trigger, bad, good)]
        elif part.value == "AND":
            orders.append((trigger, context, good, bad))
        elif part.value == "BEFORE":
            orders = [(trigger, context, good, self.vain)]
        for first, second, after, timeout in orders:
            inner = (*windows, _Window(part.min_us, part.max_us))
            between = _State(inner, timeout)
            self.build(first, start, between, self.vain, windows)
            # A try of the second part that fails says nothing: ``between`` waits for further ones.
            self.build(second, between, after, self.vain, inner, stays=False)
        if part.value == "BEFORE":
            self.build(context, start, bad, bad, windows, stays)

    def put(self, instance: _Instance) -> None:
        """Let an instance wait for the events of its state."""
        self.instances[instance] = instance.family[instance] = None
        for number, (event, _, _) in enumerate(instance.state.edges):
            if event.refers <= instance.bound.keys():
                key = tuple(instance.bound[earlier][slot] for _, earlier, slot in event.same)
                groups = self.waiting.setdefault(event.id, {})
                self.sought[event.probe].add((self.number, event.id))
                groups.setdefault(key, {})[instance] = number
                instance.places.append((event.id, groups, key))

    def drop(self, instance: _Instance) -> None:
        """Forget an instance."""
        if instance in self.instances:
            del self.instances[instance], instance.family[instance]
            for event, groups, key in instance.places:
                groups[key].pop(instance, None)
                if not groups[key]:
                    del groups[key]
                if not groups:
                    self.sought[self.events[event].probe].discard((self.number, event))


class MmtMonitor:
    """Holds packets against rules.

    Args:
        rules: the rules; one that cannot be run is left out, see ``refused``.
        context: the slice in which the traffic is looked at, for the functions that ask for it.
        instances: that are held of a rule at a time.

    """

    def __init__(
        self,
        rules: Iterable[MmtRule],
        context: MmtContext | None = None,
        instances: int = INSTANCES,
    ) -> None:
        self.refused: dict[int, str] = {}
        """Why a rule is not run, by its number."""
        self.shed = 0
        """Instances that were given up, for want of room."""
        self.decoder = MmtDecoder()
        self._most, self._order, self._tidy_at = instances, count(), TIMERS
        self._timers: list[tuple[int, int, _Instance, _Automaton]] = []
        self._running: list[_Automaton] = []
        self._sought: dict[tuple[int, Any], set[tuple[int, int]]] = defaultdict(set)
        compiler = MmtCompiler(context)
        for rule in rules:
            try:
                self._running.append(_Automaton(rule, compiler, len(self._running), self._sought))
            except MmtError as error:
                self.refused[rule.id] = str(error)
        self._width = len(compiler.slots)
        self._fields: dict[str, list[tuple[int, Callable[..., Any]]]] = {}
        for (protocol, name), slot in compiler.slots.items():
            self._fields.setdefault(protocol, []).append((slot, FIELDS[protocol][name].read))
        events = [event for one in self._running for event in one.events.values()]
        self._probes = {event.probe[0] for event in events}
        self._begins: dict[tuple[int, ...], dict[tuple[Any, ...], list[tuple[int, int]]]] = {}
        """Slots, values: the rules, and events of theirs, that such a packet can begin."""
        for automaton in self._running:
            for number in automaton.begins:
                tests = automaton.events[number].tests
                table = self._begins.setdefault(tuple(tests), {})
                table.setdefault(tuple(tests.values()), []).append((automaton.number, number))

    @property
    def rules(self) -> list[MmtRule]:
        """Return the rules that are run."""
        return [automaton.rule for automaton in self._running]

    @property
    def live(self) -> int:
        """Return how many instances are held."""
        return sum(len(automaton.instances) for automaton in self._running)

    def packet(
        self, raw: bytes, time_s: float, length: int | None = None, link: int = 1
    ) -> list[MmtVerdict]:
        """Return the verdicts that a packet leads to, in the order of the rules.

        Args:
            raw: its octets.
            time_s: its time, in seconds since 1970.
            length: octets on the wire, where fewer were captured.
            link: DLT number of the link layer (see ``phalanx.analytics.packets.LINKS``).

        """
        verdicts, time = self.advance(time_s), round(time_s * 1e6)
        packet = self.decoder.decode(raw, time, length or len(raw), link)
        now: Values = [None] * self._width
        have = 0
        for protocol, at in packet.at.items():
            for slot, read in self._fields.get(protocol, ()):
                value = now[slot] = read(packet, at)
                if value is not None:
                    have |= 1 << slot
        now += None, have, time, packet.index
        hits: set[tuple[int, int]] = set()
        for slot in self._probes:
            hits |= self._sought.get((slot, now[slot]), NONE)
        for slots, table in self._begins.items():
            hits.update(table.get(tuple([now[slot] for slot in slots]), ()))
        met: set[int] = set()
        before = done = -1
        for number, event_id in sorted(hits):
            if number == done:
                continue
            automaton = self._running[number]
            event = automaton.events[event_id]
            if have & event.need != event.need:
                continue
            if number != before:
                met, before = set(), number
            if found := self._offer(automaton, event, now, met):  # one verdict a packet
                verdicts.append(found)
                done = number
        return verdicts

    def advance(self, time_s: float) -> list[MmtVerdict]:
        """Return the verdicts on what did not come in its time, up to now."""
        time, verdicts = round(time_s * 1e6), []
        while self._timers and self._timers[0][0] < time:
            _, _, one, automaton = heappop(self._timers)
            if one in automaton.instances and one.state.timeout:
                automaton.drop(one)
                found = self._enter(automaton, one, one.bound, one.state.timeout, one.latest)
                verdicts += [found] if found else []
        return verdicts

    def _offer(
        self, automaton: _Automaton, event: _Event, now: Values, met: set[int]
    ) -> MmtVerdict | None:
        """Show a packet to the instances that wait for an event, the youngest first."""
        time, number = now[-2:]
        group: dict[_Instance, int] = {}
        if groups := automaton.waiting.get(event.id):
            group = groups.get(tuple([now[slot] for slot, _, _ in event.same]), group)
        for instance in list(reversed(group)):
            ready = instance.earliest <= time <= instance.latest and instance.since != number
            if not ready or instance not in group or not event.guard(now, instance.bound):
                continue
            _, after, stays = instance.state.edges[group[instance]]
            if not stays:
                automaton.drop(instance)
            if not after.edges:
                met.add(event.id)
            bound = instance.bound | {event.id: now}
            if found := self._enter(automaton, instance, bound, after, time):
                return found
        # What completed an instance begins no other: a AND b, b that came after a.
        if event.id in automaton.begins and event.id not in met and event.guard(now, {}):
            for after in automaton.begins[event.id]:
                if found := self._enter(automaton, None, {event.id: now}, after, time):
                    return found
        return None

    def _enter(
        self,
        automaton: _Automaton,
        parent: _Instance | None,
        bound: Bound,
        state: _State,
        time: int,
    ) -> MmtVerdict | None:
        """Let what comes of an instance be in a state; the same packet decides what cannot wait."""
        family, opened = (parent.family, parent.opened) if parent else ({}, {})
        while state.at_once and state.timeout:
            now = next(reversed(bound.values()))
            after = automaton.vain  # unless a packet can tell: it has what the event is about
            for event, then, _ in state.edges:
                if now[-3] & event.need == event.need and event.refers <= bound.keys():
                    after = state.timeout
                    if event.guard(now, bound):
                        bound, after = bound | {event.id: now}, then
                        break
            state = after
        if not state.edges:
            satisfied = state is automaton.good
            verdict = VERDICTS.get((automaton.rule.type, satisfied))
            if state is automaton.vain or not (verdict or satisfied):
                return None
            for instance in list(family):
                automaton.drop(instance)
            return self._verdict(automaton, bound, verdict, time) if verdict else None
        opened = {id(window): opened.get(id(window), time) for window in state.windows}
        instance = _Instance(state, family, bound, opened)
        automaton.put(instance)
        heappush(self._timers, (instance.latest, next(self._order), instance, automaton))
        if len(automaton.instances) > self._most:
            automaton.drop(next(iter(automaton.instances)))
            self.shed += 1
        if len(self._timers) > self._tidy_at:
            self._timers = [timer for timer in self._timers if timer[2] in timer[3].instances]
            heapify(self._timers)
            self._tidy_at = TIMERS + 2 * len(self._timers)
        return None

    @staticmethod
    def _verdict(automaton: _Automaton, bound: Bound, verdict: str, time: int) -> MmtVerdict:
        if automaton.react:
            automaton.react(next(reversed(bound.values())), bound)
        matches = []
        for number, now in sorted(bound.items()):
            named = automaton.events[number].shown.items()
            values = {n: shown(kind, now[s]) for n, (s, kind) in named if now[s] is not None}
            matches.append(MmtMatch(number, now[-2] / 1e6, now[-1], values))
        rule = automaton.rule
        about, kind = rule.root.description, rule.type.lower()
        return MmtVerdict(rule.id, verdict, kind, about, time / 1e6, tuple(matches))
