"""``phalanx policy``: security rules, and what traffic says about them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from enum import StrEnum
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path
from time import perf_counter, time
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from phalanx.analytics.packets import Capture, known_link
from phalanx.cli.terminal import (
    AsJson,
    StopSignal,
    counted,
    emit,
    emit_json,
    err,
    group,
    out,
    say,
    table_of,
)
from phalanx.domain.errors import PhalanxError
from phalanx.loading import one_line, parse_as, read_text
from phalanx.policy.conflicts import ConflictAnalysis, ConflictReport, PolicyRepair
from phalanx.policy.contradictions import contradictions, differences, slice_conflicts
from phalanx.policy.exchange import (
    SYMBOLS,
    UNSAID,
    parse_rules,
    placed,
    plain_only,
    read_csv_rules,
    rules_text,
    traffic_rules_of,
)
from phalanx.policy.flowspec import from_flowspec, to_flowspec
from phalanx.policy.kubernetes import Dialect, from_policies, to_policies
from phalanx.policy.mmt import MmtRule, load_mmt
from phalanx.policy.mmt_export import to_mmt
from phalanx.policy.mmt_expressions import MmtContext
from phalanx.policy.mmt_monitor import MmtMonitor, MmtVerdict
from phalanx.policy.nftables import from_nftables, to_nftables
from phalanx.policy.overlaps import MOST_OVERLAPS
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    PolicyInventory,
    PolicyPacket,
    RuleAction,
    RuleSet,
)

BLOCKED = 10_000
"""Addresses to be blocked that are listed."""
LATE_S = 1.0
"""How late a live packet may be told, in seconds: what did not come by then is held missing."""

LARGEST = 32 << 20
"""Octets of a file of rules."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

app = group("Find conflicts of security rules, exchange and compare rules, run rules on traffic.")


class RuleFormat(StrEnum):
    """Formats that rules are read from and written to."""

    NFTABLES = "nftables"
    KUBERNETES = "kubernetes"
    CILIUM = "cilium"
    FLOWSPEC = "flowspec"
    GOALS = "goals"
    MMT = "mmt"


Rules = Annotated[Path, typer.Argument(metavar="FILE", help="Rules, YAML or JSON.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write to this file, not to stdout.")]
Members = Annotated[
    Path | None,
    typer.Option(help="Members of slices and workloads with labels (YAML), by their addresses."),
]


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Rule sets: YAML, JSON or CSV.")
    ],
    *,
    deployed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is in force, to hold the files against."),
    ] = None,
    most: Annotated[
        int, typer.Option(min=0, help="How many conflicts of each kind of comparison are shown.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Find conflicts in each rule set and between them; the exit code is 1 if there are any."""
    sets = {str(file): _checked(file) for file in files}
    found: list[tuple[str, ConflictReport]] = []
    for name, rules in sets.items():
        found.append((name, ConflictAnalysis(rules).report(most)))
        if (between := slice_conflicts(rules, most=most)).counts:
            found.append((f"{name}, between slices", between))
    for (name, one), (other_name, other) in combinations(sets.items(), 2):
        found.append((f"{name} and {other_name}", contradictions(one, other, most=most)))
    if deployed is not None:
        force = _checked(deployed)
        for name, rules in sets.items():
            report = contradictions(rules, force, deployed=True, most=most)
            found.append((f"{name} and {deployed}, in force", report))
    if as_json:
        emit_json([{"about": about, **_fields(report)} for about, report in found])
    else:
        for about, report in found:
            _show_report(about, report)
    if any(report.counts for _, report in found):
        raise typer.Exit(1)


def _fields(report: ConflictReport) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def _show_report(about: str, report: ConflictReport) -> None:
    total = sum(report.counts.values())
    by_kind = ", ".join(f"{number} {kind}" for kind, number in report.counts.items())
    least = "" if report.complete else "at least "
    line = f"{about}: {least}{counted(total, 'conflict')}{f' ({by_kind})' if total else ''}"
    say(out, line, "yellow" if total else "green")
    if report.conflicts:
        table = table_of("kind", "rule", "with", "a packet that shows it", "what to do")
        for each in report.conflicts:
            others = ", ".join(other or "the default" for other in each.others[:8])
            more = f" and {len(each.others) - 8} more" if len(each.others) > 8 else ""
            cells = (each.kind.value, each.rule, others + more, _packet_line(each.witness))
            table.add_row(*map(Text, cells), Text(" or ".join(map(_advice, each.repairs))))
        out.print(table)
    if not report.listed:
        why = f"more than {MOST_OVERLAPS:,} pairs of rules overlap, so conflicts are counted"
        worst = ", ".join(f"{rule} ({number})" for rule, number in report.worst)
        say(out, f"{why}; most are of {worst}" if worst else why)
    elif len(report.conflicts) < total:
        say(out, f"{total - len(report.conflicts)} more; --most shows more of them")
    if report.undecided:
        say(out, f"{counted(report.undecided, 'question')} about several rules given up: too many")


def _advice(repair: PolicyRepair) -> str:
    match repair.change:
        case "move":
            what = f"move {repair.rule} before {repair.before}"
        case "narrow":
            parts = counted(len(repair.rules), "rule")
            what = f"leave out of {repair.rule} what the other matches ({parts} in its place)"
        case "insert":
            what = f"insert {repair.rule} before {repair.before or 'the default'}"
        case _:
            what = f"{repair.change} {repair.rule}"
    return f"{what}: {repair.effect}"


def _packet_line(packet: PolicyPacket | None) -> str:
    if packet is None:
        return "none can match"
    names = {number: name for name, number in PROTOCOL_NUMBERS.items()}
    ends = (packet.source, packet.source_port), (packet.target, packet.port)
    source, target = (
        (f"[{host}]" if ":" in host and port else host) + (f":{port}" if port else "")
        for host, port in ends
    )
    words = [names.get(packet.protocol, f"protocol {packet.protocol}"), source, "→", target]
    words += [packet.state] if packet.state != "new" else []
    words += [word for word in ("encrypted", "fragment") if getattr(packet, word)]
    if packet.minute:
        words.append(
            f"{DAYS[packet.minute // 1440]} {packet.minute // 60 % 24:02}:{packet.minute % 60:02}"
        )
    words += [f"{word} {name}" for word in ("slice", "pop") if (name := getattr(packet, word))]
    return " ".join(words)


def _checked(file: Path) -> RuleSet:
    """Return the rules of a file; those that need an inventory are refused."""
    if file.suffix == ".csv":
        return read_csv_rules(read_text(file, LARGEST), str(file))
    return parse_rules(read_text(file), str(file), symbolic=False)


@app.command()
def export(
    file: Rules,
    to: Annotated[RuleFormat, typer.Option(help="Format to write.")],
    out_file: Out = None,
    members: Members = None,
    slice_name: Annotated[str, typer.Option("--slice", help="Slice to export for.")] = "",
    pop: Annotated[str, typer.Option(help="PoP to export for.")] = "",
    namespace: Annotated[
        list[str] | None, typer.Option(help="Namespace with pods (default: default); repeatable.")
    ] = None,
    pods: Annotated[
        list[str] | None, typer.Option(help="Prefix of the pods' addresses; repeatable.")
    ] = None,
    *,
    ipsec: Annotated[
        bool, typer.Option("--ipsec", help="What is encrypted is so by IPsec that ends there.")
    ] = False,
) -> None:
    """Write rules in another format; what that cannot say is refused, by rule and field."""
    rules = placed(_read(file, members), slice_name, pop)
    spaces = namespace or ["default"]
    writers: dict[RuleFormat, Callable[[], str]] = {
        RuleFormat.NFTABLES: lambda: to_nftables(rules, ipsec),
        RuleFormat.KUBERNETES: lambda: to_policies(rules, "kubernetes", spaces, pods or ()),
        RuleFormat.CILIUM: lambda: to_policies(rules, "cilium", spaces, pods or ()),
        RuleFormat.FLOWSPEC: lambda: to_flowspec(rules),
        RuleFormat.MMT: lambda: to_mmt(rules),
        RuleFormat.GOALS: lambda: "".join(
            f"{msgspec.json.encode(each).decode()}\n" for each in traffic_rules_of(rules)
        ),
    }
    try:
        _write(writers[to](), out_file)
    except PhalanxError as error:
        raise PhalanxError(f"{file}: {error}") from None


@app.command("import")
def import_rules(
    file: Annotated[Path, typer.Argument(help="What to read.")],
    from_: Annotated[
        RuleFormat, typer.Option("--from", help="Its format; goals and mmt are not read.")
    ],
    out_file: Out = None,
) -> None:
    """Read rules in another format; what a rule cannot say is refused."""
    text = read_text(file)
    if from_ is RuleFormat.NFTABLES:
        rules = from_nftables(text, str(file))
    elif from_ is RuleFormat.FLOWSPEC:
        rules = from_flowspec(text, str(file))
    elif from_ in (RuleFormat.GOALS, RuleFormat.MMT):
        raise PhalanxError(
            f"{from_.value}: is written, not read (phalanx policy run runs rules of MMT)"
        )
    else:
        dialect: Dialect = "cilium" if from_ is RuleFormat.CILIUM else "kubernetes"
        rules = from_policies(text, str(file), dialect)
    _write(rules_text(rules), out_file)


@app.command()
def diff(
    left: Rules,
    right: Rules,
    members: Members = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show which packets two rule sets decide differently; the exit code is 1 if they do.

    Exact. Of the packets that one pair of rules decides, one is shown.
    """
    both = [_read(file, members) for file in (left, right)]
    for file, rules in zip((left, right), both, strict=True):
        plain_only(rules, str(file), *(UNSAID.keys() - SYMBOLS.keys()))
    found = differences(*both)
    if as_json:
        emit_json(found)
    elif found:
        table = table_of("packet", str(left), str(right))
        for each in found:
            words = _words(each.left, each.left_rule), _words(each.right, each.right_rule)
            table.add_row(_packet(each.witness), *words)
        out.print(table)
    else:
        say(out, "no packet is decided differently", "green")
    if found:
        raise typer.Exit(1)


def _words(action: RuleAction, rule: str) -> str:
    rate = "" if action.rate_mb_s is None else f" at {action.rate_mb_s:g} MB/s"
    log = ", logged" if action.log else ""
    return f"{action.verdict.value}{rate}{log} ({rule or 'default'})"


def _packet(packet: PolicyPacket) -> str:
    plain = PolicyPacket(packet.source, packet.target)
    said = [
        f"{name} {getattr(packet, name)}"
        for name in packet.__struct_fields__[2:]
        if getattr(packet, name) != getattr(plain, name) or name == "protocol"
    ]
    return f"{packet.source} > {packet.target}, {', '.join(said)}"


def _read(file: Path, members: Path | None) -> RuleSet:
    rules = parse_rules(read_text(file), str(file))
    if members is None:
        return rules
    inventory, _ = parse_as(PolicyInventory, read_text(members), str(members))
    try:
        return inventory.resolve(rules)
    except ValueError as error:
        raise PhalanxError(one_line(f"{members}: {error}")) from None


def _write(text: str, file: Path | None) -> None:
    if file is None:
        emit(text.removesuffix("\n"))
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise PhalanxError(f"{file}: cannot be written: {error.strerror}") from None
    say(err, f"{file} written", "green")


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
