"""A fork server: a Python that has imported what VNFs need, and forks one for each image.

To start a Python and import a dozen modules of its library takes 80 ms of processor time, to
fork one that has done so 1 ms. This one holds no code of any VNF: what a child runs is the image
that it is given, as ``python IMAGE ARGUMENTS`` would. The driver starts it by its path, so
it uses nothing but the standard library.

It talks in packets of JSON over standard input, a Unix socket (SOCK_SEQPACKET)::

    to it    {"image": PATH, "arguments": [TEXT, ...], "log": PATH}    start a VNF
             {"pid": NUMBER, "signal": NUMBER}                         send it a signal
    from it  {"pid": NUMBER} or {"error": TEXT}                        to each start, in order
             {"pid": NUMBER, "code": NUMBER}                           a VNF has ended

A code below 0 is the signal that ended it. Once the other end is closed the server exits; its
VNFs live on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl  # noqa: F401
import gc
import json
import os
import pkgutil  # noqa: F401  # imported here and below for those that are forked
import re  # noqa: F401
import runpy
import select
import signal  # noqa: F401
import socket
import struct  # noqa: F401
import sys
import threading  # noqa: F401
import time  # noqa: F401
import typing  # noqa: F401
import urllib.parse  # noqa: F401
import zipimport  # noqa: F401
from pathlib import Path
from typing import TypedDict

NAME = "phalanx-vnf"
"""Before the image, in what ``ps`` shows of a VNF."""
LARGEST = 16_384
"""Octets of a packet."""
_ARGUMENTS_BEGIN, _ARGUMENTS_END = 45, 46
"""Fields of /proc/PID/stat, counted from the one after the command's name."""


class Order(TypedDict):
    """A VNF to start."""

    image: str
    arguments: list[str]
    log: str


def serve(channel: socket.socket) -> Order | None:
    """Serve until the other end of ``channel`` is closed.

    Returns:
        None at the end, and in each child what it is to become.

    """
    children: dict[int, int] = {}  # by the descriptor that becomes readable as they end
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != channel.fileno():
                poll.unregister(ready)
                os.close(ready)
                pid, status = os.waitpid(children.pop(ready), 0)
                _tell(channel, pid=pid, code=os.waitstatus_to_exitcode(status))
                continue
            packet = channel.recv(LARGEST)
            if not packet:
                return None
            order = json.loads(packet)
            if "signal" in order:
                if order["pid"] in children.values():
                    os.kill(order["pid"], order["signal"])
                continue
            try:
                pid = os.fork()
            except OSError as error:
                _tell(channel, error=str(error))
                continue
            if pid == 0:
                for descriptor in children:
                    os.close(descriptor)
                channel.close()
                return Order(image=order["image"], arguments=order["arguments"], log=order["log"])
            descriptor = os.pidfd_open(pid)
            children[descriptor] = pid
            poll.register(descriptor, select.POLLIN)
            _tell(channel, pid=pid)


def become(order: Order, place: tuple[int, int]) -> None:
    """Run an image in this process, in a session of its own; what it says goes into its log.

    Args:
        order: what to run.
        place: of the arguments that ``ps`` shows, see ``place_of_arguments``.

    """
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for path, how, numbers in ((os.devnull, os.O_RDONLY, (0,)), (order["log"], flags, (1, 2))):
        descriptor = os.open(path, how, 0o600)
        for number in numbers:
            os.dup2(descriptor, number)
        if descriptor > 2:
            os.close(descriptor)
    arguments = [order["image"], *order["arguments"]]
    _show([NAME, *arguments], place)
    sys.argv = arguments
    runpy.run_path(order["image"], run_name="__main__")


def place_of_arguments() -> tuple[int, int]:
    """Return where this process's arguments begin and end in its memory, and in that of forks."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[_ARGUMENTS_BEGIN]), int(fields[_ARGUMENTS_END])


def _show(words: list[str], place: tuple[int, int]) -> None:
    """Let ``ps`` show ``words``, as far as there is room: the server's own arguments make it.

    Without ``Path``, which takes ten times as long.
    """
    begin, end = place
    text = "\0".join(words).encode()[: end - begin - 1]
    memory = os.open("/proc/self/mem", os.O_WRONLY)
    os.pwrite(memory, text.ljust(end - begin, b"\0"), begin)
    os.close(memory)
    name = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(name, NAME.encode())
    os.close(name)


def _tell(channel: socket.socket, **packet: int | str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the next packet is then the end
        channel.send(json.dumps(packet).encode())


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # a VNF that needs it says so itself
        ctypes.CDLL("libnftables.so.1")
    place_ = place_of_arguments()
    gc.freeze()  # what is here already stays shared with those that are forked
    with socket.socket(fileno=os.dup(0)) as standard_input:
        order_ = serve(standard_input)
    if order_ is not None:
        become(order_, place_)
