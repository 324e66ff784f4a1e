"""A Unix socket by which an operator calls the agent of a lone process, which has no brokers.

It serves the operations that the agent serves in a domain, under the role of an operator: who may
open the socket (mode 0600) may end the process as well. One line of JSON asks, one answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from contextlib import suppress
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
MOST_CALLERS = 8
OPERATIONS: Mapping[str, Operation[Any, Any]] = {
    each.name: each for each in (STATUS, INVENTORY, RELEASE, PAUSE)
}

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


class _Question(Struct, frozen=True):
    operation: str
    request: Raw


class _Reply(Struct, frozen=True):
    answer: Raw = Raw(b"null")
    refused: str = ""


class ControlSocket:
    """Serves one agent's operations; close it before its clock."""

    def __init__(self, clock: WallClock, client: CallClient, owner: str, path: Path) -> None:
        """Listen at ``path``, which nothing may be at yet.

        Args:
            clock: makes the calls.
            client: of an operator.
            owner: name of the agent.
            path: of the socket.

        Raises:
            PhalanxError: with one line, if it cannot be made.

        """
        self._clock, self._client, self._owner, self._path = clock, client, owner, path
        self._callers = 0
        before = os.umask(0o177)  # no moment at which another user could open it
        try:
            listens = asyncio.start_unix_server(self._serve, path, limit=LONGEST)
            self._server = clock.loop.run_until_complete(listens)
        except OSError as error:
            raise PhalanxError(f"{path}: no control socket can be made: {error.strerror}") from None
        finally:
            os.umask(before)

    def close(self) -> None:
        """Listen no more."""
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._callers += 1
        with suppress(OSError, TimeoutError, ValueError):
            if self._callers <= MOST_CALLERS:
                line = await asyncio.wait_for(reader.readline(), CALL_S)
                reply = await self._answer(line)
            else:
                reply = _Reply(refused=f"{MOST_CALLERS} are asking already; try again")
            writer.write(msgspec.json.encode(reply) + b"\n")
            await asyncio.wait_for(writer.drain(), CALL_S)
        self._callers -= 1
        writer.close()

    async def _answer(self, line: bytes) -> _Reply:
        try:
            question = msgspec.json.decode(line, type=_Question)
            operation = OPERATIONS[question.operation]
            request = msgspec.json.decode(question.request, type=operation.request)
        except KeyError:
            return _Reply(refused=f"it does {', '.join(OPERATIONS)}, and no more")
        except msgspec.DecodeError as error:
            return _Reply(refused=f"not understood: {error}")
        answers: asyncio.Future[Any] = self._clock.loop.create_future()

        def told(answer: object) -> None:
            if not answers.done():
                answers.set_result(answer)

        self._client.invoke(self._owner, operation, request, told, timeout_s=CALL_S)
        answer = await answers
        if isinstance(answer, CallError):
            return _Reply(refused=answer.reason)
        return _Reply(Raw(msgspec.json.encode(answer)))


def ask_control(path: Path, operation: Operation[Q, A], request: Q) -> A:
    """Return what the agent behind a control socket answers.

    Raises:
        PhalanxError: with one line, if nothing answers there, or it refuses.

    """
    question = _Question(operation.name, Raw(msgspec.json.encode(request)))
    try:
        with socket.socket(socket.AF_UNIX) as asks:
            asks.settimeout(2 * CALL_S)
            asks.connect(str(path))
            asks.sendall(msgspec.json.encode(question) + b"\n")
            with asks.makefile("rb") as answers:
                reply = msgspec.json.decode(answers.readline(LONGEST), type=_Reply)
    except OSError as error:
        raise PhalanxError(f"{path} does not answer: {error.strerror or error}") from None
    except msgspec.DecodeError:
        raise PhalanxError(f"{path} does not answer: it ended meanwhile") from None
    if reply.refused:
        raise PhalanxError(f"refused: {reply.refused}")
    return msgspec.json.decode(reply.answer, type=operation.answer)
