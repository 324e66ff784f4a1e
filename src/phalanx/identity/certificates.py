"""Certificates (RFC 5280): how those of a domain look, and whose a certificate is.

===============  ==========================================  ================================
certificate of   names                                       may be used
===============  ==========================================  ================================
the authority    CN ``<domain> authority``                   to sign, 10 years
an identity      CN ``<name>``, and one alternative name,    as a TLS client, and to sign
                 URI ``phalanx://<domain>/<role>/<name>``    hellos (``bus.seal``)
a broker         the same, and the DNS names and addresses   as a TLS server too
                 that it is reached as
===============  ==========================================  ================================

All keys are EC P-256. Only a broker may be a TLS server and only a broker has names of hosts, so
no agent can stand in for one, nor be taken for another by a host's name. Everything is valid
from ten minutes before it was issued, so that a clock that is some minutes late takes it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phalanx.identity.names import Identity, IdentityError, Role

BACKDATED = timedelta(minutes=10)
"""How much later than the authority's a clock may be."""
AUTHORITY_DAYS = 3653
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    CryptographyDeprecationWarning,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises where octets are no certificate of the kinds above; the warning only
where it was made an error."""
_DIGITAL_SIGNATURE, _SIGNS_CERTIFICATES = "digital_signature", "key_cert_sign"


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, domain: str, now: datetime
) -> x509.Certificate:
    """Return the certificate of a domain's authority, signed with its own key."""
    named = _named(f"{domain} authority"[:64])
    return (
        _builder(named, named, key.public_key(), key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(_SIGNS_CERTIFICATES, "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )


def identity_certificate(
    signer: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    identity: Identity,
    hosts: Iterable[str],
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return the certificate with which ``identity`` proves who it is for ``days`` days.

    Args:
        signer: the authority's key.
        authority: its certificate.
        key: the identity's public key.
        identity: whose it is.
        hosts: DNS names and addresses that it is reached as; only a broker has any.
        now: when it is issued.
        days: how long it is valid.

    Raises:
        IdentityError: if a host is neither a DNS name nor an address; if there are none for a
            broker, or any for another.

    """
    hosts = tuple(dict.fromkeys(hosts))
    if (identity.role is Role.BROKER) != bool(hosts):
        raise IdentityError(
            f"{identity.name} has the role {identity.role.value} and {len(hosts)} hosts; "
            "a broker has at least one, and no other identity has any"
        )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    for host in hosts:
        names.append(host_name(host))
        if isinstance(names[-1], x509.IPAddress):
            names.append(x509.DNSName(host))  # brokers know each other by names alone
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is Role.BROKER:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    return (
        _builder(_named(identity.name), authority.subject, key, signer.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(_DIGITAL_SIGNATURE), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )


def host_name(host: str) -> x509.GeneralName:
    """Return a DNS name or an address as it stands in a certificate.

    Raises:
        IdentityError: if it is neither.

    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return x509.DNSName(host)
    raise IdentityError(f"{host!r} is no host; allowed are DNS names and addresses, without port")


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return whose certificate it says to be; who signed it is not looked at.

    Raises:
        IdentityError: if it is not an identity's.

    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        (common,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        scheme, empty, domain, role, name = uri.split("/")
        identity = Identity(name, Role(role), domain)
        others = len(names) > 1 and identity.role is not Role.BROKER
        if scheme != "phalanx:" or empty or common.value != name or others:
            raise ValueError
    except MALFORMED:
        raise IdentityError(
            f"the certificate of {common_name(certificate)[:80]!r} names no identity; "
            "expected phalanx://DOMAIN/ROLE/NAME and NAME as its common name"
        ) from None
    return identity


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate, or its whole subject if it has none."""
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return str(attribute.value)
    return certificate.subject.rfc4514_string()


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses in a certificate, in their order."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = (str(n.value) for n in names if isinstance(n, x509.DNSName | x509.IPAddress))
    return tuple(dict.fromkeys(hosts))


def may_sign_as_client(certificate: x509.Certificate) -> bool:
    """Whether a certificate is a leaf that stands for a client."""
    try:
        found = certificate.extensions
        leaf = not found.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = found.get_extension_for_class(x509.KeyUsage).value
        uses = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    except MALFORMED:
        return False
    return leaf and usage.digital_signature and ExtendedKeyUsageOID.CLIENT_AUTH in uses


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's public key (SubjectPublicKeyInfo), hexadecimal."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return digest.finalize().hex()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        **{
            what: what in wanted
            for what in (
                _DIGITAL_SIGNATURE,
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                _SIGNS_CERTIFICATES,
                "crl_sign",
                "encipher_only",
                "decipher_only",
            )
        }
    )
