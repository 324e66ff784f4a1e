"""Authorities, certificates, and how they are judged."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from identity_bundles import BROKER, NOW, POP, bundle, shake

from phalanx.identity import files
from phalanx.identity.authority import Authority
from phalanx.identity.certificates import BACKDATED, fingerprint, hosts_of, identity_of
from phalanx.identity.credentials import Credentials, Files, tls_context
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.identity.trust import Trust


def at(when: datetime) -> Callable[[], datetime]:
    return lambda: when


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "edge", at(NOW))


def trust_at(tmp_path: Path, when: datetime) -> Trust:
    return Trust.read(tmp_path / "ca", at(when))


def test_a_certificate_names_its_identity(authority: Authority) -> None:
    certificate = authority.issue(POP).certificate
    assert authority.trust.identify(certificate) == POP
    assert authority.trust.identify(certificate, Role.AGENT) == POP
    (name,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name.value == "phalanx://edge/agent/pop1"
    assert certificate.subject.rfc4514_string() == "CN=pop1"
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)


def test_only_a_broker_has_hosts_and_may_serve(authority: Authority) -> None:
    uses = {}
    for identity, hosts in ((POP, ()), (BROKER, ("10.0.0.1", "nats.example"))):
        certificate = authority.issue(identity, hosts).certificate
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        uses[identity] = {use.dotted_string for use in found}
        assert hosts_of(certificate) == hosts
    client, server = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"
    assert uses == {POP: {client}, BROKER: {client, server}}
    for identity, hosts in ((POP, ("10.0.0.1",)), (BROKER, ())):
        with pytest.raises(IdentityError, match="a broker has at least one"):
            authority.issue(identity, hosts)
    with pytest.raises(IdentityError, match="'a b' is no host"):
        authority.issue(BROKER, ("a b",))
    with pytest.raises(IdentityError, match="'core'; expected 'edge'"):
        authority.issue(Identity("pop1", Role.AGENT, "core"))


@pytest.mark.parametrize(
    ("when", "line"),
    [
        (NOW - BACKDATED, None),
        (NOW - timedelta(minutes=5), None),
        (NOW + timedelta(days=90), None),
        (NOW - BACKDATED - timedelta(seconds=1), "is not valid before"),
        (NOW + timedelta(days=90, seconds=1), "expired on"),
    ],
)
def test_time_is_judged_with_room_for_clocks(
    authority: Authority, tmp_path: Path, when: datetime, line: str | None
) -> None:
    certificate, trust = authority.issue(POP).certificate, trust_at(tmp_path, when)
    if line is None:
        assert trust.identify(certificate) == POP
        return
    with pytest.raises(IdentityError, match=f"of pop1 {line} .* and the clock here says"):
        trust.identify(certificate)


def test_other_certificates_are_refused(authority: Authority, tmp_path: Path) -> None:
    trust = authority.trust
    foreign = Authority.create(tmp_path / "other", "edge", at(NOW)).issue(POP).certificate
    with pytest.raises(IdentityError, match="another authority than this domain's"):
        trust.identify(foreign)
    with pytest.raises(IdentityError, match="names no identity"):
        trust.identify(authority.certificate)
    with pytest.raises(IdentityError, match="has the role agent; expected operator"):
        trust.identify(authority.issue(POP).certificate, Role.OPERATOR)
    with pytest.raises(IdentityError, match="not one of an authority"):
        Trust(authority.issue(POP).certificate)


@given(octets=st.binary(max_size=200), cut=st.integers(0, 400))
def test_no_octets_are_taken_for_a_certificate(octets: bytes, cut: int) -> None:
    trust, certificate = _fixed()
    for wrong in (octets, certificate[:cut], certificate[:cut] + octets):
        with pytest.raises(IdentityError) as caught:
            trust.identify_der(wrong)
        assert "\n" not in str(caught.value)


def test_no_certificate_is_taken_with_a_bit_changed() -> None:
    trust, certificate = _fixed()
    assert trust.identify_der(certificate)[0] == POP
    for place in range(len(certificate)):
        for bit in range(8):
            altered = bytearray(certificate)
            altered[place] ^= 1 << bit
            with pytest.raises(IdentityError):
                trust.identify_der(bytes(altered))


@cache
def _fixed() -> tuple[Trust, bytes]:
    with TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder) / "ca", "edge")
        return authority.trust, authority.issue(POP).certificate.public_bytes(Encoding.DER)


def test_renewing_keeps_key_and_names(authority: Authority, tmp_path: Path) -> None:
    later = Authority.open(tmp_path / "ca", "edge", at(NOW + timedelta(days=100)))
    for identity, hosts in ((POP, ()), (BROKER, ("10.0.0.1", "nats.example"))):
        old = authority.issue(identity, hosts).certificate
        new = later.renew(old)
        assert (identity_of(new), fingerprint(new)) == (identity, fingerprint(old))
        assert hosts_of(new) == hosts
        assert later.trust.identify(new) == identity
        with pytest.raises(IdentityError, match="expired"):
            later.trust.identify(old)


def test_revoking_takes_back_every_valid_certificate_of_a_name(authority: Authority) -> None:
    first = authority.issue(POP).certificate
    second = authority.renew(first)
    other = authority.issue(Identity("pop2", Role.AGENT, "edge")).certificate
    assert authority.revoke("pop1") == 2
    assert authority.revoke("pop1") == 0
    for certificate in (first, second):
        with pytest.raises(IdentityError, match="of pop1 was revoked"):
            authority.trust.identify(certificate)
        with pytest.raises(IdentityError, match="of pop1 was revoked"):
            authority.renew(certificate)
    assert authority.trust.identify(other).name == "pop2"
    assert [record.name for record in authority.issued()] == ["pop1", "pop1", "pop2"]


def test_an_authority_is_made_once_and_opened_again(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="exists already"):
        Authority.create(tmp_path / "ca", "edge")
    again = Authority.open(tmp_path / "ca", "edge", at(NOW))
    assert again.trust.identify(again.issue(POP).certificate) == POP
    with pytest.raises(IdentityError, match=r"the authority expired on 20.."):
        Authority.open(tmp_path / "ca", "edge", at(NOW + timedelta(days=3654)))


def test_files_are_private(authority: Authority, tmp_path: Path) -> None:
    folder = bundle(authority, tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").iterdir()}
    assert modes.pop("ca-key.pem") == 0o600
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(
    authority: Authority, tmp_path: Path, mode: int
) -> None:
    folder = bundle(authority, tmp_path)
    (folder / "key.pem").chmod(mode)
    for use in (Credentials.read, tls_context):
        with pytest.raises(IdentityError, match=r"others may read this key .* chmod 600"):
            use(Files.of(folder))
    (tmp_path / "ca" / "ca-key.pem").chmod(mode)
    with pytest.raises(IdentityError, match="others may read this key"):
        Authority.open(tmp_path / "ca", "edge")


def test_without_a_revocation_list_nothing_is_revoked(authority: Authority, tmp_path: Path) -> None:
    folder = bundle(authority, tmp_path)
    (folder / "crl.pem").unlink()
    credentials = Credentials.read(Files.of(folder), at(NOW))
    assert credentials.identity == POP
    assert len(credentials.secret) == 32
    assert credentials.secret == Credentials.read(Files.of(folder), at(NOW)).secret


# -- TLS ------------------------------------------------------------------------------------


def test_tls_takes_a_broker_by_its_host_and_nobody_else(
    authority: Authority, tmp_path: Path
) -> None:
    broker = bundle(authority, tmp_path, BROKER, ("10.0.0.1", "nats.example"))
    pop = bundle(authority, tmp_path)
    client = tls_context(Files.of(pop))
    assert shake(client, broker, "10.0.0.1")[0].version() == "TLSv1.3"
    assert shake(client, broker, "nats.example")[0].version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake(client, broker, "10.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client, pop, "pop1")  # an agent that stands in for a broker
    (tmp_path / "b").mkdir()
    stranger = bundle(
        Authority.create(tmp_path / "b" / "ca", "edge", at(NOW)), tmp_path / "b", BROKER, ("h",)
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client, stranger, "h")


# -- files ----------------------------------------------------------------------------------


def test_what_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with files.appearing(tmp_path / "new") as part:
            (part / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("")
    with (
        pytest.raises(IdentityError, match="exists already"),
        files.appearing(tmp_path / "there"),
    ):
        raise AssertionError
    (tmp_path / "empty").mkdir()
    with files.appearing(tmp_path / "empty") as part:
        (part / "file").write_text("whole")
    assert (tmp_path / "empty" / "file").read_text() == "whole"


def test_an_unwritable_place_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot be written"):
        files.write(tmp_path / "file" / "below", b"")
    with (
        pytest.raises(IdentityError, match="cannot be made"),
        files.appearing(tmp_path / "file" / "below"),
    ):
        raise AssertionError
