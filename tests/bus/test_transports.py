"""What holds for every transport that is installed, and one from a file outside the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from client_contract import ClientContract
from nats_lab import Ground as NatsGround
from nats_lab import find_server
from reading_contract import ReadingContract
from tests.installed import install

from phalanx.bus.client import BrokerClient, BrokerError
from phalanx.bus.transports import Access, Broker, open_broker, transports
from phalanx.clock.virtual import VirtualClock
from phalanx.identity.names import Identity, Role


class OnVirtualTime:
    """A broker that runs on virtual time."""

    def __init__(self, url: str) -> None:
        self._clock = VirtualClock()
        self._broker: Broker = open_broker(url, self._clock)

    def join(self, identity: Identity) -> BrokerClient:
        return self._broker.join(identity)

    def until(self, true: Callable[[], bool]) -> None:
        self._clock.run(self._clock.now() + 60.0, true)
        assert true()

    def rest(self) -> None:
        self._clock.run(self._clock.now() + 0.1)


class OverNats(NatsGround):
    """Servers with mutual TLS and permissions, reached by their URL."""

    def join(self, identity: Identity) -> BrokerClient:
        hosts = ",".join(f"{host}:{port}" for host, port in self.lab.addresses)
        broker = open_broker(f"nats://{hosts}", self.clock)
        client = broker.join(identity, Access(self.lab.context(identity)))
        self.clients.append(client)
        client.ready()
        return client


@pytest.fixture(params=sorted(transports()))
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnVirtualTime | OverNats]:
    """Return where clients of a transport meet; one of another package is told by a variable."""
    scheme = request.param
    if scheme == "nats":
        try:
            find_server()
        except BrokerError as error:
            pytest.skip(str(error))
        with OverNats.at_servers(tmp_path) as made:
            yield made
        return
    url = {"memory": "memory:"}.get(scheme) or os.environ.get(f"PHALANX_TEST_{scheme.upper()}_URL")
    if url is None:
        pytest.skip(f"PHALANX_TEST_{scheme.upper()}_URL does not say where the broker is")
    yield OnVirtualTime(url)


@pytest.mark.nats
class TestTransports(ClientContract, ReadingContract):
    """The contracts, over each."""


OUTSIDE = """
from phalanx.bus.memory_broker import MemoryBroker


class Counting(MemoryBroker):
    joined = 0

    def join(self, identity, access=None):
        Counting.joined += 1
        return super().join(identity, access)


def open_counting(url, clock):
    return Counting(clock)
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = "[phalanx.transports]\ncounting = counting_bus:open_counting\nlost = nowhere:none\n"
    install(monkeypatch, tmp_path, "counting_bus", OUTSIDE, entries)


@pytest.mark.usefixtures("outside")
class TestOutside(ClientContract, ReadingContract):
    """The contracts, over a transport of another package."""

    @pytest.fixture
    def ground(self) -> OnVirtualTime:
        return OnVirtualTime("counting:")

    def test_its_own_file_carried_it(self, ground: OnVirtualTime) -> None:
        ground.join(Identity("a", Role.AGENT, "edge"))
        assert sys.modules["counting_bus"].Counting.joined == 1

    def test_one_that_cannot_be_loaded_is_said(self) -> None:
        with pytest.raises(BrokerError, match="nowhere:none cannot be loaded: No module"):
            open_broker("lost:", VirtualClock())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("carrier-pigeon:", "no broker that is known; there are transports for memory, nats"),
        ("memory:there", "'memory:' is all of its URL"),
        ("nats://a:1", "on virtual time there is 'memory:'"),
    ],
)
def test_another_url_is_refused_in_one_line(url: str, said: str) -> None:
    with pytest.raises(BrokerError, match=said):
        open_broker(url, VirtualClock())
