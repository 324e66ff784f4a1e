"""``phalanx policy check``: what it says of rule sets, and its exit codes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.policy.exchange import read_csv_rules
from phalanx.policy.rules import PolicyPacket, RuleSet, decide
from tests.policy.oracle import Oracle, universe

DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
PUBLIC = DATA / "policies" / "firewall"

CLEAN = """name: edge
default: deny
rules:
  - {id: web, action: {verdict: permit}, match: {protocol: tcp, ports: [[443, 443]]}}
  - {id: dns, action: {verdict: permit}, match: {protocol: udp, ports: [[53, 53]]}}
"""
SHADOWED = """name: edge
rules:
  - {id: all, action: {verdict: deny}, match: {protocol: tcp}}
  - id: web
    action: {verdict: permit}
    match: {protocol: tcp, ports: [[443, 443]]}
    condition: {encrypted: true}
    schedule: {days: [1], start: 60}
    scope: {slices: [iot]}
"""


def check(*arguments: object, columns: int = 250) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(app, ["policy", "check", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


def test_a_set_without_conflicts(file) -> None:
    told = check(file("clean.yaml", CLEAN))
    assert told.exit_code == 0
    assert told.stdout.rstrip().endswith("clean.yaml: 0 conflicts")


def test_a_conflict_is_told_with_a_packet_and_what_to_do(file) -> None:
    path = file("shadowed.yaml", SHADOWED)
    told = check(path)
    assert told.exit_code == 1
    assert f"{path}: 1 conflict (1 shadowing)" in told.stdout
    (row,) = (line for line in told.stdout.splitlines() if line.startswith("shadowing"))
    assert "tcp 192.0.2.1:40000 → 198.51.100.1:443 encrypted Tue 01:00 slice iot" in row
    assert "delete web: no decision changes or move web before all" in row


def test_json_has_all_that_the_table_has(file) -> None:
    told = check(file("shadowed.yaml", SHADOWED), "--json")
    (report,) = msgspec.json.decode(told.stdout)
    (conflict,) = report["conflicts"]
    packet = msgspec.convert(conflict["witness"], PolicyPacket)
    rules = msgspec.yaml.decode(SHADOWED, type=RuleSet)
    assert decide(rules, packet)[1].id == "all"
    assert (conflict["rule"], conflict["others"]) == ("web", ["all"])
    assert [each["change"] for each in conflict["repairs"]] == ["delete", "move"]


def test_two_files_are_held_against_each_other_and_against_what_is_in_force(file) -> None:
    clean = file("clean.yaml", CLEAN)
    other = file("other.yaml", CLEAN.replace("verdict: permit", "verdict: deny"))
    told = check(clean, other)
    assert told.exit_code == 1
    assert f"{clean} and {other}: 2 conflicts (2 contradiction)" in told.stdout
    assert check(clean, "--deployed", clean).exit_code == 0
    told = check(clean, "--deployed", file("none.yaml", "name: none\ndefault: deny\n"))
    assert told.exit_code == 1
    assert "2 breach" in told.stdout
    assert "insert web before the default" in told.stdout


def test_slices_are_held_against_each_other(file) -> None:
    text = """name: slices
rules:
  - {id: a, action: {verdict: permit}, scope: {slices: [cameras]}}
  - {id: b, action: {verdict: deny}, scope: {slices: [iot]}}
"""
    told = check(file("slices.yaml", text))
    assert told.exit_code == 1
    assert "between slices: 1 conflict (1 slices)" in told.stdout


def test_what_does_not_fit_is_only_counted(file) -> None:
    lines = "".join(f"tcp,any,any,any,any,{('accept', 'deny')[n % 2]}\n" for n in range(1_100))
    told = check(file("wide.csv", f"protocol,src,s_port,dst,d_port,action\n{lines}"))
    assert told.exit_code == 1
    assert "604450 conflicts (302500 shadowing, 301950 redundancy)" in told.stdout
    assert "more than 500,000 pairs of rules overlap, so conflicts are counted" in told.stdout


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.csv", "src,dst\n", "line 1: the first line has to be protocol,src,s_port"),
        ("a.csv", "tcp,any,any,any,80", "line 2: has 5 fields; 6 expected"),
        ("a.csv", "tcp,any,any,any,99999,deny", "line 2: '99999' is no port such as 80"),
        ("a.csv", "tcp,any,any,any,90-80,deny", "the first port 90 is above the last, 80"),
        ("a.csv", "ip,any,any,any,80,deny", "ports need the protocol tcp, udp or sctp"),
        ("a.csv", "tcp,10.0.0.1/8,any,any,80,deny", "is no IPv4 or IPv6 prefix; host bits"),
        ("a.csv", "tcp,host\x1b[31m,any,any,80,deny", "is no address or prefix"),
        ("a.csv", "tср,any,any,any,80,deny", "no protocol 't\\u0441\\u0440'"),
        ("a.csv", 'tcp,"any,any', "line 2: unexpected end of data"),
        ("a.yaml", "name: edge\nrules: [{id: а, action: {verdict: deny}}]", "rules[0].id (line 2)"),
        ("a.yaml", CLEAN.replace("dns", "web"), "'web' is already that of rules[0]"),
        ("a.yaml", CLEAN.replace("protocol: udp", "source: {slice: iot}, protocol: udp"),
         "slices and labels need an inventory"),
        ("a.yaml", "name: e\nrules: 3", "rules"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(file, name, text, why) -> None:
    if name.endswith("csv") and text and not text.startswith("src"):
        text = f"protocol,src,s_port,dst,d_port,action\n{text}\n"
    told = check(file(name, text))
    assert told.exit_code == 2
    assert told.stdout == ""
    (line,) = told.stderr.splitlines()
    assert line.isprintable()
    assert why in line or why in line.encode("unicode_escape").decode()


@pytest.mark.parametrize("name", ["policies_1.csv", "policies_2.csv"])
def test_public_sets_give_the_counts_of_the_oracle(name) -> None:
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(f"no rule sets in {PUBLIC} (PHALANX_DATA)")
    rules = read_csv_rules(path.read_text("utf-8"), name)
    oracle = Oracle(rules.rules, universe(rules.rules))
    kinds = [kind for kind, *_ in (*oracle.pairs, *oracle.several())]
    (report,) = msgspec.json.decode(check(path, "--json").stdout)
    assert report["counts"] == {kind: kinds.count(kind) for kind in set(kinds)}
