"""The measurer's socket: evidence of whoever asks, and of nobody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from phalanx.clock.wall import WallClock
from phalanx.domain.actions import Failed, Outcome
from phalanx.domain.trust import Evidence, Measure
from phalanx.trust.attesting import Measured, MeasurerClient, MeasurerSocket
from phalanx.trust.measurement import ProcessMeasurement, ReferenceValues

KEY = Ed25519PrivateKey.from_private_bytes(bytes([3] * 32))
REFERENCE = ReferenceValues("agent", "1.0", counts=False)
NONCE = "5a" * 16
ASK = """
import socket, sys
sys.stdin.readline()
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(sys.argv[2].encode() + b"\\n")
sys.stdout.write(peer.makefile().readline())
"""


@contextmanager
def served(folder: Path, pid: int | None) -> Iterator[tuple[WallClock, Path]]:
    clock = WallClock()
    agents = {"pop1": Measured("pop1", lambda: pid, KEY, REFERENCE)}
    path = folder / "measurer.sock"
    sockets = MeasurerSocket(path, agents)
    serving = clock.loop.create_task(sockets.serve())
    try:
        while not (path.exists() and path.stat().st_mode & 0o777 == 0o600):
            clock.run(clock.now() + 0.01)
        yield clock, path
    finally:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            clock.loop.run_until_complete(serving)
        sockets.close()
        clock.close()


def asked(clock: WallClock, path: Path, nonce: str = NONCE) -> Outcome:
    answers: list[Outcome] = []
    MeasurerClient(path, clock)(Measure(nonce), "", answers.append)
    clock.run(clock.now() + 60, lambda: bool(answers))
    return answers[0]


@contextmanager
def asking(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that asks for evidence once it is told to."""
    command = [sys.executable, "-c", ASK, str(folder / "measurer.sock"), NONCE]
    with (folder / "answer").open("w") as answer:  # a pipe might not hold it
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer, text=True)
    try:
        yield other
    finally:
        other.kill()
        other.wait()


def answered(other: subprocess.Popen[str], clock: WallClock, folder: Path) -> str:
    """Return what the measurer answers to another process, which asks now."""
    assert other.stdin is not None
    other.stdin.close()
    while other.poll() is None:
        clock.run(clock.now() + 0.01)
    return (folder / "answer").read_text()


@pytest.mark.processes
def test_evidence_is_of_the_process_that_asks_and_signed(tmp_path: Path) -> None:
    with asking(tmp_path) as other, served(tmp_path, other.pid) as (clock, path):
        assert path.stat().st_mode & 0o777 == 0o600
        evidence = msgspec.json.decode(answered(other, clock, tmp_path), type=Evidence)
    assert (evidence.agent, evidence.nonce, evidence.modelled) == ("pop1", NONCE, False)
    assert ProcessMeasurement.decode(evidence.measurement).pid == other.pid
    unsigned = msgspec.structs.replace(evidence, signature="")
    octets = msgspec.msgpack.Encoder(order="deterministic").encode(unsigned)
    KEY.public_key().verify(bytes.fromhex(evidence.signature), octets)


def test_another_process_gets_no_evidence_of_an_agent(tmp_path: Path) -> None:
    with asking(tmp_path) as other, served(tmp_path, 1) as (clock, path):
        refused = asked(clock, path)
        said = answered(other, clock, tmp_path)
    assert "is no agent that is measured here" in said
    assert isinstance(refused, Failed)


@pytest.mark.parametrize("nonce", ["", "zz" * 16, "5a" * 8, "5A" * 16, "x" * 5000])
def test_what_is_no_nonce_is_refused(tmp_path: Path, nonce: str) -> None:
    with served(tmp_path, os.getpid()) as (clock, path):
        refused = asked(clock, path, nonce)
    assert isinstance(refused, Failed)
    assert refused.reason == "the nonce is not 32 hexadecimal digits"


def test_a_measurer_that_is_away_is_no_evidence(tmp_path: Path) -> None:
    clock = WallClock()
    refused = asked(clock, tmp_path / "nothing")
    clock.close()
    assert refused == Failed("the measurer does not answer: FileNotFoundError")
