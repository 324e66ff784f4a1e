from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats_lab import ALL, HOST, KEEPER, A, B, Ground, Lab, needs_server, running

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.audit import BrokerAudit, Claims, read_line
from phalanx.bus.nats.config import configuration
from phalanx.bus.nats.server import NatsServer, StreamRetention, find_server, setup

needs_server()
pytestmark = [pytest.mark.nats, pytest.mark.processes]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add_servers(1)
    return made


# -- the process --------------------------------------------------------------------------------


def test_it_starts_answers_and_stops(lab: Lab) -> None:
    (server,) = lab.servers
    assert server.pid is None
    server.stop()
    with running(lab):
        pid = server.pid
        assert pid is not None
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert arguments[1:] == [b"-c", os.fsencode(server.settings.configuration), b""]
        with pytest.raises(BrokerError, match="runs already"):
            server.start()
    assert server.pid is None


def test_one_that_another_process_started_is_found_by_its_pid_file(lab: Lab) -> None:
    (server,) = lab.servers
    with running(lab):
        again = NatsServer(server.settings)
        assert again.pid == server.pid
        again.stop()
        assert again.pid is None
        for _ in range(200):  # the process that started it learns of its end a moment later
            if server.pid is None:
                break
            time.sleep(0.01)
        assert server.pid is None
    server.settings.pid_file.write_text(str(os.getpid()))
    assert server.pid is None  # the id is another process's by now


def test_what_keeps_it_from_starting_is_said(lab: Lab) -> None:
    (server,) = lab.servers
    server.settings.credentials.certificate.write_text("nonsense")
    with pytest.raises(BrokerError, match=r"does not start: .*cert"):
        server.start()


def test_a_port_in_use_is_said(lab: Lab) -> None:
    with running(lab):
        (server,) = lab.servers
        directory = lab.directory / "other"
        other = NatsServer(replace(server.settings, directory=directory))
        with pytest.raises(BrokerError, match="already answers"):
            other.start()


def test_the_configuration_is_accepted_readable_by_us_alone_and_holds_no_key(lab: Lab) -> None:
    with running(lab):
        path = lab.servers[0].settings.configuration
        program = find_server()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PRIVATE KEY" not in path.read_text()
        subprocess.run([program, "-t", "-c", path], check=True, capture_output=True)


def test_it_listens_only_where_it_is_told(lab: Lab) -> None:
    tree = configuration(lab.servers[0].settings)
    assert "http" not in tree
    assert tree["listen"] == f"{HOST}:{lab.servers[0].settings.port}"
    assert tree["tls"]["verify_and_map"] is True
    assert tree["tls"]["min_version"] == "1.3"


def test_one_that_does_not_run_reads_nothing_anew(lab: Lab) -> None:
    with pytest.raises(BrokerError, match="does not run"):
        lab.servers[0].reload(ALL)


def test_what_is_kept_survives_a_restart_and_a_setup(lab: Lab) -> None:
    with running(lab):
        setup(KEEPER, lab.addresses, lab.context(KEEPER))
        with Ground(lab).closing() as ground:
            a, b = ground.join(A), ground.join(B)
            a.put("registry", "a", b"1")
            ground.until(lambda: not a.waiting)
            pid = lab.servers[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            lab.servers[0].stop()
            lab.servers[0].start()
            ground.until(lambda: b.connected)
            setup(KEEPER, lab.addresses, lab.context(KEEPER), retention=StreamRetention(age_s=3600))
            table: dict[str, bytes | None] = {}
            b.watch("registry", table.__setitem__)
            ground.until(lambda: table == {"a": b"1"})


def test_only_a_keeper_sets_up(lab: Lab) -> None:
    with running(lab), pytest.raises(BrokerError, match="EVENTS cannot be made"):
        setup(A, lab.addresses, lab.context(A), within_s=0.5)


# -- its log ------------------------------------------------------------------------------------

HEAD = "[14205] 2026/11/21 08:20:31.828742 [ERR] 10.0.0.7:48170 - cid:14 - "
WHO = '"v1:python:\\" - \\n[1] x" - "lab/user:phalanx://lab/agent/a" - '


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        (
            HEAD + WHO + 'Publish Violation - Subject "phx.lab.msg.b.net"',
            ("phalanx://lab/agent/a", "publish", "phx.lab.msg.b.net"),
        ),
        (
            HEAD + WHO + 'Subscription Violation - Subject ">", SID 2',
            ("phalanx://lab/agent/a", "subscribe", ">"),
        ),
        (HEAD + "TLS handshake error: tls: client didn't provide a certificate", "certificate"),
        (HEAD + "TLS handshake error: tls: first record does not look like TLS", "handshake"),
        (HEAD + "TLS handshake error: read tcp 1.2.3.4:1->1.2.3.4:2: i/o timeout", "timeout"),
        (HEAD + '"lab/user:phalanx://lab/agent/b" - authentication error', "identity"),
        (HEAD + "Failed pinned cert test for key id: " + "0a" * 32, "key"),
    ],
)
def test_a_refusal_is_read(line: str, refused: object) -> None:
    found = read_line(line)
    assert found is not None
    assert found.address == "10.0.0.7"
    if isinstance(refused, str):
        refused = (None, refused, None)
    assert (found.who, found.what, found.subject) == refused


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "[14205] 2026/11/21 08:20:31.828742 [INF] Server is ready",
        HEAD + "TLS handshake error: EOF",
        HEAD + "TLS handshake error: certificate not pinned",  # told by the line before
        HEAD.replace("cid", "rid") + "TLS route handshake error: certificate not pinned",
        HEAD + '"Publish Violation" - Client connection created',
        HEAD + WHO + "Client connection closed: Client Closed",
    ],
)
def test_what_is_no_refusal_is_passed_over(line: str) -> None:
    assert read_line(line) is None


MOMENT = "[14205] 2026/11/21 08:20:31.828742 "
PROVEN = MOMENT + '[DBG] 10.0.0.7:1 - cid:1 - {}Using URI found in cert for auth ["{}"]'
CLAIM = MOMENT + '[WRN] User "{}" found in connect proto, but user required from cert'


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        ([PROVEN.format(WHO, A.uri), CLAIM.format(A.uri)], ()),  # looked at again by a reload
        ([PROVEN.format("", A.uri), CLAIM.format(A.uri)], ()),  # and after it
        ([PROVEN.format("", A.uri), CLAIM.format(B.uri)], (A.uri,)),
        ([PROVEN.format("", A.uri), CLAIM.format('\\" found in connect proto, but')], (A.uri,)),
        ([PROVEN.format("", A.uri), HEAD + "x", CLAIM.format(A.uri)], ()),
        ([CLAIM.format(A.uri)], (None,)),
    ],
)
def test_a_claim_is_one_of_another_name_than_the_proven(
    lines: list[str], who: tuple[str | None, ...]
) -> None:
    claims = Claims()
    found = [one for line in lines if (one := claims.read(line)) is not None]
    assert tuple(one.who for one in found) == who
    assert all(one.what == "identity" for one in found)


def violation(number: int) -> str:
    return f'{HEAD}{WHO}Publish Violation - Subject "s{number}"\n'


def read(audit: BrokerAudit) -> list[str | None]:
    return [one.subject for one in audit.read()]


def test_what_stood_there_before_counts_if_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    log.write_text(violation(1))
    for from_start, found in ((False, []), (True, ["s1"])):
        audit = BrokerAudit(log, from_start=from_start)
        assert read(audit) == found
        audit.close()


def test_a_flood_is_told_in_few_words(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    log.write_text("".join(violation(number) for number in range(3_000)) + violation(1) * 5)
    audit = BrokerAudit(log, from_start=True)
    found = audit.read()
    audit.close()
    assert len(found) == 1_001
    assert sum(one.count for one in found) == 3_005
    assert found[1].count == 6
    assert found[-1].who is None
