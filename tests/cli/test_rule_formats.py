"""``phalanx policy export|import|diff``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app

RULES = """
name: edge
default: deny
rules:
  - id: established
    action: {verdict: permit}
    condition: {state: established}
  - id: web
    action: {verdict: permit}
    match: {target: {slice: iot}, protocol: tcp, ports: [[80, 80], [443, 443]]}
    scope: {pops: [p1]}
"""
MEMBERS = "slices: {iot: [10.0.6.0/24]}\n"


def _run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["policy", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "members.yaml").write_text(MEMBERS)
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    return file


def test_rules_go_to_nftables_and_back(rules: Path, tmp_path: Path) -> None:
    members, out = tmp_path / "members.yaml", tmp_path / "out.nft"
    words = ("--members", members, "--pop", "p1", "--out", out)
    code, _, said = _run("export", rules, "--to", "nftables", *words)
    assert (code, said.split()[-1]) == (0, "written")
    assert "ip daddr 10.0.6.0/24 meta l4proto tcp tcp dport { 80, 443 } accept" in out.read_text()
    back = tmp_path / "back.yaml"
    assert _run("import", out, "--from", "nftables", "--out", back)[0] == 0
    assert _run("diff", back, back)[0] == 0
    code, table, _ = _run("diff", back, rules, "--members", members)
    assert code == 1  # the file's rule holds at p1 alone
    assert "deny (default)" in table
    assert "tcp" not in table
    assert "protocol 6" in table


def test_what_cannot_be_said_ends_in_a_line_and_writes_nothing(rules: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for target in ("nftables", "kubernetes", "cilium", "flowspec", "goals"):
        code, text, said = _run("export", rules, "--to", target, "--out", out)
        assert (code, text, said.count("\n")) == (2, "", 1)
        assert not out.exists()
    assert "rule web: match.target.slice: nftables" in _run("export", rules, "--to", "nftables")[2]


def test_files_that_are_too_large_or_no_rules_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_text("a" * (10 << 20))
    for kind in ("nftables", "kubernetes", "cilium", "flowspec"):
        code, _, said = _run("import", large, "--from", kind)
        assert (code, said.count("\n")) == (2, 1)
        assert "is larger than" in said
    large.write_text("x: y")
    for kind in ("nftables", "kubernetes", "cilium", "flowspec", "goals"):
        code, _, said = _run("import", large, "--from", kind)
        assert (code, said.count("\n")) == (2, 1)
