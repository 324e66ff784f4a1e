"""The VNF repository: images, their digests, and how one is brought to a PoP."""

from __future__ import annotations

import hashlib
import http.client
import socket
from collections.abc import Mapping
from pathlib import Path

from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.linux.images import VnfImage, build
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.tasks import TaskError

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


def fetch(inside: Inside, address: str, image: VnfImage, target: Path) -> int:
    """Download ``image`` from the repository at ``address`` to ``target``; blocking.

    The connection leaves from the namespace of ``inside``. The file appears at ``target``
    only when its digest is right.

    Returns:
        How many octets came.

    Raises:
        TaskError: if the repository cannot be reached or the digest is wrong.

    """
    part = target.with_suffix(".part")
    digest, octets = hashlib.sha256(), 0
    connection = http.client.HTTPConnection(address, PORT)
    connection.sock = inside.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(SILENT_S)
        connection.sock.connect((address, PORT))
        connection.request("GET", f"/{image.path.name}")
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise TaskError(f"the VNF repository answered {response.status}")
        with part.open("wb") as file:
            while chunk := response.read(_CHUNK):
                octets += len(chunk)
                if octets > image.octets:
                    break
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        raise TaskError(f"the download of {image.path.name} failed: {error}") from error
    finally:
        connection.close()
    if octets != image.octets or digest.hexdigest() != image.sha256:
        part.unlink(missing_ok=True)
        raise TaskError(f"the image {image.path.name} is not what the repository promised")
    part.rename(target)
    return octets
