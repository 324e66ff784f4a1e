"""``phalanx policy export``, ``import`` and ``diff``: rules in other formats, and differences."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from phalanx.cli.terminal import AsJson, emit, emit_json, err, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.loading import one_line, parse_as, read_text
from phalanx.policy.contradictions import differences
from phalanx.policy.exchange import (
    SYMBOLS,
    UNSAID,
    parse_rules,
    placed,
    plain_only,
    rules_text,
    traffic_rules_of,
)
from phalanx.policy.flowspec import from_flowspec, to_flowspec
from phalanx.policy.kubernetes import Dialect, from_policies, to_policies
from phalanx.policy.mmt_export import to_mmt
from phalanx.policy.nftables import from_nftables, to_nftables
from phalanx.policy.rules import PolicyInventory, PolicyPacket, RuleAction, RuleSet


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
