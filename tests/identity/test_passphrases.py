"""The authority's key under a passphrase."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phalanx.identity import files
from phalanx.identity.authority import Authority
from phalanx.identity.credentials import VARIABLE, ask_environment, read_key, read_passphrase
from phalanx.identity.names import Identity, IdentityError, Role

EARLIER = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHvMFoGCSqGSIb3DQEFDTBNMCwGCSsGAQQB2kcECzAfBBBC/yDeCawsv18FPRA2QCwrAgJAAAIB
CAIBCAIBIDAdBglghkgBZQMEASoEENLPALQeLHAzkmL9dCP8ioQEgZCXEbE1At/12xP+AQSnsnk8
LeFUBjAAgblkX9/vgeByiFGht/4/659hzRtP2+0ZBqOv0JIbGedVkBWN2SXJNKT8a1fonFjrjZ2T
codieKCRfnumusVkPkKsb+Z16dbA8d5Gi3vxM07T/ChYWpkFoLv7DD2lkw7iyH2aIpIF5FZnVT9R
MPfuXJxhjtAg+Z2RODo=
-----END ENCRYPTED PRIVATE KEY-----
"""
SECRET = "gate of the élite 7".encode()
POP = Identity("pop1", Role.AGENT, "edge")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "ca"
    Authority.create(folder, "edge", passphrase=SECRET)
    return folder


def test_a_sealed_authority_opens_with_its_passphrase(sealed: Path) -> None:
    authority = Authority.open(sealed, "edge", ask=lambda: SECRET)
    assert authority.trust.identify(authority.issue(POP).certificate) == POP
    assert (sealed / "ca-key.pem").stat().st_mode & 0o777 == 0o600


def test_ssh_keygen_reads_it(sealed: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh-keygen")
    key = str(sealed / "ca-key.pem")
    command = ["ssh-keygen", "-y", "-P", SECRET.decode(), "-f", key]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.startswith(b"ecdsa-sha2-nistp256 ")


def test_a_file_of_an_earlier_version_opens_still(tmp_path: Path) -> None:
    """PKCS #8 under scrypt, as versions up to 0.5 wrote it; sealed anew, it is written as now."""
    authority = Authority.create(tmp_path / "ca", "edge")
    files.write(tmp_path / "ca" / "ca-key.pem", EARLIER, secret=True)
    key = read_key(tmp_path / "ca" / "ca-key.pem", lambda: b"a passphrase of 25 letters")
    assert key.curve.name == "secp256r1"
    with pytest.raises(IdentityError, match="does not open it"):
        read_key(tmp_path / "ca" / "ca-key.pem", lambda: SECRET)
    authority.seal(SECRET)
    assert b"OPENSSH" in (tmp_path / "ca" / "ca-key.pem").read_bytes()


@pytest.mark.parametrize("wrong", [b"gate of the elite 7", b"", b"\xff\0", SECRET + b"\n"])
def test_another_passphrase_is_refused_in_one_line(sealed: Path, wrong: bytes) -> None:
    with pytest.raises(IdentityError, match=r"ca-key.pem: the passphrase does not open it") as told:
        Authority.open(sealed, "edge", ask=lambda: wrong)
    assert "\n" not in str(told.value)
    assert repr(wrong) not in str(told.value)


def test_a_sealed_key_is_not_asked_for_where_nobody_could_answer(sealed: Path) -> None:
    with pytest.raises(IdentityError, match="is sealed by a passphrase"):
        read_key(sealed / "ca-key.pem")


def test_a_damaged_key_is_refused(sealed: Path, tmp_path: Path) -> None:
    octets = (sealed / "ca-key.pem").read_bytes()
    mark, body = octets.split(b"\n", 1)
    for end in (body[:90], body.replace(b"A", b"B", 9), b"\0" + body[1:], b""):
        damaged = mark + b"\n" + end
        files.write(tmp_path / "key.pem", damaged, secret=True)
        with pytest.raises(IdentityError, match="does not open it"):
            read_key(tmp_path / "key.pem", lambda: SECRET)


def test_a_passphrase_is_set_changed_and_taken_away(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "edge")
    key = (tmp_path / "ca" / "ca-key.pem").read_bytes()
    authority.seal(SECRET)
    Authority.open(tmp_path / "ca", "edge", ask=lambda: SECRET).seal(b"another passphrase")
    with pytest.raises(IdentityError, match="does not open it"):
        Authority.open(tmp_path / "ca", "edge", ask=lambda: SECRET)
    Authority.open(tmp_path / "ca", "edge", ask=lambda: b"another passphrase").seal(None)
    assert (tmp_path / "ca" / "ca-key.pem").read_bytes() == key


def test_a_short_passphrase_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="has 5 characters; at least 12"):
        Authority.create(tmp_path / "ca", "edge", passphrase=b"short")
    assert not (tmp_path / "ca").exists()
    authority = Authority.create(tmp_path / "ca", "edge")
    with pytest.raises(IdentityError, match="at least 12"):
        authority.seal(b"short")
    Authority.open(tmp_path / "ca", "edge")


def test_a_sealed_authority_ends_as_any_other(sealed: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=4000)
    with pytest.raises(IdentityError, match="the authority expired"):
        Authority.open(sealed, "edge", lambda: later, lambda: SECRET)


@pytest.mark.parametrize(
    ("octets", "read"),
    [
        (b"some long passphrase", b"some long passphrase"),
        (b"some long passphrase\n", b"some long passphrase"),
        (b"some long passphrase\r\nmore", b"some long passphrase"),
        (b" blanks belong to it \n", b" blanks belong to it "),
    ],
)
def test_the_first_line_of_a_file_is_the_passphrase(
    tmp_path: Path, octets: bytes, read: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "pass", octets, secret=True)
    assert read_passphrase(tmp_path / "pass") == read
    monkeypatch.setenv(VARIABLE, str(tmp_path / "pass"))
    assert ask_environment() == read


def test_a_file_of_no_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pass"
    with pytest.raises(IdentityError, match="pass: cannot be read"):
        read_passphrase(path)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(IdentityError, match=VARIABLE):
        ask_environment()
