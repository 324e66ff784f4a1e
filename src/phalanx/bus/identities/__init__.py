"""Who is who: a domain's authority, the certificates of its identities, and how they are judged."""

from phalanx.bus.identities.authority import DAYS, Authority, Issued
from phalanx.bus.identities.certificates import BACKDATED, fingerprint, hosts_of, identity_of
from phalanx.bus.identities.credentials import Credentials, Files, tls_context, write_credentials
from phalanx.bus.identities.errors import IdentityError
from phalanx.bus.identities.issued import Record, read_issued
from phalanx.bus.identities.live import LiveCredentials
from phalanx.bus.identities.trust import Trust, read_certificate

__all__ = [
    "BACKDATED",
    "DAYS",
    "Authority",
    "Credentials",
    "Files",
    "IdentityError",
    "Issued",
    "LiveCredentials",
    "Record",
    "Trust",
    "fingerprint",
    "hosts_of",
    "identity_of",
    "read_certificate",
    "read_issued",
    "tls_context",
    "write_credentials",
]
