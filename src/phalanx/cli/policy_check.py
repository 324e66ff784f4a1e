"""``phalanx policy check``: whether policy rules conflict, before anything is enforced."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from phalanx.cli.terminal import AsJson, counted, emit_json, out, say, table_of
from phalanx.loading import parse_as, read_text, refusal
from phalanx.policy.conflicts import ConflictAnalysis, ConflictReport, PolicyRepair
from phalanx.policy.contradictions import contradictions, slice_conflicts
from phalanx.policy.csv_rules import read_csv_rules
from phalanx.policy.overlaps import MOST_OVERLAPS
from phalanx.policy.rules import PROTOCOL_NUMBERS, PolicyPacket, RuleSet, rule_offences

LARGEST = 32 << 20
"""Octets of a file of rules."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


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
    sets = {str(file): _read(file) for file in files}
    found: list[tuple[str, ConflictReport]] = []
    for name, rules in sets.items():
        found.append((name, ConflictAnalysis(rules).report(most)))
        if (between := slice_conflicts(rules, most=most)).counts:
            found.append((f"{name}, between slices", between))
    for (name, one), (other_name, other) in combinations(sets.items(), 2):
        found.append((f"{name} and {other_name}", contradictions(one, other, most=most)))
    if deployed is not None:
        force = _read(deployed)
        for name, rules in sets.items():
            report = contradictions(rules, force, deployed=True, most=most)
            found.append((f"{name} and {deployed}, in force", report))
    if as_json:
        emit_json([{"about": about, **_fields(report)} for about, report in found])
    else:
        for about, report in found:
            _show(about, report)
    if any(report.counts for _, report in found):
        raise typer.Exit(1)


def _fields(report: ConflictReport) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def _show(about: str, report: ConflictReport) -> None:
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
            cells = (each.kind.value, each.rule, others + more, _packet(each.witness))
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


def _packet(packet: PolicyPacket | None) -> str:
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


def _read(file: Path) -> RuleSet:
    """Return the rules of a file; those that need an inventory are refused."""
    if file.suffix == ".csv":
        return read_csv_rules(read_text(file, LARGEST), str(file))
    rules, tree = parse_as(RuleSet, read_text(file), str(file))
    for path, why in rule_offences(rules):
        raise refusal(str(file), tree, path, why)
    for index, rule in enumerate(rules.rules):
        for side, segment in (("source", rule.match.source), ("target", rule.match.target)):
            if segment.symbolic:
                where = f"rules[{index}].match.{side}"
                raise refusal(
                    str(file), tree, where, "slices and labels need an inventory; give addresses"
                )
    return rules
