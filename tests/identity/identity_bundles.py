"""Identities of a domain in files, and what TLS makes of two of them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from phalanx.identity.authority import Authority
from phalanx.identity.credentials import write_credentials
from phalanx.identity.names import Identity, Role

NOW = datetime.now(UTC).replace(microsecond=0)
POP = Identity("pop1", Role.AGENT, "edge")
BROKER = Identity("broker1", Role.BROKER, "edge")


def bundle(
    authority: Authority, folder: Path, identity: Identity = POP, hosts: tuple[str, ...] = ()
) -> Path:
    """Write a new bundle below ``folder``, whose authority is in ``ca``; return its directory."""
    made = folder / identity.name
    made.mkdir()
    issued = authority.issue(identity, hosts)
    write_credentials(made, issued.certificate, issued.key)
    for name in ("ca.pem", "crl.pem"):
        (made / name).write_bytes((folder / "ca" / name).read_bytes())
    return made


def shake(client: ssl.SSLContext, server_folder: Path, host: str) -> list[ssl.SSLObject]:
    """Return client and server after a handshake without a network."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(server_folder / "cert.pem", server_folder / "key.pem")
    server.load_verify_locations(server_folder / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return ends
