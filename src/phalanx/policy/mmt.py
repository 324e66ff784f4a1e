"""MMT-Security rules: the model, their XML, and the language of their expressions.

Written from the documentation of the language (Montimage/mmt-security, ``doc/rule.md``): a file
``<beginning>`` holds rules, ``<property>``; a rule relates two parts in time (THEN, BEFORE, AND,
OR, NOT), each an ``<event>`` or an ``<operator>`` that relates two further ones; an event is what
a packet must be like. An expression compares attributes of protocols (``ip.src``), attributes of
the packet that an earlier event was (``ip.src.1``), constants and functions (``#strlen(...)``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.loading import open_file, read_xml
from phalanx.loading.refusals import first_offence

LARGEST = 16 << 20
"""Octets of a file of rules."""
ELEMENTS, NESTED = 200_000, 50
"""XML elements of a file; how deep operators, and brackets of an expression, may nest."""
LONGEST, LATEST = 10_000, 10**16
"""Characters of an expression; microseconds that a delay is shorter than."""
UNITS = {"Y": 31_104 * 10**9, "M": 2_592 * 10**9, "D": 86_400 * 10**6, "h": 3_600 * 10**6}
UNITS |= {"m": 60 * 10**6, "s": 10**6, "ms": 1_000, "mms": 1}
"""Units of delays, in microseconds; a year has twelve months of 30 days."""
LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))
"""Operators, the loosest first, as in C."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)(?![\w.])|(?P<word>\w+(?:\.\w+)*)|'(?P<text>[^']*)'"""
    r"""|"(?P<quoted>[^"]*)"|(?P<sign>&&|\|\||[=!<>]=|[<>+\-*/(),#]))""",
    re.ASCII,
)
_DEFINED = re.compile(r"\b(\w+)\s*\([^;{}()]*\)\s*\{", re.ASCII)
"""Functions that C code defines, by name."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class MmtError(PhalanxError):
    """A rule of MMT-Security that cannot be read, written or run: one line."""


class MmtConstant(Struct, frozen=True):
    """A number or a text; ``true`` and ``false`` are 1 and 0."""

    value: float | str


class MmtAttribute(Struct, frozen=True):
    """An attribute of a packet: of the one that is looked at, or of the one that ``event`` was."""

    protocol: str
    name: str
    event: int | None = None


class MmtCall(Struct, frozen=True):
    """A function and its arguments, ``#name(arguments)``."""

    name: str
    operands: tuple[MmtExpression, ...] = ()


class MmtOperation(Struct, frozen=True):
    """An operator of ``LEVELS`` with two operands; ``&&`` and ``||`` take more."""

    operator: str
    operands: tuple[MmtExpression, ...]


MmtExpression = MmtConstant | MmtAttribute | MmtCall | MmtOperation


class MmtEvent(Struct, frozen=True):
    """What a packet must be like."""

    id: int
    """From 1 on; no two events of a rule have the same."""
    expression: MmtExpression
    description: str = ""


class MmtOperator(Struct, frozen=True):
    """Two parts and how they relate; COMPUTE has one (``context``) alone."""

    value: str
    context: MmtEvent | MmtOperator
    trigger: MmtEvent | MmtOperator | None = None
    min_us: int = 0
    """How much later than ``context`` the ``trigger`` may be at the least, in microseconds."""
    max_us: int = 0
    """And at the most; both 0: the same packet."""
    description: str = ""


class MmtRule(Struct, frozen=True):
    """A property: its parts, and what is said when they are found."""

    id: int
    type: str
    """ATTACK, EVASION, SECURITY or TEST."""
    root: MmtOperator
    if_satisfied: str = ""
    """Function to call with each verdict."""
    if_not_satisfied: str = ""
    """Function to call otherwise, of which the documentation says nothing: not run, if named."""
    code: str = ""
    """C code that the rule brings: that of its file, if it calls it or is alone with it."""

    def events(self) -> tuple[MmtEvent, ...]:
        """Return the events in the order in which they are written."""
        return tuple(_events(self.root))

    def parts(self) -> Iterator[MmtExpression]:
        """Yield the expressions of all events, and all that is in them."""
        for event in self.events():
            yield from walk(event.expression)

    def to_xml(self) -> str:
        """Return the rule as a file of its own; see ``write_mmt``."""
        return write_mmt([self])


def _events(part: MmtEvent | MmtOperator | None) -> Iterator[MmtEvent]:
    if isinstance(part, MmtOperator):
        yield from _events(part.context)
        yield from _events(part.trigger)
    elif part:
        yield part


def walk(part: MmtExpression) -> Iterator[MmtExpression]:
    """Yield an expression and all that is in it."""
    yield part
    if isinstance(part, MmtCall | MmtOperation):
        for operand in part.operands:
            yield from walk(operand)


def parse_expression(text: str) -> MmtExpression:
    """Return what ``text`` means. Brackets that are open at its end are closed.

    Raises:
        MmtError: with what was expected where.

    """
    if len(text) > LONGEST:
        raise MmtError(f"the expression is longer than {LONGEST:,} characters")
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise MmtError(f"{text[at : at + 20].strip()!r} cannot be read")
        kind = found.lastgroup or ""
        tokens.append((kind, found[kind]))
        at = found.end()
    return _Parser([*tokens, ("end", "the end")]).whole()


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> MmtExpression:
        expression = self.level(0)
        if self.tokens[self.at][0] != "end":
            raise self.wrong("an operator")
        parts = [(expression, 1)]
        while parts:
            part, depth = parts.pop()
            if depth > NESTED:
                raise MmtError(f"operators nest deeper than {NESTED}")
            parts += [(inner, depth + 1) for inner in getattr(part, "operands", ())]
        return expression

    def wrong(self, expected: str) -> MmtError:
        before = " ".join(word for _, word in self.tokens[max(0, self.at - 4) : self.at])
        return MmtError(f"{self.tokens[self.at][1]!r} after {before!r}; {expected} is expected")

    def sign(self, *wanted: str) -> str:
        """Take one of these signs if it comes now; empty if it does not."""
        kind, word = self.tokens[self.at]
        found = kind == "sign" and word in wanted
        self.at += found
        return word if found else ""

    def level(self, number: int) -> MmtExpression:
        if number == len(LEVELS):
            return self.primary()
        operands, operators = [self.level(number + 1)], []
        while operator := self.sign(*LEVELS[number]):
            operators.append(operator)
            operands.append(self.level(number + 1))
        if operators and number < 2:
            return MmtOperation(operators[0], tuple(operands))
        left = operands[0]
        for operator, right in zip(operators, operands[1:], strict=True):
            left = MmtOperation(operator, (left, right))
        return left

    def primary(self) -> MmtExpression:
        kind, word = self.tokens[self.at]
        names = word.split(".")
        if kind == "end" or (kind == "sign" and word in (")", ",")):
            raise self.wrong("protocol.attribute, a constant, '#function(' or '('")
        self.at += 1
        if kind in ("text", "quoted"):
            return MmtConstant(word)
        if kind == "number" or word in ("true", "false"):
            return MmtConstant(float(word if kind == "number" else word == "true"))
        if kind == "word" and len(names) == 2:
            return MmtAttribute(names[0], names[1])
        if kind == "word" and len(names) == 3 and names[2].isdecimal() and len(names[2]) < 4:
            return MmtAttribute(names[0], names[1], int(names[2]))
        self.depth += 1
        if word not in ("(", "#") or self.depth > NESTED:
            self.at -= 1
            raise self.wrong(f"protocol.attribute (brackets nest at most {NESTED} deep)")
        inner = self.level(0) if word == "(" else self.call()
        if not self.sign(")") and self.tokens[self.at][0] != "end":
            raise self.wrong("an operator or ')'")
        self.depth -= 1
        return inner

    def call(self) -> MmtCall:
        kind, name = self.tokens[self.at]
        self.at += kind != "end"
        if kind != "word" or "." in name or not self.sign("("):
            raise self.wrong("a function and '('")
        operands: list[MmtExpression] = []
        while self.tokens[self.at] != ("sign", ")") and (not operands or self.sign(",")):
            operands.append(self.level(0))
        return MmtCall(name, tuple(operands))


def expression_text(part: MmtExpression) -> str:
    """Return an expression in the language, every operation in brackets.

    Raises:
        MmtError: if a text holds both kinds of quotation marks.

    """
    match part:
        case MmtAttribute():
            return f"{part.protocol}.{part.name}{'' if part.event is None else f'.{part.event}'}"
        case MmtConstant(value=str(text)):
            if "'" in text and '"' in text:
                raise MmtError(f"{text!r} has both kinds of quotation marks")
            return f'"{text}"' if "'" in text else f"'{text}'"
        case MmtConstant():
            return f"{Decimal(part.value):f}"
        case MmtCall():
            return f"#{part.name}({', '.join(map(expression_text, part.operands))})"
    return f"({f' {part.operator} '.join(map(expression_text, part.operands))})"


_TIME = re.compile(r"\+?(\d{1,18}(?:\.\d{1,6})?)([+-]?)", re.ASCII)


class _Attributes(Struct):
    """The attributes of XML elements that count."""

    property_id: Annotated[int, Meta(ge=0, lt=10**9)] = 0
    event_id: Annotated[int, Meta(ge=1, le=999)] | None = None
    type_property: Literal["ATTACK", "EVASION", "SECURITY", "TEST"] = "SECURITY"
    value: Literal["THEN", "BEFORE", "AND", "OR", "NOT", "COMPUTE"] = "COMPUTE"
    delay_units: Literal["Y", "M", "D", "h", "m", "s", "ms", "mms"] = "s"
    delay_min: str = "0"
    delay_max: str = "0"
    counter_max: Literal["0"] = "0"
    if_satisfied: str = ""
    if_not_satisfied: str = ""
    boolean_expression: str = ""
    description: str = ""

    def time(self, name: str) -> int:
        """Return a delay in microseconds; a + or - is one more or less."""
        found = _TIME.fullmatch(getattr(self, name).strip())
        value = int(Decimal(found[1]) * UNITS[self.delay_units]) if found else LATEST
        if not found or value >= LATEST:
            raise MmtError(
                f"{name} is {getattr(self, name)[:40]!r}; a time such as 5 or 0+ is expected"
            )
        return max(0, value + (found[2] == "+") - (found[2] == "-"))


def load_mmt(path: str | Path) -> tuple[MmtRule, ...]:
    """Return the rules of a file.

    Raises:
        MmtError: with one line ``FILE: what is wrong``.

    """
    try:
        with open_file(path) as stream:
            return read_mmt(stream.read(LARGEST + 1))
    except (OSError, ValueError, MmtError) as error:
        raise MmtError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_mmt(raw: bytes | str) -> tuple[MmtRule, ...]:
    """Return the rules of a document. One that declares entities, or a DTD at all, is refused.

    Raises:
        MmtError: with what is wrong and where.

    """
    if len(raw) > LARGEST:
        raise MmtError(f"is larger than {LARGEST >> 20} MiB, the most allowed")
    try:
        octets = raw.encode("utf-8", "replace") if isinstance(raw, str) else raw
        root = read_xml(octets, NESTED, ELEMENTS)
    except ValueError as error:
        raise MmtError(str(error)) from None
    if root.tag != "beginning":
        raise MmtError(f"the document is <{root.tag[:40]}>; a file of rules is <beginning>")
    code = "".join(node.text or "" for node in root.iter("embedded_functions")).strip()
    nodes, rules = list(root.iter("property")), {}
    defined = set(_DEFINED.findall(code))
    for node in nodes:
        name = f"property {node.get('property_id', 'without property_id')[:20]}"
        try:
            rule = _rule(node)
        except MmtError as error:
            raise MmtError(f"{name}: {error}") from None
        if rule.id in rules:
            raise MmtError(f"two rules have the property_id {rule.id}")
        called = {part.name for part in rule.parts() if isinstance(part, MmtCall)}
        called.update(re.findall(r"\w+", f"{rule.if_satisfied} {rule.if_not_satisfied}"))
        brings = len(nodes) == 1 or called & defined
        rules[rule.id] = replace(rule, code=code) if brings else rule
    return tuple(rules.values())


def _attributes(node: ElementTree.Element) -> _Attributes:
    data: dict[str, Any] = dict(node.attrib)
    for name, text in node.attrib.items():
        if name.endswith("_id") and re.fullmatch(r"\d{1,9}", text, re.ASCII):
            data[name] = int(text)
    try:
        return msgspec.convert(data, _Attributes)
    except msgspec.ValidationError as error:
        field, why = first_offence(data, _Attributes) or ("", str(error))
        raise MmtError(f"<{node.tag[:40]}> {field}: {why}") from None


def _rule(node: ElementTree.Element) -> MmtRule:
    has = _attributes(node)
    if "property_id" not in node.attrib:
        raise MmtError("a number is expected")
    root = _operator(node, iter(range(1, ELEMENTS)))
    reactions = has.if_satisfied.strip(), has.if_not_satisfied.strip()
    rule = MmtRule(has.property_id, has.type_property, root, *reactions)
    ids = {event.id for event in rule.events()}
    if len(ids) < len(rule.events()):
        raise MmtError("two events have the same event_id")
    for event in rule.events():
        for part in walk(event.expression):
            if isinstance(part, MmtAttribute) and part.event is not None and part.event not in ids:
                raise MmtError(f"event {event.id} uses event {part.event}, which is not there")
    return rule


def _operator(node: ElementTree.Element, ids: Iterator[int]) -> MmtOperator:
    has = _attributes(node)
    parts = [_part(child, ids) for child in node]
    least, most = has.time("delay_min"), has.time("delay_max")
    if len(parts) != (1 if has.value == "COMPUTE" else 2):
        raise MmtError(f"{has.value} has {len(parts)} parts; COMPUTE takes one event, others two")
    if least > most or (has.value == "COMPUTE" and most):
        raise MmtError("delay_min is greater than delay_max, or COMPUTE has a delay")
    trigger = parts[1] if len(parts) == 2 else None
    return MmtOperator(has.value, parts[0], trigger, least, most, has.description)


def _part(node: ElementTree.Element, ids: Iterator[int]) -> MmtEvent | MmtOperator:
    if node.tag == "operator":
        return _operator(node, ids)
    if node.tag != "event":
        raise MmtError(f"<{node.tag[:40]}> stands where <event> or <operator> is expected")
    has, number = _attributes(node), next(ids)
    number = has.event_id or number
    try:
        return MmtEvent(number, parse_expression(has.boolean_expression), has.description)
    except MmtError as error:
        raise MmtError(f"event {number}: {error}") from None


def write_mmt(rules: Iterable[MmtRule]) -> str:
    """Return a document with these rules; to read it gives them again.

    Raises:
        MmtError: if one holds what XML or the language cannot express.

    """
    root, rules = ElementTree.Element("beginning"), tuple(rules)
    for code in dict.fromkeys(rule.code for rule in rules if rule.code):
        ElementTree.SubElement(root, "embedded_functions").text = code
    for rule in rules:
        extra = {"property_id": str(rule.id), "type_property": rule.type}
        for name in ("if_satisfied", "if_not_satisfied"):
            extra |= {name: getattr(rule, name)} if getattr(rule, name) else {}
        _write(root, "property", rule.root, extra)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, "unicode")
    if wrong := _NO_XML.search(text):
        raise MmtError(f"the character {wrong[0]!r} cannot stand in XML")
    return f"{text}\n"


def _write(
    parent: ElementTree.Element, tag: str, part: MmtEvent | MmtOperator, extra: dict[str, str]
) -> None:
    description = {"description": part.description} if part.description else {}
    if isinstance(part, MmtEvent):
        text = expression_text(part.expression)
        extra = {"value": "COMPUTE", "event_id": str(part.id), "boolean_expression": text}
        ElementTree.SubElement(parent, tag, extra | description)
        return
    node = ElementTree.SubElement(parent, tag, {"value": part.value} | extra | description)
    if part.max_us:
        node.attrib |= _delay_texts(part.min_us, part.max_us)
    for inner in (part.context, part.trigger):
        if inner:
            _write(node, "operator" if isinstance(inner, MmtOperator) else "event", inner, {})


def _delay_texts(least: int, most: int) -> dict[str, str]:
    """Return a delay in the largest unit that expresses it; ``n+`` is a microsecond more."""
    for units in ("D", "h", "s", "ms", "mms"):
        size = UNITS[units]
        strict = size > 1 and least % size == 1
        if not most % size and least % size == strict:
            break
    text = f"{least // size}{'+' if strict else ''}"
    return {"delay_units": units, "delay_min": text, "delay_max": str(most // size)}
