"""The directory of a domain: its files, who belongs to it, and what a kill leaves of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.installed import install

from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.fabric.calls import CallError
from phalanx.fabric.operations import STATUS, StatusRequest
from phalanx.identity.certificates import fingerprint
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.identity.trust import Trust, read_certificate
from phalanx.runtime.domain.brokers import Brokers
from phalanx.runtime.domain.directory import Domain, Standing
from phalanx.runtime.domain.spec import (
    BrokerSpec,
    DomainSpec,
    domain_text,
    parse_domain,
    read_bundle,
    read_domain,
    split_server,
)
from phalanx.runtime.processes.operator import Operator

SPEC = DomainSpec("edge", (BrokerSpec("broker1", "127.0.0.1", 4222),))


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return Domain.create(tmp_path / "edge", SPEC)


def standings(domain: Domain) -> dict[str, str]:
    return {member.identity.name: member.standing.value for member in domain.members()}


def test_a_new_domain_has_its_brokers_an_operator_and_a_recorder(
    domain: Domain, tmp_path: Path
) -> None:
    again = Domain.open(tmp_path / "edge")
    assert again.spec == SPEC
    assert standings(again) == {"broker1": "valid", "operator": "valid", "recorder": "valid"}
    assert again.members()[0].hosts == ("127.0.0.1",)
    assert {member.identity.role for member in again.admitted()} == {
        Role.BROKER,
        Role.OPERATOR,
        Role.RECORDER,
    }
    assert (tmp_path / "edge").stat().st_mode & 0o777 == 0o700


def test_a_bundle_is_all_that_a_process_needs(domain: Domain, tmp_path: Path) -> None:
    folder = domain.add("pop1", Role.AGENT)
    moved = folder.rename(tmp_path / "elsewhere")
    bundle = read_bundle(moved / "bus.toml")
    assert bundle.identity == Identity("pop1", Role.AGENT, "edge")
    assert bundle.servers == (("127.0.0.1", 4222),)
    assert bundle.credentials.identity == bundle.identity
    assert (moved / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_bundle_that_names_another_is_refused(domain: Domain) -> None:
    file = domain.add("pop1", Role.AGENT) / "bus.toml"
    file.write_text(file.read_text().replace('"pop1"', '"pop2"'))
    with pytest.raises(IdentityError, match=r"cert.pem: is that of phalanx://edge/agent/pop1; "):
        read_bundle(file)


@pytest.mark.parametrize(
    ("name", "role", "hosts", "line"),
    [
        ("operator", Role.AGENT, (), "operator is there already, as operator"),
        ("pop 1", Role.AGENT, (), "name is 'pop 1', allowed are"),
        ("../pop1", Role.AGENT, (), "name is '../pop1', allowed are"),
        ("pop1", Role.AGENT, ("10.0.0.1",), "only a broker has hosts"),
        ("broker2", Role.BROKER, (), "brokers: has no 'broker2'"),
    ],
)
def test_what_cannot_be_added_is_refused(
    domain: Domain, name: str, role: Role, hosts: tuple[str, ...], line: str
) -> None:
    before = standings(domain)
    with pytest.raises(PhalanxError, match=line):
        domain.add(name, role, hosts)
    assert standings(domain) == before


def test_a_broker_written_down_later_gets_its_certificate(domain: Domain, tmp_path: Path) -> None:
    file = tmp_path / "edge" / "domain.toml"
    more = "".join(f'[[brokers]]\nname = "broker{n}"\nhost = "10.0.0.{n}"\n' for n in (2, 3))
    file.write_text(file.read_text() + more)
    wider = Domain.open(tmp_path / "edge")
    wider.add("broker2", Role.BROKER, ("nats2.example",))
    assert {m.identity.name: m.hosts for m in wider.members()}["broker2"] == (
        "10.0.0.2",
        "nats2.example",
    )
    assert read_bundle(wider.renew("operator") / "bus.toml").servers[1:] == (
        ("10.0.0.2", 4222),
        ("10.0.0.3", 4222),
    )


def test_the_revoked_are_out(domain: Domain, tmp_path: Path) -> None:
    folder = domain.add("pop1", Role.AGENT)
    certificate = read_certificate(folder / "cert.pem")
    domain.revoke("pop1")
    assert standings(domain)["pop1"] == "revoked"
    assert "pop1" not in {member.identity.name for member in domain.admitted()}
    assert not folder.exists()
    for own in ("authority", "identities/operator", "brokers/broker1"):
        with pytest.raises(IdentityError, match="of pop1 was revoked"):
            Trust.read(tmp_path / "edge" / own).identify(certificate)
    for again in (lambda: domain.revoke("pop1"), lambda: domain.renew("pop1")):
        with pytest.raises(IdentityError, match="pop1 was revoked already"):
            again()
    later = Domain(domain.folder, domain.spec, lambda: datetime.now(UTC) + timedelta(days=91))
    assert "pop1" not in standings(later)


def test_a_revoked_name_is_given_anew_with_another_key(domain: Domain, tmp_path: Path) -> None:
    old = read_certificate(domain.add("pop1", Role.AGENT) / "cert.pem")
    for role in (Role.AGENT, Role.OBSERVER):
        domain.revoke("pop1")
        new = read_certificate(domain.add("pop1", role) / "cert.pem")
        (member,) = (m for m in domain.admitted() if m.identity.name == "pop1")
        assert (member.identity.role, member.key) == (role, fingerprint(new))
        assert standings(domain)["pop1"] == "valid"
        for own in ("authority", "identities/pop1", "identities/operator"):
            trust = Trust.read(tmp_path / "edge" / own)
            assert trust.identify(new).name == "pop1"
            with pytest.raises(IdentityError, match="of pop1 was revoked"):
                trust.identify(old)
        old = new
    with pytest.raises(IdentityError, match="pop1 is there already, as observer"):
        domain.add("pop1", Role.AGENT)


def test_a_sealed_domain_asks_once_and_changes_nothing_without_an_answer(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def ask() -> bytes:
        asked.append(secret)
        return secret

    secret = b"a long passphrase"
    Domain.create(tmp_path / "edge", SPEC, passphrase=secret)
    sealed = Domain.open(tmp_path / "edge", ask=ask)
    for name in ("pop1", "pop2"):
        sealed.add(name, Role.AGENT)
    assert len(asked) == 1
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    octets = [path.read_bytes() for path in before]
    secret = b"another passphrase"
    stranger = Domain.open(tmp_path / "edge", ask=ask)
    for change in (
        lambda: stranger.add("pop3", Role.AGENT),
        lambda: stranger.renew("pop1"),
        lambda: stranger.revoke("pop1"),
        lambda: stranger.seal(None),
    ):
        with pytest.raises(IdentityError, match="the passphrase does not open it"):
            change()
    assert [path.read_bytes() for path in before] == octets
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert standings(stranger)["pop1"] == "valid"  # to look, nobody needs the key
    sealed.seal(None)
    Domain.open(tmp_path / "edge").revoke("pop1")


def test_an_expired_identity_is_shown_and_renewed(domain: Domain) -> None:
    folder = domain.add("pop1", Role.AGENT)
    key = (folder / "key.pem").read_bytes()
    later = Domain(domain.folder, domain.spec, lambda: datetime.now(UTC) + timedelta(days=91))
    assert standings(later)["pop1"] == Standing.EXPIRED.value
    later.renew("pop1")
    assert standings(later)["pop1"] == "valid"
    assert (folder / "key.pem").read_bytes() == key
    with pytest.raises(IdentityError, match="there is no 'pop9'"):
        later.renew("pop9")


def test_a_copy_of_a_bundle_in_its_place_is_named(domain: Domain) -> None:
    folder = domain.add("pop1", Role.AGENT)
    shutil.copytree(folder, folder.with_name("pop1.bak"))
    with pytest.raises(IdentityError, match=r"pop1.bak: holds the certificate of pop1; move it"):
        domain.members()


# -- killed in the middle -------------------------------------------------------------------


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Do ``act`` in a child that dies at its ``step``th change of the file system.

    Return whether it died.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, details: tuple[object, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(details[2], int) and details[2] & os.O_CREAT
            if event in _CHANGES or writes:
                seen += 1
                if seen == step:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            act()
        except BaseException:  # whatever it is, the parent shall know
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}


@pytest.mark.processes
def test_killed_anywhere_a_domain_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    outcomes = []
    for step in range(1, 500, 3):
        folder = tmp_path / f"{step}" / "edge"
        died = killed_at(step, lambda folder=folder: Domain.create(folder, SPEC))
        if folder.exists():
            assert len(standings(Domain.open(folder))) == 3
        outcomes.append(folder.exists())
        if not died:
            break
    assert outcomes[-1]
    assert outcomes.count(False) > 15


@pytest.mark.processes
def test_killed_anywhere_changes_are_there_or_not(tmp_path: Path) -> None:
    domain = Domain.create(tmp_path / "edge", SPEC)
    seen = set()
    for number in range(1, 500):
        name = f"pop{number}"
        died = killed_at(number, lambda name=name: domain.add(name, Role.AGENT))
        now = standings(domain).get(name)
        if now is None:
            domain.add(name, Role.AGENT)
        assert read_bundle(domain.bundle(name) / "bus.toml").identity.name == name
        seen.add(("add", now))
        if not died:
            break
    domain.add("other", Role.AGENT)
    for number in range(1, 500):
        died = killed_at(number, lambda: domain.renew("other"))
        assert read_bundle(domain.bundle("other") / "bus.toml").identity.name == "other"
        if not died:
            break
    for step in range(1, 500):
        name = f"pop{step}"
        if name not in standings(domain):
            break
        died = killed_at(step, lambda name=name: domain.revoke(name))
        now = standings(domain)[name]
        seen.add(("revoke", now))
        if now != "revoked":
            assert read_bundle(domain.bundle(name) / "bus.toml").identity.name == name
    assert seen == {("add", None), ("add", "valid"), ("revoke", "valid"), ("revoke", "revoked")}
    domain.add("last", Role.AGENT)
    assert not list((tmp_path / "edge" / "identities").glob(".*"))


# -- files ----------------------------------------------------------------------------------


def test_the_written_file_is_read_as_it_was_meant(tmp_path: Path) -> None:
    brokers = tuple(BrokerSpec(f"b{n}", f"10.0.0.{n}", 4000 + n) for n in range(3))
    spec = DomainSpec("wide", brokers, certificate_days=30)
    (tmp_path / "domain.toml").write_text(domain_text(spec))
    read = read_domain(tmp_path / "domain.toml")
    assert (read.name, read.certificate_days, read.limits) == ("wide", 30, spec.limits)
    assert [(b.host, b.port, b.cluster_port) for b in read.brokers] == [
        (b.host, b.port, b.port + 2000) for b in brokers
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "name: missing"),
        ("name = 1", "name: 1 is not allowed; expected a name"),
        ('name = "e"', "brokers: missing"),
        ('name = "e"\nbrokers = []', "brokers: has 0 entries; at least 1 expected"),
        ('name = "e"\nbrokers = [{name="b"}]', r"brokers\[0\].host: missing"),
        ('name = "e"\nbrokers = [{name="b", host="h h"}]', r"brokers\[0\].host: 'h h' is no host"),
        ('name = "e"\nbrokers = [{name="b", host="h", port=0}]', r"brokers\[0\].port: 0 is not"),
        ('name = "e"\nbrokers = [{name="b", hots="h"}]', "unknown field; did you mean 'host'"),
        ('name = "e"\nbrokers = [{name="operator", host="h"}]', "operator is taken by an identity"),
        (
            'name = "e"\nbrokers = [{name="a", host="h"}, {name="b", host="i"}]',
            "brokers: there are 2; allowed are 1, 3, 5, 7 or 9",
        ),
        ('name = "e"\nbrokers = [{name="b", host="h", monitor_port=4222}]', "h:4222 is taken"),
        ('name = "e', "no TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(ScenarioError, match=line) as caught:
        parse_domain(text, "domain.toml")
    assert str(caught.value).startswith("domain.toml: ")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"\[?[a-z0-9:.]*\]?:?[0-9]*", fullmatch=True))
def test_servers_are_split_or_refused(text: str) -> None:
    try:
        host, port = split_server(text, "here")
    except ScenarioError:
        return
    assert host in text
    assert 1 <= port <= 65_535


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("nats.example", ("nats.example", 4222)),
        ("10.0.0.1:5000", ("10.0.0.1", 5000)),
        ("::1", ("::1", 4222)),
        ("[::1]:5000", ("::1", 5000)),
    ],
)
def test_servers_are_split(text: str, server: tuple[str, int]) -> None:
    assert split_server(text, "here") == server


POSTBOX = """
from phalanx.bus.memory_broker import MemoryBroker

urls = []


def open_postbox(url, clock):
    urls.append(url)
    return MemoryBroker(clock)
"""


def test_a_domain_may_be_carried_by_a_transport_of_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "[phalanx.transports]\npostbox = postbox:open_postbox\n"
    install(monkeypatch, tmp_path, "postbox", POSTBOX, entry)
    domain = Domain.create(tmp_path / "edge", replace(SPEC, transport="postbox"))
    assert Domain.open(domain.folder).spec == domain.spec
    with Operator(domain.bundle("operator")) as operator:
        answer = operator.call("pop1", STATUS, StatusRequest())
    assert isinstance(answer, CallError)
    assert sys.modules["postbox"].urls == ["postbox://127.0.0.1:4222"]
    with pytest.raises(IdentityError, match="its transport is postbox, whose brokers are not st"):
        Brokers(domain)
