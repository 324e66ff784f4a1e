"""The directory of a domain: who belongs to it, and what each of them is given.

================================  =====================================================
path                              holds
================================  =====================================================
``domain.toml``                   the domain's name, brokers and limits, for people to edit
``authority/``                    the certification authority (``bus.identities``)
``brokers/<name>/``               certificate and key of a broker, and what it keeps
``identities/<name>/``            a bundle: all that one process needs, to be copied
================================  =====================================================

Whatever ends a command in the middle, an identity is there as a whole or not at all: its
bundle appears by one renaming, and it is revoked by one file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from phalanx.bus.identities import (
    Authority,
    IdentityError,
    Record,
    Trust,
    files,
    hosts_of,
    identity_of,
    read_certificate,
    write_credentials,
)
from phalanx.bus.identities.authority import read_issued
from phalanx.bus.identities.credentials import CERTIFICATE_FILE
from phalanx.bus.identities.trust import AUTHORITY_FILE, REVOKED_FILE, pem, wall_time
from phalanx.bus.permissions import Identity, Role
from phalanx.domain.errors import ScenarioError
from phalanx.runtime.domain.spec import (
    BrokerSpec,
    DomainSpec,
    bus_text,
    domain_text,
    read_domain,
)

DOMAIN_FILE, BUS_FILE = "domain.toml", "bus.toml"


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


class Domain:
    """A domain and its directory; ``create`` or ``open`` it.

    Raises:
        IdentityError: by all of its methods, if a file cannot be read or written.

    """

    def __init__(
        self, folder: Path, spec: DomainSpec, time: Callable[[], datetime] = wall_time
    ) -> None:
        self.folder = folder
        self.spec = spec
        self._time = time

    @classmethod
    def create(
        cls, folder: Path, spec: DomainSpec, time: Callable[[], datetime] = wall_time
    ) -> Domain:
        """Make a domain's directory (0700), with the brokers, an operator and a recorder.

        Raises:
            IdentityError: if there is something already, or it cannot be written.

        """
        with files.appearing(folder) as part:
            Authority.create(part / "authority", spec.name, time)
            files.write(part / DOMAIN_FILE, domain_text(spec).encode())
            for each in ("brokers", "identities"):
                (part / each).mkdir(0o700)
            domain = cls(part, spec, time)
            for broker in spec.brokers:
                domain.add(broker.name, Role.BROKER)
            for role in (Role.OPERATOR, Role.RECORDER):
                domain.add(role.value, role)
        return cls(folder, spec, time)

    @classmethod
    def open(cls, folder: Path, time: Callable[[], datetime] = wall_time) -> Domain:
        """Return the domain in a directory.

        Raises:
            ScenarioError: if there is none, or its ``domain.toml`` is not usable.

        """
        path = folder / DOMAIN_FILE
        if not path.is_file():
            raise ScenarioError(
                f"{folder}: is no domain's directory; phalanx domain init {folder} makes one"
            )
        return cls(folder, read_domain(path), time)

    def bundle(self, name: str) -> Path:
        """Return the directory of an identity that is no broker."""
        return self.folder / "identities" / name

    def broker(self, name: str) -> Path:
        """Return the directory of a broker."""
        return self.folder / "brokers" / name

    def members(self) -> tuple[Member, ...]:
        """Return who belongs to the domain and who was revoked: brokers first, then by name."""
        trust, now = self._trust(), self._time()
        found = []
        for certificate in self._certificates():
            identity = identity_of(certificate)
            until = certificate.not_valid_after_utc
            standing = Standing.VALID if until > now else Standing.EXPIRED
            if trust.revoked(certificate):
                continue  # listed below: its directory is about to go
            found.append(Member(identity, until, standing, hosts_of(certificate)))
        there = {member.identity.name for member in found}
        found += [
            Member(
                Identity(record.name, record.role, self.spec.name), record.until, Standing.REVOKED
            )
            for record in self._retired().values()
            if record.name not in there
        ]
        return tuple(
            sorted(found, key=lambda m: (m.identity.role is not Role.BROKER, m.identity.name))
        )

    def identities(self) -> tuple[Identity, ...]:
        """Return who may connect to the brokers."""
        return tuple(m.identity for m in self.members() if m.standing is not Standing.REVOKED)

    def add(self, name: str, role: Role, hosts: tuple[str, ...] = ()) -> Path:
        """Make an identity, and return the directory with what its process needs.

        Args:
            name: of the identity; of an agent, that of its PoP.
            role: what it is for. A broker stands in ``domain.toml`` first.
            hosts: of a broker, DNS names and addresses beside its host.

        Raises:
            ScenarioError: if the name or the hosts are not usable.
            IdentityError: if the name is taken, or was revoked and has not run out yet.

        """
        try:
            identity = Identity(name, role, self.spec.name)
        except ValueError as error:
            raise ScenarioError(str(error)) from None
        with self._alone():
            self._check_free(name)
            path, all_hosts = self.bundle(name), hosts
            if role is Role.BROKER:
                path, all_hosts = self.broker(name), (self._broker_spec(name).host, *hosts)
            elif hosts:
                raise ScenarioError(f"{name} has the role {role.value}; only a broker has hosts")
            if path.exists():
                files.vanish(path)  # was revoked
            authority = Authority.open(self.folder / "authority", self.spec.name, self._time)
            issued = authority.issue(identity, all_hosts, self.spec.certificate_days)
            with files.appearing(path) as part:
                write_credentials(part, issued.certificate, issued.key)
                self._complete(part, identity)
        return path

    def renew(self, name: str) -> Path:
        """Give an identity a new certificate for the key that it has; return its directory.

        Raises:
            IdentityError: if there is no such identity, or it was revoked.

        """
        with self._alone():
            path, identity = self._home(name)
            authority = Authority.open(self.folder / "authority", self.spec.name, self._time)
            present = read_certificate(path / CERTIFICATE_FILE)
            fresh = authority.renew(present, self.spec.certificate_days)
            self._complete(path, identity)
            files.write(path / CERTIFICATE_FILE, pem(fresh))
        return path

    def revoke(self, name: str) -> None:
        """Take an identity back for good: no broker lets it in, no agent takes its seals.

        Raises:
            IdentityError: if there is no such identity.

        """
        with self._alone():
            path, _ = self._home(name)
            authority = Authority.open(self.folder / "authority", self.spec.name, self._time)
            authority.revoke(name)
            files.vanish(path)
            for bundle in self._folders():
                self._write_revoked(bundle)

    # -- parts ------------------------------------------------------------------------------

    def _complete(self, path: Path, identity: Identity) -> None:
        """Write what a directory holds beside its certificate and key."""
        own = self.folder / "authority" / AUTHORITY_FILE
        files.write(path / AUTHORITY_FILE, files.read(own))
        self._write_revoked(path)
        if identity.role is not Role.BROKER:
            files.write(path / BUS_FILE, bus_text(identity, self.spec).encode())

    def _write_revoked(self, path: Path) -> None:
        listed = files.read(self.folder / "authority" / REVOKED_FILE)
        files.write(path / REVOKED_FILE, listed)

    def _check_free(self, name: str) -> None:
        for member in self.members():
            if member.identity.name != name:
                continue
            if member.standing is not Standing.REVOKED:
                raise IdentityError(
                    f"{name} is there already, as {member.identity.role.value}; "
                    f"phalanx domain renew gives it a new certificate"
                )
            # Brokers know identities, not certificates: the old key would be let in again.
            raise IdentityError(
                f"{name} was revoked, and a copy of its key may still be about; "
                f"the name is free again on {member.until:%Y-%m-%d}, when its certificate ends"
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

    def _folders(self) -> list[Path]:
        return sorted(
            path
            for kind in ("brokers", "identities")
            for path in (self.folder / kind).iterdir()
            if not path.name.startswith(".") and path.is_dir()
        )

    def _certificates(self) -> list[x509.Certificate]:
        found = []
        for path in self._folders():
            certificate = read_certificate(path / CERTIFICATE_FILE)
            if (name := identity_of(certificate).name) != path.name:
                raise IdentityError(f"{path}: holds the certificate of {name}; move it elsewhere")
            found.append(certificate)
        return found

    def _retired(self) -> dict[str, Record]:
        """Return the last certificate of each name that was revoked and has not run out."""
        trust, now = self._trust(), self._time()
        return {
            record.name: record
            for record in read_issued(self.folder / "authority")
            if record.until > now and trust.revoked_serial(int(record.serial, 16))
        }

    def _trust(self) -> Trust:
        return Trust.read(self.folder / "authority", self._time)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time change it, and clear up after one that was killed."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for kind in ("brokers", "identities"):
                for path in (self.folder / kind).glob(".*"):
                    shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)
