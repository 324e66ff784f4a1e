"""The wire: frames that leave one TAP enter the other later, in order, none unaccounted for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from linux_needs import requires, requires_root

from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.links import configure, ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.kernel.wire import Strand, Wire

pytestmark = [pytest.mark.linux, requires_root, requires("cc")]

PROTOCOL = 0x88B5  # IEEE: for local experiments
HEADER = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + PROTOCOL.to_bytes(2, "big")


def ready() -> socket.socket:
    """Return a socket on ``tap0`` of the namespace in which this is called."""
    configure({"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1})
    ip("link set dev tap0 up")
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL))
    packets.bind(("tap0", PROTOCOL))
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    packets.settimeout(1.0)
    return packets


def received(packets: socket.socket) -> list[int]:
    found = []
    while True:
        try:
            found.append(int.from_bytes(packets.recv(2048)[14:18], "big"))
        except TimeoutError:
            return found


def frame(number: int, size: int) -> bytes:
    return HEADER + number.to_bytes(4, "big") + bytes(size - 18)


@contextmanager
def joined(
    netns: Callable[[str], str], run: str, delay_ms: float, mb_s: float
) -> Iterator[tuple[Wire, socket.socket, socket.socket]]:
    """Lay a wire between two namespaces; give a socket at each end."""
    a, b = netns("a"), netns("b")
    wire = Wire(run, [Strand(a, "tap0", b, "tap0", delay_ms, mb_s)])
    try:
        with (
            Inside(a) as at_a,
            Inside(b) as at_b,
            at_a.call(ready) as left,
            at_b.call(ready) as right,
        ):
            yield wire, left, right
    finally:
        wire.close()


def test_frames_arrive_late_and_in_order_in_both_directions(
    netns: Callable[[str], str], run: str
) -> None:
    with joined(netns, run, 50.0, 100.0) as (wire, left, right):
        for one, other in ((left, right), (right, left)):
            start = time.monotonic()
            for number in range(400):
                # Sizes that do not fit the ring evenly, more than once around.
                one.send(frame(number, 60 + number * 37 % 1400))
            assert int.from_bytes(other.recv(2048)[14:18], "big") == 0
            assert time.monotonic() - start >= 0.05
            assert received(other) == list(range(1, 400))
        assert wire.shed() == 0


def test_the_queue_is_bounded_and_what_it_sheds_is_counted(
    netns: Callable[[str], str], run: str
) -> None:
    with joined(netns, run, 400.0, 0.001) as (wire, left, right):
        for turn in range(3):  # around the ring, which holds 256 KiB
            for number in range(300):
                left.send(frame(number, 1500))
                time.sleep(0.0002)
            found = received(right)
            assert found == sorted(found)
            assert 100 < len(found) < 300
            assert wire.shed() == (turn + 1) * (300 - len(found))


def test_it_ends_when_its_stdin_does_and_the_interfaces_with_it(
    netns: Callable[[str], str], run: str
) -> None:
    a, b = netns("a"), netns("b")
    wire = Wire(run, [Strand(a, "tap0", b, "tap1", 5.0, 1.0)])
    with Inside(b) as inside:
        assert "tap1" in inside.call(lambda: [name for _, name in socket.if_nameindex()])
        wire.close()
        wire.close()
        assert not Path(f"/proc/{wire.pid}").exists()
        assert inside.call(lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]


def test_what_is_wrong_is_said_in_one_line(netns: Callable[[str], str], run: str) -> None:
    with pytest.raises(KernelError, match=r"netns/phxt-nowhere: No such file") as raised:
        Wire(run, [Strand("phxt-nowhere", "tap0", netns("a"), "tap0", 5.0, 1.0)])
    assert "\n" not in str(raised.value)
