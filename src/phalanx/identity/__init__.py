"""Who is who: a domain's authority, the certificates of its identities, and how they are judged."""

from phalanx.identity.authority import DAYS, Authority, Issued, IssuedRecord, read_issued
from phalanx.identity.certificates import BACKDATED, fingerprint, hosts_of, identity_of
from phalanx.identity.credentials import (
    Credentials,
    Files,
    LiveCredentials,
    tls_context,
    write_credentials,
)
from phalanx.identity.names import IdentityError
from phalanx.identity.trust import Trust, read_certificate

__all__ = [
    "BACKDATED",
    "DAYS",
    "Authority",
    "Credentials",
    "Files",
    "IdentityError",
    "Issued",
    "IssuedRecord",
    "LiveCredentials",
    "Trust",
    "fingerprint",
    "hosts_of",
    "identity_of",
    "read_certificate",
    "read_issued",
    "tls_context",
    "write_credentials",
]
