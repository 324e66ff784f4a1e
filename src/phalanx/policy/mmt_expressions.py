"""Expressions of MMT-Security rules made ready to run, and the functions that they may call.

The library is closed: the functions of the language's documentation (2.3: ``is_exist``,
``is_null``, ``is_empty``), functions of C on texts, and those that NATWORK D3.3, figure 4 names
for the isolation of slices. Code in C that a rule brings along is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from math import copysign, inf, isnan, nan
from typing import Any

from msgspec import Struct

from phalanx.policy.mmt import (
    MmtAttribute,
    MmtCall,
    MmtConstant,
    MmtError,
    MmtExpression,
    MmtOperation,
    MmtRule,
    parse_expression,
    walk,
)
from phalanx.policy.mmt_packets import FIELDS, IPV4, IPV6, MAC, NUMBER, TEXT

Values = list[Any]
"""The attributes of a packet, by slot; None: it has no such one. Then None, what it has as bits
(1 << slot), its time in microseconds and its number."""
Bound = dict[int, Values]
"""Packets by the event that each was."""
Guard = Callable[[Values, Bound], Any]


class MmtContext(Struct):
    """What the functions of figure 4 need: the slice where the traffic is looked at."""

    slice_id: int | str
    whitelists: Mapping[int | str, tuple[IPv4Network | IPv6Network, ...]]
    """By slice, the networks that may send into it."""
    block: Callable[[str], None]
    """Called with the address whose packets shall be blocked."""


def _c(text: bytes) -> bytes:
    """Return a text as C sees it: up to the first zero."""
    return text.partition(b"\0")[0]


def _compare(one: bytes, other: bytes) -> int:
    return (_c(one) > _c(other)) - (_c(one) < _c(other))


def _slice(context: MmtContext, _: Any = None) -> int | bytes:
    return context.slice_id.encode() if isinstance(context.slice_id, str) else context.slice_id


def _whitelist(context: MmtContext, address: bytes, of: Any = None) -> int:
    """Return 1 if the whitelist of a slice, this one if none is named, lacks the address."""
    name = context.slice_id if of is None else of.decode() if isinstance(of, bytes) else of
    return int(not any(ip_address(address) in net for net in context.whitelists.get(name, ())))


def _block(context: MmtContext, address: bytes) -> int:
    context.block(str(ip_address(address)))
    return 1


LIBRARY: dict[str, tuple[str, Callable[..., Any]]] = {
    "is_exist": ("x", lambda _, value: int(value is not None)),
    "is_null": ("x", lambda _, value: int(value is None)),
    "is_empty": ("x", lambda _, text: int(not text or text[:1] == b"\0")),
    "strlen": ("t", lambda _, text: len(_c(text))),
    "strcmp": ("tt", lambda _, a, b: _compare(a, b)),
    "strcasecmp": ("tt", lambda _, a, b: _compare(a.lower(), b.lower())),
    "strstr": ("tt", lambda _, text, part: int(_c(part) in _c(text))),
    "strcasestr": ("tt", lambda _, a, b: int(_c(b).lower() in _c(a).lower())),
    "get_sliceID": ("!|x", _slice),
    "whitelist": ("!a|x", _whitelist),
    "block_packet_from": ("!a", _block),
}
"""By name: the arguments (t a text, a an IP address, x anything, those after | may be left out,
! where the slice must be known), and what is called with the context and them."""
_LETTERS = {"t": (TEXT, "a text"), "a": ((IPV4, IPV6), "an IP address")}


def _divide(a: float, b: float) -> float:
    """Return a quotient as C has it."""
    return a / b if b else nan if isnan(a) or not a else copysign(inf, a) * copysign(1.0, b)


class MmtCompiler:
    """Turns expressions into Python functions, as MMT-Security turns them into C.

    Only numbers of slots, constants as Python writes them, operators and the library come into
    what is compiled: no word of the rule does.
    """

    def __init__(self, context: MmtContext | None) -> None:
        self.context = context
        self.slots: dict[tuple[str, str], int] = {}
        """Numbers of the attributes that were asked for, by protocol and name."""
        self._known: dict[str, Any] = {"divide": _divide, "context": context, "__builtins__": {}}
        self._known |= {"float": float} | {f"f_{name}": run for name, (_, run) in LIBRARY.items()}

    def slot(self, used: MmtAttribute) -> tuple[int, str]:
        """Return the slot of an attribute and its kind.

        Raises:
            MmtError: if it is not decoded.

        """
        protocol, name = used.protocol, used.name
        known = FIELDS.get(protocol)
        if known is None or name not in known:
            what = f"of {protocol}: {', '.join(sorted(known))}" if known else ", ".join(FIELDS)
            raise MmtError(
                f"no attribute {protocol}.{name}; known {'' if known else 'protocols '}{what}"
            )
        return self.slots.setdefault((protocol, name), len(self.slots)), known[name].kind

    def guard(self, part: MmtExpression) -> Guard:
        """Return ``part`` as a function of a packet and the packets before it.

        Raises:
            MmtError: if it uses what there is not, or what cannot be computed.

        """
        lax = {(used.protocol, used.name) for used in asked_for(part)}
        code = f"lambda now, bound: {self._code(part, lax)[0]}"
        return eval(code, self._known)  # type: ignore[no-any-return]  # noqa: S307

    def _code(self, part: MmtExpression, lax: set[tuple[str, str]]) -> tuple[str, str]:
        """Return Python for ``part``, and the kind of its value; ``lax`` ones may be missing."""
        if isinstance(part, MmtConstant):
            if isinstance(part.value, str):
                return repr(part.value.encode()), TEXT
            return repr(float(part.value)), NUMBER
        if isinstance(part, MmtAttribute):
            slot, kind = self.slot(part)
            code = f"now[{slot}]" if part.event is None else f"bound[{part.event}][{slot}]"
            missing = "0" if kind == NUMBER else 'b""'
            return f"({code} or {missing})" if (part.protocol, part.name) in lax else code, kind
        if isinstance(part, MmtCall):
            text = (
                part.name == "get_sliceID"
                and self.context
                and isinstance(_slice(self.context), bytes)
            )
            return self._call(part, lax), TEXT if text else NUMBER
        parts = [self._code(operand, lax) for operand in part.operands]
        if part.operator in ("&&", "||"):
            word = " and " if part.operator == "&&" else " or "
            return f"({word.join(code for code, _ in parts)})", NUMBER
        (left, one), (right, other) = parts
        if part.operator not in "+-*/":
            return self._comparison(part, parts), NUMBER
        if wrong := {one, other} - {NUMBER}:
            raise MmtError(f"{part.operator} counts with a {wrong.pop()}")
        if part.operator == "/":
            return f"divide(float({left}), float({right}))", NUMBER
        return f"(float({left}) {part.operator} float({right}))", NUMBER

    @staticmethod
    def _comparison(part: MmtOperation, parts: list[tuple[str, str]]) -> str:
        for mine, operand in ((0, part.operands[1]), (1, part.operands[0])):
            code, kind = parts[mine]
            if isinstance(operand, MmtConstant) and kind != NUMBER:
                if operand.value == 0 and part.operator in ("==", "!="):
                    # As in C: whether there is one at all. None that is there is empty.
                    return f"(not {code})" if part.operator == "==" else f"(not (not {code}))"
                if kind != TEXT and isinstance(operand.value, str):
                    parts[1 - mine] = repr(_address(kind, operand.value)), kind
        (left, one), (right, other) = parts
        if (one == NUMBER) != (other == NUMBER):
            raise MmtError(f"{part.operator} compares a {one} with a {other}")
        return f"({left} {part.operator} {right})"

    def _call(self, part: MmtCall, lax: set[tuple[str, str]]) -> str:
        if part.name not in LIBRARY:
            raise MmtError(f"no function {part.name}; known are {', '.join(LIBRARY)}")
        takes = LIBRARY[part.name][0]
        if takes[0] == "!" and self.context is None:
            raise MmtError(f"{part.name} needs the slice in which the traffic is looked at")
        least, _, more = takes.strip("!").partition("|")
        if not len(least) <= len(part.operands) <= len(least + more):
            raise MmtError(
                f"{part.name} takes {len(least + more)} arguments, not {len(part.operands)}"
            )
        codes = ["context"]
        parts = [self._code(p, set() if part.name == "is_exist" else lax) for p in part.operands]
        if least == "a":  # whitelist(#get_sliceID(), ip.src) means the same
            parts.sort(key=lambda found: found[1] not in (IPV4, IPV6))
        for letter, (code, kind) in zip(least + more, parts, strict=False):
            kinds, wanted = _LETTERS.get(letter, (kind, ""))
            if kind not in kinds:
                raise MmtError(f"{part.name} is called with a {kind}; it takes {wanted}")
            codes.append(code)
        return f"f_{part.name}({', '.join(codes)})"

    def reaction(self, rule: MmtRule) -> Guard:
        """Return what ``if_satisfied`` of a rule asks for; without arguments the source is meant.

        Raises:
            MmtError: if the library has no such reaction.

        """
        text = rule.if_satisfied.lstrip("#")
        called = parse_expression(f"#{text}" if "(" in text else f"#{text}()")
        if not isinstance(called, MmtCall) or called.name != "block_packet_from":
            raise MmtError(f"if_satisfied calls {text[:60]}; known is block_packet_from")
        sources = [MmtAttribute("ip", "src"), MmtAttribute("ipv6", "src")]
        calls = [called] if called.operands else [MmtCall(called.name, (s,)) for s in sources]
        ready = [
            (self.guard(call), [(u.event, self.slot(u)[0]) for u in used_by(call)])
            for call in calls
        ]

        def react(now: Values, bound: Bound) -> None:
            for guard, used in ready:
                packets = [
                    (now if event is None else bound.get(event), slot) for event, slot in used
                ]
                if all(packet and packet[slot] is not None for packet, slot in packets):
                    guard(now, bound)

        return react


def used_by(part: MmtExpression) -> list[MmtAttribute]:
    """Return the attributes that an expression uses."""
    return [used for used in walk(part) if isinstance(used, MmtAttribute)]


def asked_for(part: MmtExpression) -> Iterator[MmtAttribute]:
    """Yield the attributes whose existence an expression asks: packets may lack them."""
    for call in walk(part):
        if isinstance(call, MmtCall) and call.name == "is_exist":
            yield from used_by(call)


def _address(kind: str, text: str) -> bytes:
    try:
        found = bytes.fromhex(text.replace(":", "")) if kind == MAC else ip_address(text).packed
        if len(found) == {MAC: 6, IPV4: 4, IPV6: 16}[kind]:
            return found
    except ValueError:
        pass
    raise MmtError(f"{text[:60]!r} is no {kind}")
