"""``phalanx domain`` from the command line, and with a real broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.server import find_server
from phalanx.cli.main import app
from phalanx.clock.wall import WallClock
from phalanx.identity.credentials import Files, tls_context
from phalanx.runtime.domain.brokers import Brokers, is_here
from phalanx.runtime.domain.directory import Domain
from phalanx.runtime.domain.spec import read_bundle

pytestmark = pytest.mark.processes

RUNNER = CliRunner(env={"COLUMNS": "200"})


def phalanx(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["domain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def apart(*arguments: object) -> str:
    """Do the same in a process of its own, which leaves a detached broker behind."""
    command = [sys.executable, "-m", "phalanx", "domain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_domain_is_made_shown_and_changed(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    made = phalanx("init", folder)
    assert f"phalanx domain up {folder}" in made
    assert "ca-key.pem safe" in made
    assert str(folder / "identities" / "pop1") in phalanx("add", folder, "pop1")
    assert "as observer" in phalanx("add", folder, "eye", "--role", "observer")
    assert "cert.pem is new" in phalanx("renew", folder, "pop1")
    assert phalanx("renew", folder).count("is new") == 5
    assert "pop1 was revoked" in phalanx("revoke", folder, "pop1")
    rows = {line.split()[0]: line for line in phalanx("list", folder).splitlines()[2:]}
    assert list(rows) == ["broker1", "eye", "operator", "pop1", "recorder"]
    assert "revoked" in rows["pop1"]
    assert "(90 days)" in rows["eye"]


def test_no_key_is_printed(tmp_path: Path) -> None:
    printed = phalanx("init", tmp_path / "edge") + phalanx("add", tmp_path / "edge", "pop1")
    for path in (tmp_path / "edge").rglob("*key.pem"):
        assert path.read_text().splitlines()[1] not in printed


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("list", "{}/nothing"), "nothing: is no domain's directory; phalanx domain init"),
        (("init", "{}/edge"), "edge: exists already"),
        (("init", "{}/new", "--name", "a b"), "name: 'a b' is not allowed"),
        (("init", "{}/new", "--broker", "h:0"), "--broker h:0: '0' is no port"),
        (("init", "{}/new", "--broker", "a", "--broker", "b"), "brokers: there are 2; allowed"),
        (("add", "{}/edge", "pop1", "--role", "agnet"), "did you mean 'agent'"),
        (("add", "{}/edge", "operator"), "operator is there already"),
        (("revoke", "{}/edge", "pop9"), "there is no 'pop9' in the domain edge"),
        (("up", "{}/edge", "--broker", "b9"), "there is no broker 'b9'; there are broker1"),
        (("down", "{}/away"), "no broker is of this machine; the domain's are at 192.0.2.1"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    phalanx("init", tmp_path / "edge")
    phalanx("init", tmp_path / "away", "--broker", "192.0.2.1")
    before = sorted(tmp_path.rglob("*"))
    said = phalanx(*(part.format(tmp_path) for part in arguments), code=2)
    assert line in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broker_without_a_certificate_is_named(tmp_path: Path) -> None:
    phalanx("init", tmp_path / "edge")
    file = tmp_path / "edge" / "domain.toml"
    file.write_text(file.read_text().replace('"broker1"', '"other"'))
    assert "phalanx domain add" in phalanx("up", tmp_path / "edge", code=2)


def test_addresses_of_this_machine_are_known() -> None:
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert not is_here("192.0.2.1")
    assert not is_here("no.such.host.invalid")


# -- a real broker --------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    try:
        find_server()
    except BrokerError as error:
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    phalanx("init", tmp_path / "edge", "--broker", f"127.0.0.1:{port}")
    return tmp_path / "edge"


def connects(folder: Path, within_s: float = 60.0) -> bool:
    """Whether the process that this bundle is for gets through to the broker."""
    bundle, clock = read_bundle(folder / "bus.toml"), WallClock()
    exchange = NatsClient(
        bundle.identity,
        clock,
        bundle.servers,
        tls_context(Files.of(folder)),
        secret=bundle.credentials.secret,
    )
    try:
        exchange.ready(within_s)
    except BrokerError:
        return False
    finally:
        exchange.finish(within_s=1.0)
        clock.close()
    return True


@pytest.mark.nats
def test_a_detached_broker_takes_and_cuts_off_identities(edge: Path) -> None:
    try:
        assert "broker1 runs at 127.0.0.1:" in apart("up", edge, "--detach")
        assert "broker1 runs already" in phalanx("up", edge)
        assert "broker1 loaded the change" in phalanx("add", edge, "pop1")
        pop1 = edge / "identities" / "pop1"
        assert connects(pop1)
        phalanx("renew", edge)
        assert connects(pop1)
        thief = edge.parent / "copied"
        thief.mkdir()
        for file in pop1.iterdir():
            (thief / file.name).write_bytes(file.read_bytes())
            (thief / file.name).chmod(0o600)
        phalanx("revoke", edge, "pop1")
        assert not connects(thief, 3.0)
        assert "broker1 loaded the change" in phalanx("add", edge, "pop1")
        assert connects(pop1)
        assert not connects(thief, 3.0)
        assert connects(edge / "identities" / "operator")
        assert "broker1 was stopped" in phalanx("down", edge)
        assert "no broker of this machine runs" in phalanx("down", edge)
    finally:
        Brokers(Domain.open(edge)).stop()


@pytest.mark.nats
def test_a_broker_that_cannot_take_what_is_new_is_told_of(edge: Path) -> None:
    try:
        apart("up", edge, "--detach")
        certificate = edge / "brokers" / "broker1" / "cert.pem"
        octets = certificate.read_bytes()
        key = edge / "brokers" / "broker1" / "key.pem"
        key.write_bytes((edge / "identities" / "operator" / "key.pem").read_bytes())
        said = phalanx("renew", edge, "operator", code=2)
        assert "broker1 goes on as before: Failed to reload server configuration" in said
        assert certificate.read_bytes() == octets
        assert connects(edge / "identities" / "operator")
    finally:
        Brokers(Domain.open(edge)).stop()


@contextmanager
def in_the_foreground(edge: Path) -> Iterator[tuple[subprocess.Popen[str], Brokers, list[str]]]:
    """Run the broker until the block ends; give the command, its brokers and what it said."""
    command = subprocess.Popen(
        [sys.executable, "-m", "phalanx", "domain", "up", edge],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    brokers = Brokers(Domain.open(edge))
    try:
        assert command.stdout is not None
        yield command, brokers, [command.stdout.readline() for _ in range(2)]
    finally:
        command.kill()
        command.communicate()
        brokers.stop()


@pytest.mark.nats
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_in_the_foreground_ends_with_its_command(edge: Path, number: int) -> None:
    with in_the_foreground(edge) as (command, brokers, said):
        assert "broker1 runs at" in said[0]
        assert "Ctrl-C ends it" in said[1]
        assert brokers.running == ("broker1",)
        command.send_signal(number)
        assert command.wait(60) == 0
        assert brokers.running == ()


@pytest.mark.nats
def test_a_broker_that_dies_ends_its_command_with_a_line(edge: Path) -> None:
    with in_the_foreground(edge) as (command, brokers, _):
        pid = brokers.servers[0].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        assert command.wait(60) == 2
        assert command.stdout is not None
        assert "broker1 ended by itself; see" in command.stdout.read()
