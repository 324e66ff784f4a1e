"""Why not: the agent that did not win, the bid that never came, the address that is not blocked.

Everything is read from the log: the calls, bids, refusals and awards of an auction, what each
analysis found and let pass, and the measures that followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Network

from msgspec import Struct

from phalanx.analytics.source_rules import COMPLETES
from phalanx.domain.errors import LogError
from phalanx.domain.events import Event
from phalanx.reporting.auctions import Auction, AuctionsView, BidRow
from phalanx.reporting.event_text import describe, written
from phalanx.reporting.figures import clock, figure
from phalanx.reporting.log import (
    Lifetimes,
    Log,
    names,
    number,
    predicate_of,
    table,
    text,
    whole_word,
)
from phalanx.reporting.response import PlannedSource, sources_of
from phalanx.reporting.utility import TermShare, utility

MOST_BIDS = 24
"""Bids in the table of one auction."""
_LACKING = re.compile(r"needs ([\d.]+) ([\w ]+), ([\d.]+) free")
_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}|[\da-f]*:[\da-f:]+(/64)?")


class Answer(Struct, frozen=True):
    """An answer in sentences, perhaps with a table, and the event whose causes belong to it."""

    title: str
    words: tuple[str, ...]
    event: str = ""
    """Empty: the log has no event that the answer is about."""
    table: tuple[tuple[str, ...], ...] = ()
    """Rows of cells, the head first."""


def auctions_of(log: Log) -> list[Auction]:
    """Return all auctions of a log."""
    view = AuctionsView(log)
    for event in log.events:
        view.add(event)
    return view.result()


# -- auctions ---------------------------------------------------------------------------------


def about_auction(auction: Auction) -> Answer:
    """Return who won an auction, every bid taken apart, and every refusal in full."""
    if auction.outcome == "awarded":
        words = [f"{auction.winner} won {auction.goal}."]
    else:
        reason = f": {auction.reason}" if auction.reason else ""
        words = [f"Nobody won {auction.goal}: {auction.outcome}{reason}."]
    words += [_refused(auction, agent, reason) for agent, reason in auction.refusals]
    words += [f"{agent} did not answer before the deadline." for agent in auction.silent]
    words += [_failed(*failed) for failed in auction.earlier]
    title = f"Auction {auction.auction}: {auction.goal}"
    rated = [bid for bid in auction.bids if bid.shares]
    terms = [share.term for share in rated[0].shares] if rated else []
    rows = [(bid.agent, *map(_cell, bid.shares), figure(utility(bid.shares), 6)) for bid in rated]
    if len(rows) > MOST_BIDS:
        words.append(f"{len(rows) - MOST_BIDS} more bids came after those of the table.")
    if rated and auction.comparison.scale:
        words.append(auction.comparison.scale)
    head = [("bid of", *terms, "utility")] if rows else []
    return Answer(title, tuple(words), auction.event, (*head, *rows[:MOST_BIDS]))


def why_not_agent(log: Log, what: str, agent: str) -> Answer:
    """Return why ``agent`` did not win the auction that ``what`` names.

    Args:
        log: of the run.
        what: an auction, an event of it or caused by it, or a part of its goal: the last of
            them that matches.
        agent: the agent that did not win, or did not bid.

    Raises:
        LogError: if there is no such auction, or no such agent.

    """
    auctions = auctions_of(log)
    auction = _find(log, auctions, what)
    if auction is None:
        raise LogError(f"no auction matches {what!r}; give its name, an event of it, or its goal")
    known = {event.agent for event in log.events} | {
        text(pop, "name") for pop in log.setting.get("pops", ()) if isinstance(pop, dict)
    }
    if agent not in known:
        raise LogError(f"the log knows no agent {agent!r}")
    words, rows = _contrast(log, auction, agent)
    if rows and auction.comparison.scale:
        words.append(auction.comparison.scale)
    rival = auction.winner or "nobody"
    title = f"Why {rival} and not {agent}: {auction.goal} ({auction.auction})"
    if rival == agent:
        title = f"{agent} did win: {auction.goal} ({auction.auction})"
    return Answer(title, tuple(words), auction.event, tuple(rows))


def _find(log: Log, auctions: Sequence[Auction], what: str) -> Auction | None:
    event = log.get(what)
    if event is not None:
        about = [event, *log.causes(event)]
        ids = {each.id: None for each in about}
        name = next((n for each in about if (n := text(each.data, "auction"))), "")
        found = [a for a in auctions if not ids.keys().isdisjoint(a.events)]
        found = found or [a for a in auctions if a.auction == name]
    else:
        word = whole_word(what)
        found = [a for a in auctions if a.auction == what]
        found = found or [a for a in auctions if word.search(a.goal)]
    return found[-1] if found else None


def _refused(auction: Auction, agent: str, why: str) -> str:
    offered = any(bid.agent == agent for bid in auction.bids)
    return f"{agent} {'bid, and was refused' if offered else 'did not bid'}: {why}."


def _failed(agent: str, why: str) -> str:
    return f"{agent} won first and failed{': ' + why if why else ''}."


def _contrast(log: Log, auction: Auction, agent: str) -> tuple[list[str], list[tuple[str, ...]]]:
    words = [_failed(*failed) for failed in auction.earlier if failed[0] == agent]
    reason = dict(auction.refusals).get(agent)
    own = next((at for at, bid in enumerate(auction.bids) if bid.agent == agent), None)
    best = next((at for at, bid in enumerate(auction.bids) if bid.won), None)
    if reason is not None:
        words.append(_refused(auction, agent, reason or "it gave no reason"))
        lacking = _LACKING.search(reason)
        if lacking is not None:
            more = float(lacking[1]) - float(lacking[3])
            words.append(_held_at(log, agent, auction.called_s))
            words.append(f"It could have bid with {figure(more)} more {lacking[2]} free.")
    elif own is not None and own == best:
        second = next((at for at, bid in enumerate(auction.bids) if bid.agent != agent), None)
        if second is None or not auction.bids[second].shares:
            return [*words, f"{agent} made the only bid that was ranked."], []
        other = auction.bids[second]
        words.append(_decided(auction.bids[own], other))
        return words, _side_by_side(auction.bids[own], other)
    elif own is not None and best is not None and auction.bids[own].shares:
        words += [_decided(auction.bids[best], auction.bids[own]), *_changes(auction, own, best)]
        return words, _side_by_side(auction.bids[best], auction.bids[own])
    elif own is not None:
        words.append(f"{agent} bid, but its bid was never ranked: the auction closed without it.")
    elif agent in auction.silent:
        words += [f"{agent} was called and did not answer before the deadline.", *_gone(log, agent)]
    else:
        words += [f"{agent} was not asked: {_asked(auction)}", *_gone(log, agent)]
    return words, []


def _asked(auction: Auction) -> str:
    count = f"{auction.asked} agents were" if auction.asked != 1 else "one agent was"
    return (
        f"{count} called. For some goals the agents at the place of the traffic "
        f"({auction.tap or 'unknown'}) are asked first, and all others only if those refuse; an "
        "agent that the auctioneer takes for lost is not asked."
    )


def _gone(log: Log, agent: str) -> Iterator[str]:
    for event in log.of("agent.gone", "agent.crashed", "agent.left", "agent.draining"):
        if agent in (event.agent, text(event.data, "pop")):
            yield f"At {clock(event.time, exact=True)} {event.agent} {describe(event)}."


def _held_at(log: Log, agent: str, time: float) -> str:
    lives = Lifetimes("instance.started", "instance.stopped", "instance")
    for event in log.of("instance.started", "instance.stopped"):
        lives.add(event)
    held = [
        f"{text(life.begun.data, 'vnf')} ({figure(number(life.begun.data, 'cores'))} cores)"
        for life in lives.all
        if text(life.begun.data, "pop") == agent
        and life.begun.time <= time
        and (life.ended is None or life.ended.time > time)
    ]
    return f"What ran at {agent} then: {', '.join(held) or 'nothing; it was held or downloading'}."


def _decided(best: BidRow, other: BidRow) -> str:
    won, lost = utility(best.shares), utility(other.shares)
    begin = (
        f"{best.agent} has utility {figure(won, 6)}, {other.agent} {figure(lost, 6)}; the lowest "
        "wins"
    )
    worst = max(_differences(best, other), key=lambda pair: pair[1], default=None)
    if worst is None or worst[1] <= 0:
        return f"{begin}. Equal bids: the better T decides, then C, D, accuracy and the name."
    return f"{begin}. The term that decided is {worst[0]}: it makes {figure(worst[1], 6)} of that."


def _differences(best: BidRow, other: BidRow) -> list[tuple[str, float]]:
    pairs = zip(best.shares, other.shares, strict=True)
    return [(one.term, two.product - one.product) for one, two in pairs]


def _changes(auction: Auction, own: int, best: int) -> Iterator[str]:
    """Yield what would have made bid ``own`` equal to the ``best``, one thing at a time."""
    bid, winner = auction.bids[own], auction.bids[best]
    differences = dict(_differences(winner, bid))
    gap = sum(differences.values())
    ways = []
    for share in bid.shares:
        needed = auction.comparison.needed(own, best, share.term)
        if needed is not None and needed != share.value:
            ways.append(f"{share.term} {figure(needed, 3)} {share.unit}".rstrip())
        mine = differences[share.term]
        rest = (gap - mine) / (1 - share.weight) if share.weight < 1 else 0.0
        if mine > 0 > rest:
            weight = share.weight - gap / (mine / share.weight - rest)
            ways.append(f"a weight of {share.term} below {figure(weight, 3)}")
    yield (
        f"{bid.agent} would have equalled {winner.agent} with {', or '.join(ways)}, all else equal."
        if ways
        else f"No single term of its bid could have made {bid.agent} win, however good."
    )


def _side_by_side(best: BidRow, other: BidRow) -> list[tuple[str, ...]]:
    rows = [("term", best.agent, other.agent, "difference")]
    for one, two in zip(best.shares, other.shares, strict=True):
        rows.append((one.term, _cell(one), _cell(two), figure(two.product - one.product, 6)))
    won, lost = utility(best.shares), utility(other.shares)
    return [*rows, ("utility", figure(won, 6), figure(lost, 6), figure(lost - won, 6))]


def _cell(share: TermShare) -> str:
    value = f"{figure(share.value, 3)} {share.unit}".rstrip()
    product = f"{figure(share.normalised, 6)} × {figure(share.weight, 6)}"
    return f"{value}\n{product} = {figure(share.product, 6)}"


# -- addresses --------------------------------------------------------------------------------


def about_address(log: Log, address: str) -> Answer | None:
    """Return why a source is blocked, or is not; None if ``address`` is no source's address.

    Args:
        log: of the run.
        address: of IPv4; of IPv6 any of its network of 64 bits, which is what is blocked.

    """
    if ":" in address and _ADDRESS.fullmatch(address):
        with suppress(ValueError):
            address = str(IPv6Network((address.partition("/")[0], 64), strict=False))
    targets = {text(h, "address") for h in log.setting.get("hosts", ()) if isinstance(h, dict)}
    if _ADDRESS.fullmatch(address) is None or address in targets:
        return None
    source = next((s for s in sources_of(log.setting) if s.address == address), None)
    word = whole_word(address)
    lives = Lifetimes("measure.applied", "measure.lifted", "measure")
    for event in log.of("measure.applied", "measure.lifted"):
        lives.add(event)
    blocks = [life for life in lives.all if _concerns(life.begun, word)]
    words = [] if source is None else [_who(source)]
    if blocks:
        for life in blocks:
            until = "to the end of the log"
            if life.ended is not None:
                why = text(life.ended.data, "reason")
                until = f"until {clock(life.ended.time, exact=True)}"
                until += f" ({why})" if why not in {"", "lifted"} else ""
            since = clock(life.begun.time, exact=True)
            words.append(
                f"{text(life.begun.data, 'effect')} held it at {text(life.begun.data, 'pop')} "
                f"from {since} {until}."
            )
        still = any(life.ended is None for life in blocks)
        title = f"{address} is blocked" if still else f"{address} was blocked; that is lifted now"
        return Answer(title, tuple(words), blocks[-1].begun.id)
    last, more = _unblocked(log, address, word, source)
    return Answer(f"Why {address} was not blocked", (*words, *more), last)


def _who(source: PlannedSource) -> str:
    kind = "an attacker" if source.malicious else "a user"
    forged = "; it forges its addresses" if source.spoofed else ""
    return (
        f"In the scenario it is {kind} of {source.group}: it enters at {source.at} and sends to "
        f"{source.target} from {clock(source.start_s, exact=True)} on{forged}."
    )


def _concerns(event: Event, word: re.Pattern[str]) -> bool:
    said = (text(event.data, "effect"), *names(event.data, "sources"))
    return any(word.search(each) for each in said)


def _unblocked(
    log: Log, address: str, word: re.Pattern[str], source: PlannedSource | None
) -> tuple[str, list[str]]:
    """Return the event at which the way to a block ended, and what happened until then."""
    looks = log.of("analysis.done")
    spared = [e for e in log.of("source.spared") if address in names(e.data, "sources")]
    if spared:
        said = f"{spared[0].agent} at {clock(spared[0].time, exact=True)}: "
        return spared[-1].id, [f"{said}{describe(spared[0]).partition(': ')[2]}."]
    withheld = [e for e in log.of("measure.withheld") if _concerns(e, word)]
    if withheld:
        return withheld[-1].id, ["The run only observes: " + describe(withheld[-1]) + "."]
    named = [e for e in looks if any(word.search(each) for each in names(e.data, "found"))]
    passed = [e for e in looks if address in table(e.data, "passed")]
    words = [_named(event, address) for event in named[:3]]
    words += [_passed(event, address, reported=bool(named)) for event in passed[-3:]]
    if named:
        goals = [
            e
            for e in log.of("auction.failed", "action.failed", "goal.ended")
            if word.search(written(e.data)) and e.data.get("outcome") != "achieved"
        ]
        for event in goals[-4:]:
            refusals = table(event.data, "refusals")
            more = "".join(f"; {agent}: {why}" for agent, why in refusals.items())
            what = text(event.data, "goal") or text(event.data, "action")
            words.append(
                f"{event.agent} did not get {what} at {clock(event.time, exact=True)}: "
                f"{text(event.data, 'reason') or text(event.data, 'outcome')}{more}."
            )
        if goals:
            words.append("It would be blocked if one of these refusals were not there.")
            return goals[-1].id, words
        if not passed:
            at = source.at if source is not None else "its entry"
            words.append(
                f"It was reported, but nobody looked at {at}, or what was seen there did not "
                "name it: hearsay alone blocks nobody."
            )
            words += [
                f"{e.agent} found no agent for {text(e.data, 'goal')}: {text(e.data, 'reason')}."
                for e in log.of("auction.failed")
                if predicate_of(text(e.data, "goal")) == "entryScreened" and at in written(e.data)
            ]
        return (passed or named)[-1].id, words
    if passed:
        words.append(
            f"It would be blocked if at most {COMPLETES:.0%} of its handshakes completed, "
            "or of its packets were answered."
        )
        return passed[-1].id, words
    if source is None:
        return "", [f"No event names {address}, and no source of the scenario has this address."]
    target = whole_word(source.target)
    about = [
        e
        for e in looks
        if e.time >= source.start_s and target.search(written({**e.data, "passed": None}))
    ]
    if not about:
        return "", ["No analysis looked at the traffic to its target while it sent."]
    return about[-1].id, [
        f"{len(about)} analyses looked at the traffic to {source.target}, and none named it. "
        "The log does not hold its figures."
    ]


def _named(event: Event, address: str) -> str:
    evidence = [
        figures
        for pair, figures in table(event.data, "evidence").items()
        if pair.partition(">")[0] == address
    ]
    why = f": {written(evidence[0])}" if evidence else ""
    return f"{event.agent} named it at {clock(event.time, exact=True)}{why}."


def _passed(event: Event, address: str, *, reported: bool) -> str:
    figures = written(table(event.data, "passed")[address])
    verdict = "which contradicts the report" if reported else "and judged it honest"
    return f"{event.agent} saw it at {clock(event.time, exact=True)}, {verdict}: {figures}."
