"""MMT-Security rules: the model, their XML, and the language of their expressions.

Written from the documentation of the language (Montimage/mmt-security, ``doc/rule.md``): a file
``<beginning>`` holds rules, ``<property>``; a rule relates two parts in time (THEN, BEFORE, AND,
OR, NOT), each an ``<event>`` or an ``<operator>`` that relates two further ones; an event is what
a packet must be like. An expression compares attributes of protocols (``ip.src``), attributes of
the packet that an earlier event was (``ip.src.1``), constants and functions (``#strlen(...)``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.loading import open_file

LARGEST = 16 << 20
"""Octets of a file of rules."""
ELEMENTS, NESTED = 200_000, 50
"""XML elements of a file; how deep operators, and brackets of an expression, may nest."""
EVENTS = 63
"""Events of a rule."""
LONGEST = 10_000
"""Characters of an expression."""
UNITS = {"Y": 31_104_000_000_000, "M": 2_592_000_000_000, "D": 86_400_000_000, "h": 3_600_000_000}
UNITS |= {"m": 60_000_000, "s": 1_000_000, "ms": 1_000, "mms": 1}
"""Units of delays, in microseconds; a year has twelve months of 30 days."""
RELATIONS = ("THEN", "BEFORE", "AND", "OR", "NOT", "COMPUTE")
TYPES = ("ATTACK", "EVASION", "SECURITY", "TEST")
LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))
"""Operators, the loosest first, as in C."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)(?![\w.])|(?P<word>\w+(?:\.\w+)*)|'(?P<one>[^']*)'
    |"(?P<two>[^"]*)"|(?P<sign>&&|\|\||[=!<>]=|[<>+\-*/(),#]))""",
    re.VERBOSE | re.ASCII,
)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class MmtError(PhalanxError):
    """A rule of MMT-Security that cannot be read, written or run: one line."""


class MmtConstant(Struct, frozen=True, tag=True):
    """A number or a text; ``true`` and ``false`` are 1 and 0."""

    value: float | str


class MmtAttribute(Struct, frozen=True, tag=True):
    """An attribute of a packet: of the one that is looked at, or of the one that ``event`` was."""

    protocol: str
    name: str
    event: int | None = None


class MmtCall(Struct, frozen=True, tag=True):
    """A function and its arguments, ``#name(arguments)``."""

    name: str
    arguments: tuple[MmtExpression, ...] = ()


class MmtOperation(Struct, frozen=True, tag=True):
    """An operator of ``LEVELS`` with two operands; ``&&`` and ``||`` take more."""

    operator: str
    operands: tuple[MmtExpression, ...]


MmtExpression = MmtConstant | MmtAttribute | MmtCall | MmtOperation


class MmtDelay(Struct, frozen=True):
    """When the second part may follow the first, in microseconds; both 0: the same packet."""

    min_us: int = 0
    max_us: int = 0


class MmtEvent(Struct, frozen=True, tag=True):
    """What a packet must be like."""

    id: int
    expression: MmtExpression
    description: str = ""


class MmtOperator(Struct, frozen=True, tag=True):
    """Two parts and how they relate; COMPUTE has one (``context``) alone."""

    value: str
    context: MmtEvent | MmtOperator
    trigger: MmtEvent | MmtOperator | None = None
    delay: MmtDelay = MmtDelay()
    description: str = ""


class MmtRule(Struct, frozen=True):
    """A property: its parts, and what is said when they are found."""

    id: int
    type: str
    """One of ``TYPES``."""
    root: MmtOperator
    if_satisfied: str = ""
    """Function to call with each verdict."""
    code: str = ""
    """C code that the file of the rule brings; such a rule is not run."""

    def events(self) -> tuple[MmtEvent, ...]:
        """Return the events in the order in which they are written."""
        return tuple(_events(self.root))

    def to_xml(self) -> str:
        """Return the rule as a file of its own.

        Raises:
            MmtError: if it holds what XML or the language cannot express.

        """
        return write_mmt([self])


def _events(part: MmtEvent | MmtOperator | None) -> Iterator[MmtEvent]:
    if isinstance(part, MmtOperator):
        yield from _events(part.context)
        yield from _events(part.trigger)
    elif part:
        yield part


def attributes(expression: MmtExpression) -> Iterator[MmtAttribute]:
    """Yield the attributes that an expression uses."""
    if isinstance(expression, MmtAttribute):
        yield expression
    elif not isinstance(expression, MmtConstant):
        called = isinstance(expression, MmtCall)
        for part in expression.arguments if called else expression.operands:  # type: ignore[union-attr]
            yield from attributes(part)


def parse_expression(text: str) -> MmtExpression:
    """Return what ``text`` means. Brackets that are open at its end are closed.

    Raises:
        MmtError: with what was expected where.

    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise MmtError(f"the expression is longer than {LONGEST:,} characters")
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise MmtError(f"{text[at : at + 20].strip()!r} cannot be read")
            kind = found.lastgroup or ""
            self.tokens.append(
                (kind if kind in ("number", "word", "sign") else "text", found[kind])
            )
            at = found.end()
        self.tokens.append(("end", "the end"))
        self.at = self.depth = 0

    def whole(self) -> MmtExpression:
        expression = self.level(0)
        if self.tokens[self.at][0] != "end":
            raise self.wrong("an operator")
        return expression

    def wrong(self, expected: str) -> MmtError:
        before = " ".join(word for _, word in self.tokens[max(0, self.at - 4) : self.at])
        after = f" after {before!r}" if before else ""
        return MmtError(f"{self.tokens[self.at][1]!r} stands{after}; expected is {expected}")

    def sign(self, *wanted: str) -> str:
        """Take one of these signs if it comes now; empty if it does not."""
        kind, word = self.tokens[self.at]
        if kind != "sign" or word not in wanted:
            return ""
        self.at += 1
        return word

    def level(self, number: int) -> MmtExpression:
        if number == len(LEVELS):
            return self.primary()
        left, chain = self.level(number + 1), 0
        while operator := self.sign(*LEVELS[number]):
            right = self.level(number + 1)
            if chain and number < 2 and isinstance(left, MmtOperation):
                left = MmtOperation(operator, (*left.operands, right))
            else:
                left = MmtOperation(operator, (left, right))
            chain += 1
            if chain > NESTED and number >= 2:
                raise MmtError(f"more than {NESTED} operators {operator} in a row")
        return left

    def primary(self) -> MmtExpression:
        kind, word = self.tokens[self.at]
        self.at += kind != "end"
        if kind == "number":
            return MmtConstant(float(word))
        if kind == "text":
            return MmtConstant(word)
        if kind == "word" and word in ("true", "false"):
            return MmtConstant(float(word == "true"))
        if kind == "word":
            names = word.split(".")
            if len(names) == 2:
                return MmtAttribute(*names)
            if len(names) == 3 and names[2].isdecimal() and len(names[2]) < 4:
                return MmtAttribute(names[0], names[1], int(names[2]))
        elif word in ("(", "#"):
            self.depth += 1
            if self.depth > NESTED:
                raise MmtError(f"brackets nest deeper than {NESTED}")
            inner = self.level(0) if word == "(" else self.call()
            self.close()
            self.depth -= 1
            return inner
        self.at -= kind != "end"
        raise self.wrong("protocol.attribute, a constant, '#function(' or '('")

    def close(self) -> None:
        if not self.sign(")") and self.tokens[self.at][0] != "end":
            raise self.wrong("an operator or ')'")

    def call(self) -> MmtCall:
        kind, name = self.tokens[self.at]
        if kind != "word" or "." in name or self.tokens[self.at + 1][1] != "(":
            raise self.wrong("a function and '('")
        self.at += 2
        arguments: list[MmtExpression] = []
        while self.tokens[self.at][1] != ")" and (not arguments or self.sign(",")):
            arguments.append(self.level(0))
        return MmtCall(name, tuple(arguments))


def expression_text(expression: MmtExpression) -> str:
    """Return an expression in the language, every operation in brackets.

    Raises:
        MmtError: if a text holds both kinds of quotation marks.

    """
    if isinstance(expression, MmtAttribute):
        event = "" if expression.event is None else f".{expression.event}"
        return f"{expression.protocol}.{expression.name}{event}"
    if isinstance(expression, MmtConstant):
        value = expression.value
        if isinstance(value, int | float):
            return f"{Decimal(value):f}"
        if "'" in value and '"' in value:
            raise MmtError(f"{value!r} has both kinds of quotation marks")
        return f'"{value}"' if "'" in value else f"'{value}'"
    if isinstance(expression, MmtCall):
        return f"#{expression.name}({', '.join(map(expression_text, expression.arguments))})"
    return f"({f' {expression.operator} '.join(map(expression_text, expression.operands))})"


def load_mmt(path: Path) -> tuple[MmtRule, ...]:
    """Return the rules of a file.

    Raises:
        MmtError: with one line ``FILE: what is wrong``.

    """
    try:
        with open_file(path) as stream:
            raw = stream.read(LARGEST + 1)
        return read_mmt(raw)
    except (OSError, MmtError) as error:
        raise MmtError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_mmt(raw: bytes | str) -> tuple[MmtRule, ...]:
    """Return the rules of a document. One that declares entities, or a DTD at all, is refused.

    Raises:
        MmtError: with what is wrong and where.

    """
    root = _tree(raw.encode() if isinstance(raw, str) else raw)
    if root.tag != "beginning":
        raise MmtError(f"the document is <{root.tag[:40]}>; a file of rules is <beginning>")
    code = "".join(node.text or "" for node in root.iter("embedded_functions")).strip()
    rules = tuple(_rule(node, code) for node in root.iter("property"))
    ids = [rule.id for rule in rules]
    if twice := next((i for i in ids if ids.count(i) > 1), None) if len(set(ids)) < len(ids) else 0:
        raise MmtError(f"two rules have the property_id {twice}")
    return rules


def _tree(raw: bytes) -> ElementTree.Element:
    if len(raw) > LARGEST:
        raise MmtError(f"is larger than {LARGEST >> 20} MiB, the most allowed")
    builder, parser, depth, count = ElementTree.TreeBuilder(), expat.ParserCreate(), 0, 0

    def start(tag: str, attribs: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > NESTED or count > ELEMENTS:
            raise MmtError(f"elements nest deeper than {NESTED}, or are more than {ELEMENTS:,}")
        builder.start(tag, attribs)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise MmtError("declares a document type, entities perhaps; files of rules have none")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(raw, True)  # noqa: FBT003
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MmtError(f"is no XML: {error}") from None


def _rule(node: ElementTree.Element, code: str) -> MmtRule:
    name = f"property {node.get('property_id', '')[:20]}"
    try:
        number = _number(node, "property_id", None)
        kind = node.get("type_property", "SECURITY")
        if kind not in TYPES:
            raise MmtError(f"type_property is {kind[:40]!r}; known are {', '.join(TYPES)}")
        for unknown in ("if_not_satisfied", "keep_state"):
            if node.get(unknown):
                raise MmtError(f"{unknown} is not supported")
        root = _operator(node, iter(range(1, ELEMENTS)))
        rule = MmtRule(number, kind, root, node.get("if_satisfied", "").strip(), code)
        _check(rule)
    except MmtError as error:
        raise MmtError(f"{name}: {error}") from None
    return rule


def _check(rule: MmtRule) -> None:
    ids = [event.id for event in rule.events()]
    if len(set(ids)) < len(ids) or not 0 < len(ids) <= EVENTS or min(ids) < 1:
        raise MmtError(f"events need an event_id each, from 1 on, and are at most {EVENTS}")
    for event in rule.events():
        for used in attributes(event.expression):
            if used.event is not None and used.event not in ids:
                raise MmtError(f"event {event.id} uses event {used.event}, which is not there")


def _operator(node: ElementTree.Element, ids: Iterator[int]) -> MmtOperator:
    value = node.get("value", "COMPUTE")
    if value not in RELATIONS:
        raise MmtError(f"value is {value[:40]!r}; known are {', '.join(RELATIONS)}")
    parts = [_part(child, ids) for child in node if child.tag != "embedded_functions"]
    delay = _delay(node)
    if len(parts) != (1 if value == "COMPUTE" else 2):
        wanted = "one event" if value == "COMPUTE" else "two events or operators"
        raise MmtError(f"{value} has {len(parts)} parts; it takes {wanted}")
    if value == "COMPUTE" and delay.max_us:
        raise MmtError("COMPUTE has one event, and so no delay")
    return MmtOperator(
        value, *parts[:2], *[None] * (2 - len(parts)), delay, node.get("description", "")
    )


def _part(node: ElementTree.Element, ids: Iterator[int]) -> MmtEvent | MmtOperator:
    if node.tag == "operator":
        return _operator(node, ids)
    if node.tag != "event":
        raise MmtError(f"<{node.tag[:40]}> stands where <event> or <operator> is expected")
    number = _number(node, "event_id", next(ids))
    try:
        expression = parse_expression(node.get("boolean_expression", ""))
    except MmtError as error:
        raise MmtError(f"event {number}: {error}") from None
    return MmtEvent(number, expression, node.get("description", ""))


def _number(node: ElementTree.Element, name: str, default: int | None) -> int:
    text = node.get(name, "" if default is None else str(default)).strip()
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise MmtError(f"{name} is {text[:40]!r}; a number is expected")
    return int(text)


def _delay(node: ElementTree.Element) -> MmtDelay:
    units = node.get("delay_units", "s")
    if units not in UNITS:
        raise MmtError(f"delay_units is {units[:40]!r}; known are {', '.join(UNITS)}")
    if node.get("counter_max", "0").strip("0"):
        raise MmtError("counter_max is not supported; delays are times")
    least, most = (_time(node, name, units) for name in ("delay_min", "delay_max"))
    if least > most:
        raise MmtError("delay_min is greater than delay_max")
    return MmtDelay(least, most)


def _time(node: ElementTree.Element, name: str, units: str) -> int:
    text = node.get(name, "0").strip()
    bare, sign = (text[:-1], text[-1]) if text[-1:] in ("+", "-") else (text, "")
    try:
        value = Decimal(bare)
        if not (0 <= value <= 10**6 and len(bare) <= 20):
            raise InvalidOperation
    except InvalidOperation:
        raise MmtError(
            f"{name} is {text[:40]!r}; a time such as 5, 0.5 or 0+ is expected"
        ) from None
    return max(0, int(value * UNITS[units]) + {"+": 1, "-": -1, "": 0}[sign])


def write_mmt(rules: list[MmtRule]) -> str:
    """Return a document with these rules; to read it gives them again.

    Raises:
        MmtError: if one holds what XML or the language cannot express.

    """
    root = ElementTree.Element("beginning")
    for code in dict.fromkeys(rule.code for rule in rules if rule.code):
        ElementTree.SubElement(root, "embedded_functions").text = code
    for rule in rules:
        node = _write(root, "property", rule.root)
        node.set("property_id", str(rule.id))
        node.set("type_property", rule.type)
        if rule.if_satisfied:
            node.set("if_satisfied", rule.if_satisfied)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, "unicode")
    if wrong := _NO_XML.search(text):
        raise MmtError(f"the character {wrong[0]!r} cannot stand in XML")
    return f"{text}\n"


def _write(
    parent: ElementTree.Element, tag: str, part: MmtEvent | MmtOperator
) -> ElementTree.Element:
    node = ElementTree.SubElement(parent, tag)
    if isinstance(part, MmtEvent):
        node.set("value", "COMPUTE")
        node.set("event_id", str(part.id))
        node.set("boolean_expression", expression_text(part.expression))
    else:
        node.set("value", part.value)
        if part.delay.max_us:
            for name, text in _delay_texts(part.delay).items():
                node.set(name, text)
        for inner in (part.context, part.trigger):
            if inner:
                _write(node, "operator" if isinstance(inner, MmtOperator) else "event", inner)
    if part.description:
        node.set("description", part.description)
    return node


def _delay_texts(delay: MmtDelay) -> dict[str, str]:
    """Return a delay in the largest unit that expresses it; ``n+`` is a microsecond more."""
    for units in ("s", "ms", "mms"):
        size = UNITS[units]
        strict = size > 1 and delay.min_us % size == 1
        if not delay.max_us % size and delay.min_us % size == strict:
            break
    least = f"{delay.min_us // size}{'+' if strict else ''}"
    return {"delay_units": units, "delay_min": least, "delay_max": str(delay.max_us // size)}
