"""The tables that a run ends with."""

from __future__ import annotations

from rich.table import Table

from phalanx.cli.terminal import amount, out
from phalanx.reporting.response import Response
from phalanx.reporting.summary import Summary


def print_summary(summary: Summary) -> None:
    """Print how the hosts fared, and what the agents did."""
    if summary.hosts:
        out.print(_hosts(summary))
    out.print(_facts(summary))


def _hosts(summary: Summary) -> Table:
    table = Table(title="Traffic that reached the hosts, in MB/s")
    table.add_column("host")
    if summary.attack_start_s is None:
        titles = ["users, at the end"]
    else:
        titles = ["users before", "least", "late", "attack peak", "late"]
        table.caption = "least: during the attack; late: in its last 10 s"
    for title in titles:
        table.add_column(title, justify="right")
    for host in summary.hosts:
        figures = (
            host.before_mb_s,
            host.worst_mb_s,
            host.after_mb_s,
            host.attack_peak_mb_s,
            host.attack_after_mb_s,
        )
        table.add_row(host.host, *(amount(figure) for figure in figures[: len(titles)]))
    return table


def _facts(summary: Summary) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    placed = [
        f"{p.vnf} at {p.pop}" + (f" ({p.units} units)" if p.units > 1 else "")
        for p in summary.placements
    ]
    lifted = sum(limit.lifted is not None for limit in summary.limits)
    for name, text in (
        ("outcome", f"{summary.reason} at {summary.ended_s:.1f} s, seed {summary.seed}"),
        ("attack", _attack(summary)),
        ("response", _response(summary.response)),
        ("limited", _limited(summary.response)),
        ("placements", ", ".join(placed) or "none"),
        (
            "auctions",
            f"{summary.auctions} called, {summary.awarded} awarded, "
            f"{summary.failed_auctions} without a winner",
        ),
        ("measures", f"{len(summary.limits)} applied, {lifted} lifted"),
        ("resources", "all given back" if summary.returned else "not all given back"),
        (
            "messages",
            f"{sum(summary.messages.values())} sent, {summary.shed} shed; {summary.events} events",
        ),
    ):
        if text:
            table.add_row(name, text)
    return table


def _attack(summary: Summary) -> str:
    if summary.attack_start_s is None:
        return "none"
    moments = [f"from {summary.attack_start_s:.1f} s"]
    for words, time in (
        ("alarm", summary.alarm_s),
        ("first limit", summary.first_limit_s),
        ("last limit", summary.last_limit_s),
        ("over", summary.attack_end_s),
    ):
        if time is not None:
            moments.append(f"{words} at {time:.1f} s")
    return ", ".join(moments) + (": mitigated" if summary.mitigated else ": not mitigated")


def _response(response: Response) -> str:
    """Return how long after the start of the attack what was done against it."""
    moments = (
        ("alarm", response.alarm_after_s),
        ("first limit", response.throttle_after_s),
        ("attackers named", response.named_after_s),
        ("last block", response.blocked_after_s),
    )
    return ", ".join(f"{word} after {s:.2f} s" for word, s in moments if s is not None)


def _limited(response: Response) -> str:
    """Return whom the measures hit."""
    words = []
    if response.attackers:
        words.append(f"{response.attackers_limited} of {response.attackers} attackers")
    if response.users:
        words.append(f"{response.users_limited} of {response.users} users at the end")
    return ", ".join(words)
