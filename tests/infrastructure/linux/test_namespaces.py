"""Namespaces, and threads that live in them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from linux_needs import requires_root

from phalanx.infrastructure.linux.kernel import KernelError, namespaces
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside

pytestmark = [pytest.mark.linux, requires_root]

OWN = "/proc/self/ns/net"
HERE = "/proc/thread-self/ns/net"


def here() -> int:
    return Path(HERE).stat().st_ino


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_a_thread_lives_in_the_namespace_and_the_process_stays_where_it_was(
    netns: Callable[[str], str],
) -> None:
    before = Path(OWN).stat().st_ino
    a, b = netns("a"), netns("b")
    with Inside(a) as first, Inside(b) as second, Inside(None) as own:
        assert first.call(here) == namespaces.identity(a)
        assert second.call(here) == namespaces.identity(b)
        assert own.call(here) == before
        assert first.submit(here).result() == namespaces.identity(a)
    assert here() == Path(OWN).stat().st_ino == before
    assert len({before, namespaces.identity(a), namespaces.identity(b)}) == 3


def test_what_is_made_inside_stays_inside(netns: Callable[[str], str]) -> None:
    a, b = netns("a"), netns("b")

    with Inside(a) as first, Inside(b) as second:
        first.call(ip, "link add name phxt0 type bridge")
        assert "phxt0" in first.call(interfaces)
        assert "phxt0" not in second.call(interfaces)
    assert "phxt0" not in interfaces()


def test_what_is_raised_inside_is_raised_outside(netns: Callable[[str], str]) -> None:
    with Inside(netns("a")) as inside, pytest.raises(ZeroDivisionError):
        inside.call(lambda: 1 / 0)


def test_a_command_with_the_prefix_runs_inside(netns: Callable[[str], str]) -> None:
    name = netns("a")
    command = [*namespaces.prefix(name), "readlink", OWN]
    assert str(namespaces.identity(name)) in subprocess.check_output(command, text=True)


def test_names_and_deletion(netns: Callable[[str], str]) -> None:
    name = netns("a")
    assert namespaces.names(name) == [name]
    with pytest.raises(KernelError, match="File exists"):
        namespaces.create(name)
    assert namespaces.identity(name) is not None  # the refusal did no harm
    namespaces.delete(name)
    namespaces.delete(name)
    assert namespaces.names(name) == []
    with pytest.raises(KernelError, match="cannot be entered"):
        Inside(name)


def test_a_name_whose_maker_was_killed_is_no_namespace_and_can_be_deleted(
    netns: Callable[[str], str],
) -> None:
    name = netns("a")
    namespaces.delete(name)
    (namespaces.FOLDER / name).touch(mode=0)
    assert namespaces.identity(name) is None
    with pytest.raises(KernelError, match="cannot be entered"):
        Inside(name)
    namespaces.delete(name)
    assert namespaces.names(name) == []


def test_aside_leaves_nothing(netns: Callable[[str], str]) -> None:
    netns("a")
    before = namespaces.names()
    elsewhere = namespaces.aside(here)
    assert elsewhere != here()
    assert namespaces.names("phxt-") == [name for name in before if name.startswith("phxt-")]
