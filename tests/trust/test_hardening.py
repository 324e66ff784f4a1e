"""Protected variants: made, checked at load, refused when anything about them is not genuine."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nightly import at_night, examples
from trust_lab import NEEDS_C, PROGRAM, compiled, running, started, write_agent
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.domain.errors import PhalanxError
from phalanx.domain.trust import TrustTier
from phalanx.trust.elf import program_text
from phalanx.trust.hardening import (
    MANIFEST,
    PACKAGE,
    REFERENCE,
    HardeningError,
    Manifest,
    SignedManifest,
    check,
    command,
    harden,
    seal,
    signed,
    signing_key,
    trusted_key,
    unseal,
)
from phalanx.trust.hardening import (
    PROGRAM as PROGRAM_FILE,
)
from phalanx.trust.measurement import ReferenceValues, appraise
from phalanx.trust.measurer import ProcessMeasurer

KEY = Ed25519PrivateKey.generate()
READER = ec.generate_private_key(ec.SECP256R1())
FILES = {"program": "00", "a.txt": "11"}


def variant(folder: Path, version: str = "1.2") -> Path:
    """Return a small variant without a program: what the checks look at."""
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    listed = {"a.txt": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    manifest = Manifest("guard", version, "elf", "a.txt", listed, "")
    (folder / MANIFEST).write_bytes(signed(manifest, KEY))
    return folder


def test_what_is_as_it_was_signed_may_be_started(tmp_path: Path) -> None:
    folder = variant(tmp_path / "v")
    assert check(folder, KEY.public_key(), minimum_version="1.2").version == "1.2"


def unsigned(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def by_another(folder: Path) -> None:
    found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=SignedManifest)
    manifest = msgspec.json.decode(found.manifest, type=Manifest)
    (folder / MANIFEST).write_bytes(signed(manifest, Ed25519PrivateKey.generate()))


def added(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("")


def altered(folder: Path) -> None:
    (folder / "a.txt").write_text("b")


def removed(folder: Path) -> None:
    (folder / "a.txt").unlink()


def linked(folder: Path) -> None:
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "told"),
    [(unsigned, "no manifest"), (by_another, "not signed"), (added, "not listed"),
     (altered, "altered"), (removed, "missing"), (linked, "neither a file")],
)  # fmt: skip
def test_refused_at_load(tmp_path: Path, change: object, told: str) -> None:
    folder = variant(tmp_path / "v")
    assert callable(change)
    change(folder)
    with pytest.raises(HardeningError, match=told):
        check(folder, KEY.public_key())


def test_a_downgrade_is_refused(tmp_path: Path) -> None:
    folder = variant(tmp_path / "v", "1.2")
    with pytest.raises(HardeningError, match=r"1\.2; allowed are 1\.10 and later"):
        check(folder, KEY.public_key(), minimum_version="1.10")


@settings(max_examples=examples(40))
@given(cut=st.integers(0, 500), put=st.binary(max_size=4), junk=st.binary(max_size=80))
def test_no_changed_manifest_is_accepted(
    tmp_path_factory: pytest.TempPathFactory, cut: int, put: bytes, junk: bytes
) -> None:
    folder = variant(tmp_path_factory.mktemp("fuzz") / "v")
    whole = (folder / MANIFEST).read_bytes()
    genuine = msgspec.json.decode(whole)
    for octets in (whole[:cut] + put + whole[cut + 1 :], junk, whole[:cut]):
        (folder / MANIFEST).write_bytes(octets)
        try:
            check(folder, KEY.public_key())
        except HardeningError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert msgspec.json.decode(octets) == genuine


def test_reference_values_are_read_by_recipients_alone() -> None:
    reference = ReferenceValues("guard", "1.0", objects={"/bin/guard": ("secret-digest",)})
    other = ec.generate_private_key(ec.SECP256R1())
    octets = seal(reference, [READER.public_key(), other.public_key()])
    assert b"secret-digest" not in octets
    assert unseal(octets, READER) == unseal(octets, other) == reference
    with pytest.raises(HardeningError, match="not sealed for this key"):
        unseal(octets, ec.generate_private_key(ec.SECP256R1()))
    for place in range(0, len(octets), 7):
        with suppress(PhalanxError):  # what belongs to the other reader may change
            changed = octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]
            assert unseal(changed, READER) == reference


def test_keys_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = signing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_key(path).public_key() == made.public_key()
    assert trusted_key(tmp_path / "key.pub") == made.public_key()
    with pytest.raises(HardeningError, match="no Ed25519 key"):
        trusted_key(path)


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ReferenceValues]:
    pytest.importorskip("lief")
    folder = tmp_path_factory.mktemp("native")
    source = compiled(folder, "guard", PROGRAM, "-Wl,-z,lazy", "-Wl,-z,execstack")
    reference, findings = harden(
        source, folder / "out", KEY, software="guard", version="1.0",
        recipients=[READER.public_key()],
    )  # fmt: skip
    table = {finding.what: (finding.found, finding.done) for finding in findings}
    assert table["NX stack"] == ("no", "set")
    assert table["BIND_NOW"] == ("no", "set")
    assert table["PIE"][0] == "yes"
    return source, folder / "out", reference


@at_night
@NEEDS_C
def test_the_program_text_of_a_hardened_program_is_unchanged(
    hardened: tuple[Path, Path, ReferenceValues],
) -> None:
    import lief  # noqa: PLC0415  # an extra

    source, out, _ = hardened
    program = out / PROGRAM_FILE
    assert program_text(str(program)) == program_text(str(source))
    before, after = lief.ELF.parse(str(source)), lief.ELF.parse(str(program))
    assert before
    assert after
    text = (before.get_section(".text"), after.get_section(".text"))
    assert bytes(text[0].content) == bytes(text[1].content)
    assert (before.has_nx, after.has_nx) == (False, True)
    assert after.has_section(".phalanx")
    told = subprocess.run(
        ["readelf", "-n", str(program)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Build ID" in told.stdout


@NEEDS_C
def test_a_hardened_program_runs_guarded_and_is_affirmed(
    hardened: tuple[Path, Path, ReferenceValues],
) -> None:
    _, out, reference = hardened
    words = command(out, check(out, KEY.public_key()))
    assert unseal((out / REFERENCE).read_bytes(), READER) == reference
    with running(started(words)) as process:
        seen = ProcessMeasurer(process.pid, "guard", "1.0").look()
        assert appraise(seen, reference) == (TrustTier.AFFIRMING, ())
        assert (seen.core_limit, seen.no_new_privileges) == (0, True)


@NEEDS_C
def test_a_hardened_program_does_not_start_elsewhere(
    hardened: tuple[Path, Path, ReferenceValues], tmp_path: Path
) -> None:
    for name in (PROGRAM_FILE, "libphalanx_start.so"):
        shutil.copy(hardened[1] / name, tmp_path / name)
    done = subprocess.run([tmp_path / PROGRAM_FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (126, "")
    assert "no manifest.json" in done.stderr


@pytest.mark.processes
def test_a_hardened_package_starts_from_the_command_line_and_is_affirmed(tmp_path: Path) -> None:
    write_agent(tmp_path)
    (tmp_path / "sentry" / "__main__.py").write_text("from sentry.agent import run\n\nrun()\n")
    out, key = tmp_path / "out", tmp_path / "key"
    words = ["harden", str(tmp_path / "sentry"), "--out", str(out), "--key", str(key)]
    told = CliRunner().invoke(app, [*words, "--version", "2.0"])
    assert told.exit_code == 0, told.output
    reference, _ = harden(
        tmp_path / "sentry", tmp_path / "again", signing_key(key), software="sentry", version="2.0"
    )
    start = [sys.executable, "-m", "phalanx", "harden", str(out), "--start", "--key", f"{key}.pub"]
    environment = {**os.environ, "LD_LIBRARY_PATH": "/nowhere"}
    with running(started([*start, "--minimum", "2.0"], environment)) as process:
        seen = ProcessMeasurer(process.pid, "sentry", "2.0").look(reference=reference)
        assert appraise(seen, reference) == (TrustTier.AFFIRMING, ())
        assert seen.core_limit == 0
    refused = subprocess.run(
        [*start, "--minimum", "2.1"], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "allowed are 2.1 and later" in refused.stderr
    (out / PACKAGE / "sentry" / "core.py").write_text("import evil\n")
    refused = subprocess.run(start, capture_output=True, text=True, check=False)
    assert "core.py: is altered" in refused.stderr.replace("\n", "")
    cache = out / PACKAGE / "sentry" / "__pycache__"
    cache.mkdir()
    (cache / "core.cpython-311.pyc").write_bytes(b"altered bytecode")
    refused = subprocess.run(start, capture_output=True, text=True, check=False)
    assert refused.returncode == 2


@NEEDS_C
@settings(max_examples=examples(3))
@given(data=st.data())
def test_no_broken_program_crashes_the_hardening(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pytest.importorskip("lief")
    folder = tmp_path_factory.mktemp("elf")
    octets = bytearray(Path("/bin/true").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, 1023) | st.integers(0, len(octets) - 1))
        octets[place] = data.draw(st.integers(0, 255))
    source = folder / "broken"
    source.write_bytes(octets[: data.draw(st.integers(0, len(octets)))])
    try:
        harden(source, folder / "out", KEY, software="x", version="1")
    except PhalanxError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert not (folder / "out").exists()
    else:
        assert program_text(str(folder / "out" / PROGRAM_FILE)) == program_text(str(source))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(HardeningError, match="no ELF program that loads"):
        harden(tmp_path / "text", tmp_path / "out", KEY, software="x", version="1")
    with pytest.raises(HardeningError, match="neither"):
        harden(tmp_path, tmp_path / "out", KEY, software="x", version="1")
