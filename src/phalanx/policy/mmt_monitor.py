"""MMT-Security rules on traffic: packets and their times go in, verdicts come out.

A machine without I/O and without a clock. A rule is a finite automaton: an event leads from one
state to the next, and the time that a part has to follow another (``MmtDelay``) opens a window
in which the automaton may wait. An instance of it is what began with one packet. What an instance
waits for is found by the values that its next event must share with the packets before
(``ip.src == ip.src.1``), so that a packet meets only the instances of its own flow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from ipaddress import ip_address
from itertools import count
from math import copysign, inf, nan
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
    attributes,
    parse_expression,
)
from phalanx.policy.mmt_functions import LIBRARY, MmtContext
from phalanx.policy.mmt_packets import FIELDS, IPV4, IPV6, MAC, NUMBER, TEXT, MmtDecoder, shown

INSTANCES = 4_096
"""Instances of a rule that are held at a time; the oldest goes when there are more."""
ANY = "value"
"""Kind of what a function returns."""
VERDICTS = {
    ("ATTACK", True): "detected",
    ("EVASION", True): "detected",
    ("SECURITY", False): "not_respected",
    ("TEST", True): "respected",
    ("TEST", False): "not_respected",
}
"""What is said when a rule is satisfied (True) or not (``doc/verdict.md``)."""
_COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
_COUNT = {"+": operator.add, "-": operator.sub, "*": operator.mul}

Values = list[Any]
"""The attributes of a packet, by slot; None: it has no such one."""
Bound = dict[int, Values]
"""The packets that an instance has met, by event."""
Guard = Callable[[Values, Bound], Any]


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


class _Slots:
    """Numbers of the attributes that the rules use."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def of(self, used: MmtAttribute) -> tuple[int, str]:
        """Return the slot of an attribute and its kind.

        Raises:
            MmtError: if it is not decoded.

        """
        known = FIELDS.get(used.protocol)
        if known is None:
            raise MmtError(
                f"no protocol {used.protocol}, of {used.protocol}.{used.name}; "
                f"known are {', '.join(sorted(FIELDS))}"
            )
        if used.name not in known:
            raise MmtError(
                f"no attribute {used.protocol}.{used.name}; known of {used.protocol}: "
                f"{', '.join(sorted(known))}"
            )
        slot = self.numbers.setdefault((used.protocol, used.name), len(self.numbers))
        return slot, known[used.name].kind


def _divide(a: float, b: float) -> float:
    """Return a quotient as C has it."""
    if b:
        return a / b
    return copysign(inf, a) * copysign(1.0, b) if a and a == a else nan


class _Compiler:
    """Turns expressions into functions of the values of packets."""

    def __init__(self, slots: _Slots, context: MmtContext | None) -> None:
        self.slots, self.context = slots, context

    def compile(self, part: MmtExpression) -> tuple[Guard, str]:
        """Return what computes ``part``, and the kind of its result."""
        if isinstance(part, MmtConstant):
            value = part.value.encode() if isinstance(part.value, str) else part.value
            return (lambda _now, _bound: value), TEXT if isinstance(value, bytes) else NUMBER
        if isinstance(part, MmtAttribute):
            slot, kind = self.slots.of(part)
            event = part.event
            if event is None:
                return (lambda now, _bound: now[slot]), kind
            return (lambda _now, bound: bound[event][slot]), kind
        if isinstance(part, MmtCall):
            return self.call(part), ANY
        if part.operator in ("&&", "||"):
            return self.logical(part.operator == "&&", [self.compile(p)[0] for p in part.operands])
        (left, one), (right, other) = map(self.compile, part.operands)
        if part.operator in _COMPARE:
            return self.comparison(part, (left, one), (right, other))
        if {one, other} - {NUMBER, ANY}:
            raise MmtError(f"{part.operator} counts with a {({one, other} - {NUMBER}).pop()}")
        count = _COUNT.get(part.operator, _divide)
        return (lambda now, bound: count(float(left(now, bound)), float(right(now, bound)))), NUMBER

    @staticmethod
    def logical(every: bool, parts: list[Guard]) -> tuple[Guard, str]:
        if len(parts) == 2:
            a, b = parts
            if every:
                return (lambda now, bound: a(now, bound) and b(now, bound)), NUMBER
            return (lambda now, bound: a(now, bound) or b(now, bound)), NUMBER
        test = all if every else any
        return (lambda now, bound: test(p(now, bound) for p in parts)), NUMBER

    def comparison(
        self, part: MmtOperation, a: tuple[Guard, str], b: tuple[Guard, str]
    ) -> tuple[Guard, str]:
        compare = _COMPARE[part.operator]
        equality = part.operator in ("==", "!=")
        for (mine, kind), (theirs, other), constant in (
            (a, b, part.operands[1]),
            (b, a, part.operands[0]),
        ):
            if not isinstance(constant, MmtConstant) or kind in (NUMBER, ANY):
                continue
            if constant.value == 0 and equality:  # whether there is one at all, as in C
                there = part.operator == "!="
                return (lambda now, bound: (mine(now, bound) is not None) is there), NUMBER
            if kind != TEXT and other == TEXT:
                address = _address(kind, str(constant.value))
                ordered = compare if mine is a[0] else lambda x, y: compare(y, x)
                return (lambda now, bound: ordered(mine(now, bound), address)), NUMBER
        (left, one), (right, other) = a, b
        if ANY in (one, other) and not equality and {one, other} - {ANY, NUMBER}:
            raise MmtError(f"{part.operator} cannot order a {one} and a {other}")
        if ANY not in (one, other) and (one == NUMBER) != (other == NUMBER):
            raise MmtError(f"{part.operator} compares a {one} with a {other}")
        return (lambda now, bound: compare(left(now, bound), right(now, bound))), NUMBER

    def call(self, part: MmtCall) -> Guard:
        function = LIBRARY.get(part.name)
        if function is None:
            raise MmtError(f"no function {part.name}; known are {', '.join(sorted(LIBRARY))}")
        if function.in_slice and self.context is None:
            raise MmtError(f"{part.name} needs the slice in which the traffic is looked at")
        takes = function.takes.replace("|", "")
        least = len(function.takes.partition("|")[0])
        if not least <= len(part.arguments) <= len(takes):
            raise MmtError(f"{part.name} takes {len(takes)} arguments, not {len(part.arguments)}")
        parts = [self.compile(argument) for argument in part.arguments]
        for letter, (_, kind) in zip(takes, parts, strict=False):
            if (letter == "t" and kind in (NUMBER, ANY)) or (
                letter == "a" and kind not in (IPV4, IPV6)
            ):
                wanted = {"t": TEXT, "a": "IP address"}[letter]
                raise MmtError(f"{part.name} is called with a {kind}; it takes a {wanted}")
        guards = [guard for guard, _ in parts]
        run, context = function.call, self.context
        return lambda now, bound: run(context, *(guard(now, bound) for guard in guards))


def _address(kind: str, text: str) -> bytes:
    try:
        if kind == MAC:
            found = bytes.fromhex(text.replace(":", ""))
        else:
            found = ip_address(text).packed
        if len(found) != {MAC: 6, IPV4: 4, IPV6: 16}[kind]:
            raise ValueError
    except ValueError:
        raise MmtError(f"{text!r} is no {kind}") from None
    return found


def _conjuncts(part: MmtExpression) -> Iterator[MmtExpression]:
    """Yield what must hold for ``part`` to hold."""
    if isinstance(part, MmtOperation) and part.operator == "&&":
        for operand in part.operands:
            yield from _conjuncts(operand)
    else:
        yield part


class _Event:
    """An event that is ready to be looked for."""

    def __init__(self, event: MmtEvent, rule: MmtRule, compiler: _Compiler) -> None:
        self.id = event.id
        self.guard = compiler.compile(event.expression)[0]
        of = compiler.slots.of
        used = list(attributes(event.expression))
        optional = set(_existence(event.expression))
        own = [u for u in used if u.event is None]
        own += [
            u
            for other in rule.events()
            for u in attributes(other.expression)
            if u.event == event.id
        ]
        self.shown = {f"{u.protocol}.{u.name}": of(u) for u in own}
        self.need = 0
        for u in own:
            if (u.protocol, u.name) not in optional:
                self.need |= 1 << of(u)[0]
        self.refers = frozenset(u.event for u in used if u.event is not None)
        self.test: tuple[int, Any] | None = None
        """Slot and value that a packet must have; None: there is no such simple test."""
        self.now: list[int] = []
        """Slots that must have the values of earlier packets: ``then``, event and slot."""
        self.then: list[tuple[int, int]] = []
        for part in _conjuncts(event.expression):
            if isinstance(part, MmtOperation) and part.operator == "==":
                self._note(part.operands, of)

    def _note(self, sides: tuple[MmtExpression, ...], of: Callable[..., tuple[int, str]]) -> None:
        for one, other in (sides, sides[::-1]):
            if not isinstance(one, MmtAttribute) or one.event is not None:
                continue
            slot, kind = of(one)
            if isinstance(other, MmtConstant) and kind == NUMBER:
                self.test = self.test or (slot, other.value)
            elif isinstance(other, MmtAttribute) and other.event is not None:
                self.now.append(slot)
                self.then.append((other.event, of(other)[0]))

    def key(self, bound: Bound) -> tuple[Any, ...] | None:
        """Return the values that a packet must share with those before; None: one is missing."""
        if not self.refers <= bound.keys():
            return None
        return tuple(bound[event][slot] for event, slot in self.then)


def _existence(part: MmtExpression) -> Iterator[tuple[str, str]]:
    """Yield the attributes whose existence is asked: an event may do without them."""
    if isinstance(part, MmtCall):
        if part.name == "is_exist":
            yield from ((used.protocol, used.name) for used in attributes(part))
        for argument in part.arguments:
            yield from _existence(argument)
    elif isinstance(part, MmtOperation):
        for operand in part.operands:
            yield from _existence(operand)


class _Window(Struct, eq=False):
    least: int
    most: int


class _State:
    """A state: the windows that are open in it, where it leads, and when time is over."""

    def __init__(self, windows: tuple[_Window, ...] = (), timeout: _State | None = None) -> None:
        self.windows, self.timeout = windows, timeout
        self.at_once = bool(windows) and not windows[-1].most
        self.edges: list[tuple[_Event, _State, bool]] = []
        """Event, state that follows, and whether the instance also stays where it is."""


class _Instance:
    """How far one beginning of a rule has come."""

    __slots__ = ("bound", "earliest", "family", "latest", "opened", "since", "state")

    def __init__(self, family: dict[_Instance, None], bound: Bound) -> None:
        self.family = family
        """All instances of the same beginning, in the order of their age."""
        self.bound = bound
        self.opened: dict[int, int] = {}
        self.since = 0
        self.earliest = self.latest = 0
        self.state = _State()


class _Running:
    """A rule at work."""

    def __init__(self, rule: MmtRule, compiler: _Compiler) -> None:
        self.rule = rule
        self.events = {e.id: _Event(e, rule, compiler) for e in rule.events()}
        self.satisfied, self.failed, self.vain = _State(), _State(), _State()
        self.start = _State()
        self._build(rule.root, self.start, self.satisfied, self.failed, (), stays=True)
        self.waiting: dict[int, dict[tuple[Any, ...], dict[_Instance, int]]] = {}
        """By event and key: the instances that wait for it, and the edge that it would be."""
        self.instances: dict[_Instance, None] = {}
        self.react = self._reaction(rule.if_satisfied, compiler) if rule.if_satisfied else None
        self.first = {edge[0].id: edge for edge in self.start.edges if not edge[0].refers}

    def _reaction(self, text: str, compiler: _Compiler) -> Guard:
        called = parse_expression(
            text if text.startswith("#") else f"#{text}" + "()" * ("(" not in text)
        )
        if not isinstance(called, MmtCall) or called.name != "block_packet_from":
            raise MmtError(f"if_satisfied calls {text[:60]}; known is block_packet_from")
        if not called.arguments:
            called = MmtCall(called.name, (MmtAttribute("ip", "src"),))
        guard = compiler.call(called)
        slots = [compiler.slots.of(u)[0] for u in attributes(called) if u.event is None]

        def react(now: Values, bound: Bound) -> None:
            if all(now[slot] is not None for slot in slots):
                guard(now, bound)

        return react

    def _build(
        self,
        part: MmtEvent | MmtOperator,
        start: _State,
        good: _State,
        bad: _State,
        windows: tuple[_Window, ...],
        *,
        stays: bool,
    ) -> None:
        """Let ``part`` lead from ``start`` to ``good``, or to ``bad`` if it cannot come any more."""
        if isinstance(part, MmtEvent):
            start.edges.append((self.events[part.id], good, stays))
            return
        context, trigger = part.context, part.trigger
        if trigger is None:
            self._build(context, start, good, bad, windows, stays=stays)
        elif part.value == "OR":
            self._build(context, start, good, bad, windows, stays=stays)
            self._build(trigger, start, good, bad, windows, stays=stays)
        elif part.value == "NOT":
            self._then(part, context, trigger, start, bad, good, windows)
        elif part.value == "BEFORE":
            self._then(part, trigger, context, start, good, self.vain, windows)
            self._build(context, start, bad, bad, windows, stays=stays)
        else:
            self._then(part, context, trigger, start, good, bad, windows)
            if part.value == "AND":
                self._then(part, trigger, context, start, good, bad, windows)

    def _then(
        self,
        part: MmtOperator,
        first: MmtEvent | MmtOperator,
        second: MmtEvent | MmtOperator,
        start: _State,
        good: _State,
        timeout: _State,
        windows: tuple[_Window, ...],
    ) -> None:
        inner = (*windows, _Window(part.delay.min_us, part.delay.max_us))
        between = _State(inner, timeout)
        self._build(first, start, between, self.vain, windows, stays=True)
        self._build(second, between, good, timeout, inner, stays=False)

    def put(self, instance: _Instance) -> None:
        """Let an instance wait for the events of its state."""
        self.instances[instance] = None
        instance.family[instance] = None
        for number, (event, _, _) in enumerate(instance.state.edges):
            key = event.key(instance.bound)
            if key is not None:
                self.waiting.setdefault(event.id, {}).setdefault(key, {})[instance] = number

    def drop(self, instance: _Instance) -> None:
        """Forget an instance."""
        self.instances.pop(instance, None)
        instance.family.pop(instance, None)
        for event, _, _ in instance.state.edges:
            key = event.key(instance.bound)
            of_event = self.waiting.get(event.id, {})
            group = of_event.get(key) if key is not None else None
            if group and group.pop(instance, None) is not None and not group:
                del of_event[key]  # type: ignore[arg-type]


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
        self.rules: list[MmtRule] = []
        self.shed = 0
        """Instances that were given up, for want of room."""
        self.decoder = MmtDecoder()
        self._most = instances
        self._slots = _Slots()
        self._running: list[_Running] = []
        self._heap: list[tuple[int, int, _Instance, _Running]] = []
        self._order = count()
        for rule in rules:
            try:
                if rule.code:
                    raise MmtError("brings code of its own, in C, which is not run")
                self._running.append(_Running(rule, _Compiler(self._slots, context)))
                self.rules.append(rule)
            except MmtError as error:
                self.refused[rule.id] = str(error)
        self._index()

    def _index(self) -> None:
        """Find the rules that a packet concerns by the values that it must have."""
        self._fields: dict[str, list[tuple[int, Callable[..., Any]]]] = {}
        for (protocol, name), slot in self._slots.numbers.items():
            read = FIELDS[protocol][name].read
            self._fields.setdefault(protocol, []).append((slot, read))
        self._by_value: dict[int, dict[Any, list[tuple[int, int]]]] = {}
        self._always: list[tuple[int, int]] = []
        for number, running in enumerate(self._running):
            for event in sorted(_waited(running.start, set())):
                found = running.events[event].test
                if found:
                    table = self._by_value.setdefault(found[0], {})
                    table.setdefault(found[1], []).append((number, event))
                else:
                    self._always.append((number, event))

    @property
    def live(self) -> int:
        """Return how many instances are held."""
        return sum(len(running.instances) for running in self._running)

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
        time = round(time_s * 1_000_000)
        verdicts = self.advance(time_s)
        packet = self.decoder.decode(raw, time, len(raw) if length is None else length, link)
        now: Values = [None] * len(self._slots.numbers)
        mask = 0
        fields = self._fields
        for protocol, at in packet.at.items():
            for slot, read in fields.get(protocol, ()):
                value = read(packet, at)
                if value is not None:
                    now[slot] = value
                    mask |= 1 << slot
        now += (time, packet.index)
        hits = list(self._always)
        for slot, table in self._by_value.items():
            hits += table.get(now[slot], ())
        hits.sort()
        done: int | None = None
        met: set[int] = set()
        before = -1
        for number, event_id in hits:
            if number == done:
                continue  # a rule gives one verdict a packet
            running = self._running[number]
            event = running.events[event_id]
            if mask & event.need != event.need:
                continue
            if number != before:
                before = number
                met.clear()
            found = self._offer(running, event, now, met)
            if found is not None:
                verdicts.append(found)
                done = number
        return verdicts

    def advance(self, time_s: float) -> list[MmtVerdict]:
        """Return the verdicts on what did not come in its time, up to now."""
        time, verdicts = round(time_s * 1_000_000), []
        while self._heap and self._heap[0][0] < time:
            latest, _, instance, running = heappop(self._heap)
            if instance in running.instances and instance.latest == latest:
                found = self._expire(running, instance)
                if found:
                    verdicts.append(found)
        return verdicts

    def _expire(self, running: _Running, instance: _Instance) -> MmtVerdict | None:
        """Let the time of an instance be over: what its absence means, unless others still wait."""
        running.drop(instance)
        after = instance.state.timeout
        if after is None or (instance.family and not after.edges):
            return None
        return self._enter(running, instance.family, instance.bound, after, instance.latest, {})

    def _offer(
        self, running: _Running, event: _Event, now: Values, met: set[int]
    ) -> MmtVerdict | None:
        """Show a packet to the instances that wait for an event, the youngest first."""
        time, index = now[-2], now[-1]
        groups = running.waiting.get(event.id)
        if groups:
            group = groups.get(tuple(now[slot] for slot in event.now), {})
            for instance in list(reversed(group)):
                if instance.since == index or not instance.earliest <= time <= instance.latest:
                    continue
                if instance not in running.instances or not event.guard(now, instance.bound):
                    continue
                _, after, stays = instance.state.edges[group[instance]]
                if not stays:
                    running.drop(instance)
                bound = instance.bound | {event.id: now}
                if not after.edges:
                    met.add(event.id)
                found = self._enter(running, instance.family, bound, after, time, instance.opened)
                if found:
                    return found
                instance.since = index
        first = running.first.get(event.id)
        if first is None or event.id in met or not event.guard(now, {}):
            return None
        for starting, after, _ in running.start.edges:
            if starting is event:
                found = self._enter(running, {}, {event.id: now}, after, time, {})
                if found:
                    return found
        return None

    def _enter(
        self,
        running: _Running,
        family: dict[_Instance, None],
        bound: Bound,
        state: _State,
        time: int,
        opened: dict[int, int],
    ) -> MmtVerdict | None:
        """Let an instance come to a state; what cannot wait is decided by the same packet."""
        while state.at_once and state.timeout:
            now, verifiable = next(reversed(bound.values())), False
            for event, after, _ in state.edges:
                have = all(now[slot] is not None for _, (slot, _) in event.shown.items())
                if have and event.refers <= bound.keys():
                    verifiable = True
                    if event.guard(now, bound):
                        bound, state = bound | {event.id: now}, after
                        break
            else:
                state = state.timeout if verifiable else running.vain
        if not state.edges:
            return self._conclude(running, family, bound, state, time)
        instance = _Instance(family, bound)
        instance.state, instance.since = state, next(reversed(bound.values()))[-1]
        instance.opened = {id(w): opened.get(id(w), time) for w in state.windows}
        instance.earliest = max(instance.opened[id(w)] + w.least for w in state.windows)
        instance.latest = min(instance.opened[id(w)] + w.most for w in state.windows)
        running.put(instance)
        heappush(self._heap, (instance.latest, next(self._order), instance, running))
        if len(running.instances) > self._most:
            running.drop(next(iter(running.instances)))
            self.shed += 1
        if len(self._heap) > 1_000 + 4 * self.live:
            self._heap = [h for h in self._heap if h[2] in h[3].instances]
            heapify(self._heap)
        return None

    def _conclude(
        self,
        running: _Running,
        family: dict[_Instance, None],
        bound: Bound,
        state: _State,
        time: int,
    ) -> MmtVerdict | None:
        if state is running.vain:
            return None
        rule = running.rule
        for instance in list(family):
            running.drop(instance)
        verdict = VERDICTS.get((rule.type, state is running.satisfied))
        if verdict is None:
            return None
        if running.react:
            running.react(next(reversed(bound.values())), bound)
        return MmtVerdict(
            rule.id,
            verdict,
            rule.type.lower(),
            rule.root.description,
            time / 1e6,
            tuple(self._match(running.events[e], bound[e]) for e in sorted(bound)),
        )

    @staticmethod
    def _match(event: _Event, now: Values) -> MmtMatch:
        values = {
            name: shown(kind, now[slot])
            for name, (slot, kind) in event.shown.items()
            if now[slot] is not None
        }
        return MmtMatch(event.id, now[-2] / 1e6, now[-1], values)


def _waited(state: _State, seen: set[int]) -> set[int]:
    """Return the events for which instances, or the beginning, can wait from ``state`` on."""
    found: set[int] = set()
    if id(state) in seen:
        return found
    seen.add(id(state))
    for event, after, _ in state.edges:
        if not state.at_once:
            found.add(event.id)
        found |= _waited(after, seen)
    return found | (_waited(state.timeout, seen) if state.timeout else set())
