"""Event text: one line for each event, from the event's own data and nothing else.

The text does not hold the agent and the time; the caller shows them beside it. It is safe to
print: one line, no control characters. Data that is missing or of another shape than
``docs/reference/events.md`` says leaves a gap in the text, never an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from importlib.resources import files
from typing import Any

from phalanx.domain.events import Event
from phalanx.loading.refusals import one_line

_LONGEST = 240
_MOST_ITEMS = ContextVar("items of a list that are written out", default=6)

_FILE = tomllib.loads(
    files("phalanx.reporting").joinpath("events.toml").read_text(encoding="utf-8")
)
_DETAILS = frozenset(_FILE.pop("details"))
_TEXTS: dict[str, str] = {
    f"{family}.{kind}": text for family, kinds in _FILE.items() for kind, text in kinds.items()
}
KINDS = _TEXTS.keys()
"""Every kind of event of the house's own; functions may add kinds."""
IMPORTANT = KINDS - _DETAILS
"""Kinds that tell the story of a run; the others are its details."""

_FIELD = re.compile(r"\{(\w+)(?::(#?)(\w+))?\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


_ALARMS = (
    *("overUsage(", "connectionFlood(", "underAttack("),
    *("serviceBreached(", "serviceTrouble(", "entityTrouble("),
)


def is_alarm(event: Event) -> bool:
    """Whether ``event`` says that an agent has begun to believe in an overload or an attack."""
    return (
        event.kind == "belief.changed"
        and event.data.get("value") is True
        and str(event.data.get("belief", "")).startswith(_ALARMS)
    )


def describe_whole(event: Event) -> str:
    """Return what ``event`` says, however long it is: no list and no reason is cut."""
    token = _MOST_ITEMS.set(1_000_000)
    try:
        return _words(event)
    finally:
        _MOST_ITEMS.reset(token)


def describe(event: Event) -> str:
    """Return what ``event`` says, in one line of at most 240 characters."""
    words = _words(event)
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"


def _words(event: Event) -> str:
    writer = _WRITERS.get(event.kind)
    if writer is not None:
        words = writer(event.data)
    elif event.kind in _TEXTS:
        words = _fill(_TEXTS[event.kind], event.data)
    else:
        words = f"{event.kind}: {written(event.data)}" if event.data else event.kind
    return one_line(words)


def _fill(template: str, data: Mapping[str, Any]) -> str:
    def optional(match: re.Match[str]) -> str:
        fields = [field for field, _, _ in _FIELD.findall(match[1])]
        return match[1] if all(data.get(f) not in (None, "", [], {}, 0) for f in fields) else ""

    def field(match: re.Match[str]) -> str:
        name, count, form = match.groups()
        value = data.get(name)
        if count:
            return _count(value, form)
        return _path(value) if form == "path" else written(value)

    return _FIELD.sub(field, _OPTIONAL.sub(optional, template))


def written(value: Any) -> str:
    """Return a value of an event's data in words."""
    match value:
        case None:
            return "?"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
        case dict():
            return _some([f"{key} {written(item)}" for key, item in value.items()])
        case list() | tuple():
            return _some([written(item) for item in value])
    return str(value)


def _some(items: list[str]) -> str:
    most = _MOST_ITEMS.get()
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def _count(value: Any, noun: str) -> str:
    number = len(value) if isinstance(value, list | tuple | dict) else value
    return f"{written(number)} {noun}{'' if number == 1 else 's'}"


def _path(value: Any) -> str:
    return (
        " → ".join(written(item) for item in value) if isinstance(value, list) else written(value)
    )


def _sample(data: Mapping[str, Any]) -> str:
    hosts = data.get("hosts")
    if not isinstance(hosts, dict) or not hosts:
        return "traffic is measured"
    return "; ".join(
        _fill("{name} gets {legitimate_mb_s} of {wanted_mb_s} MB/s wanted", {"name": name, **seen})
        + _fill("[ and {malicious_mb_s} MB/s of attack]", seen)
        for name, seen in hosts.items()
        if isinstance(seen, dict)
    )


def _traffic(data: Mapping[str, Any]) -> str:
    if not data.get("active"):
        return _fill("{group} stop sending ({profile})", data)
    return _fill("{group} send ({count} × {profile}[, {demand_mb_s} MB/s in all])", data)


def _resources(data: Mapping[str, Any]) -> str:
    free = data.get("free")
    words = "{cores:#core}, {memory_gb} GB memory and {disk_gb} GB disk"
    return _fill("{pop} has free: ", data) + _fill(words, free if isinstance(free, dict) else {})


def _fault(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "fault"}
    return _fill("the test bench injects {fault}", data) + (f": {written(rest)}" if rest else "")


def _link(data: Mapping[str, Any]) -> str:
    return _fill("link {link} ", data) + ("is up again" if data.get("up") else "is down")


def _measure(data: Mapping[str, Any]) -> str:
    rate = data.get("rate_mb_s")
    effect = str(data.get("effect", ""))
    if effect.startswith("handshakesProxied"):
        end = ": clients that complete the handshake pass"
    elif effect.startswith("split"):
        end = ", in {parts:#part}" if data.get("parts", 1) != 1 else ""
    elif data.get("verdict") == "serve":
        end = ": it answers up to {rate_mb_s} MB/s"
    elif data.get("verdict") == "enlarge":
        end = ": {target} answers {rate_mb_s} MB/s more"
    elif data.get("verdict") == "steer":
        end = ": all of it passes there" + ", encrypted on its way" * bool(data.get("encrypted"))
    elif data.get("verdict") == "mirror":
        end = ": it gets copies of what goes to {target}, and of answers"
    elif data.get("verdict") == "proxy":
        end = ": clients that complete the handshake pass"
    else:
        end = ": nothing passes" if rate == 0 else "[: {rate_mb_s} MB/s pass]"
        end += "[; {sources}]"
    return _fill("{effect} is in force at {pop}" + end, data)


_WOULD = {"drop": "block", "proxy": "answer handshakes for"}


def _withheld(data: Mapping[str, Any]) -> str:
    verdict = str(data.get("verdict", ""))
    whom = "{sources}" if data.get("sources") else "[{protocol} to ]{target}"
    end = "[ to {rate_mb_s} MB/s] at {pop}[: {reason}]"
    return _fill(f"would {_WOULD.get(verdict, verdict)} {whom}" + end, data)


def _spared(data: Mapping[str, Any]) -> str:
    several = isinstance(data.get("sources"), list) and len(data["sources"]) > 1
    verb = "attack" if several else "attacks"
    be = "are" if several else "is"
    why = "{prefix} is in the allow list ({reason}); not blocked"
    return _fill(f"{{sources}} {verb} {{target}}, and {be} allowed: {why}", data)


def _stopped(data: Mapping[str, Any]) -> str:
    return _fill("{vnf} at {pop} ({instance}) stops", data) + _reason(data, "stopped")


def _lifted(data: Mapping[str, Any]) -> str:
    return _fill("{effect} at {pop} is lifted", data) + _reason(data, "lifted")


def _reason(data: Mapping[str, Any], asked: str) -> str:
    """Return the reason, unless it only repeats that it was ``asked`` for."""
    return "" if data.get("reason") == asked else _fill("[: {reason}]", data)


def _chain(data: Mapping[str, Any]) -> str:
    verb = {"mirror": "mirrored", "steer": "steered"}.get(str(data.get("purpose")), "led")
    return _fill(
        f"traffic is {verb} to {{instance}} over {{path:path}}[, {{mb_s}} MB/s reserved]", data
    )


def _belief(data: Mapping[str, Any]) -> str:
    value = data.get("value")
    if value is None:
        return _fill("forgets {belief}", data)
    sign = "" if value else "¬"
    return _fill(f"believes {sign}{{belief}}[ (kept so by {{holder}})]", data)


def _plan_ended(data: Mapping[str, Any]) -> str:
    verb = "succeeded" if data.get("succeeded") else "failed"
    return _fill(f"plan {{plan}} for {{goal}} {verb}[: {{reason}}]", data)


_OFFER = "{vnf}[ × {units}], T {T} s, C {C} MB/s, D {D} ms"
_OFFER_FIELDS = ("agent", "utility", "vnf", "units", "T", "C", "D", "path", "reuse", "kept")


def _offer(bid: Mapping[str, Any]) -> str:
    """Return a bid with its built-in terms, then the further ones by name."""
    further = {name: value for name, value in bid.items() if name not in _OFFER_FIELDS}
    kept = ", which keeps it so already" if bid.get("kept") else ""
    return _fill(_OFFER, bid) + (f", {written(further)}" if further else "") + kept


def _bid(data: Mapping[str, Any]) -> str:
    bids = data.get("bids")
    offers = [b for b in bids if isinstance(b, dict)] if isinstance(bids, list) else []
    return _fill("bids for {goal}: ", data) + "; or ".join(map(_offer, offers))


def _awarded(data: Mapping[str, Any]) -> str:
    words = _fill("awards {goal} to {winner}", data)
    ranking = data.get("ranking")
    ranked = [b for b in ranking if isinstance(b, dict)] if isinstance(ranking, list) else []
    chosen = next((bid for bid in ranked if bid.get("agent") == data.get("winner")), None)
    if chosen is None:
        return words
    of = f", best of {len(ranked)}" if len(ranked) > 1 else ", the only bid"
    return words + f" ({_offer(chosen)}; " + _fill(f"utility {{utility}}{of})", chosen)


def _contract_ended(data: Mapping[str, Any]) -> str:
    verb = "fulfilled" if data.get("fulfilled") else "not fulfilled"
    return _fill(f"reports {{goal}} {verb}[: {{reason}}]", data)


def _analysis(data: Mapping[str, Any]) -> str:
    if data.get("found"):
        end = "; finds {found}"
    else:
        end = "" if data.get("forged") else "; finds nothing malicious"
    end += "[; the sources that flood {forged} are forged]"
    return _fill("looks at {flows:#flow}[ ({coverage} of the traffic)] for {goal}" + end, data)


_TIERS = {
    "affirming": "finds {attester} genuine",
    "warning": "finds {attester} genuine, but not well",
    "contraindicated": "finds {attester} not genuine",
    "none": "cannot say whether {attester} is genuine",
}


def _attested(data: Mapping[str, Any]) -> str:
    found = _TIERS.get(str(data.get("tier")), "verifies {attester}")
    modelled = " (modelled)" if data.get("modelled") else ""
    first = ", to begin with" if data.get("round") == 0 else ""
    words = _fill(found + first + modelled + "[ (its {root} vouches)][: {deviations}]", data)
    ran = data.get("activity")
    return words + _fill("; it has {memory_mb} MB", ran) if isinstance(ran, dict) else words


_WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "network.sample": _sample,
    "traffic.changed": _traffic,
    "resources.changed": _resources,
    "fault.injected": _fault,
    "link.changed": _link,
    "measure.applied": _measure,
    "measure.lifted": _lifted,
    "measure.withheld": _withheld,
    "source.spared": _spared,
    "instance.stopped": _stopped,
    "chain.opened": _chain,
    "belief.changed": _belief,
    "plan.ended": _plan_ended,
    "auction.bid": _bid,
    "auction.awarded": _awarded,
    "contract.ended": _contract_ended,
    "analysis.done": _analysis,
    "attestation.result": _attested,
}


def is_important(event: Event) -> bool:
    """Whether ``event`` tells the story of a run: no detail, and nothing that is as ever."""
    data = event.data
    match event.kind:
        case "attestation.result":
            return data.get("tier") != "affirming" or not data.get("round")
        case "trust.changed":
            # The agent and who verified it both tell it: of one that is silent, only who looked.
            own = event.agent == data.get("agent")
            return data.get("standing") != ("silent" if own else "quarantined")
    return event.kind in IMPORTANT
