"""Auctions among processes: how a crowd of them is started, told to hold auctions, and weighed.

A crowd is a launcher, whatever server its way of speaking needs, one auctioneer and N bidders.
The launcher imports what its way needs and forks the others, so that 97 processes start within
seconds; each of them makes its connections, keys and agent for itself. What a fork shares is
counted in the PSS once for all, and in the RSS of each as if it were alone.

``python crowd.py MODULE:CLASS FOLDER N`` is a launcher: an order in JSON on each line of its
standard input, an answer on each line of its standard output; the end of its input is its end.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

AUCTIONEER = "auctioneer"
READY_S, HOLD_S, END_S = 300.0, 120.0, 5.0


class Hold(Struct, tag=True, frozen=True):
    """Order: hold auctions."""

    auctions: int
    at_once: int = 1


class Weigh(Struct, tag=True, frozen=True):
    """Order: say what memory the processes take."""


class Held(Struct, frozen=True):
    """Answer to ``Hold``."""

    seconds: list[float]
    """That each auction took, from its first call to the winner's inform."""
    elapsed_s: float
    messages: int
    auctioneer_s: float = 0.0
    """Processor time of the auctioneer's process, in the kernel on its behalf included."""
    bidders_s: float = 0.0
    """Of all bidders' processes."""
    servers_s: float = 0.0
    kernel: float = 0.0
    """Share of all that which was the kernel's."""


class Weighed(Struct, frozen=True):
    """Answer to ``Weigh``: MB, of a bidder the median."""

    bidder_pss: float
    bidder_rss: float
    auctioneer_pss: float
    servers_pss: float


class Way(Protocol):
    """How the processes of a crowd speak with each other; made in the launcher."""

    def servers(self) -> Iterable[int]:
        """Return the processes of the servers that it started."""

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; say that it is ready, and end when told to."""

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; say that it is ready, hold auctions, and end when told to."""

    def close(self) -> None:
        """Stop the servers."""


def bidders(size: int) -> tuple[str, ...]:
    """Return the names of the bidders."""
    return tuple(f"pop{number:04d}" for number in range(size))


# -- in the processes ------------------------------------------------------------------------


def obey(
    loop: asyncio.AbstractEventLoop,
    orders: Connection,
    end: Callable[[], None],
    hold: Callable[[Hold], None] | None = None,
) -> None:
    """Say that the process is ready; have orders taken by the loop from now on."""

    def read() -> None:
        try:
            order = orders.recv()
        except EOFError:
            loop.remove_reader(orders.fileno())
            end()
            return
        assert hold is not None
        hold(order)

    loop.add_reader(orders.fileno(), read)
    orders.send(None)


class Holding:
    """Has auctions held, so many at once, and answers how long they took."""

    def __init__(
        self, begin: Callable[[int], None], orders: Connection, messages: Callable[[], int]
    ) -> None:
        self._begin = begin
        self._orders = orders
        self._messages = messages
        self._numbers = count(1)
        self._left = 0
        self._since = 0.0
        self._before = 0
        self._begun: dict[int, float] = {}
        self._seconds: list[float] = []

    def hold(self, order: Hold) -> None:
        """Begin the first auctions of an order; the ends of auctions begin the next."""
        self._left, self._seconds, self._before = order.auctions, [], self._messages()
        self._since = time.perf_counter()
        for _ in range(min(order.at_once, order.auctions)):
            self._next()

    def ended(self, number: int) -> None:
        """Note that an auction is over."""
        now = time.perf_counter()
        self._seconds.append(now - self._begun.pop(number))
        if self._left:
            self._next()
        elif not self._begun:
            elapsed = now - self._since
            self._orders.send(Held(self._seconds, elapsed, self._messages() - self._before))

    def _next(self) -> None:
        self._left -= 1
        number = next(self._numbers)
        self._begun[number] = time.perf_counter()
        self._begin(number)


def _live(run: Callable[[Connection], None], own: Connection, others: Sequence[Connection]) -> None:
    """Be one process of a crowd, which keeps no other's pipe open."""
    for other in others:
        other.close()
    os.dup2(2, 1)
    run(own)


# -- the launcher ----------------------------------------------------------------------------


class _Member(Struct):
    process: BaseProcess
    orders: Connection

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


def _fork(run: Callable[[Connection], None], others: Sequence[_Member]) -> _Member:
    here, there = multiprocessing.Pipe()
    kept = [here, *(other.orders for other in others)]
    process = multiprocessing.get_context("fork").Process(
        target=_live, args=(run, there, kept), daemon=True
    )
    process.start()
    there.close()
    return _Member(process, here)


def _launch(target: str, folder: Path, size: int) -> None:
    module, _, name = target.partition(":")
    way: Way = getattr(importlib.import_module(module), name)(folder, size)
    members: list[_Member] = []
    try:
        for number in range(size):
            members.append(_fork(partial(way.bidder, number), members))
        members.append(_fork(way.auctioneer, members))
        for member in members:
            _answer(member, READY_S)
        print("ready", flush=True)
        for line in sys.stdin:
            order = msgspec.json.decode(line, type=Hold | Weigh)
            print(msgspec.json.encode(_carry_out(order, members, way)).decode(), flush=True)
    finally:
        for member in members:
            member.orders.close()
        for member in members:
            member.process.join(END_S)
            if member.process.is_alive():
                member.process.kill()
        way.close()


def _answer(member: _Member, within_s: float) -> Any:
    if not member.orders.poll(within_s):
        raise TimeoutError(f"process {member.pid} says nothing")
    return member.orders.recv()


def _carry_out(order: Hold | Weigh, members: list[_Member], way: Way) -> Held | Weighed:
    *bidding, auctioneer = members
    servers = tuple(way.servers())
    if isinstance(order, Weigh):
        pss, rss = zip(*(_memory_mb(member.pid) for member in bidding), strict=True)
        return Weighed(
            statistics.median(pss),
            statistics.median(rss),
            _memory_mb(auctioneer.pid)[0],
            sum(_memory_mb(pid)[0] for pid in servers),
        )
    parts = [(auctioneer.pid,), tuple(member.pid for member in bidding), servers]
    before, in_kernel = [_processor_s(pids) for pids in parts], _kernel_s(parts)
    auctioneer.orders.send(order)
    held: Held = _answer(auctioneer, HOLD_S)
    after, in_kernel_now = [_processor_s(pids) for pids in parts], _kernel_s(parts)
    spent = [now - then for now, then in zip(after, before, strict=True)]
    return msgspec.structs.replace(
        held,
        auctioneer_s=spent[0],
        bidders_s=spent[1],
        servers_s=spent[2],
        kernel=(in_kernel_now - in_kernel) / sum(spent),
    )


def _processor_s(pids: Iterable[int]) -> float:
    """Return the processor time of processes with all their threads, in seconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread may end
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _kernel_s(parts: Iterable[Iterable[int]]) -> float:
    """Return how much of it was the kernel's; to the tick of each process, so for sums only."""
    ticks = 0
    for pid in (pid for part in parts for pid in part):
        ticks += int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> tuple[float, float]:
    """Return PSS and RSS."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    figures = {key: int(rest.split()[0]) for key, _, rest in (ln.partition(":") for ln in lines)}
    return figures["Pss"] / 1024, figures["Rss"] / 1024


# -- whoever measures ------------------------------------------------------------------------


class Crowd:
    """A crowd that runs; to be closed."""

    def __init__(self, target: str, folder: Path, size: int) -> None:
        folder.mkdir()
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self._launcher = subprocess.Popen(  # noqa: S603  # our own interpreter
                [sys.executable, __file__, target, str(folder), str(size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def wait(self) -> None:
        """Wait until all processes of the crowd are ready.

        Raises:
            RuntimeError: with the last words of the launcher, if it ends instead.

        """
        assert self._read().strip() == "ready"

    def hold(self, auctions: int, at_once: int = 1) -> Held:
        """Have auctions held; return what they took."""
        held: Held = self._ask(Hold(auctions, at_once), Held)
        return held

    def weigh(self) -> Weighed:
        """Return what memory the processes take."""
        weighed: Weighed = self._ask(Weigh(), Weighed)
        return weighed

    def close(self) -> None:
        """End all processes of the crowd."""
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.close()
        self._launcher.wait()
        self._launcher.stdout.close()

    def _ask(self, order: Hold | Weigh, kind: type[Any]) -> Any:
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._launcher.stdin.flush()
        return msgspec.json.decode(self._read(), type=kind)

    def _read(self) -> str:
        assert self._launcher.stdout is not None
        line = self._launcher.stdout.readline()
        if not line:
            words = self._said.read_text(errors="replace").strip() or "nothing"
            raise RuntimeError(words.splitlines()[-1])
        return line


if __name__ == "__main__":
    # The ways import this module, and are to find the same one.
    crowd = importlib.import_module("crowd")
    crowd._launch(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
