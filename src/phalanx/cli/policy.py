"""``phalanx policy``: security rules, and what traffic says about them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from time import perf_counter, time
from typing import Annotated, Any

import typer

from phalanx.analytics.packets import Capture, known_link
from phalanx.cli.policy_check import check
from phalanx.cli.rule_formats import diff, export, import_rules
from phalanx.cli.terminal import AsJson, Group, StopSignal, counted, emit_json, err, out, say
from phalanx.domain.errors import PhalanxError
from phalanx.policy.mmt import MmtRule, load_mmt
from phalanx.policy.mmt_expressions import MmtContext
from phalanx.policy.mmt_monitor import MmtMonitor, MmtVerdict

BLOCKED = 10_000
"""Addresses to be blocked that are listed."""
LATE_S = 1.0
"""How late a live packet may be told, in seconds: what did not come by then is held missing."""

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Find conflicts of security rules, exchange and compare rules, run rules on traffic.",
)
app.command()(check)
app.command()(export)
app.command("import")(import_rules)
app.command()(diff)


@app.callback()
def _group() -> None:
    """Find conflicts of security rules, exchange and compare rules, run rules on traffic."""


@app.command()
def run(
    rules: Annotated[list[Path], typer.Argument(metavar="RULES...", help="Files, or folders.")],
    capture: Annotated[
        str, typer.Option(metavar="FILE", help="Capture (pcap or pcapng); '-' is stdin.")
    ] = "",
    interface: Annotated[
        str, typer.Option(metavar="NAME", help="Interface to listen on until stopped.")
    ] = "",
    slice_id: Annotated[
        str, typer.Option("--slice", metavar="ID", help="Slice that the traffic is of.")
    ] = "",
    whitelist: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Network that may send into the slice; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run MMT-Security rules on a capture or on live traffic; print verdicts and their packets.

    A rule that brings code, calls an unknown function or uses an attribute that is not decoded
    is refused, with its reason; the others run. JSON has a line a verdict, and one of figures.
    """
    if bool(capture) == bool(interface):
        raise PhalanxError("one of --capture FILE and --interface NAME is needed")
    source, known = capture or interface, dict(_rules(rules))
    if not known:
        raise PhalanxError(f"there is no rule in {', '.join(map(str, rules))}")
    blocked: dict[str, None] = {}
    monitor = MmtMonitor(known, _context(slice_id, whitelist or [], blocked))
    if not monitor.rules:
        number, reason = next(iter(monitor.refused.items()))
        raise PhalanxError(f"no rule can be run; rule {number}: {reason}")
    reader = Capture(source, live=bool(interface), verb="policy run RULES --capture")
    known_link(source, reader.link_type)
    if not as_json:
        for rule, file in known.items():
            if why := monitor.refused.get(rule.id):
                say(err, f"{file}: rule {rule.id} is refused: {why}", "yellow")
    verdicts, began = 0, perf_counter()
    for verdict in _watch(reader, monitor):
        verdicts += 1
        emit_json(verdict) if as_json else _show(verdict)
    figures = {
        "rules": len(known),
        "run": len(monitor.rules),
        "refused": {str(number): reason for number, reason in monitor.refused.items()},
        "packets": monitor.decoder.counts["meta"],
        "verdicts": verdicts,
        "waiting": monitor.live,
        "blocked": list(blocked),
        "missed": reader.missed(),
        "shed": monitor.shed + monitor.decoder.shed,
        "took_s": perf_counter() - began,
    }
    emit_json(figures) if as_json else _figures(figures)
    if reader.problem:
        say(err, f"{source}: reading ended early: {reader.problem}", "yellow")
        raise typer.Exit(1)


def _watch(reader: Capture, monitor: MmtMonitor) -> Iterator[MmtVerdict]:
    """Yield the verdicts on a capture, or on live packets until Ctrl-C or SIGTERM."""
    with StopSignal(signal.SIGTERM) as stop:
        while not stop.wanted and reader.problem is None:
            packets = reader.read()
            for raw, at, length in packets:
                yield from monitor.packet(raw, at, length, reader.link_type)
            if not packets and not reader.live:
                return
            if not packets:
                yield from monitor.advance(time() - LATE_S)


def _figures(figures: dict[str, Any]) -> None:
    rules, run, packets = figures["rules"], figures["run"], figures["packets"]
    rate = packets / figures["took_s"]
    say(out, f"{run} of {counted(rules, 'rule')} run ({run / rules:.0%})")
    say(
        out,
        f"{counted(figures['verdicts'], 'verdict')} on {packets:,} packets ({rate:,.0f} a second)",
    )
    for address in figures["blocked"]:
        say(out, f"to be blocked: {address}")
    for what in ("missed", "shed"):
        if figures[what]:
            say(out, f"{what} for want of room: {figures[what]}")


def _rules(paths: list[Path]) -> Iterator[tuple[MmtRule, Path]]:
    """Yield the rules of files, and of the files of folders by name, with where they stand."""
    places: dict[int, Path] = {}
    for path in paths:
        for file in sorted(path.glob("*.xml")) if path.is_dir() else [path]:
            for rule in load_mmt(file):
                if rule.id in places:
                    raise PhalanxError(f"{file}: rule {rule.id} stands in {places[rule.id]}, too")
                places[rule.id] = file
                yield rule, file


def _context(slice_id: str, networks: list[str], blocked: dict[str, None]) -> MmtContext | None:
    if not slice_id:
        if networks:
            raise PhalanxError("--whitelist is of a slice: --slice ID is needed")
        return None
    name = int(slice_id) if slice_id.isdecimal() and len(slice_id) < 10 else slice_id
    try:
        allowed = tuple(ip_network(network) for network in networks)
    except ValueError as error:
        raise PhalanxError(f"--whitelist: {error}") from None

    def block(address: str) -> None:
        blocked[address if len(blocked) < BLOCKED else "further ones"] = None

    return MmtContext(name, {name: allowed}, block)


def _show(verdict: MmtVerdict) -> None:
    about = " ".join(verdict.description.split())
    say(out, f"rule {verdict.rule}: {verdict.verdict} {verdict.type}, {about}", "bold")
    for event in verdict.events:
        found = " ".join(f"{name}={value}" for name, value in event.attributes.items())
        say(
            out, f"  packet {event.counter} at {event.time_s:.6f} s is event {event.event}: {found}"
        )
