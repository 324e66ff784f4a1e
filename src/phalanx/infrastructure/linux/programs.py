"""VNFs as processes: brought from the repository, started, driven, watched and ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.forks import Child, ForkServers
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.images import Image, verify
from phalanx.infrastructure.linux.jobs import JobError, Jobs, LoopClock
from phalanx.infrastructure.linux.kernel.runs import note
from phalanx.infrastructure.linux.places import Places
from phalanx.infrastructure.linux.repository import fetch
from phalanx.infrastructure.linux.rest import Caller, SilentError
from phalanx.infrastructure.linux.vnf.nft import owner_of
from phalanx.infrastructure.reservations.instances import Fail, Instance, Ready
from phalanx.infrastructure.reservations.topology import Topology

BOOT_S = 5.0
"""A VNF that does not answer this long after its start has failed, in seconds."""
END_S = 2.0
"""A VNF that was asked to end is killed after this long, in seconds."""
_POLL_S = 0.01


@dataclass(slots=True, eq=False)
class Program:
    """The process of one instance."""

    instance: str
    pop: PopId
    role: str
    socket: Path
    table: str
    caller: Caller
    process: Child | None = None
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Changes of its measures are made one after the other."""
    silent: float = -inf
    """When a change last got no answer, by the clock's loop."""


def token(name: str) -> str:
    """Return eight hexadecimal digits that stand for ``name`` where names must be short."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


class Programs:
    """Implements ``Downloads``: the images and processes behind the instances."""

    def __init__(
        self,
        clock: LoopClock,
        jobs: Jobs,
        recorder: Recorder,
        *,
        ground: Ground,
        places: Places,
        topology: Topology,
        repository: PopId,
        images: Mapping[tuple[str, str], Image],
        crashed: Callable[[str, str], None],
        cause: str,
    ) -> None:
        """Make an empty set of programs.

        Args:
            clock: when things happen.
            jobs: does what takes time.
            recorder: where events go.
            ground: namespaces and limits.
            places: threads inside the namespaces.
            topology: for the path that the log tells of.
            repository: PoP that the images come from.
            images: by VNF and version.
            crashed: told the instance and the reason when a process ends by itself.
            cause: event that failures of the driver itself name.

        """
        self._clock = clock
        self._jobs = jobs
        self._recorder = recorder
        self._ground = ground
        self._places = places
        self._topology = topology
        self._repository = repository
        self.images = dict(images)
        self._crashed = crashed
        self._cause = cause
        self._programs: dict[str, Program] = {}
        self._servers = ForkServers(clock.loop, ground)
        self._ending: list[Program] = []
        self._starting: dict[str, asyncio.Task[None]] = {}
        self.away = False
        """Whether the repository cannot be reached (a fault)."""

    def begin(self, instance: Instance, ready: Ready, fail: Fail) -> str | None:
        """Download, check and start; see ``Downloads``."""
        vnfd = instance.vnfd
        image = self.images.get((vnfd.name, vnfd.version))
        if image is None:
            return f"the VNF repository has no {vnfd.name} {vnfd.version}"
        if self.away:
            return "the VNF repository is away"
        path = self._topology.route(self._repository, instance.pop)
        if path is None:
            return f"no path from the VNF repository at {self._repository} to {instance.pop}"
        instance.cause = self._recorder.record(
            "instance.downloading",
            instance.cause,
            instance=instance.id,
            vnf=vnfd.name,
            pop=instance.pop,
            image_mb=vnfd.image_mb,
            path=list(path),
        )

        def done(_: None) -> None:
            if self._starting.pop(instance.id, None) is not None:
                ready(instance)

        def failed(reason: str) -> None:
            if self._starting.pop(instance.id, None) is not None:
                fail(instance, reason, instance.cause)

        self._starting[instance.id] = self._jobs.start(self._bring(instance, image), done, failed)
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
            JobError: if it does not.

        """
        name = token(instance)
        namespace = self._ground.namespace(pop)
        if namespace is None:
            for family in ("netdev", "inet"):
                note(self._ground.run, "table", f"{family} phx_{name}")
        path = self._servers.folder / f"{name}.sock"
        caller = Caller(self._clock.loop, path)
        program = Program(instance, pop, role, path, f"phx_{name}", caller)
        self._programs[instance] = program
        arguments = ["--role", role, "--socket", str(path), "--table", program.table]
        server = await self._servers.at(pop)
        program.process = await server.fork(image, arguments, path.with_suffix(".log"))
        await self._answers(program)
        self._jobs.forget(self._watch(program), self._could_not(pop, f"watch {instance}"))

    async def start_again(self, instance: str, pop: PopId, role: str) -> None:
        """Start the VNF of an instance that an earlier driver had; it adopts its rules.

        Raises:
            JobError: if it does not start, or the repository has no such VNF.

        """
        image = next((i for (name, _), i in self.images.items() if name == role), None)
        if image is None:
            raise JobError(f"the VNF repository has no {role}")
        await self.start(instance, pop, role, image.path)

    def end(self, instance: str) -> None:
        """End the process of an instance, if there is one."""
        program = self._programs.pop(instance, None)
        if program is not None:
            self._ending.append(program)
            self._jobs.forget(self._end(program), self._could_not(program.pop, f"end {instance}"))

    async def ask(
        self, instance: str, method: str, resource: str, body: Any = None, timeout_s: float = 5.0
    ) -> dict[str, Any]:
        """Make a request of an instance's VNF.

        Raises:
            JobError: if the instance has no process, or it refuses.

        """
        program = self._programs.get(instance)
        if program is None:
            raise JobError(f"instance {instance} does not run")
        return await program.caller.request(method, resource, body, timeout_s)

    async def change(
        self, instance: str, method: str, resource: str, body: Callable[[], Any] | None = None
    ) -> dict[str, Any]:
        """Make a request that changes a VNF's measures: one at a time, in the order asked.

        ``body`` is called when its turn has come.

        Raises:
            JobError: if the instance has no process, or it refuses.

        """
        program = self._programs.get(instance)
        if program is None:
            raise JobError(f"instance {instance} does not run")
        asked = self._clock.loop.time()
        async with program.lock:
            if program.silent > asked:  # one after the other, all would wait in vain
                raise SilentError(f"the VNF does not answer {method} {resource}: nor others before")
            try:
                return await self.ask(instance, method, resource, body() if body else None)
            except SilentError:
                program.silent = self._clock.loop.time()
                raise

    def runs(self, pop: PopId, role: str) -> str | None:
        """Return an instance of ``role`` that runs at ``pop``."""
        found = (p for p in self._programs.values() if p.pop == pop and p.role == role)
        program = next(found, None)
        return None if program is None else program.instance

    def kill(self, instance: str) -> bool:
        """Kill the process of an instance, as a fault; return whether there was one."""
        program = self._programs.get(instance)
        if program is None or program.process is None:
            return False
        program.process.send_signal(signal.SIGKILL)
        return True

    async def end_all(self) -> None:
        """End all processes and wait for it."""
        programs, self._programs = [*self._ending, *self._programs.values()], {}
        await asyncio.gather(*(self._end(program) for program in programs))
        await self._servers.close(END_S)

    def prepare(self, pop: PopId) -> None:
        """Have a fork server at ``pop`` before the first VNF is wanted there."""
        self._jobs.forget(self._servers.at(pop), self._could_not(pop, "start a fork server"))

    async def _bring(self, instance: Instance, image: Image) -> None:
        pop, vnfd = instance.pop, instance.vnfd
        folder = self._ground.folder / "images" / pop
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{token(instance.id)}.pyz"
        address = self._ground.underlay(self._repository)
        inside = self._places.inside(pop)
        if pop == self._repository:
            await self._jobs.thread(verify, image.path, image.sha256)
            target = image.path
        else:
            await self._jobs.thread(fetch, inside, address, image, target)
        instance.downloaded_s = self._clock.now() - instance.asked
        if vnfd.boot_s > 0:
            await asyncio.sleep(vnfd.boot_s)
        await self.start(instance.id, pop, vnfd.name, target)

    async def _answers(self, program: Program) -> None:
        until = self._clock.loop.time() + BOOT_S
        process = program.process
        assert process is not None
        while True:
            with contextlib.suppress(JobError):
                await program.caller.request("GET", "/health", None, 1.0)
                return
            if process.returncode is not None or self._clock.loop.time() > until:
                log = program.socket.with_suffix(".log").read_text(errors="replace")
                said = log.strip().splitlines()[-1:] or ["it said nothing"]
                raise JobError(f"the VNF {program.role} did not start: {said[0][:200]}")
            await asyncio.sleep(_POLL_S)

    async def _watch(self, program: Program) -> None:
        assert program.process is not None
        code = await program.process.wait()
        if program.ended:
            return
        self._programs.pop(program.instance, None)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        try:
            program.caller.close()
            await self._wipe(program)
        finally:
            self._clock.call_soon(
                lambda: self._crashed(program.instance, f"its process ended: {how}")
            )

    async def _end(self, program: Program) -> None:
        program.ended = True
        program.caller.close()
        process = program.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await self._wipe(program)
        program.socket.unlink(missing_ok=True)
        with contextlib.suppress(ValueError):  # asked twice
            self._ending.remove(program)

    async def _wipe(self, program: Program) -> None:
        """Remove the rules that a killed VNF has left, those of its observations too."""
        listing = await self._jobs.thread(self._places.nft_json, program.pop, "list tables")
        tables = (item["table"] for item in listing["nftables"] if "table" in item)
        script = "".join(
            f"delete table {table['family']} {table['name']}\n"
            for table in tables
            if owner_of(table["name"]) == program.table
        )
        await self._jobs.thread(self._places.nft, program.pop, script)

    def _could_not(self, pop: PopId, what: str) -> Callable[[str], None]:
        def note(reason: str) -> None:
            self._recorder.record("driver.failed", self._cause, pop=pop, what=what, reason=reason)

        return note
