"""Images: those of the VNF repository, how one is brought to a PoP, and those that PoPs keep."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import http.client
import os
import socket
import sys
from collections.abc import Mapping
from itertools import pairwise
from math import inf
from pathlib import Path

from phalanx.domain.network import PopId
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux import image_server
from phalanx.infrastructure.linux.images import ImageError, VnfImage, build, verify
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix
from phalanx.infrastructure.linux.kernel.runs import VARIABLE
from phalanx.infrastructure.linux.tasks import TaskError
from phalanx.infrastructure.linux.workers import DriverContext
from phalanx.infrastructure.reservations.images import ImageCache
from phalanx.infrastructure.reservations.instances import Instance
from phalanx.infrastructure.reservations.topology import Path as Route

PORT = 8099
SILENT_S = 10.0
"""A download that brings nothing for this long has failed, in seconds."""
_CHUNK = 1 << 16


def build_images(vnfds: Mapping[str, Vnfd], folder: Path) -> dict[tuple[str, str], VnfImage]:
    """Build the image of each VNF into ``folder``; by name and version.

    The digests stay with the builder: a PoP checks what it downloads against them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {(vnfd.name, vnfd.version): build(vnfd, folder) for vnfd in vnfds.values()}


class DiskFullError(TaskError):
    """There is no disk space for an image."""


def fetch(inside: Inside, address: str, name: str, image: VnfImage, target: Path) -> int:
    """Download ``image``, a file ``name`` there, from ``address`` to ``target``; blocking.

    The connection leaves from the namespace of ``inside``. The file appears at ``target``
    only when its digest is right.

    Returns:
        How many octets came.

    Raises:
        TaskError: if the source cannot be reached or the digest is wrong.

    """
    part = target.with_suffix(".part")
    digest, octets = hashlib.sha256(), 0
    connection = http.client.HTTPConnection(address, PORT)
    connection.sock = inside.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(SILENT_S)
        connection.sock.connect((address, PORT))
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise TaskError(f"the source of {image.path.name} answered {response.status}")
        with part.open("wb") as file:
            while chunk := response.read(_CHUNK):
                octets += len(chunk)
                if octets > image.octets:
                    break
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        kind = DiskFullError if getattr(error, "errno", None) == errno.ENOSPC else TaskError
        raise kind(f"the download of {image.path.name} failed: {error}") from error
    finally:
        connection.close()
    if octets != image.octets or digest.hexdigest() != image.sha256:
        part.unlink(missing_ok=True)
        raise TaskError(f"the image {image.path.name} is not what the repository promised")
    part.rename(target)
    return octets


class ImageStore:
    """The image files of all PoPs: brought from where they are, checked before each use."""

    def __init__(self, context: DriverContext, cache: ImageCache, repository: PopId) -> None:
        """Keep nothing yet.

        Args:
            context: what every part of the driver works with.
            cache: decides what is kept.
            repository: PoP of the VNF repository.

        """
        self._context = context
        self._cache = cache
        self._repository = repository
        self._folder = context.linux.folder / "images"
        self._loading: dict[Path, asyncio.Lock] = {}
        self._servers: dict[PopId, asyncio.subprocess.Process] = {}
        self._starting = asyncio.Lock()
        self._images: dict[str, VnfImage] = {}
        self.away = False
        """Whether the repository cannot be reached (a fault)."""
        cache.on_gone = self._gone

    def routes(self, pop: PopId, vnfd: Vnfd) -> list[Route]:
        """Return the ways of an image to ``pop``, the widest first; the PoP alone if it has it."""
        if self._cache.use(pop, vnfd) or vnfd.image_mb <= 0:
            return [(pop,)]
        topology = self._context.topology
        repository = () if self.away else (self._repository,)
        holders = (holder for holder in self._cache.holders(vnfd) if holder != self._repository)
        found = [topology.route(source, pop) for source in (*repository, *holders)]
        ways = [way for way in found if way is not None]

        def narrow(way: Route) -> float:
            links = (topology.neighbours[a][b].bandwidth_mb_s for a, b in pairwise(way))
            return min(links, default=inf)

        return sorted(ways, key=lambda way: (-narrow(way), len(way)))

    async def bring(self, instance: Instance, image: VnfImage) -> Path:
        """Return the file of an image at the PoP of ``instance``, of the right digest.

        Raises:
            TaskError: if no source could send it; the reason is that of the last.
            ImageError: if the repository's own file is damaged.

        """
        pop, vnfd, thread = instance.pop, instance.vnfd, self._context.tasks.thread
        if vnfd.image_mb <= 0 or pop == self._repository:
            await thread(verify, image.path, image.sha256)
            self._cache.keep(pop, vnfd, instance.cause, instance.id)
            return image.path
        self._images[vnfd.image] = image
        target = self._file(pop, image)
        target.parent.mkdir(parents=True, exist_ok=True)
        async with self._loading.setdefault(target, asyncio.Lock()):
            if self._cache.use(pop, vnfd, instance.id):
                try:
                    await thread(verify, target, image.sha256)
                except (ImageError, OSError) as damage:
                    self._cache.delete(pop, vnfd, str(damage), instance.cause)
                else:
                    return target
            try:
                await self._fetch(instance, image, target)
            except DiskFullError:
                self._cache.delete_unused(pop, "its disk is full", instance.cause)
                await self._fetch(instance, image, target)
            self._cache.keep(pop, vnfd, instance.cause, instance.id)
        return target

    async def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            await server.wait()
        self._servers.clear()

    async def _fetch(self, instance: Instance, image: VnfImage, target: Path) -> None:
        """Fetch an image from the best source that can send it."""
        context, failure = self._context, TaskError("no PoP can send the image")
        for route in self.routes(instance.pop, instance.vnfd):
            source, name = route[0], image.path.name
            if source != self._repository:
                async with self._starting:
                    if source not in self._servers or self._servers[source].returncode is not None:
                        await self._serve(source)
                name = self._file(source, image).name
            address, inside = context.linux.underlay(source), context.workers.inside(instance.pop)
            try:
                await context.tasks.thread(fetch, inside, address, name, image, target)
            except DiskFullError:
                raise
            except TaskError as error:
                failure = error
            else:
                return
        raise failure

    async def _serve(self, pop: PopId) -> None:
        """Serve the images of ``pop`` to others."""
        linux = self._context.linux
        namespace, words = linux.namespace(pop), [linux.underlay(pop), str(PORT)]
        server = self._servers[pop] = await asyncio.create_subprocess_exec(
            *([] if namespace is None else prefix(namespace)),
            *(sys.executable, "-m", image_server.__name__, *words, str(self._folder / pop)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, VARIABLE: linux.run},
        )
        assert server.stdout is not None
        await server.stdout.readline()  # "ready", or nothing: then fetching from it fails

    def _file(self, pop: PopId, image: VnfImage) -> Path:
        return self._folder / pop / f"{image.sha256[:32]}.pyz"

    def _gone(self, pop: PopId, vnfd: Vnfd, _: str) -> None:
        if vnfd.image in self._images:
            self._file(pop, self._images[vnfd.image]).unlink(missing_ok=True)
