"""The language of intents: sentences in, sentences out, and the documents that hold them.

``language.lark`` beside this file is the grammar. A sentence that it does not have is refused with
the nearest word; one that can be read in two ways is refused with both; units are part of a
figure, and checked. ``said`` writes an intent as a sentence that reads as the same intent again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, VisitError
from msgspec import Struct, ValidationError, convert, json, to_builtins
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.loading import nearest, one_line, parse_as, refusal, show, unknown
from phalanx.loading.refusals import first_offence
from phalanx.policy import intents as kinds
from phalanx.policy.intents import AnyIntent, IntentError, IntentSet, SliceIntent, is_address
from phalanx.policy.rules import PortRange, RuleSchedule
from phalanx.policy.ssla import Penalty, Remediation

LONGEST_CLAUSE, MOST_SIGNS = 1000, 200_000
"""Signs of a clause, and of all sentences of a document: what is longer takes too long to read."""
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
UNITS: dict[str, dict[str, str]] = {
    "time": {"days": "86400", "h": "3600", "min": "60", "s": "1", "ms": "0.001"}
    | {"weeks": "604800", "week": "604800", "w": "604800", "day": "86400", "d": "86400"}
    | {"hours": "3600", "hour": "3600", "minutes": "60", "minute": "60"}
    | {"seconds": "1", "second": "1", "sec": "1"},
    "share": {"%": "0.01", "percent": "0.01", "": "1"},
    "rate": {"MB/s": "1", "GB/s": "1000", "kB/s": "0.001"}
    | {"Mbit/s": "0.125", "Gbit/s": "125", "kbit/s": "0.000125"},
}
"""Units of each quantity, and what one of them is in s, as a fraction, in MB/s."""
_WRITE = {"m": "min", "Mb/s": "MB/s or Mbit/s", "mb/s": "MB/s or Mbit/s", "Gb/s": "GB/s or Gbit/s"}
"""Units with two meanings, and what to write."""
_DELAYS = {"de": "deploy", "pa": "patch", "rele": "patch", "reco": "reconfigure"}
_DELAYS |= {"ch": "reconfigure", "revo": "revoke", "sw": "switch", "lo": "switch"}
"""How words of the grammar begin, and the delay that they mean."""
_ENFORCED = {
    "deploy": "security functions of {} must run within {} of each decision",
    "patch": "functions of {} must be up-to-date within {} of each release",
    "reconfigure": "functions of {} must follow policies within {} of each change",
    "revoke": "users of {} must be locked out within {} of each revocation",
    "switch": "users of {} must be served again within {} of each loss",
}
_SPLIT = re.compile(r"[.;](?=\s|\Z)|\n\s*\n")
_LABEL = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,63}):\s")
_TYPED = str.maketrans({"\u00a0": " ", "\u202f": " ", "“": '"', "”": '"', "„": '"', "’": "'"})
_BARE = re.compile(r"[a-z_][\w-]*(\.[\w-]+)*\Z", re.ASCII | re.IGNORECASE)
_ODD = re.compile(
    r"[^\W\d_]*[^\x00-\x7f\W\d_][^\W\d_]*|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    r"|[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""Words with other letters than those of ASCII, and signs that cannot be seen."""
_FREE = {"NAME": "a name", "QUOTED": "a name", "PREFIX": "an address", "TIME": "a time"}
_FREE |= {"NUMBER": "a number", "QUANTITY": "a number with its unit"}
"""Terminals that stand for no words."""


class _Slices(tuple[str, ...]):
    """Slices that a clause is about."""

    __slots__ = ()


class _Except(Struct):
    """What is left out, and whether a comma ties it to everything before it."""

    things: tuple[str, ...] = ()
    tied: bool = True


class _Reading(Transformer[Token, Any]):
    """Makes intents of the trees of clauses, one after the other."""

    def __init__(self, known: Iterable[str], *, closed: bool) -> None:
        super().__init__()
        self.known = sorted(set(known))
        self.closed = closed
        """Whether there are no other slices than those that are known."""
        self.it: tuple[str, ...] = ()
        """Slices of the clause before, which ``it`` and its like mean."""

    def _ambig(self, readings: list[Any]) -> Any:
        if any(each != readings[0] for each in readings):
            raise IntentError(f"it can be read in {len(readings)} ways; write two sentences")
        return readings[0]

    def clause(self, parts: list[Any]) -> list[Any]:
        return list(chain.from_iterable(parts))

    def statement(self, parts: list[list[Any]]) -> list[Any]:
        if isinstance(parts[0][0], kinds.TrafficIntent):
            self.it = ()
        return parts[0]

    def guarantee(self, parts: list[Any]) -> list[SliceIntent]:
        return [replace(each, **dict(parts[1:])) for each in parts[0]]

    # Who and what. A name is read in any letters, and in quotes as it is written.

    def _name(self, token: Token) -> str:
        word = token.strip('"')
        alike = [each for each in self.known if each.casefold() == word.casefold()]
        if word in alike or (token.type == "QUOTED" and not self.closed):
            return word
        if len(alike) > 1:
            raise IntentError(f"{show(word)} can be {' or '.join(alike)}")
        if self.closed and not alike:
            raise IntentError(unknown("slice", word, self.known))
        return alike[0] if alike else word.lower()

    def who(self, parts: list[Token]) -> _Slices:
        if parts and parts[0].type not in ("IT", "ITS"):
            return _Slices(map(self._name, parts))
        return _Slices(self._of([], singular=bool(parts)))

    whose = who

    def every(self, _: list[Token]) -> _Slices:
        if not self.closed:
            raise IntentError("which slices there are is not known here; name them")
        return _Slices(self.known)

    def things(self, parts: list[Token]) -> tuple[str, ...]:
        return tuple(str(x) if x.type == "PREFIX" else self._name(x) for x in parts)

    def _of(self, parts: list[Any], *, singular: bool = False) -> tuple[str, ...]:
        """Return the slices that a clause is about: its own, or those of the clause before."""
        self.it = next((tuple(each) for each in parts if isinstance(each, _Slices)), self.it)
        if not self.it or (singular and len(self.it) > 1):
            meant = f"it can be {' or '.join(self.it)}" if self.it else "none is named before"
            raise IntentError(f"which slice is meant is not clear: {meant}")
        return self.it

    # Promises.

    def members(self, parts: list[Any]) -> list[Any]:
        prefixes = next(each for each in parts if isinstance(each, list))
        return [(name, tuple(map(str, prefixes))) for name in self._of(parts)]

    prefixes = services = list

    def exception(self, parts: list[Any]) -> _Except:
        return _Except(parts[-1], len(parts) > 1)

    def isolation(self, parts: list[Any]) -> list[AnyIntent]:
        slices = self._of(parts)
        left = next((each for each in parts if type(each) is tuple), ())
        out = next((each for each in parts if isinstance(each, _Except)), _Except())
        pairs = [[(left, out.things)]]
        if left and not out.tied and len(left) > 1:
            pairs.append([(left[:-1], ()), (left[-1:], out.things)])
        if left and not out.tied and len(out.things) > 1:
            pairs.append([(left, out.things[:1]), (out.things[1:], ())])
        made = kinds.IsolationIntent
        return _only(
            [[made(slice=s, sources=a, allowed=b) for s in slices for a, b in x] for x in pairs]
        )

    between = isolation

    def mutual(self, parts: list[Any]) -> list[SliceIntent]:
        self.it = parts[0]
        others = {each: tuple(other for other in self.it if other != each) for each in self.it}
        return [kinds.IsolationIntent(slice=each, sources=others[each]) for each in self.it]

    def encryption(self, parts: list[Any]) -> list[SliceIntent]:
        return [kinds.EncryptionIntent(slice=each) for each in self._of(parts)]

    def availability(self, parts: list[Any]) -> list[SliceIntent]:
        share = _amount(parts, "share")
        return [kinds.AvailabilityIntent(slice=x, at_least=share) for x in self._of(parts)]

    def places(self, parts: list[Token]) -> list[str]:
        return [each.strip('"') for each in parts]

    def location(self, parts: list[Any]) -> list[SliceIntent]:
        places = tuple(parts[-1])
        return [kinds.LocationIntent(slice=x, jurisdictions=places) for x in self._of(parts)]

    def delay(self, parts: list[Any]) -> list[SliceIntent]:
        word, within_s = _token(parts, "DELAYED").lower(), _amount(parts, "time")
        of: Any = next(_DELAYS[begin] for begin in _DELAYS if word.startswith(begin))
        return [kinds.DelayIntent(slice=x, of=of, within_s=within_s) for x in self._of(parts)]

    def analysis(self, parts: list[Any]) -> list[SliceIntent]:
        every_s = _amount(parts, "time")
        return [kinds.AnalysisIntent(slice=each, every_s=every_s) for each in self._of(parts)]

    def tunnels(self, parts: list[Any]) -> list[SliceIntent]:
        most = _whole(_token(parts, "NUMBER"))
        return [kinds.TunnelIntent(slice=each, at_most=most) for each in self._of(parts)]

    def window(self, parts: list[Any]) -> tuple[str, Any]:
        return "window_s", _amount(parts, "time")

    def remediation(self, parts: list[Token]) -> tuple[str, Any]:
        return "remediation", tuple(Remediation(each.lower()) for each in parts)

    def penalty(self, parts: list[Any]) -> tuple[str, Any]:
        after_s = _amount(parts, "time") if len(parts) > 1 else 0.0
        return "penalty", Penalty(_amount(parts[-1:], "share"), after_s)

    # Traffic.

    # Sentences about packets tie what narrows them to all targets, and need no comma.

    def access(self, parts: list[Any], *, tied: bool = False) -> list[AnyIntent]:
        marks = {each.type for each in parts if isinstance(each, Token)}
        if {"ONLY", "NOT"} <= marks:
            raise IntentError("'only … may not' is not clear; write who may, or who may not")
        effect = "only" if "ONLY" in marks else "deny" if {"NOT", "DROPPED"} & marks else "permit"
        return self._traffic(kinds.AccessIntent, parts, tied=tied, effect=effect)

    def said(self, parts: list[Any]) -> list[AnyIntent]:
        return self.access(parts, tied=True)

    def said_only(self, parts: list[Any]) -> list[AnyIntent]:
        to, by = (at for at, each in enumerate(parts) if type(each) is tuple)
        parts[to], parts[by] = parts[by], parts[to]
        return self._traffic(kinds.AccessIntent, parts, effect="only", tied=True)

    def rate(self, parts: list[Any], *, tied: bool = False) -> list[AnyIntent]:
        most = _amount(parts, "rate")
        return self._traffic(kinds.RateIntent, parts, tied=tied, at_most_mb_s=most)

    def said_rate(self, parts: list[Any]) -> list[AnyIntent]:
        return self.rate(parts, tied=True)

    def _traffic(
        self, kind: Any, parts: list[Any], *, tied: bool = False, **fields: Any
    ) -> list[AnyIntent]:
        sources, targets = (each for each in parts if type(each) is tuple)
        narrow: dict[str, Any] = {}
        for before, each in zip(["", *parts], parts, strict=False):
            if isinstance(each, list | RuleSchedule):
                tied = tied or getattr(before, "type", "") == "COMMA"
                timed = isinstance(each, RuleSchedule)
                narrow["schedule" if timed else "services"] = each if timed else (*each,)  # type: ignore[misc]
        whole = kind(sources=sources, targets=targets, **fields, **narrow)
        readings = [[whole]]
        if narrow and not tied and len(targets) > 1:
            first = kind(sources=sources, targets=targets[:-1], **fields)
            readings.append([first, replace(whole, targets=targets[-1:])])
        return _only(readings)

    def service(self, parts: list[Any]) -> kinds.TransportPorts:
        return kinds.TransportPorts(parts[0].lower(), tuple(parts[1:]))

    def range(self, parts: list[Token]) -> PortRange:
        return PortRange(_whole(parts[0]), _whole(parts[-1]))

    def schedule(self, parts: list[Any]) -> RuleSchedule:
        days = next((tuple(each) for each in parts if isinstance(each, list)), ())
        start, end = [_minute(each) for each in parts if isinstance(each, Token)] or (0, 1440)
        return RuleSchedule(days, start, end or 1440)

    def days(self, parts: list[Token]) -> list[int]:
        begins = [day[:3] for day in DAYS]
        return [begins.index(each[:3].lower()) for each in parts]

    def weekdays(self, _: list[Token]) -> list[int]:
        return [0, 1, 2, 3, 4]

    def weekends(self, _: list[Token]) -> list[int]:
        return [5, 6]

    def day_range(self, parts: list[Token]) -> list[int]:
        first, last = self.days(parts)
        return [(first + more) % 7 for more in range((last - first) % 7 + 1)]

    def quantity(self, parts: list[Token]) -> Token:
        return parts[0].update("QUANTITY")


def _only(readings: list[list[AnyIntent]]) -> list[AnyIntent]:
    if len(readings) > 1:
        ways = (f"({n}) {'; '.join(map(said, way))}" for n, way in enumerate(readings, 1))
        raise IntentError(f"it can be read in {len(readings)} ways; write one: {', '.join(ways)}")
    return readings[0]


def _token(parts: list[Any], kind: str) -> Token:
    found: Token = next(each for each in parts if getattr(each, "type", "") == kind)
    return found


def _amount(parts: list[Any], kind: str) -> float:
    text = str(_token(parts, "QUANTITY"))
    figure = text.rstrip("%/abcdefghijklmnopqrstuvwxyzBGM ")
    unit = text[len(figure) :].strip()
    if unit in _WRITE:
        raise IntentError(f"the unit of {show(text)} has two meanings; write {_WRITE[unit]}")
    if unit not in UNITS[kind]:
        other = next((f"is a {each}" for each in UNITS if unit and unit in UNITS[each]), "")
        units = ", ".join(each or "none" for each in UNITS[kind])
        what = other or ("has a unit that is not known" if unit else "has no unit")
        raise IntentError(f"{show(text)} {what}; a {kind} is expected here ({units})")
    return float(Decimal(figure) * Decimal(UNITS[kind][unit]))


def _whole(token: Token) -> int:
    if "." in token or len(token) > 9:
        raise IntentError(f"{show(str(token))} is no whole number, or too large")
    return int(token)


def _minute(token: Token) -> int:
    hours, minutes = map(int, token.split(":"))
    if minutes > 59 or hours * 60 + minutes > 1440:
        raise IntentError(f"{token} is no time of a day")
    return hours * 60 + minutes


@cache
def _parser() -> Lark:
    text = files(__package__).joinpath("language.lark").read_text(encoding="utf-8")
    settings: dict[str, Any] = {"start": "clause", "maybe_placeholders": False}
    return Lark(text, parser="earley", lexer="basic", ambiguity="explicit", **settings)


@cache
def _words() -> dict[str, list[str]]:
    """Return the words that each terminal of the grammar stands for."""
    given = {each.name: each.pattern.value for each in _parser().terminals}
    return {x: re.findall("[a-z-]{2,}", text) for x, text in given.items() if x not in _FREE}


def _read(clause: str, reading: _Reading) -> list[Any]:
    """Return what a clause says: intents, and pairs of a slice and its prefixes."""
    clause = clause.translate(_TYPED)
    if len(clause) > LONGEST_CLAUSE:
        raise IntentError(f"a clause has {len(clause)} signs; at most {LONGEST_CLAUSE} are allowed")
    if odd := next((each for each in clause if not each.isascii()), ""):
        raise IntentError(f"{_code_point(odd)} is no sign of the language, which is ASCII")
    try:
        return reading.transform(_parser().parse(clause))  # type: ignore[no-any-return]
    except UnexpectedCharacters as error:
        raise IntentError(f"{show(error.char)} is no sign of the language") from None
    except UnexpectedInput as error:
        raise IntentError(_not_expected(error, clause, reading.known)) from None
    except VisitError as error:
        raise error.orig_exc from None


def _not_expected(error: Any, clause: str, known: list[str]) -> str:
    """Return what is wrong with a clause that the grammar does not have, and what would do."""
    words, token = _words(), getattr(error, "token", None)
    at = len(clause) if token is None or token.start_pos is None else token.start_pos
    before, bad = clause[:at].strip(), clause[at:].split()
    wanted = sorted({word for each in error.expected for word in words.get(each, ())})
    everything = sorted({*chain.from_iterable(words.values())})
    number, tries = re.search(r"[0-9.]+\Z", before), [(word, wanted) for word in bad[:1]]
    if number and bad:
        tries = [(f"{number[0]} {bad[0]}", [f"{number[0]} {x}" for k in UNITS.values() for x in k])]
    earlier = [word for word in re.findall(r"[^\W\d][\w-]+", before) if word not in known]
    tries += [(word, everything) for word in earlier if word.lower() not in everything]
    for word, among in tries:
        if hint := nearest(word.lower(), among):
            return f"{show(word)} is not expected here{hint}"
    free = dict.fromkeys(_FREE[each] for each in sorted(error.expected) if each in _FREE)
    what = f"{show(bad[0])} is not expected" if bad else "the sentence ends too soon"
    expected = ", ".join([*free, *map(repr, wanted)][:14])
    quotes = "; a name that is a word of the language stands in quotes" if "a name" in free else ""
    return f"{what} after {show(before[-30:])}; expected {expected}{quotes}"


def refuse_odd_signs(text: str, name: str) -> None:
    """Refuse a text with signs that cannot be seen, or words of letters of several scripts.

    Raises:
        ScenarioError: with one line that names the code points.

    """
    for found in _ODD.finditer(text):
        word = found[0]
        scripts = {unicodedata.name(each, "?").split()[0] for each in word}
        if word.isalpha() and len(scripts) == 1:
            continue
        sign = next((each for each in word if not each.isascii()), word)
        why = f"stands in {show(word)} among letters of another script"
        why = why if word.isalpha() else "cannot be seen"
        line = text.count("\n", 0, found.start()) + 1
        raise ScenarioError(one_line(f"{name}: line {line}: {_code_point(sign)} {why}"))


def _code_point(sign: str) -> str:
    return f"U+{ord(sign):04X} ({unicodedata.name(sign, 'no name')})"


def said(intent: kinds.Intent) -> str:
    """Return an intent in other words: a clause that reads as the same intent, but for its name."""
    if isinstance(intent, SliceIntent):
        return _promise(intent) + _suffixes(intent)
    assert isinstance(intent, kinds.AccessIntent | kinds.RateIntent)
    sources, targets = _list(intent.sources), _list(intent.targets)
    on = f" on {' and '.join(map(_service, intent.services))}" if intent.services else ""
    if isinstance(intent, kinds.RateIntent):
        rate = _figure(intent.at_most_mb_s)
        return f"packets from {sources} to {targets}{on} must pass at no more than {rate} MB/s"
    when = _when(intent.schedule)
    if intent.effect == "only":
        return f"packets to {targets}{on} must be dropped unless they come from {sources}{when}"
    fate = "pass" if intent.effect == "permit" else "be dropped"
    return f"packets from {sources} to {targets}{on} must {fate}{when}"


def _promise(intent: SliceIntent) -> str:
    of = _list([intent.slice])
    match intent:
        case kinds.IsolationIntent():
            out = f", except from {_list(intent.allowed)}" if intent.allowed else ""
            if not intent.sources:
                return f"packets from outside {of} must not reach it{out}"
            return f"packets from {_list(intent.sources)} must not reach {of}{out}"
        case kinds.AvailabilityIntent():
            share = _figure(intent.at_least, "100")
            return f"{of} must answer at least {share} % of what is asked of it"
        case kinds.LocationIntent():
            where = " or ".join(map(_quoted, intent.jurisdictions))
            return f"functions of {of} must stand only in {where}"
        case kinds.DelayIntent():
            return _ENFORCED[intent.of].format(of, _time(intent.within_s))
        case kinds.AnalysisIntent():
            return f"traffic of {of} must be analysed again within {_time(intent.every_s)}"
        case kinds.TunnelIntent():
            return f"subscribers of {of} must have at most {intent.at_most} GTP tunnels each"
    return f"no packet of {of} may be in clear text"


def _suffixes(intent: SliceIntent) -> str:
    over = "" if intent.window_s == 10.0 else f", measured over {_time(intent.window_s)}"
    remedies = " and ".join(each.value for each in intent.remediation)
    penalty = ""
    if intent.penalty is not None:
        after = intent.penalty.after_s
        longer = f" longer than {_time(after)}" if after else ""
        penalty = f", and each breach{longer} costs {_figure(intent.penalty.credit, '100')} %"
    return over + (f", or else {remedies}" if remedies else "") + penalty


def _list(things: Iterable[str]) -> str:
    words = [x if is_address(x) else f"slice {_quoted(x, small=True)}" for x in things]
    return " and ".join(words)


def _quoted(name: str, *, small: bool = False) -> str:
    """Return a name as it is written: in quotes where it would be read as another."""
    plain = _BARE.match(name) and not (small and name != name.lower())
    return name if plain and name.lower() not in chain(*_words().values()) else f'"{name}"'


def _service(service: kinds.TransportPorts) -> str:
    ports = [f"{x.first}-{x.last}" if x.last != x.first else f"{x.first}" for x in service.ports]
    return f"{service.protocol} port {', '.join(ports)}" if ports else service.protocol


def _when(schedule: RuleSchedule) -> str:
    start, end = (
        f"{minute // 60:02}:{minute % 60:02}" for minute in (schedule.start, schedule.end)
    )
    usual = {(0, 1, 2, 3, 4): "weekdays", (5, 6): "weekends"}
    days = usual.get(schedule.days) or " and ".join(DAYS[day] for day in schedule.days)
    whole = (schedule.start, schedule.end) == (0, 1440)
    return ("" if whole else f" between {start} and {end} UTC") + (f" on {days}" if days else "")


def _figure(value: float, times: str = "1") -> str:
    return f"{(Decimal(repr(value)) * Decimal(times)).normalize():f}"


def _time(seconds: float) -> str:
    exact = Decimal(repr(seconds))
    whole = [each for each in ("days", "h", "min") if not exact % Decimal(UNITS["time"][each])]
    unit = whole[0] if whole else "s"
    figure = f"{(exact / Decimal(UNITS['time'][unit])).normalize():f}"
    return f"{figure} {'day' if (figure, unit) == ('1', 'days') else unit}"


def page_of(intents: IntentSet) -> str:
    """Return a page of sentences that means the same.

    Raises:
        ScenarioError: if the set has what no sentence says.

    """
    for field in ("provider", "consumer", "about"):
        if getattr(intents, field):
            raise ScenarioError(f"{intents.name}: no sentence says {field}; write it as YAML")
    owned = {_list([each]): " and ".join(has) for each, has in intents.members.items() if has}
    lines = [f"{name} has the addresses {prefixes}" for name, prefixes in owned.items()]
    lines += [f"{each.name}: {said(each)}" for each in intents.intents]
    return "".join(f"{line}.\n" for line in lines)


def parse_page(text: str, name: str, slices: Iterable[str] | None = None) -> IntentSet:
    """Return what a page of sentences means.

    Args:
        text: sentences; lines that begin with # are left out.
        name: stands for the file in errors; without its ending it is that of the set.
        slices: names of the slices that there are; None: not known here.

    Raises:
        ScenarioError: with one line ``FILE: line N: what is wrong; what is allowed``.

    """
    refuse_odd_signs(text, name)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", name.rpartition("/")[2].partition(".")[0])
    reader = _Reader(IntentSet(name=stem.lstrip("._-")[:64] or "intents"), slices, ())
    text, begin = re.sub(r"(?m)^[ \t]*#.*$", "", text), 0
    for end in [*_SPLIT.finditer(text), None]:
        clause = text[begin : end.start() if end else None]
        line = text.count("\n", 0, begin + len(clause) - len(clause.lstrip())) + 1
        begin = end.end() if end else 0
        try:
            reader.take(clause)
        except IntentError as error:
            raise ScenarioError(one_line(f"{name}: line {line}: {error}")) from None
    if not (reader.found or reader.members):
        raise ScenarioError(f"{name}: there is no sentence in it")
    return reader.whole()


def parse_document(text: str, name: str, slices: Iterable[str] | None = None) -> IntentSet:
    """Return what a document in YAML or JSON means; arguments and errors as for ``parse_page``."""
    refuse_odd_signs(text, name)
    document, tree = parse_as(kinds.IntentDocument, text, name)
    header = IntentSet(**{x: getattr(document, x) for x in kinds.IntentHeader.__struct_fields__})
    spelled = {each.slice for each in document.intents if isinstance(each, SliceIntent)}
    reader = _Reader(header, slices, spelled)
    for index, each in enumerate([document.members, *document.intents]):
        try:
            if isinstance(each, dict):
                for owner, prefixes in each.items():
                    reader.own(owner, prefixes)
            elif isinstance(each, str):
                for clause in _SPLIT.split(each):
                    reader.take(clause)
            else:
                reader.keep(each)
                reader.reading.it = ()
        except IntentError as error:
            field = f"intents[{index - 1}]" if index else "members"
            raise refusal(name, tree, field, str(error)) from None
    return reader.whole()


class _Reader:
    """Takes clause after clause of one document."""

    def __init__(
        self, header: IntentSet, slices: Iterable[str] | None, spelled: Iterable[str]
    ) -> None:
        known = [*spelled, *header.members] if slices is None else slices
        self.reading = _Reading(known, closed=slices is not None)
        self.found: list[AnyIntent] = []
        self.members: dict[str, tuple[str, ...]] = {}
        self._header = header
        self._signs = 0

    def take(self, clause: str) -> None:
        """Take one clause, if there is something in it."""
        if not clause.strip():
            return
        self._signs += len(clause)
        if self._signs > MOST_SIGNS:
            raise IntentError(f"there are more than {MOST_SIGNS} signs; make two documents")
        label = _LABEL.match(clause)
        read = _read(clause[label.end() if label else 0 :], self.reading)
        for number, each in enumerate(read, 1):
            if isinstance(each, tuple):
                self.own(*each)
            else:
                more = f"-{number}" if len(read) > 1 else ""
                self.keep(replace(each, name=label[1] + more) if label else each)

    def own(self, name: str, prefixes: tuple[str, ...]) -> None:
        """Keep that addresses belong to a slice."""
        if self.reading.closed and name not in self.reading.known:
            raise IntentError(unknown("slice", name, self.reading.known))
        for wrong in filter(None, map(kinds.wrong_prefix, prefixes)):
            raise IntentError(f"members of {name}: {wrong}")
        self.members[name] = tuple(dict.fromkeys((*self.members.get(name, ()), *prefixes)))

    def keep(self, intent: AnyIntent) -> None:
        """Keep an intent that is typed, if it can be used."""
        schema: Any = AnyIntent
        known = self.reading.known if self.reading.closed else None
        plain = to_builtins(intent)
        try:
            convert(plain, schema)
            wrong = next(kinds.intent_offences(intent, known), None)
        except ValidationError:
            wrong = first_offence(json.decode(json.encode(plain)), schema)
        if wrong is not None:
            raise IntentError(f"{wrong[0]}: {wrong[1]}")
        if intent.name and any(each.name == intent.name for each in self.found):
            raise IntentError(f"name: {show(intent.name)} is that of another intent")
        if len(self.found) == kinds.MOST_INTENTS:
            raise IntentError(
                f"there are more than {kinds.MOST_INTENTS} intents; make two documents"
            )
        self.found.append(intent)

    def whole(self) -> IntentSet:
        """Return what was taken."""
        return replace(self._header, intents=tuple(kinds.named(self.found)), members=self.members)
