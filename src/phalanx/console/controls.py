"""What the console can do: operations of agents, and links.

Agents are called as the command line calls them, under the identity of an operator, so access
control and audit are those of the fabric.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from msgspec import Meta, Struct

from phalanx.clock.wall import WallClock
from phalanx.console.api import ProblemError
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.calls import (
    CallBusy,
    CallClient,
    CallFailed,
    CallRefused,
    CallTimedOut,
    OperationUnknown,
)
from phalanx.fabric.operations import (
    DRAIN,
    PAUSE,
    RELEASE,
    DrainRequest,
    Operation,
    PauseRequest,
    ReleaseRequest,
)

T = TypeVar("T")
CALL_S = 5.0
NETWORK = "network"

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class ReleaseAction(Struct, frozen=True):
    """Take a measure back."""

    agent: Name
    measure: Annotated[str, Meta(min_length=1, max_length=400)]


class PauseAction(Struct, frozen=True):
    """Have an agent bid for nothing, or bid again."""

    agent: Name
    paused: bool


class DrainAction(Struct, frozen=True):
    """Have an agent hand over what it does, and leave."""

    agent: Name


class LinkAction(Struct, frozen=True):
    """Take a link out of use, or use it again."""

    a: Name
    b: Name
    up: bool


class PlaceRequest(Struct, frozen=True):
    """Where a function would run if its goal were auctioned now."""

    goal: Annotated[str, Meta(min_length=1, max_length=400)]
    """Such as ``linkRateLimited``, or as a log prints it."""
    at: Annotated[str, Meta(min_length=1, max_length=200)]
    """PoP that asks, where the traffic is taken."""
    traffic_mb_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


_STATUS: dict[type, int] = {CallRefused: 403, CallFailed: 409, CallBusy: 429, OperationUnknown: 409}


class ServiceChanges(Protocol):
    """Changes services (``phalanx.console.services``)."""

    @property
    def request(self) -> type[Struct]:
        """What is asked for a change."""

    def change(self, request: Any) -> str:
        """Make a change; return what runs then."""

    def foresee(self, request: Any) -> tuple[str, ...]:
        """Return what a change would change."""


class FabricControls:
    """Acts on agents by calling their operations.

    Args:
        clock: makes the calls, in the thread that runs it.
        client: of an operator.
        link: takes a link out of use or back, in the clock's thread; None: the process of the
            network is called to.
        services: changes the services of a domain; None: there are none.
        place: says what the agents of a run would bid now, in the clock's thread; None: nothing
            here knows.

    """

    def __init__(
        self,
        clock: WallClock,
        client: CallClient,
        *,
        link: Callable[[str, str, bool, str], None] | None = None,
        services: ServiceChanges | None = None,
        place: Callable[[PlaceRequest], tuple[str, ...]] | None = None,
    ) -> None:
        self._clock, self._client, self._link = clock, client, link
        self._services, self._place = services, place
        self.requests: Mapping[str, type[Struct]] = {
            "release": ReleaseAction,
            "pause": PauseAction,
            "drain": DrainAction,
            "link": LinkAction,
            **({} if services is None else {"service": services.request}),
        }
        self.previews: dict[str, type[Struct]] = {"functions": PlaceRequest} if place else {}
        if services is not None:
            self.previews["services"] = services.request

    async def act(self, action: str, request: Any, by: str) -> str:
        """Do it in the name of ``by``; return what came of it.

        Raises:
            ProblemError: if it cannot be done.

        """
        match request:
            case ReleaseAction():
                asked: Struct = ReleaseRequest(request.measure, by)
                return await self._call(request.agent, RELEASE, asked)
            case PauseAction():
                asked = PauseRequest(request.paused, by)
                return await self._call(request.agent, PAUSE, asked)
            case DrainAction():
                return await self._call(request.agent, DRAIN, DrainRequest())
            case LinkAction():
                return await self._steer(request, by)
        if self._services is not None and action == "service":
            return await asyncio.to_thread(self._services.change, request)
        raise ProblemError(404, f"there is no action {action!r}")

    async def preview(self, request: Any) -> tuple[str, ...]:
        """Return what a change would change, or where a function would run, in sentences.

        Raises:
            ProblemError: if what is asked is not usable.

        """
        if self._place is not None and isinstance(request, PlaceRequest):
            return await self._in_clock(partial(self._place, request))
        assert self._services is not None
        return await asyncio.to_thread(self._services.foresee, request)

    async def _call(self, owner: str, operation: Operation[Any, Any], request: Struct) -> str:
        answers: Future[Any] = Future()

        def call() -> None:
            try:
                self._client.invoke(owner, operation, request, answers.set_result, timeout_s=CALL_S)
            except (PhalanxError, ValueError) as error:
                answers.set_exception(error)

        try:
            self._post(call)
            answer = await asyncio.wait_for(asyncio.wrap_future(answers), CALL_S + 2.0)
        except (TimeoutError, RuntimeError):
            raise ProblemError(502, "the run is over, or does not answer") from None
        except (PhalanxError, ValueError) as error:
            raise ProblemError(409, str(error)) from None
        if isinstance(answer, CallTimedOut):
            raise ProblemError(502, f"{owner} does not answer: it does not run, or is cut off")
        if type(answer) in _STATUS:
            raise ProblemError(_STATUS[type(answer)], f"{owner}: {answer.reason}")
        return str(getattr(answer, "detail", "") or "done")

    def _post(self, call: Callable[[], None]) -> None:
        """Make a call in the clock's thread.

        Raises:
            RuntimeError: if its loop is closed.

        """
        self._clock.loop.call_soon_threadsafe(self._clock.call_soon, call)

    async def _steer(self, request: LinkAction, by: str) -> str:
        words = f"{request.a}-{request.b} is {'in use again' if request.up else 'out of use'}"
        if self._link is None:
            # The process of the network brings much that a run in this process does without.
            from phalanx.runtime.processes.network import LINK, LinkRequest  # noqa: PLC0415

            asked = LinkRequest(request.a, request.b, request.up)
            await self._call(NETWORK, LINK, asked)
            return words
        try:
            await self._in_clock(partial(self._link, request.a, request.b, request.up, by))
        except ProblemError as problem:
            if problem.status != 409:
                raise
            raise ProblemError(409, f"there is no link {request.a}-{request.b}") from None
        return words

    async def _in_clock(self, call: Callable[[], T]) -> T:
        """Make a call in the clock's thread, and return what it returns."""
        answers: Future[T] = Future()

        def made() -> None:
            try:
                answers.set_result(call())
            except (PhalanxError, LookupError, ValueError) as error:
                answers.set_exception(error)

        try:
            self._post(made)
            return await asyncio.wait_for(asyncio.wrap_future(answers), CALL_S)
        except (TimeoutError, RuntimeError):
            raise ProblemError(502, "the run is over, or does not answer") from None
        except (PhalanxError, LookupError, ValueError) as error:
            raise ProblemError(409, str(error)) from None
