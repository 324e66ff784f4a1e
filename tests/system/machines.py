"""Machines in namespaces: addresses, processes and files of their own, joined by a switch.

A machine sees this one's files below its own: what it writes to /etc, /opt, /root and /var is
its own, and gone with it. ``ssh``, ``scp``, ``systemctl`` and ``journalctl`` are there in
small. A machine that is lost loses its processes and its link, and keeps its files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
import pytest

from phalanx.infrastructure.linux.kernel import namespaces
from phalanx.infrastructure.linux.kernel.namespaces import FOLDER, prefix
from tests.system.interrupts import heed_ctrl_c

ADDRESS = "192.0.2.{}"
OWN = ("etc", "opt", "root", "var")
"""Directories that a machine has a copy of."""
SYSTEMCTL = Path(__file__).with_name("small_systemctl.py")

_DISK = """
set -e
mount --make-rprivate /
mount -t tmpfs disk {disk}
for name in {own}; do
    mkdir {disk}/$name {disk}/.$name
    mount -t overlay $name -o lowerdir=/$name,upperdir={disk}/$name,workdir={disk}/.$name /$name
done
mkdir -p /opt/phalanx /root/desk
ln -s {bin} /opt/phalanx/bin
ln -s {checkout} /root/desk/phalanx
echo ready
exec sleep infinity
"""
_BOOT = """
mount -t proc proc /proc
mount -t tmpfs run /run
ip link set lo up
echo ready
while :; do sleep 3600 & wait $!; done
"""
"""The first process of a machine; the shell takes in whoever loses its parent."""

_SSH = """\
#!{python}
import array, json, socket, sys
to = socket.socket(socket.AF_UNIX)
to.connect({door!r})
host, *words = sys.argv[1:]
said = json.dumps([host, " ".join(words)]).encode()
socket.send_fds(to, [said], [0, 1, 2])
sys.exit(int(to.recv(16) or 255))
"""
_SCP = """\
#!/bin/bash
set -euo pipefail
if [ "$1" = -rp ]; then shift; fi
for to; do :; done
folder=${to#*:}
for from; do
    [ "$from" = "$to" ] || tar -C "$(dirname "$from")" -cf - "$(basename "$from")" |
        ssh "${to%%:*}" "tar -xf - -C ${folder:-.}"
done
"""
_JOURNALCTL = '#!/bin/sh\ncat "/var/log/$2.log"\n'


class Machine:
    """One of them; it runs when it is made."""

    def __init__(self, number: int, netns: str, folder: Path, programs: Path) -> None:
        self.number = number
        self._netns = netns
        self._programs = programs
        self._scripts = folder / f"scripts{number}"
        self._scripts.mkdir()
        disk = folder / f"disk{number}"
        disk.mkdir()
        script = _DISK.format(
            disk=disk,
            own=" ".join(OWN),
            bin=Path(sys.executable).parent,
            checkout=Path(__file__).parents[2],
        )
        self._disk = _started("unshare", "-m", "--kill-child", "sh", "-c", script)
        self._first: subprocess.Popen[str] | None = None
        self.boot()

    def boot(self) -> None:
        """Start it, with all units that are enabled."""
        inside = ["nsenter", f"--mount=/proc/{self._disk.pid}/ns/mnt"]
        inside.append(f"--net={FOLDER / self._netns}")
        inside += ["unshare", "-m", "-p", "-f", "--kill-child", "bash", "-c", _BOOT]
        self._first = _started(*inside)
        code, said = self.run("systemctl boot")
        assert code == 0, said

    def lose(self) -> None:
        """Have all of its processes end at once."""
        if self._first is not None:
            self._first.kill()  # and with it the first process, and with that one all
            self._first.communicate()
            self._first = None

    def close(self) -> None:
        """End it, and forget its files."""
        self.lose()
        self._disk.kill()
        self._disk.communicate()

    def words(self, command: str) -> list[str]:
        """Return what runs a shell's commands in it, as root at home."""
        assert self._first is not None, f"machine {self.number} is lost"
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        first = children.read_text().split()[0]
        path = f"{self._programs}:/opt/phalanx/bin:{os.environ['PATH']}"
        environment = (f"PATH={path}", "HOME=/root", "LC_ALL=C.UTF-8", "PYTHONUNBUFFERED=1")
        script = self._scripts / secrets.token_hex(8)  # so that pgrep does not find the shell
        script.write_text(command)
        entered = ("nsenter", "-t", first, "-m", "-n", "-p")
        return [*entered, "env", "-i", "-C", "/root/desk", *environment, "bash", "-e", str(script)]

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command that says something."""
        return subprocess.Popen(
            self.words(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509  # nothing here has threads
        )

    def run(self, command: str, *, within_s: float = 60.0) -> tuple[int, str]:
        """Return the exit code of a command and what it said."""
        process = self.start(command)
        said, _ = process.communicate(timeout=within_s)
        return process.returncode, said


class Machines:
    """So many of them, with the addresses 192.0.2.1 and so on; used with ``with``."""

    def __init__(self, folder: Path, count: int) -> None:
        self._stack = contextlib.ExitStack()
        self._mark = secrets.token_hex(3)
        self._folder = folder
        self.machines: dict[int, Machine] = {}
        try:
            self._make(count)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> Machine:
        return self.machines[number]

    def lose(self, number: int) -> None:
        """Cut a machine's link and end all of its processes."""
        self._ip("switch", f"link set port{number} down")
        self.machines[number].lose()

    def restore(self, number: int) -> None:
        """Mend the link of a machine that was lost, and start it."""
        self._ip("switch", f"link set port{number} up")
        self.machines[number].boot()

    def _make(self, count: int) -> None:
        programs = self._folder / "programs"
        programs.mkdir()
        door = self._folder / "door"
        for name, text in {
            "ssh": _SSH.format(python=sys.executable, door=str(door)),
            "scp": _SCP,
            "journalctl": _JOURNALCTL,
            "systemctl": f'#!/bin/sh\nexec {sys.executable} {SYSTEMCTL} "$@"\n',
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._namespace("switch")
        self._ip("switch", "link add switch type bridge")
        self._ip("switch", "link set switch up")
        for number in range(1, count + 1):
            name = self._namespace(f"{number}")
            peer = f"link add port{number} type veth peer name eth0 netns {name}"
            self._ip("switch", peer)
            self._ip("switch", f"link set port{number} master switch up")
            self._ip(f"{number}", f"addr add {ADDRESS.format(number)}/24 dev eth0")
            self._ip(f"{number}", "link set eth0 up")
            machine = Machine(number, name, self._folder, programs)
            self._stack.callback(machine.close)
            self.machines[number] = machine
        self._stack.callback(self._listen(door))

    def _namespace(self, place: str) -> str:
        name = f"phxt-{self._mark}-{place}"
        namespaces.create(name)
        self._stack.callback(namespaces.delete, name)
        return name

    def _ip(self, place: str, words: str) -> None:
        command = [*prefix(f"phxt-{self._mark}-{place}"), "ip", *words.split()]
        subprocess.run(command, check=True, capture_output=True)

    # -- ssh --------------------------------------------------------------------------------

    def _listen(self, door: Path) -> Callable[[], None]:
        """Carry out what ``ssh`` on one machine wants of another; return how to end that."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(door))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # it was closed
                while True:
                    self._carry_out(listener.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()

        def close() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()

        return close

    def _carry_out(self, caller: socket.socket) -> None:
        with caller:
            said, ends, _, _ = socket.recv_fds(caller, 1 << 16, 3)
            to, command = msgspec.json.decode(said, type=tuple[str, str])
            number = int(to.rpartition(".")[2])
            assert to == f"root@{ADDRESS.format(number)}", to
            stdin, stdout, stderr = ends
            done = subprocess.run(
                self.machines[number].words(command),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                timeout=60,
                check=False,
            )
            for end in ends:
                os.close(end)
            caller.sendall(str(done.returncode).encode())


def heard(machine: Machine, command: str, words: str, within_s: float) -> tuple[bool, str]:
    """Run a command until it says something, then press Ctrl-C.

    Returns:
        Whether it said so in time, and all that it said.

    """
    process = machine.start(command)
    assert process.stdout is not None
    late = threading.Timer(within_s, os.killpg, (process.pid, signal.SIGINT))
    late.start()
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            break
    late.cancel()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    return words in said, said + rest


def _started(*words: str) -> subprocess.Popen[str]:
    """Start what says when it is ready."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        pytest.skip(f"no machines here: {process.communicate()[1].strip()}")
    return process
