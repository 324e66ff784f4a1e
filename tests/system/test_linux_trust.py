"""Agents that attest each other over real packets: their keys are those of the overlay."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, Scenario, TrustSpec
from phalanx.runtime.system import RunResult, System
from tests.system.linux_runs import lacking, traces

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.runtime.linux_environment import LinuxEnvironment

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

ROOT = Path(__file__).parents[2]
OUT = "pop1"
INFECTED_S, DEPLOYED_S = 9.0, 20.0


def scenario() -> Scenario:
    """Return a quiet testbed in which one agent is infected, and later deployed anew."""
    whole = load_scenario(ROOT / "scenarios" / "ddos-linux.yaml")
    users = tuple(group for group in whole.traffic if group.name == "office-users")
    faults = (
        FaultSpec(INFECTED_S, "infect", agent=OUT),
        FaultSpec(DEPLOYED_S, "crash", agent=OUT, for_s=1),
    )
    trust = TrustSpec(period_s=5.0)
    return replace(whole, traffic=users, faults=faults, trust=trust, duration_s=36)


class Capture:
    """What IKE and ESP the others send to one PoP, from when it is shut out until it is back."""

    def __init__(self, environment: LinuxEnvironment) -> None:
        self._environment = environment
        self._socket: socket.socket | None = None
        self.while_out: list[bytes] | None = None
        self.after: list[bytes] = []

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "overlay.revoked":
                inside = Inside(self._environment._testbed.namespace(OUT))
                kinds = socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)
                self._socket = inside.call(socket.socket, *kinds)
                self._socket.setblocking(False)
                inside.close()
            case "trust.enrolled" if self._socket is not None:
                self.while_out = self._heard()
            case "run.ended" if self._socket is not None:
                self.after = self._heard()
                self._socket.close()

    def _heard(self) -> list[bytes]:
        assert self._socket is not None
        own = socket.inet_aton(self._environment._testbed.underlay(OUT))
        found = []
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(65535)
            except BlockingIOError:
                return found
            packet = frame[14:]
            ours = frame[12:14] == b"\x08\x00" and packet[16:20] == own
            if ours and kind != socket.PACKET_OUTGOING and _keyed(packet):
                found.append(packet)


def _keyed(packet: bytes) -> bool:
    port = struct.unpack_from("!H", packet, 4 * (packet[0] & 15) + 2)[0]
    return packet[9] == 50 or (packet[9] == 17 and port in (500, 4500, 4789))


Ran = tuple[RunResult, Capture, str]


@pytest.fixture(scope="module")
def ran() -> Ran:
    if lack := lacking("nginx", "ip", "nft"):
        pytest.skip(f"no runs on real packets here: {lack}")
    environment = LinuxEnvironment()
    capture = Capture(environment)
    system = System(scenario(), environment=environment, sinks=[capture])
    return system.run(), capture, environment.run


def of(ran: Ran, kind: str) -> list[Event]:
    return [event for event in ran[0].events if event.kind == kind]


def test_all_pairs_are_protected_by_the_epochs_keys_once_these_are_handed_out(ran: Ran) -> None:
    first = of(ran, "overlay.keyed")[0]
    assert first.data == {"epoch": 1, "pairs": 15}
    assert first.time < INFECTED_S + 5


def test_an_expelled_agents_pop_is_shut_out_and_the_others_get_another_epochs(ran: Ran) -> None:
    found = next(e for e in of(ran, "trust.changed") if e.data.get("standing") == "quarantined")
    (revoked,) = of(ran, "overlay.revoked")
    assert revoked.data == {"pop": OUT}
    assert revoked.cause == found.cause, "it follows from the result that expelled the agent"
    assert {"epoch": 2, "pairs": 10} in [e.data for e in of(ran, "overlay.keyed")]
    assert of(ran, "overlay.failed") == []


def test_nothing_of_the_overlay_goes_to_it_while_it_is_out(ran: Ran) -> None:
    capture = ran[1]
    assert capture.while_out == []
    assert capture.after, "the capture would not have shown it"


def test_deployed_anew_it_is_verified_over_the_overlay_and_gets_the_epochs_keys(ran: Ran) -> None:
    (back,) = of(ran, "overlay.readmitted")
    verified = [e for e in of(ran, "trust.changed") if e.data["standing"] == "trusted"][-1]
    last = of(ran, "overlay.keyed")[-1]
    assert verified.data["agent"] == OUT
    assert back.time < verified.time < last.time
    assert last.data == {"epoch": 2, "pairs": 15}


def test_nothing_is_left_of_it(ran: Ran) -> None:
    assert traces(ran[2]) == []
