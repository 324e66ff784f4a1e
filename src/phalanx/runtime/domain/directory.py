"""The directory of a domain: who belongs to it, and what each of them is given.

================================  =====================================================
path                              holds
================================  =====================================================
``domain.toml``                   the domain's name, brokers and limits, for people to edit
``authority/``                    the certification authority (``identity``)
``brokers/<name>/``               certificate and key of a broker, and what it keeps
``identities/<name>/``            a bundle: all that one process needs, to be copied
================================  =====================================================

Whatever ends a command in the middle, an identity is there as a whole or not at all: its
bundle appears by one renaming, and it is revoked by one file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from phalanx.domain.errors import ScenarioError
from phalanx.identity import files
from phalanx.identity.authority import Authority, IssuedRecord, read_issued
from phalanx.identity.certificates import fingerprint, hosts_of, identity_of
from phalanx.identity.credentials import CERTIFICATE_FILE, Ask, ask_environment, write_credentials
from phalanx.identity.names import Identity, IdentityError, Role
from phalanx.identity.trust import (
    AUTHORITY_FILE,
    REVOKED_FILE,
    Trust,
    pem,
    read_certificate,
    wall_time,
)
from phalanx.runtime.domain.spec import (
    BrokerSpec,
    DomainSpec,
    bus_text,
    domain_text,
    read_domain,
)

AUTHORITY, BROKERS, IDENTITIES = "authority", "brokers", "identities"
"""Folders of a domain's directory."""
DOMAIN_FILE, BUS_FILE = "domain.toml", "bus.toml"
TRUST_FILE = "trust.secret"
"""Of an agent or a network: the keys that it attests itself and reads the ledger with follow."""


class Standing(Enum):
    """Whether an identity may connect."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Member(Struct, frozen=True):
    """An identity of the domain."""

    identity: Identity
    until: datetime
    """When its certificate ends."""
    standing: Standing
    hosts: tuple[str, ...] = ()
    """Of a broker."""
    key: str = ""
    """SHA-256 of the public key with which it may connect; of who was revoked, none."""


def read_members(folder: Path, domain: str, time: Callable[[], datetime]) -> tuple[Member, ...]:
    """Return who belongs to a domain and who was revoked: brokers first, then by name.

    Args:
        folder: the domain's directory.
        domain: its name.
        time: the time of day.

    Raises:
        IdentityError: if a file cannot be read, or a certificate stands in another's place.

    """
    trust, now = Trust.read(folder / AUTHORITY, time), time()
    found = []
    for certificate in _certificates(folder):
        if trust.revoked(certificate):
            continue  # listed below: its directory is about to go
        until = certificate.not_valid_after_utc
        found.append(
            Member(
                identity_of(certificate),
                until,
                Standing.VALID if until > now else Standing.EXPIRED,
                hosts_of(certificate),
                fingerprint(certificate),
            )
        )
    there = {member.identity.name for member in found}
    found += [
        Member(Identity(record.name, record.role, domain), record.until, Standing.REVOKED)
        for record in _retired(folder, trust, now).values()
        if record.name not in there
    ]
    return tuple(sorted(found, key=lambda m: (m.identity.role is not Role.BROKER, m.identity.name)))


def folders(folder: Path) -> list[Path]:
    """Return the directories of all members of a domain."""
    return sorted(
        path
        for kind in (BROKERS, IDENTITIES)
        for path in (folder / kind).iterdir()
        if not path.name.startswith(".") and path.is_dir()
    )


def _certificates(folder: Path) -> list[x509.Certificate]:
    found = []
    for path in folders(folder):
        certificate = read_certificate(path / CERTIFICATE_FILE)
        if (name := identity_of(certificate).name) != path.name:
            raise IdentityError(f"{path}: holds the certificate of {name}; move it elsewhere")
        found.append(certificate)
    return found


def _retired(folder: Path, trust: Trust, now: datetime) -> dict[str, IssuedRecord]:
    """Return the last certificate of each name that was revoked and has not run out."""
    return {
        record.name: record
        for record in read_issued(folder / AUTHORITY)
        if record.until > now and trust.revoked_serial(int(record.serial, 16))
    }


class Domain:
    """A domain and its directory; ``create`` or ``open`` it.

    Args:
        folder: the directory.
        spec: what its ``domain.toml`` says.
        time: the time of day.
        ask: asked, once, for the passphrase of the authority's key, if it is sealed and needed.

    Raises:
        IdentityError: by all of its methods, if a file cannot be read or written.

    """

    def __init__(
        self,
        folder: Path,
        spec: DomainSpec,
        time: Callable[[], datetime] = wall_time,
        ask: Ask = ask_environment,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self._time = time
        self._ask = ask
        self._opened: Authority | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        spec: DomainSpec,
        time: Callable[[], datetime] = wall_time,
        passphrase: bytes | None = None,
    ) -> Domain:
        """Make a domain's directory (0700), with the brokers, an operator and a recorder.

        Args:
            folder: the directory.
            spec: the domain.
            time: the time of day.
            passphrase: seals the authority's key; None: anyone with its file can use it.

        Raises:
            IdentityError: if there is something already, it cannot be written, or the
                passphrase is too short.

        """
        with files.appearing(folder) as part:
            authority = Authority.create(part / AUTHORITY, spec.name, time, passphrase)
            files.write(part / DOMAIN_FILE, domain_text(spec).encode())
            for each in (BROKERS, IDENTITIES):
                (part / each).mkdir(0o700)
            domain = cls(part, spec, time)
            domain._opened = authority
            for broker in spec.brokers:
                domain.add(broker.name, Role.BROKER)
            for role in (Role.OPERATOR, Role.RECORDER):
                domain.add(role.value, role)
        return cls(folder, spec, time)

    @classmethod
    def open(
        cls,
        folder: Path,
        time: Callable[[], datetime] = wall_time,
        ask: Ask = ask_environment,
    ) -> Domain:
        """Return the domain in a directory; the arguments are those of the class.

        Raises:
            ScenarioError: if there is none, or its ``domain.toml`` is not usable.

        """
        path = folder / DOMAIN_FILE
        if not path.is_file():
            raise ScenarioError(
                f"{folder}: is no domain's directory; phalanx domain init {folder} makes one"
            )
        return cls(folder, read_domain(path), time, ask)

    def bundle(self, name: str) -> Path:
        """Return the directory of an identity that is no broker."""
        return self.folder / IDENTITIES / name

    def broker(self, name: str) -> Path:
        """Return the directory of a broker."""
        return self.folder / BROKERS / name

    def members(self) -> tuple[Member, ...]:
        """Return who belongs to the domain and who was revoked: brokers first, then by name."""
        return read_members(self.folder, self.spec.name, self._time)

    def admitted(self) -> tuple[Member, ...]:
        """Return who may connect to the brokers; a certificate that expired does not help them."""
        return tuple(m for m in self.members() if m.standing is not Standing.REVOKED)

    def add(self, name: str, role: Role, hosts: tuple[str, ...] = ()) -> Path:
        """Make an identity, and return the directory with what its process needs.

        A name that was revoked is free again: the old certificates stay on the revocation list,
        and brokers let nobody in with the old key.

        Args:
            name: of the identity; of an agent, that of its PoP.
            role: what it is for. A broker stands in ``domain.toml`` first.
            hosts: of a broker, DNS names and addresses beside its host.

        Raises:
            ScenarioError: if the name or the hosts are not usable.
            IdentityError: if the name is taken, or the authority's key does not open.

        """
        try:
            identity = Identity(name, role, self.spec.name)
        except ValueError as error:
            raise ScenarioError(str(error)) from None
        authority = self._authority()  # which may wait for a passphrase to be typed
        with self.alone():
            self._check_free(name)
            path, all_hosts = self.bundle(name), hosts
            if role is Role.BROKER:
                path, all_hosts = self.broker(name), (self._broker_spec(name).host, *hosts)
            elif hosts:
                raise ScenarioError(f"{name} has the role {role.value}; only a broker has hosts")
            if path.exists():
                files.vanish(path)  # was revoked
            issued = authority.issue(identity, all_hosts, self.spec.certificate_days)
            with files.appearing(path) as part:
                write_credentials(part, issued.certificate, issued.key)
                if role in (Role.AGENT, Role.NETWORK):
                    secret = secrets.token_hex(32).encode()
                    files.write(part / TRUST_FILE, secret, secret=True)
                self._complete(part, identity)
        return path

    def renew(self, name: str) -> Path:
        """Give an identity a new certificate for the key that it has; return its directory.

        Raises:
            IdentityError: if there is no such identity, or it was revoked.

        """
        authority = self._authority()
        with self.alone():
            path, identity = self._home(name)
            present = read_certificate(path / CERTIFICATE_FILE)
            fresh = authority.renew(present, self.spec.certificate_days)
            self._complete(path, identity)
            files.write(path / CERTIFICATE_FILE, pem(fresh))
        return path

    def revoke(self, name: str) -> None:
        """Take an identity back: no broker lets its key in, no agent takes its seals.

        Raises:
            IdentityError: if there is no such identity.

        """
        authority = self._authority()
        with self.alone():
            path, _ = self._home(name)
            authority.revoke(name)
            files.vanish(path)
            for bundle in folders(self.folder):
                self._write_revoked(bundle)

    def seal(self, passphrase: bytes | None) -> None:
        """Have the authority's key under ``passphrase`` from now on; with None, in the open.

        Raises:
            IdentityError: if the passphrase is too short, or the one until now is not known.

        """
        authority = self._authority()
        with self.alone():
            authority.seal(passphrase)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one command at a time change it, and clear up after one that was killed."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for kind in (BROKERS, IDENTITIES):
                for path in (self.folder / kind).glob(".*"):
                    shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)

    # -- parts ------------------------------------------------------------------------------

    def _authority(self) -> Authority:
        if self._opened is None:
            folder = self.folder / AUTHORITY
            self._opened = Authority.open(folder, self.spec.name, self._time, self._ask)
        return self._opened

    def _complete(self, path: Path, identity: Identity) -> None:
        """Write what a directory holds beside its certificate and key."""
        own = self.folder / AUTHORITY / AUTHORITY_FILE
        files.write(path / AUTHORITY_FILE, files.read(own))
        self._write_revoked(path)
        if identity.role is not Role.BROKER:
            files.write(path / BUS_FILE, bus_text(identity, self.spec).encode())

    def _write_revoked(self, path: Path) -> None:
        listed = files.read(self.folder / AUTHORITY / REVOKED_FILE)
        files.write(path / REVOKED_FILE, listed)

    def _check_free(self, name: str) -> None:
        for member in self.admitted():
            if member.identity.name == name:
                raise IdentityError(
                    f"{name} is there already, as {member.identity.role.value}; "
                    f"phalanx domain renew gives it a new certificate"
                )

    def _broker_spec(self, name: str) -> BrokerSpec:
        for broker in self.spec.brokers:
            if broker.name == name:
                return broker
        raise ScenarioError(
            f"{self.folder / DOMAIN_FILE}: brokers: has no {name!r}; "
            "write down its name and host there first"
        )

    def _home(self, name: str) -> tuple[Path, Identity]:
        for member in self.members():
            if member.identity.name == name:
                if member.standing is Standing.REVOKED:
                    raise IdentityError(f"{name} was revoked already")
                home = self.broker if member.identity.role is Role.BROKER else self.bundle
                return home(name), member.identity
        names = ", ".join(member.identity.name for member in self.members())
        raise IdentityError(
            f"there is no {name!r} in the domain {self.spec.name}; there are {names}"
        )
