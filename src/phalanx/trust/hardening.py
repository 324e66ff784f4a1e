"""Security as a service: the protected variant of an agent, and its start.

Seed 000, III.A and figure 1; seed 001, 3.B, steps 3 to 5.

``harden`` takes a native ELF program or a Python package and makes a directory::

    manifest.json     software, version, SHA-256 of every file; signed with Ed25519
    reference.sealed  reference values, readable by the holders of the given keys alone
    program, or package/

``check`` refuses what is unsigned, altered, added, or older than allowed; ``start`` checks and
then becomes the program. What happens to the files between the two, and to the process later, is
for the measurement to find.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.identity import files
from phalanx.trust.elf import program_text
from phalanx.trust.measurement import ReferenceValues, version_key
from phalanx.trust.processes import safe_environment
from phalanx.trust.references import reference_of, reference_of_program

MANIFEST, REFERENCE, PROGRAM, PACKAGE = "manifest.json", "reference.sealed", "program", "package"
LIBRARY = "libphalanx_start.so"
_SIGNED, _SEALED, _SEED = b"phalanx manifest\0", b"phalanx reference", b"phalanx hash seed\0"
_OPTIONS = ("-s", "-P", "-B")
"""Of the interpreter: no folders but its own, no bytecode written. Not -I, which would keep the
seed of hashes out; ``start`` removes all other variables."""
_NO_KEY = "holds no Ed25519 key in PEM"
_NO_LIEF = "an ELF program is hardened with LIEF: pip install 'phalanx[harden]'"


class HardeningError(PhalanxError):
    """A program cannot be hardened, or a protected variant is refused; the text is one line."""


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a protected variant consists of."""

    software: str
    version: str
    kind: str
    """``elf`` or ``python``."""
    entry: str
    """The program's file, or the package that is run."""
    files: dict[str, str]
    """SHA-256 of every file but the manifest, by path in the directory."""
    reference: str
    """Digest of the reference values."""
    hash_seed: str = ""
    """Of text, in each process of a Python package; see ``processes.HASH_SEED``."""


class SignedManifest(Struct, frozen=True, forbid_unknown_fields=True):
    """The octets of a ``Manifest``, and the Ed25519 signature over them."""

    manifest: bytes
    signature: bytes


class SealedReference(Struct, frozen=True, forbid_unknown_fields=True):
    """Reference values under a key of their own, which is wrapped for each recipient."""

    point: bytes
    """Ephemeral public key (P-256, X9.62)."""
    keys: tuple[bytes, ...]
    nonce: bytes
    octets: bytes


class HardeningStep(Struct, frozen=True):
    """One line of the table of what was found and what was done."""

    what: str
    found: str
    done: str = ""


def harden(
    source: Path,
    out: Path,
    key: Ed25519PrivateKey,
    *,
    software: str,
    version: str,
    minimum_version: str = "",
    recipients: Sequence[ec.EllipticCurvePublicKey] = (),
) -> tuple[ReferenceValues, tuple[HardeningStep, ...]]:
    """Make the protected variant of a program, as a whole or not at all.

    Args:
        source: an ELF program, or the directory of a Python package.
        out: the new directory.
        key: signs the manifest.
        software: name of the agent's software.
        version: its version.
        minimum_version: the oldest one that is not out of date.
        recipients: keys of those who may read the reference values; none: they are not written.

    Returns:
        The reference values, and what was found and done.

    Raises:
        HardeningError: if the source is neither, or cannot be hardened.
        MeasurementError: if its reference values cannot be made.

    """
    told = key.sign(_SEED + software.encode())  # one for all of the same key: nobody can guess it
    seed = str(int.from_bytes(told[:4]) or 1) if source.is_dir() else ""
    with files.appearing(out, 0o755) as part:
        if (source / "__init__.py").is_file():
            kind, entry = "python", source.name
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, part / PACKAGE / entry, ignore=ignored, symlinks=False)
            findings = [
                HardeningStep("bytecode", "may be altered apart from its source", "left out")
            ]
            reference = reference_of(
                entry,
                version,
                minimum_version=minimum_version,
                path=part / PACKAGE,
                options=_OPTIONS,
                hash_seed=seed,
            )
            reference = msgspec.structs.replace(reference, software=software)
        elif source.is_file():
            kind, entry = "elf", PROGRAM
            findings = _harden_program(source, part, f"{software} {version}")
            reference = reference_of_program(
                part / PROGRAM, software, version, minimum_version=minimum_version, counts=False
            )
        else:
            raise HardeningError(f"{source}: is neither an ELF program nor a Python package")
        reference = _moved(reference, part.resolve(), out.resolve())
        if recipients:
            (part / REFERENCE).write_bytes(seal(reference, recipients))
        digests = _digests(part)
        manifest = Manifest(software, version, kind, entry, digests, reference.digest(), seed)
        (part / MANIFEST).write_bytes(signed(manifest, key))
    findings.append(
        HardeningStep("manifest", f"{len(manifest.files)} files", "signed with Ed25519")
    )
    sealed = f"sealed for {len(recipients)}" if recipients else "not written: no recipient"
    return reference, (
        *findings,
        HardeningStep("reference values", reference.digest()[:16], sealed),
    )


def signed(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """Return the octets of ``manifest.json``."""
    octets = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.encode(SignedManifest(octets, key.sign(_SIGNED + octets)))


def check(folder: Path, trusted: Ed25519PublicKey, *, minimum_version: str = "") -> Manifest:
    """Return the manifest of a protected variant that may be started.

    Args:
        folder: of the variant.
        trusted: key of who hardened it.
        minimum_version: nothing older may be started; empty: any version.

    Raises:
        HardeningError: if the manifest is missing, malformed or signed by another, a file is
            altered, missing or not listed, or the version is older than allowed.

    """
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=SignedManifest)
        trusted.verify(found.signature, _SIGNED + found.manifest)
        manifest = msgspec.json.decode(found.manifest, type=Manifest)
    except OSError as error:
        raise HardeningError(f"{folder}: has no manifest: {error.strerror}") from None
    except InvalidSignature:
        raise HardeningError(f"{folder}: is not signed with the key that is trusted") from None
    except (ValueError, RecursionError):
        raise HardeningError(f"{folder / MANIFEST}: is malformed") from None
    there = _digests(folder)
    for name in sorted(manifest.files.keys() | there.keys()):
        if manifest.files.get(name) != there.get(name):
            state = "altered" if name in manifest.files and name in there else "missing"
            state = "not listed" if name not in manifest.files else state
            raise HardeningError(f"{folder / name}: is {state}; the variant is not started")
    if version_key(manifest.version) < version_key(minimum_version):
        raise HardeningError(
            f"{folder}: is version {manifest.version}; allowed are {minimum_version} and later"
        )
    return manifest


def command(folder: Path, manifest: Manifest, arguments: Sequence[str] = ()) -> tuple[str, ...]:
    """Return how a checked variant is run."""
    if manifest.kind == "elf":
        return (str(folder / manifest.entry), *arguments)
    package = str(folder / PACKAGE)
    return (sys.executable, *_OPTIONS, "-c", _RUN, package, manifest.entry, *arguments)


def start(
    folder: Path,
    trusted: Ed25519PublicKey,
    arguments: Sequence[str] = (),
    *,
    minimum_version: str = "",
) -> NoReturn:
    """Check a protected variant and become it, without variables that change what is loaded.

    Raises:
        HardeningError: as ``check``; or if it cannot be run.

    """
    folder = folder.resolve()
    manifest = check(folder, trusted, minimum_version=minimum_version)
    words, environment = command(folder, manifest, arguments), safe_environment(manifest.hash_seed)
    try:
        os.execve(words[0], words, environment)  # noqa: S606  # no shell, and checked
    except OSError as error:
        raise HardeningError(f"{words[0]}: cannot be run: {error.strerror}") from None


_RUN = """
import sys
from phalanx.trust.processes import harden_process
harden_process()
sys.path.insert(0, sys.argv[1])
sys.argv[:] = sys.argv[2:]
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def seal(reference: ReferenceValues, recipients: Iterable[ec.EllipticCurvePublicKey]) -> bytes:
    """Encrypt reference values so that only the recipients can read them (ECDH, AES-256-GCM)."""
    ephemeral, content, nonce = ec.generate_private_key(ec.SECP256R1()), os.urandom(32), bytes(12)
    wrapped = [
        AESGCM(_shared(ephemeral, recipient)).encrypt(nonce, content, None)
        for recipient in recipients
    ]
    octets = AESGCM(content).encrypt(nonce, reference.encode(), None)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return msgspec.json.encode(SealedReference(point, tuple(wrapped), nonce, octets))


def unseal(octets: bytes, key: ec.EllipticCurvePrivateKey) -> ReferenceValues:
    """Return the reference values that were sealed for a key.

    Raises:
        HardeningError: if they were not sealed for it, or were altered.

    """
    try:
        sealed = msgspec.json.decode(octets, type=SealedReference)
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sealed.point)
        shared = AESGCM(_shared(key, point))
        for wrapped in sealed.keys:
            try:
                content = shared.decrypt(sealed.nonce, wrapped, None)
            except InvalidTag:
                continue
            opened = AESGCM(content).decrypt(sealed.nonce, sealed.octets, None)
            return ReferenceValues.decode(opened)
    except (ValueError, InvalidTag, RecursionError):
        raise HardeningError("the sealed reference values are malformed or altered") from None
    raise HardeningError("the reference values are not sealed for this key")


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in a file; a new one is made where there is none, with ``.pub``.

    Raises:
        IdentityError: if the file cannot be read or written, or others may read it.
        HardeningError: if it holds another kind of key.

    """
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files.write(path, private, secret=True)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files.write(path.with_name(f"{path.name}.pub"), public)
        return key
    try:
        found = serialization.load_pem_private_key(files.read(path, secret=True), None)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise HardeningError(f"{path}: {_NO_KEY}")
    return found


def trusted_key(path: Path) -> Ed25519PublicKey:
    """Return the Ed25519 public key in a PEM file.

    Raises:
        IdentityError: if it cannot be read.
        HardeningError: if it holds another kind of key.

    """
    try:
        found = serialization.load_pem_public_key(files.read(path))
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise HardeningError(f"{path}: {_NO_KEY}")
    return found


def _shared(key: ec.EllipticCurvePrivateKey, point: ec.EllipticCurvePublicKey) -> bytes:
    secret = key.exchange(ec.ECDH(), point)
    return HKDF(hashes.SHA256(), 32, None, _SEALED).derive(secret)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files in a directory but the manifest; links are refused."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise HardeningError(f"{path}: is neither a file nor a directory")
        if path.is_file() and name != MANIFEST:
            found[name] = sha256(path.read_bytes()).hexdigest()
    return found


def _moved(reference: ReferenceValues, part: Path, out: Path) -> ReferenceValues:
    """Return reference values with the place that the files will have."""
    objects = {
        str(out / Path(path).relative_to(part))
        if Path(path).is_relative_to(part)
        else path: digests
        for path, digests in reference.objects.items()
    }
    return msgspec.structs.replace(reference, objects=objects)


def _harden_program(source: Path, part: Path, named: str) -> list[HardeningStep]:
    """Write the protected variant of an ELF program; return what was found and done."""
    if importlib.util.find_spec("lief") is None:
        raise HardeningError(_NO_LIEF)
    program, library = part / PROGRAM, _library(part / LIBRARY)
    words = (str(source), str(program), LIBRARY if library else "", named)
    # A process of its own: a native parser may crash over what is no sound program.
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-m", "phalanx.trust.elf", *words], capture_output=True, check=False
    )
    if done.returncode != 0 or not program.is_file():
        raise HardeningError(f"{source}: is no ELF program that loads libraries, or a broken one")
    program.chmod(0o755)
    if program_text(str(program)) != program_text(str(source)):
        raise HardeningError(f"{source}: its program text would change; it is not hardened")
    added = f"{LIBRARY} added" if library else "left out: no C compiler"
    found = msgspec.json.decode(done.stdout, type=list[tuple[str, bool, str]])
    findings = [
        HardeningStep(w, "yes" if there else "no", "" if there else r) for w, there, r in found
    ]
    return [*findings, HardeningStep("start library", "none", added)]


def _library(path: Path) -> bool:
    """Compile the library that guards a native program from its start; whether that was done."""
    compiler = shutil.which("cc")
    source = Path(__file__).with_name("start.c")
    if compiler is None:
        return False
    words = (
        compiler,
        "-Os",
        "-fPIC",
        "-shared",
        "-Wl,-z,relro,-z,now",
        "-o",
        str(path),
        str(source),
    )
    return subprocess.run(words, check=False, capture_output=True).returncode == 0  # noqa: S603
