from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ledger_group import Group

from phalanx.clock.wall import WallClock
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.rpc import ChainServer

ROOT = Path(__file__).resolve().parents[2]
ANVIL = shutil.which("anvil") or ROOT / "out" / "anvil" / "node_modules" / ".bin" / "anvil"
FREE = "gas_price=0&poll=0.05"


@contextmanager
def served(path: str = "") -> Iterator[tuple[str, WallClock]]:
    """Serve an embedded chain over HTTP, in the same process, eight times as fast as real time."""
    clock = WallClock(speed=8.0)
    chain = EmbeddedChain(clock, path)
    server = ChainServer(chain, clock, 0)
    try:
        yield server.url, clock
    finally:
        server.close()
        chain.close()
        clock.close()


@contextmanager
def anvil() -> Iterator[str]:
    """Run anvil and give its URL."""
    if not Path(ANVIL).exists():
        pytest.skip("anvil is not installed: npm install --prefix out/anvil @foundry-rs/anvil")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    free_of_charge = ["--base-fee", "0", "--gas-price", "0"]
    node = subprocess.Popen([ANVIL, "--port", str(port), "--silent", *free_of_charge])
    try:
        yield f"http://127.0.0.1:{port}?{FREE}"
    finally:
        node.terminate()
        node.wait()


@pytest.fixture
def anvil_url() -> Iterator[str]:
    """Give the URL of an anvil node of the test's own."""
    with anvil() as url:
        yield url


def real_time(url: str) -> Iterator[Group]:
    clock = WallClock()
    group = Group(5, url, clock, salt=secrets.token_hex(4))
    group.period_s = 10.0  # half of it to commit: a busy machine takes seconds for an entry
    yield group
    group.node.close()
    clock.close()


@pytest.fixture(
    params=[
        "memory",
        "evm",
        pytest.param("http", marks=pytest.mark.processes),  # halves of a round in real time
        "witness",
        pytest.param("anvil", marks=pytest.mark.processes),
        pytest.param("PHALANX_LEDGER_RPC", marks=pytest.mark.processes),
    ]
)
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    """Give a group of five agents on each kind of ledger."""
    match request.param:
        case "memory":
            yield Group()
        case "evm":
            yield Group(url=f"evm:{tmp_path / 'chain.db'}")
        case "witness":
            yield Group(url="witness:?witnesses=2")
        case "http":
            with served() as (url, clock):
                group = Group(url=url, clock=clock)
                yield group
                group.node.close()
        case "anvil":
            with anvil() as url:
                yield from real_time(url)
        case variable:
            if variable not in os.environ:
                pytest.skip(f"{variable} names no node")
            yield from real_time(os.environ[variable])
