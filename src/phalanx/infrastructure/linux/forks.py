"""The driver's end of a fork server: VNFs as its children, started, signalled and watched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux import forkserver
from phalanx.infrastructure.linux.forkserver import LARGEST
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.jobs import JobError
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.infrastructure.linux.kernel.runs import VARIABLE

_ROOM = "." * 480
"""An argument that means nothing: VNFs show their own in its place."""


class _Packet(Struct, frozen=True):
    pid: int = 0
    code: int | None = None
    error: str | None = None


class Child:
    """A process that a fork server has started."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """Exit code, below 0 the signal that ended it; None as long as it lives."""
        self._server = server
        self._over = asyncio.Event()

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; without effect once it has ended."""
        self._server.send({"pid": self.pid, "signal": int(number)})

    def ended(self, code: int) -> None:
        """Note its end."""
        self.returncode = code
        self._over.set()


class ForkServer:
    """A fork server, in a namespace or this process's own; see ``forkserver`` for what it does."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: socket.socket,
        process: asyncio.subprocess.Process,
    ) -> None:
        """Take over a process that serves the other end of ``channel``; see ``start``."""
        self.pid = process.pid
        self._loop = loop
        self._channel = channel
        self._process = process
        self._starting: deque[asyncio.Future[Child]] = deque()
        self._children: dict[int, Child] = {}
        self.alive = True
        loop.add_reader(channel, self._read)

    @classmethod
    async def start(
        cls, before: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> ForkServer:
        """Start one.

        Args:
            before: words before its command, as those that enter a namespace.
            folder: working directory, of its children too.
            environment: of it and its children.

        Raises:
            OSError: if it cannot be started.

        """
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with far:
                process = await asyncio.create_subprocess_exec(
                    *(*before, sys.executable, "-I", "-S", forkserver.__file__, _ROOM),
                    stdin=far.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                    cwd=folder,
                    env=environment,
                )
        except BaseException:
            near.close()
            raise
        near.setblocking(False)
        return cls(asyncio.get_running_loop(), near, process)

    async def fork(self, image: Path, arguments: Sequence[str], log: Path) -> Child:
        """Start the program in ``image``, and have what it says in ``log``.

        Raises:
            JobError: if no process can be made.

        """
        started: asyncio.Future[Child] = self._loop.create_future()
        self._starting.append(started)
        self.send({"image": str(image), "arguments": list(arguments), "log": str(log)})
        return await started

    async def close(self, patience_s: float) -> None:
        """End it, and any child that is left: asked first, killed after ``patience_s``."""
        with contextlib.suppress(JobError, asyncio.CancelledError):
            await asyncio.gather(*self._starting)
        left = list(self._children.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            waiting = [child for child in left if child.returncode is None]
            for child in waiting:
                child.send_signal(number)
            if waiting:
                ends = [asyncio.ensure_future(child.wait()) for child in waiting]
                await asyncio.wait(ends, timeout=patience_s)
        self._lost("it was closed")
        await self._process.wait()

    def send(self, packet: dict[str, object]) -> None:
        """Send a packet to the server; it is lost if that is gone, as all its children are."""
        if not self.alive:
            self._refuse("the fork server is gone")
            return
        try:
            self._channel.send(msgspec.json.encode(packet))
        except OSError as error:
            self._lost(str(error))

    def _read(self) -> None:
        try:
            data = self._channel.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost("it has ended")
            return
        packet = msgspec.json.decode(data, type=_Packet)
        if packet.code is not None:
            self._children.pop(packet.pid).ended(packet.code)
            return
        started = self._starting.popleft()
        if packet.error is not None:
            if not started.done():
                started.set_exception(JobError(f"no process for a VNF: {packet.error}"))
            return
        child = self._children[packet.pid] = Child(self, packet.pid)
        if started.done():  # nobody waits for it any more
            child.send_signal(signal.SIGTERM)
        else:
            started.set_result(child)

    def _lost(self, reason: str) -> None:
        """End with the server: nobody would tell how its children fare."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._channel)
        self._channel.close()
        self._refuse(f"the fork server is gone: {reason}")
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.ended(-signal.SIGKILL)
        self._children.clear()

    def _refuse(self, reason: str) -> None:
        while self._starting:
            started = self._starting.popleft()
            if not started.done():
                started.set_exception(JobError(reason))


class ForkServers:
    """The fork servers of a run, one in the namespace and control group of each PoP."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ground: Ground) -> None:
        """Start none yet."""
        self._loop = loop
        self._ground = ground
        self._servers: dict[PopId, asyncio.Task[ForkServer]] = {}
        self.folder = ground.folder / "vnf"
        """Where they and their children run."""

    async def at(self, pop: PopId) -> ForkServer:
        """Return the one at ``pop``; a new one if there is none, or it is gone.

        Raises:
            OSError: if it cannot be started.
            KernelError: if its control group does not take it.

        """
        task = self._servers.get(pop)
        if task is None or (task.done() and (task.exception() or not task.result().alive)):
            task = self._servers[pop] = self._loop.create_task(self._start(pop))
        return await asyncio.shield(task)

    async def close(self, patience_s: float) -> None:
        """End them all, and any child that is left; see ``ForkServer.close``."""
        tasks, self._servers = list(self._servers.values()), {}
        for server in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(server, ForkServer):
                await server.close(patience_s)

    async def _start(self, pop: PopId) -> ForkServer:
        namespace = self._ground.namespace(pop)
        before = [] if namespace is None else prefix(namespace)
        environment = {VARIABLE: self._ground.run, "PATH": os.environ.get("PATH", "")}
        self.folder.mkdir(exist_ok=True)
        server = await ForkServer.start(before, self.folder, environment)
        try:
            self._ground.cgroup(pop).enter(server.pid)  # its children are in it from the start
        except BaseException:
            await server.close(0.0)
            raise
        return server
