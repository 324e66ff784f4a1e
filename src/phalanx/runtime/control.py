"""A Unix socket by which an operator calls the agent of a lone process, which has no brokers.

It serves the operations that the agent serves in a domain, under the role of an operator: who may
open the socket (mode 0600) may end the process as well. One line asks: an object of JSON with the
operation's name and its request. One line answers: the answer, or a string that says why not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import CallClient, CallError
from phalanx.fabric.operations import INVENTORY, PAUSE, RELEASE, STATUS, Operation

CALL_S = 5.0
LONGEST = 1 << 20
"""Octets of a question or an answer."""
_OPERATIONS = {each.name: each for each in (STATUS, INVENTORY, RELEASE, PAUSE)}

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


def serve_control(
    clock: WallClock, client: CallClient, owner: str, path: Path
) -> Callable[[], None]:
    """Serve the operations of an agent; return what ends that, to be called before the clock ends.

    Args:
        clock: makes the calls.
        client: of an operator.
        owner: name of the agent.
        path: of the socket; nothing may be there yet.

    Raises:
        PhalanxError: with one line, if it cannot be made.

    """
    serve = partial(_serve, clock, client, owner)
    before = os.umask(0o177)  # no moment at which another user could open it
    try:
        server = clock.loop.run_until_complete(asyncio.start_unix_server(serve, path))
    except OSError as error:
        raise PhalanxError(f"{path}: no control socket can be made: {error.strerror}") from None
    finally:
        os.umask(before)
    return server.close


async def _serve(
    clock: WallClock, client: CallClient, owner: str, reader: StreamReader, writer: StreamWriter
) -> None:
    answers: asyncio.Future[Any] = clock.loop.create_future()
    with suppress(OSError, TimeoutError):
        try:
            asked = await asyncio.wait_for(reader.readline(), CALL_S)
            ((name, raw),) = msgspec.json.decode(asked, type=dict[str, Raw]).items()
            operation: Operation[Any, Any] = _OPERATIONS[name]
            request = msgspec.json.decode(raw, type=operation.request)
            client.invoke(owner, operation, request, answers.set_result, timeout_s=CALL_S)
            answer = await answers
        except (ValueError, KeyError) as error:
            answer = f"not understood: {error}"
        said = answer.reason if isinstance(answer, CallError) else answer
        writer.write(msgspec.json.encode(said) + b"\n")
        await asyncio.wait_for(writer.drain(), CALL_S)
    writer.close()


def ask_control(path: Path, operation: Operation[Q, A], request: Q) -> A:
    """Return what the agent behind a control socket answers.

    Raises:
        PhalanxError: with one line, if nothing answers there, or it refuses.

    """
    try:
        with socket.socket(socket.AF_UNIX) as asks:
            asks.settimeout(2 * CALL_S)
            asks.connect(str(path))
            asks.sendall(msgspec.json.encode({operation.name: request}) + b"\n")
            with asks.makefile("rb") as answers:
                said = answers.readline(LONGEST)
        if said.startswith(b'"'):
            raise PhalanxError(f"refused: {msgspec.json.decode(said)}")
        return msgspec.json.decode(said, type=operation.answer)
    except (OSError, msgspec.DecodeError) as error:
        raise PhalanxError(f"{path} does not answer: {error}") from None
