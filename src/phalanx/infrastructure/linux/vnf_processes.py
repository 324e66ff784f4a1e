"""VNFs as processes: brought from the repository, forked, driven over REST, watched and ended.

A fork server in each PoP's namespace starts them; ``forkserver`` says what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.domain.network import PopId
from phalanx.infrastructure.linux import forkserver
from phalanx.infrastructure.linux.forkserver import LARGEST
from phalanx.infrastructure.linux.images import VnfImage
from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.infrastructure.linux.kernel.runs import VARIABLE, note
from phalanx.infrastructure.linux.repository import ImageStore
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.vnf.nft import owner_of
from phalanx.infrastructure.linux.workers import DriverContext
from phalanx.infrastructure.reservations.images import ImageCache
from phalanx.infrastructure.reservations.instances import Fail, Instance, Ready

BOOT_S = 15.0
"""A VNF that does not answer this long after its start has failed, in seconds."""
LIVED_S = 2.0
"""A VNF that ends sooner than this after its start is not started again, in seconds."""
NOTICED_S = 0.5
"""That a VNF has ended is noticed so soon after it answers no more, in seconds."""
END_S = 2.0
"""A VNF that was asked to end is killed after this long, in seconds."""
MOST = 16
"""Connections to a VNF at a time; more requests wait."""
IDLE_S = 30.0
"""A connection that was not used for this long is not used again: the VNF closes it after 60 s."""
LARGEST_HEAD, LARGEST_BODY = 8_192, 1 << 24
_POLL_S = 0.01
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
            TaskError: if no process can be made.

        """
        started: asyncio.Future[Child] = self._loop.create_future()
        self._starting.append(started)
        self.send({"image": str(image), "arguments": list(arguments), "log": str(log)})
        return await started

    async def close(self, patience_s: float) -> None:
        """End it, and any child that is left: asked first, killed after ``patience_s``."""
        with contextlib.suppress(TaskError, asyncio.CancelledError):
            await asyncio.gather(*self._starting)
        waiting = [child for child in self._children.values() if child.returncode is None]
        for child in waiting:
            child.send_signal(signal.SIGTERM)
        if waiting:
            ends = [asyncio.ensure_future(child.wait()) for child in waiting]
            await asyncio.wait(ends, timeout=patience_s)
        self._lost("it was closed")  # which kills what is left
        try:
            await asyncio.wait_for(self._process.wait(), patience_s)
        except TimeoutError:
            self._process.kill()
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
                started.set_exception(TaskError(f"no process for a VNF: {packet.error}"))
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
                started.set_exception(TaskError(reason))


class SilentError(TaskError):
    """A VNF cannot be reached, or takes too long."""


class VnfClient:
    """Makes requests of one VNF: HTTP/1.1 over its Unix socket, on connections that stay open.

    Written out over the event loop because a request through ``http.client`` in a thread costs
    1 ms of processor time, and a link is read ten times a second.
    """

    def __init__(self, path: Path) -> None:
        """Make no connection yet.

        Args:
            path: the socket on which the VNF listens.

        """
        self._path = path
        self._room = asyncio.Semaphore(MOST)
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._closed = False

    async def request(
        self, method: str, resource: str, body: Any = None, timeout_s: float = 5.0
    ) -> dict[str, Any]:
        """Make a request and return what the VNF answers.

        Raises:
            SilentError: if it cannot be reached, takes too long or answers with nonsense.
            TaskError: if it refuses.

        """
        data = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {resource} HTTP/1.1\r\nHost: vnf\r\n"
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        try:
            async with self._room, asyncio.timeout(timeout_s):
                status, answer = await self._exchange(f"{head}\r\n".encode() + data)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise SilentError(f"the VNF does not answer {method} {resource}: {error!r}") from error
        if status >= 400:
            raise TaskError(str(answer.get("error", f"the VNF answered {status}")))
        return answer

    def close(self) -> None:
        """Close the connections; one that is in use closes after that."""
        self._closed = True
        while self._idle:
            self._idle.pop()[2].close()

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, Any]]:
        reader, writer = self._kept() or await asyncio.open_unix_connection(
            self._path, limit=LARGEST_HEAD
        )
        try:
            writer.write(request)
            status, raw = await _answer(reader)
            answer = msgspec.json.decode(raw, type=dict[str, Any]) if raw else {}
        except BaseException:
            writer.close()
            raise
        if self._closed:
            writer.close()
        else:
            self._idle.append((asyncio.get_running_loop().time(), reader, writer))
        return status, answer

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return the connection that was used last; those that were idle for long are closed."""
        if not self._idle:
            return None
        since, reader, writer = self._idle.pop()
        if asyncio.get_running_loop().time() - since < IDLE_S:
            return reader, writer
        writer.close()
        while self._idle:  # they have been so for longer
            self._idle.pop()[2].close()
        return None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an answer.

    Raises:
        EOFError: if the connection ends before it is there.
        ValueError, LimitOverrunError: if it is none.

    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    first, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    version, status, *_ = first.split(" ")
    if version != "HTTP/1.1":
        raise ValueError(f"an answer in {version[:20]!r}")
    size = 0
    for line in fields:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            size = int(value)
    if not 0 <= size <= LARGEST_BODY:
        raise ValueError(f"an answer of {size} octets")
    return int(status), await reader.readexactly(size)


@dataclass(slots=True, eq=False)
class VnfProcess:
    """The process of one instance."""

    instance: str
    pop: PopId
    role: str
    socket: Path
    table: str
    client: VnfClient
    child: Child | None = None
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Changes of its measures are made one after the other."""
    answers: bool = False
    since: float = 0.0
    """When it was started, by the clock's loop."""
    silent: float = -inf
    """When a change last got no answer, by the clock's loop."""


def token(name: str) -> str:
    """Return eight hexadecimal digits that stand for ``name`` where names must be short."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


class VnfProcesses:
    """Implements ``Downloads``: the images and processes behind the instances."""

    def __init__(
        self,
        context: DriverContext,
        repository: PopId,
        images: Mapping[tuple[str, str], VnfImage],
        cache: ImageCache,
        crashed: Callable[[str, str], None],
        *,
        revive: bool = False,
    ) -> None:
        """Make an empty set of processes.

        Args:
            context: what every part of the driver works with.
            repository: PoP that the images come from.
            images: by VNF and version.
            cache: decides which images PoPs keep.
            crashed: told the instance and the reason when a process ends by itself.
            revive: whether it is started again instead, unless it lived for a moment only.

        """
        self._revive = revive
        self._reviving: set[str] = set()
        """Instances whose process has ended, and is started again."""
        self._clock = context.clock
        self._tasks = context.tasks
        self._recorder = context.recorder
        self._linux = context.linux
        self._workers = context.workers
        self._failure = context.failure
        self.store = ImageStore(context, cache, repository)
        self.images = dict(images)
        self._crashed = crashed
        self._processes: dict[str, VnfProcess] = {}
        self._servers: dict[PopId, asyncio.Task[ForkServer]] = {}
        self._folder = context.linux.folder / "vnf"
        self._ending: set[asyncio.Task[None]] = set()
        self._starting: dict[str, asyncio.Task[None]] = {}

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download, check and start; see ``Downloads``."""
        vnfd = instance.vnfd
        image = self.images.get((vnfd.name, vnfd.version))
        if image is None:
            return f"the VNF repository has no {vnfd.name} {vnfd.version}"
        routes = self.store.routes(instance.pop, vnfd)
        if not routes:
            away = "the VNF repository is away" if self.store.away else ""
            return away or f"no path from the VNF repository to {instance.pop}"
        if routes[0][0] != instance.pop:
            instance.cause = self._recorder.record(
                "instance.downloading",
                instance.cause,
                instance=instance.id,
                vnf=vnfd.name,
                pop=instance.pop,
                image_mb=vnfd.image_mb,
                path=list(routes[0]),
            )

        def done(_: None) -> None:
            if self._starting.pop(instance.id, None) is not None:
                ready(instance)

        def failed(reason: str) -> None:
            if self._starting.pop(instance.id, None) is not None:
                fail(instance, reason, instance.cause)

        self._starting[instance.id] = self._tasks.start(self._bring(instance, image), done, failed)
        return None

    def abort(self, instance: Instance) -> None:
        """End the download, the boot or the process of ``instance``."""
        task = self._starting.pop(instance.id, None)
        if task is not None:
            task.cancel()
        self.end(instance.id)

    async def start(self, instance: str, pop: PopId, role: str, image: Path) -> None:
        """Start the VNF ``role`` from an image that is at hand, and wait until it answers.

        Raises:
            TaskError: if it does not.

        """
        name = token(instance)
        namespace = self._linux.namespace(pop)
        if namespace is None:
            for family in ("netdev", "inet"):
                note(self._linux.run, f"{family} phx_{name}")
        path = self._folder / f"{name}.sock"
        client = VnfClient(path)
        process = VnfProcess(instance, pop, role, path, f"phx_{name}", client)
        process.since = self._clock.loop.time()
        self._processes[instance] = process
        arguments = ["--role", role, "--socket", str(path), "--table", process.table]
        server = await self._server(pop)
        process.child = await server.fork(image, arguments, path.with_suffix(".log"))
        await self._answers(process)
        process.answers = True
        self._tasks.forget(self._watch(process), self._failure(pop, f"watch {instance}"))

    async def start_again(self, instance: str, pop: PopId, role: str) -> None:
        """Start the VNF of an instance that an earlier driver had; it adopts its rules.

        Raises:
            TaskError: if it does not start, or the repository has no such VNF.

        """
        image = next((i for (name, _), i in self.images.items() if name == role), None)
        if image is None:
            raise TaskError(f"the VNF repository has no {role}")
        await self.start(instance, pop, role, image.path)

    def end(self, instance: str) -> None:
        """End the process of an instance, if there is one."""
        if instance in self._reviving:
            self._reviving.discard(instance)  # whatever starts it ends it
            return
        process = self._processes.pop(instance, None)
        if process is not None:
            task = self._clock.loop.create_task(self._end(process))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._tasks.forget(_result(task), self._failure(process.pop, f"end {instance}"))

    async def ask(
        self, instance: str, method: str, resource: str, body: Any = None, timeout_s: float = 5.0
    ) -> dict[str, Any]:
        """Make a request of an instance's VNF.

        Raises:
            TaskError: if the instance has no process, or it refuses.

        """
        process = self._processes.get(instance)
        if process is not None:
            try:
                return await process.client.request(method, resource, body, timeout_s)
            except SilentError:
                if not self._revive:
                    raise
        again = await self._revived(instance, process)
        return await again.client.request(method, resource, body, timeout_s)

    async def _revived(self, instance: str, before: VnfProcess | None) -> VnfProcess:
        """Return the process that takes the place of one that has died, once it answers.

        All requests can be made again: of those that change something the last one holds.

        Raises:
            TaskError: if there is none.

        """
        begun = self._clock.loop.time()
        while instance in self._reviving or instance in self._processes:
            found = self._processes.get(instance)
            if found is not before and found is not None and found.answers:
                return found
            waited_s = self._clock.loop.time() - begun
            if waited_s > BOOT_S or (found is before and waited_s > NOTICED_S):
                raise SilentError(f"the VNF of {instance} does not answer")
            await asyncio.sleep(_POLL_S)
        raise TaskError(f"instance {instance} does not run")

    async def change(
        self, instance: str, method: str, resource: str, body: Callable[[], Any] | None = None
    ) -> dict[str, Any]:
        """Make a request that changes a VNF's measures: one at a time, in the order asked.

        ``body`` is called when its turn has come.

        Raises:
            TaskError: if the instance has no process, or it refuses.

        """
        asked = self._clock.loop.time()
        process = self._processes.get(instance) or await self._revived(instance, None)
        async with process.lock:
            if process.silent > asked:  # one after the other, each would wait for its time-out
                raise SilentError(f"the VNF does not answer {method} {resource}: nor others before")
            try:
                return await self.ask(instance, method, resource, body() if body else None)
            except SilentError:
                process.silent = self._clock.loop.time()
                raise

    def that_observes(self, pop: PopId, what: str) -> str | None:
        """Return an instance at ``pop`` whose VNF observes ``what``, such as links."""
        roles = {name for (name, _), image in self.images.items() if what in image.observes}
        here = (p for p in self._processes.values() if p.pop == pop and p.role in roles)
        process = next(here, None)
        return None if process is None else process.instance

    async def end_all(self) -> None:
        """End all processes and wait for it.

        Raises:
            TaskError: if the rules of one that had to be killed cannot be removed.

        """
        for instance in list(self._processes):
            self.end(instance)
        try:
            await asyncio.gather(*self._ending)
        finally:
            starts, self._servers = list(self._servers.values()), {}
            for server in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(server, ForkServer):
                    await server.close(END_S)
            await self.store.close()

    def prepare(self, pop: PopId) -> None:
        """Have a fork server at ``pop`` before the first VNF is wanted there."""
        self._tasks.forget(self._server(pop), self._failure(pop, "start a fork server"))

    async def _server(self, pop: PopId) -> ForkServer:
        """Return the fork server at ``pop``; a new one if there is none, or it is gone.

        Raises:
            OSError: if it cannot be started.
            KernelError: if its control group does not take it.

        """
        task = self._servers.get(pop)
        if task is None or (task.done() and (task.exception() or not task.result().alive)):
            task = self._servers[pop] = self._clock.loop.create_task(self._start_server(pop))
        return await asyncio.shield(task)

    async def _start_server(self, pop: PopId) -> ForkServer:
        namespace = self._linux.namespace(pop)
        before = [] if namespace is None else prefix(namespace)
        environment = {VARIABLE: self._linux.run, "PATH": os.environ.get("PATH", "")}
        self._folder.mkdir(exist_ok=True)
        server = await ForkServer.start(before, self._folder, environment)
        try:
            self._linux.cgroup(pop).enter(server.pid)  # its children are in it from the start
        except BaseException:
            await server.close(0.0)
            raise
        return server

    async def _bring(self, instance: Instance, image: VnfImage) -> None:
        pop, vnfd = instance.pop, instance.vnfd
        target = await self.store.bring(instance, image)
        instance.downloaded_s = self._clock.now() - instance.asked
        if vnfd.boot_s > 0 and vnfd.image_mb > 0:  # a native one boots as fast as it does
            await asyncio.sleep(vnfd.boot_s)
        await self.start(instance.id, pop, vnfd.name, target)

    async def _answers(self, process: VnfProcess) -> None:
        until = self._clock.loop.time() + BOOT_S
        child = process.child
        assert child is not None
        while True:
            with contextlib.suppress(TaskError):
                await process.client.request("GET", "/health", None, 1.0)
                return
            if child.returncode is not None or self._clock.loop.time() > until:
                log = process.socket.with_suffix(".log").read_text(errors="replace")
                said = log.strip().splitlines()[-1:] or ["it said nothing"]
                raise TaskError(f"the VNF {process.role} did not start: {said[0][:200]}")
            await asyncio.sleep(_POLL_S)

    async def _watch(self, process: VnfProcess) -> None:
        assert process.child is not None
        code = await process.child.wait()
        if process.ended:
            return
        self._processes.pop(process.instance, None)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._revive and self._clock.loop.time() - process.since >= LIVED_S:
            process.client.close()
            self._reviving.add(process.instance)
            with contextlib.suppress(TaskError, OSError):
                try:
                    await self.start_again(process.instance, process.pop, process.role)
                finally:
                    wanted = process.instance in self._reviving
                    self._reviving.discard(process.instance)
                if not wanted:
                    self.end(process.instance)
                    return
                self._failure(process.pop, f"watch {process.instance}")(
                    f"its process ended: {how}; it was started again and has its rules"
                )
                return
            self._processes.pop(process.instance, None)
        try:
            process.client.close()
            await self._wipe(process)
        finally:
            self._clock.call_soon(
                lambda: self._crashed(process.instance, f"its process ended: {how}")
            )

    async def _end(self, process: VnfProcess) -> None:
        process.ended = True
        process.client.close()
        child = process.child
        if child is None or child.returncode is not None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), END_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)  # its fork server may be stopped as well
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), END_S)
            await self._wipe(process)
        process.socket.unlink(missing_ok=True)

    async def _wipe(self, process: VnfProcess) -> None:
        """Remove the rules that a killed VNF has left, those of its observations too."""
        listing = await self._tasks.thread(self._workers.nft_json, process.pop, "list tables")
        tables = (item["table"] for item in listing["nftables"] if "table" in item)
        script = "".join(
            f"delete table {table['family']} {table['name']}\n"
            for table in tables
            if owner_of(table["name"]) == process.table
        )
        await self._tasks.thread(self._workers.nft, process.pop, script)


async def _result(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)
