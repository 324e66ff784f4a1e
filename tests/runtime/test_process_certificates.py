"""What a process tells of its certificate, on virtual time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phalanx.bus.memory_broker import MemoryBroker
from phalanx.clock.virtual import VirtualClock
from phalanx.identity.authority import Authority
from phalanx.identity.credentials import Files, LiveCredentials, write_credentials
from phalanx.identity.names import Identity, Role
from phalanx.identity.trust import pem, read_certificate
from phalanx.runtime.processes.process import Certificates

NOW = datetime.now(UTC).replace(microsecond=0)
POP = Identity("pop1", Role.AGENT, "edge")
DAY_S = 86_400.0


class Process:
    """The certificates of a process whose time of day is that of its clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.authority = Authority.create(folder / "ca", "edge", self.time)
        self.folder = folder / "pop1"
        self.folder.mkdir()
        issued = self.authority.issue(POP)
        write_credentials(self.folder, issued.certificate, issued.key)
        (self.folder / "ca.pem").write_bytes((folder / "ca" / "ca.pem").read_bytes())
        live = LiveCredentials(Files.of(self.folder), self.time)
        self.exchange = MemoryBroker(self.clock).join(POP)
        self.certificates = Certificates(
            live, self.exchange, self.clock, self.record, "c-1", speed=1800.0
        )  # it looks once an hour

    def time(self) -> datetime:
        return NOW + timedelta(seconds=self.clock.now())

    def record(self, kind: str, cause: str, **data: Any) -> None:
        assert cause == "c-1"
        self.said.append((kind, data))

    def until(self, day: float) -> list[tuple[str, dict[str, Any]]]:
        """Run until a day, and return what was said."""
        self.clock.run(until=day * DAY_S)
        said, self.said = self.said, []
        return said

    def renew(self) -> None:
        path = self.folder / "cert.pem"
        path.write_bytes(pem(self.authority.renew(read_certificate(path))))


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_it_says_how_long_it_holds_and_warns_each_day_before_the_end(process: Process) -> None:
    end = f"{NOW + timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}"
    assert process.until(75.9) == [("certificate.holds", {"until": end, "days": 90.0})]
    assert process.certificates.wrong() is None
    said = process.until(91.9)
    assert [kind for kind, _ in said] == ["certificate.ends"] * 16
    assert {data["until"] for _, data in said} == {end}
    days = [data["days"] for _, data in said]
    assert days[0] == pytest.approx(14.0, abs=0.05)
    assert days[-1] == pytest.approx(-1.0, abs=0.05)
    assert days == sorted(days, reverse=True)


def test_what_needs_a_look_is_told_as_health(process: Process) -> None:
    process.until(80)
    wrong = process.certificates.wrong()
    assert wrong is not None
    assert wrong.startswith("ends on ")
    assert wrong.endswith("phalanx domain renew DIR pop1")
    process.until(91)
    assert str(process.certificates.wrong()).startswith("ended on ")
    process.renew()
    said = process.until(91.1)
    assert [kind for kind, _ in said] == ["certificate.holds"]
    assert process.certificates.wrong() is None


def test_what_is_not_used_is_told_once(process: Process) -> None:
    process.until(1)
    path = process.folder / "cert.pem"
    octets = path.read_bytes()
    path.write_bytes(octets[:99])
    ((kind, data),) = process.until(3)
    assert kind == "certificate.unused"
    assert "cert.pem: is no certificate in PEM" in data["reason"]
    assert str(process.certificates.wrong()).startswith("not used: ")
    path.write_bytes(octets)
    assert process.until(4) == []
    assert process.certificates.wrong() is None


def test_a_newer_revocation_list_is_told(process: Process) -> None:
    process.authority.issue(Identity("pop2", Role.AGENT, "edge"))
    process.authority.revoke("pop2")
    process.until(1)
    listed = process.folder.parent / "ca" / "crl.pem"
    (process.folder / "crl.pem").write_bytes(listed.read_bytes())
    assert process.until(2) == [("revocations.known", {"number": 1})]


def test_a_lost_connection_is_opened_again_with_what_is_there_then(process: Process) -> None:
    process.until(1)
    process.renew()
    process.exchange.switch(connected=False)
    process.clock.run(until=DAY_S + 1.0)  # long before the next look
    assert [kind for kind, _ in process.said] == ["certificate.holds"]
