"""The socket bus between network namespaces, which nothing but their own wire connects."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bus_messages import Inbox, message

from phalanx.bus.sockets import SocketBus
from phalanx.clock.wall import WallClock

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="not installed: ip"),
]

ADDRESSES = {"a": ("10.255.0.1", 7400), "b": ("10.255.0.2", 7400)}
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)  # noqa: S607


@pytest.fixture
def namespaces() -> Iterator[dict[str, str]]:
    """Two namespaces with a wire between them."""
    mark = secrets.token_hex(3)
    names = {agent: f"phxt-{mark}-{agent}" for agent in ADDRESSES}
    try:
        for name in names.values():
            ip("netns", "add", name)
        a, b = names.values()
        ip("-n", a, "link", "add", "wire", "type", "veth", "peer", "wire", "netns", b)
        for agent, name in names.items():
            ip("-n", name, "address", "add", f"{ADDRESSES[agent][0]}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=10)  # noqa: S607


def setns(handle: int) -> None:
    if _libc.setns(handle, 0):
        raise OSError(ctypes.get_errno(), "setns")


def test_each_agent_speaks_and_hears_in_its_own_namespace(namespaces: dict[str, str]) -> None:
    @contextmanager
    def enter(agent: str) -> Iterator[None]:
        # Not /proc/self: that is the first thread's, which is the one that moves.
        with (
            Path("/proc/thread-self/ns/net").open() as home,
            Path("/run/netns", namespaces[agent]).open() as there,
        ):
            setns(there.fileno())
            try:
                yield
            finally:
                setns(home.fileno())

    home = Path("/proc/thread-self/ns/net").readlink()
    clock, inbox = WallClock(), Inbox()
    bus = SocketBus(clock, ADDRESSES, enter=enter)
    try:
        bus.attach("a", inbox)
        bus.attach("b", lambda got: bus.send(message(2, "b", "a")))
        bus.send(message(1))
        clock.run(5.0, lambda: inbox.ids == ["m2"])
        assert inbox.ids == ["m2"]
        assert Path("/proc/thread-self/ns/net").readlink() == home
        ip("-n", namespaces["b"], "link", "set", "wire", "down")
        bus.detach("b")
        bus.send(message(3))
        bus.detach("a")
        assert (bus.delivered, bus.refused) == (2, {})
    finally:
        bus.close()
        clock.close()
