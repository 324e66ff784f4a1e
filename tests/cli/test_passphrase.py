"""``phalanx domain`` where the authority's key is under a passphrase."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from tests.nightly import at_night

SECRET, OTHER = "a long passphrase", "another passphrase"


def phalanx(*arguments: object, code: int = 0, told: str | None = None) -> str:
    """Run a verb of ``domain``; ``told`` is the file that the environment names."""
    runner = CliRunner(env={"COLUMNS": "200", "PHALANX_PASSPHRASE_FILE": told})
    result = runner.invoke(app, ["domain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert SECRET not in result.output
    assert OTHER not in result.output
    return result.output


def private(path: Path, line: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"{line}\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return private(tmp_path / "secret", SECRET)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return private(tmp_path / "other", OTHER)


@pytest.fixture
def edge(tmp_path: Path, file: Path) -> Path:
    folder = tmp_path / "edge"
    assert "has it and the passphrase can issue" in phalanx(
        "init", folder, "--passphrase-file", file
    )
    assert b"OPENSSH" in (folder / "authority" / "ca-key.pem").read_bytes()
    return folder


def test_a_file_opens_it_named_by_an_option_or_the_environment(edge: Path, file: Path) -> None:
    phalanx("add", edge, "pop1", "--passphrase-file", file)
    phalanx("add", edge, "pop2", told=str(file))
    assert phalanx("renew", edge, told=str(file)).count("is new") == 5
    phalanx("revoke", edge, "pop1", "pop2", told=str(file))
    assert phalanx("list", edge).count("revoked") == 2  # to look, nobody needs it


def test_without_it_nothing_is_done(edge: Path, other: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in edge.rglob("*")}
    for verb in (("add", edge, "pop1"), ("renew", edge), ("revoke", edge, "operator")):
        said = phalanx(*verb, code=2)
        assert "--passphrase-file or PHALANX_PASSPHRASE_FILE" in said
        assert len(said.splitlines()) == 1
        said = phalanx(*verb, code=2, told=str(other))
        assert "ca-key.pem: the passphrase does not open it" in said
        assert len(said.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in edge.rglob("*")} == before


def test_it_is_changed_and_taken_away(edge: Path, file: Path, other: Path) -> None:
    with_old = ("--passphrase-file", file)
    assert "is encrypted now" in phalanx("passphrase", edge, *with_old, "--new-file", other)
    assert "does not open it" in phalanx("add", edge, "pop1", *with_old, code=2)
    assert "is not encrypted now" in phalanx("passphrase", edge, "--none", told=str(other))
    phalanx("add", edge, "pop1")
    assert "is encrypted now" in phalanx("passphrase", edge, "--new-file", file)
    phalanx("add", edge, "pop2", *with_old)


@pytest.mark.parametrize(
    ("octets", "mode", "line"),
    [
        (b"short", 0o600, "has 5 characters; at least 12 are expected"),
        (b"\n", 0o600, "holds no passphrase"),
        (SECRET.encode(), 0o640, "others may read this passphrase"),
    ],
)
def test_what_is_no_passphrase_makes_no_domain(
    tmp_path: Path, octets: bytes, mode: int, line: str
) -> None:
    (tmp_path / "secret").write_bytes(octets)
    (tmp_path / "secret").chmod(mode)
    said = phalanx("init", tmp_path / "edge", "--passphrase-file", tmp_path / "secret", code=2)
    assert line in said
    assert not (tmp_path / "edge").exists()


DOMAIN = """
import sys
from phalanx.cli.main import main
from phalanx.identity import credentials
credentials._ROUNDS = 2  # as tests/conftest.py has it
sys.argv.insert(1, "domain")
main()
"""


def typed(command: Sequence[str], *lines: str) -> tuple[int, str]:
    """Run a command on a terminal and type a line at each question; return (code, what it said)."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.pop("PHALANX_PASSPHRASE_FILE", None)
        program = [sys.executable, "-c", DOMAIN, *command]
        os.execv(sys.executable, program)  # noqa: S606  # the arguments are our own
    said, waiting, end = "", list(lines), time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                octets = os.read(terminal, 4096)
            except OSError:  # it has ended
                break
            if not octets:
                break
            said += octets.decode()
            if waiting and said.endswith(("key: ", "more: ")):
                os.write(terminal, f"{waiting.pop(0)}\n".encode())
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said


@at_night
def test_it_is_asked_for_on_a_terminal_and_not_shown(tmp_path: Path) -> None:
    edge = str(tmp_path / "edge")
    code, said = typed(["init", edge, "--sealed"], SECRET, OTHER)
    assert (code, "the two passphrases differ" in said) == (2, True)
    assert not Path(edge).exists()
    code, said = typed(["init", edge, "--sealed"], SECRET, SECRET)
    assert code == 0
    assert SECRET not in said
    code, said = typed(["add", edge, "pop1"], OTHER)
    assert (code, "does not open it" in said) == (2, True)
    code, said = typed(["renew", edge], SECRET)  # once, however many there are
    assert code == 0
    assert said.count("passphrase") == 1
    assert SECRET not in said
