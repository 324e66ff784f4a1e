"""Credentials of a process that runs: they follow their files, and nothing else gets in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from identity_bundles import BROKER, NOW, POP, bundle, shake

from phalanx.identity.authority import Authority
from phalanx.identity.certificates import identity_certificate
from phalanx.identity.credentials import (
    Credentials,
    Files,
    LiveCredentials,
    read_key,
    write_credentials,
)
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.identity.trust import pem, read_certificate


class Place:
    """An authority, and the bundle of an agent that runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "ca", "edge")
        self.broker = bundle(self.authority, folder, BROKER, ("h",))
        self.pop = bundle(self.authority, folder)
        self.live = LiveCredentials(Files.of(self.pop))
        self.told: list[Credentials] = []
        self.live.on_change(self.told.append)

    def renew(self) -> x509.Certificate:
        """Write a renewed certificate into the bundle."""
        fresh = self.authority.renew(read_certificate(self.pop / "cert.pem"))
        (self.pop / "cert.pem").write_bytes(pem(fresh))
        return fresh

    def revoke_somebody(self, name: str = "other") -> None:
        self.authority.issue(Identity(name, Role.AGENT, "edge"))
        self.authority.revoke(name)

    def shown(self) -> int:
        """Return the serial number that a broker sees on the next connection."""
        shown = shake(self.live.tls, self.broker, "h")[1].getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_renewed_certificate_is_in_use_from_the_next_look_on(place: Place) -> None:
    assert not place.live.look()
    tls, fresh = place.live.tls, place.renew()
    assert place.live.look()
    assert place.live.tls is tls
    assert place.shown() == fresh.serial_number
    assert place.live.present.certificate == fresh
    assert [one.certificate for one in place.told] == [fresh]
    assert not place.live.look()


def test_a_new_key_for_a_name_given_anew_is_taken_once_both_files_are_there(place: Place) -> None:
    place.authority.revoke("pop1")
    issued = place.authority.issue(POP)
    (place.folder / "new").mkdir()
    write_credentials(place.folder / "new", issued.certificate, issued.key)
    (place.folder / "new" / "key.pem").replace(place.pop / "key.pem")
    assert not place.live.look()
    assert place.live.trouble is not None
    assert "is not the key of" in place.live.trouble
    (place.folder / "new" / "cert.pem").replace(place.pop / "cert.pem")
    (place.pop / "crl.pem").write_bytes((place.folder / "ca" / "crl.pem").read_bytes())
    assert place.live.look()
    assert place.live.trouble is None
    assert place.shown() == issued.certificate.serial_number
    assert place.live.present.trust.number == 1


def test_a_newer_revocation_list_is_told(place: Place) -> None:
    place.revoke_somebody()
    (place.pop / "crl.pem").write_bytes((place.folder / "ca" / "crl.pem").read_bytes())
    assert place.live.look()
    assert [one.trust.number for one in place.told] == [1]


def test_the_same_files_written_again_change_nothing(place: Place) -> None:
    for path in place.pop.iterdir():
        path.write_bytes(path.read_bytes())
    assert not place.live.look()
    assert place.told == []


def a_key_that_others_may_read(place: Place) -> None:
    place.renew()
    (place.pop / "key.pem").chmod(0o644)


def the_certificate_of_another(place: Place) -> None:
    other = bundle(place.authority, place.folder, Identity("pop2", Role.AGENT, "edge"))
    for name in ("cert.pem", "key.pem"):
        (place.pop / name).write_bytes((other / name).read_bytes())


def another_authority(place: Place) -> None:
    other = Authority.create(place.folder / "other", "edge")
    issued = other.issue(POP)
    write_credentials(place.pop, issued.certificate, issued.key)
    for name in ("ca.pem", "crl.pem"):
        (place.pop / name).write_bytes((place.folder / "other" / name).read_bytes())


def an_expired_certificate(place: Place) -> None:
    key = read_key(place.pop / "key.pem").public_key()
    signer = read_key(place.folder / "ca" / "ca-key.pem")
    expired = identity_certificate(
        signer, place.authority.certificate, key, POP, (), NOW - timedelta(days=9), days=5
    )
    (place.pop / "cert.pem").write_bytes(pem(expired))


def a_list_of_another_authority(place: Place) -> None:
    Authority.create(place.folder / "other", "edge")
    (place.pop / "crl.pem").write_bytes((place.folder / "other" / "crl.pem").read_bytes())


def a_list_that_ended(place: Place) -> None:
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(place.authority.certificate.subject)
        .last_update(NOW - timedelta(days=9))
        .next_update(NOW - timedelta(days=2))
        .add_extension(x509.CRLNumber(7), critical=False)
        .sign(read_key(place.folder / "ca" / "ca-key.pem"), hashes.SHA256())
    )
    (place.pop / "crl.pem").write_bytes(pem(made))


def a_list_that_revokes_oneself(place: Place) -> None:
    place.authority.revoke("pop1")
    (place.pop / "crl.pem").write_bytes((place.folder / "ca" / "crl.pem").read_bytes())


def writes(file: str, octets: Callable[[Place], bytes]) -> Callable[[Place], object]:
    return lambda place: (place.pop / file).write_bytes(octets(place))


def half_renewed(place: Place) -> bytes:
    octets = pem(place.authority.renew(place.live.present.certificate))
    return octets[: len(octets) // 2]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (writes("cert.pem", half_renewed), "cert.pem: is no certificate in PEM"),
        (writes("cert.pem", lambda _: b""), "cert.pem: is no certificate in PEM"),
        (writes("cert.pem", lambda _: bytes(2 << 20)), "cert.pem: is larger than 1024 KiB"),
        (lambda p: (p.pop / "cert.pem").unlink(), "cert.pem: cannot be read: No such file"),
        (writes("ca.pem", lambda _: b""), "ca.pem: is no certificate in PEM"),
        (writes("key.pem", lambda _: b"\0\xff" * 200), "key.pem: is no EC key in PEM"),
        (writes("key.pem", lambda p: (p.broker / "key.pem").read_bytes()), "is not the key of"),
        (a_key_that_others_may_read, "chmod 600"),
        (the_certificate_of_another, "phalanx://edge/agent/pop2; this process is "),
        (another_authority, "is another authority"),
        (an_expired_certificate, "expired on"),
        (writes("crl.pem", lambda _: b"-----BEGIN"), "crl.pem: is no revocation list in PEM"),
        (writes("crl.pem", lambda _: b"-----BEGIN X509 CRL-----\n"), "is no revocation list in"),
        (a_list_of_another_authority, "is not signed by the authority"),
        (a_list_that_ended, "the revocation list ended on"),
        (a_list_that_revokes_oneself, "of pop1 was revoked"),
    ],
)
def test_what_is_not_usable_is_told_and_what_was_in_use_stays(
    place: Place, spoil: Callable[[Place], object], why: str
) -> None:
    before = {path.name: path.read_bytes() for path in place.pop.iterdir()}
    present = place.live.present
    serial = present.certificate.serial_number
    spoil(place)
    for _ in range(2):
        assert not place.live.look()
        assert place.live.trouble is not None
        assert why in place.live.trouble
        assert "\n" not in place.live.trouble
        assert place.live.present is present
        assert place.shown() == serial
    assert place.told == []
    for name, octets in before.items():
        (place.pop / name).write_bytes(octets)
    (place.pop / "key.pem").chmod(0o600)
    assert not place.live.look()
    assert place.live.trouble is None
    assert place.shown() == serial


@pytest.mark.parametrize("gone", [False, True])
def test_no_older_revocation_list_is_taken(place: Place, gone: bool) -> None:
    older = (place.folder / "ca" / "crl.pem").read_bytes()
    place.revoke_somebody()
    (place.pop / "crl.pem").write_bytes((place.folder / "ca" / "crl.pem").read_bytes())
    assert place.live.look()
    if gone:
        (place.pop / "crl.pem").unlink()
    else:
        (place.pop / "crl.pem").write_bytes(older)
    assert not place.live.look()
    assert place.live.present.trust.number == 1
    assert place.live.trouble is not None
    assert "number 0 is older than the list in use, number 1" in place.live.trouble


def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    writing = False

    def time() -> datetime:
        """Be asked in the middle of reading, as something else writes."""
        if writing:
            (place.pop / "crl.pem").write_bytes((place.folder / "ca" / "crl.pem").read_bytes())
        return datetime.now(UTC)

    live = LiveCredentials(Files.of(place.pop), time)
    fresh, writing = place.renew(), True
    place.revoke_somebody()
    assert not live.look()
    assert live.trouble is None
    assert live.present.certificate != fresh
    writing = False
    assert live.look()
    assert live.present.certificate == fresh
    assert live.present.trust.number == 1


@pytest.mark.parametrize(
    ("days", "later", "soon"),
    [(90, 75, False), (90, 77, True), (90, 91, True), (4, 2, False), (4, 3.5, True)],
)
def test_it_knows_when_to_be_renewed(tmp_path: Path, days: int, later: float, soon: bool) -> None:
    authority = Authority.create(tmp_path / "ca", "edge", lambda: NOW)
    issued = authority.issue(POP, days=days)
    (tmp_path / "pop1").mkdir()
    write_credentials(tmp_path / "pop1", issued.certificate, issued.key)
    (tmp_path / "pop1" / "ca.pem").write_bytes((tmp_path / "ca" / "ca.pem").read_bytes())
    now = NOW
    live = LiveCredentials(Files.of(tmp_path / "pop1"), lambda: now)
    assert not live.ends_soon
    assert live.left == timedelta(days=days)
    now = NOW + timedelta(days=later)
    assert live.ends_soon is soon


def test_a_process_does_not_begin_with_what_is_not_usable(place: Place) -> None:
    a_list_that_ended(place)
    with pytest.raises(IdentityError, match="the revocation list ended on"):
        LiveCredentials(Files.of(place.pop))
