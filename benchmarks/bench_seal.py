"""What it costs to seal a message end to end; beside a TLS record, and a signature on each.

All in one process and without a network: the sender's and the receiver's work in microseconds
per message, the best of several rounds, and as a ratio to the seal. A TLS record protects a
message as far as the broker only; a signature does not hide it.

Run it with ``python benchmarks/bench_seal.py [--quick]``.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from phalanx.bus.seal import Seal
from phalanx.bus.seal_frames import OpenedFrame
from phalanx.identity.authority import Authority
from phalanx.identity.credentials import Credentials, Files, tls_context, write_credentials
from phalanx.identity.names import Identity, Role
from tables import QUICK, console, show

T = TypeVar("T")
R = TypeVar("R")

SIZES = (1024,) if QUICK else (128, 1024, 16_384)
MESSAGES, ROUNDS = (200, 2) if QUICK else (2000, 7)

Way = Callable[[list[bytes]], tuple[float, float]]
"""Sends messages and hears them; seconds of the sender, seconds of the receiver."""


def seals(folder: Path) -> tuple[Seal, Seal]:
    """Return the seals of two agents that never met."""
    authority = Authority.create(folder / "ca", "bench")
    made = []
    for name in ("a", "b"):
        issued = authority.issue(Identity(name, Role.AGENT, "bench"))
        made.append(Seal(Credentials(issued.certificate, issued.key, authority.trust), 1))
    return made[0], made[1]


def handshake(a: Seal, b: Seal) -> None:
    """Let two seals agree, by one message."""
    (hello,) = a.wrap("b", b"first", 0.0)
    (answer,) = b.open("a", hello, 0.0).replies
    (sealed,) = a.open("b", answer, 0.0).replies
    assert b.open("a", sealed, 0.0) == OpenedFrame(b"first")


def sealing(a: Seal, b: Seal) -> Way:
    """Seal and open."""

    def way(messages: list[bytes]) -> tuple[float, float]:
        frames, sending = timed(lambda m: a.wrap("b", m, 1.0)[0], messages)
        opened, hearing = timed(lambda f: b.open("a", f, 1.0), frames)
        assert opened[-1] == OpenedFrame(messages[-1])
        return sending, hearing

    return way


def tls(folder: Path) -> Way:
    """Write and read a record of TLS 1.3, without a socket."""
    authority = Authority.create(folder / "tls", "bench")
    for name, role, hosts in (("c", Role.AGENT, ()), ("s", Role.BROKER, ("localhost",))):
        (folder / name).mkdir()
        issued = authority.issue(Identity(name, role, "bench"), hosts)
        write_credentials(folder / name, issued.certificate, issued.key)
        (folder / name / "ca.pem").write_bytes((folder / "tls" / "ca.pem").read_bytes())
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "s" / "cert.pem", folder / "s" / "key.pem")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_context(Files.of(folder / "c")).wrap_bio(back, there, server_hostname="localhost")
    server = server_side.wrap_bio(there, back, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue

    def way(messages: list[bytes]) -> tuple[float, float]:
        frames, sending = timed(lambda m: (client.write(m), there.read())[1], messages)
        _, hearing = timed(lambda f: (there.write(f), server.read(1 << 16))[1], frames)
        return sending, hearing

    return way


def ed25519_signing() -> Way:
    """Sign and verify with Ed25519."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key()

    def way(messages: list[bytes]) -> tuple[float, float]:
        signatures, sending = timed(key.sign, messages)
        pairs = list(zip(signatures, messages, strict=True))
        return sending, timed(lambda pair: public.verify(*pair), pairs)[1]

    return way


def ecdsa_signing() -> Way:
    """Sign and verify with the key of a certificate (ECDSA, P-256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, scheme = key.public_key(), ec.ECDSA(hashes.SHA256())

    def way(messages: list[bytes]) -> tuple[float, float]:
        signatures, sending = timed(lambda m: key.sign(m, scheme), messages)
        pairs = list(zip(signatures, messages, strict=True))
        return sending, timed(lambda pair: public.verify(*pair, scheme), pairs)[1]

    return way


def nothing(messages: list[bytes]) -> tuple[float, float]:
    """Call a function that does nothing."""
    return timed(lambda m: m, messages)[1], timed(lambda m: m, messages)[1]


def timed(work: Callable[[T], R], items: Sequence[T]) -> tuple[list[R], float]:
    """Return what ``work`` makes of the items, and the seconds for one."""
    begin = time.perf_counter()
    made = [work(item) for item in items]
    return made, (time.perf_counter() - begin) / len(items)


def best(way: Way, size: int) -> tuple[float, float]:
    """Return the least microseconds of sender and receiver."""
    rounds = [way([os.urandom(size) for _ in range(MESSAGES)]) for _ in range(ROUNDS)]
    return 1e6 * min(s for s, _ in rounds), 1e6 * min(h for _, h in rounds)


def main() -> None:
    """Print both tables."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        a, b = seals(place)
        handshake(a, b)
        ways: dict[str, Way] = {
            "nothing": nothing,
            "Phalanx: seal": sealing(a, b),
            "TLS 1.3 record": tls(place),
            "Ed25519 on each": ed25519_signing(),
            "ECDSA P-256 on each": ecdsa_signing(),
        }
        for size in SIZES:
            figures = {name: best(way, size) for name, way in ways.items()}
            whole = sum(figures["Phalanx: seal"])
            rows = [
                (name, f"{sent:.2f}", f"{heard:.2f}", f"{(sent + heard) / whole:.2f}")
                for name, (sent, heard) in figures.items()
            ]
            show(f"A message of {size} octets", ("", "send µs", "hear µs", "of the seal"), rows)
        meetings = []
        for number in range(3 if QUICK else 30):
            (place / str(number)).mkdir()
            pair = seals(place / str(number))
            begin = time.perf_counter()
            handshake(*pair)
            meetings.append(time.perf_counter() - begin)
        console.print(f"two agents that never met agree in {1e3 * min(meetings):.2f} ms of work")


if __name__ == "__main__":
    main()
