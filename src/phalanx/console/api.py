"""The web API: typed routes, their OpenAPI, and what guards them.

Starlette with msgspec: the structs that operations speak are those of the API, and nothing
beside them needs to be installed (decision 0071).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phalanx.console.feed import Feed
from phalanx.console.report import asset
from phalanx.console.resources import (
    RESOURCES,
    CausesAnswer,
    EventPage,
    PageQuery,
    ResourceList,
    StandingView,
    causes,
    page,
)
from phalanx.console.sessions import ConsoleSession, RateLimit, RoleName, Sessions
from phalanx.console.story import RunStory, StoryView
from phalanx.domain.version import VERSION

COOKIE = "phalanx-session"
MOST_BODY = 64 * 1024
BATCH = 500
"""Events of one message of the stream."""
POLL_S = 0.1
ALIVE_S = 15.0
"""After so long without an event the stream says that it is still there."""
_audit = logging.getLogger("phalanx.console.audit")

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class ProblemAnswer(Struct, frozen=True):
    """Why a request was not answered as it should be, in one line."""

    detail: str


class ProblemError(Exception):
    """Ends a request with a status and a line."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


class LoginRequest(Struct, frozen=True):
    """A token."""

    token: Annotated[str, Meta(min_length=1, max_length=200)]


class SessionAnswer(Struct, frozen=True):
    """Who is logged in, and what may be done."""

    mode: Literal["recorded", "live"]
    role: RoleName
    name: str
    csrf: str
    actions: tuple[str, ...]
    previews: tuple[str, ...] = ()
    """Of what can be asked what would come of it."""
    thinned: str = ""
    """What the stream leaves out of a large log, in words; empty: nothing."""


class ActionAnswer(Struct, frozen=True):
    """What came of an action."""

    detail: str


class Nothing(Struct, frozen=True):
    """No parameters."""


class Controls(Protocol):
    """What can be done to the system that the log is of: the operations of the command line."""

    @property
    def requests(self) -> Mapping[str, type[Struct]]:
        """What may be asked, by the name of the action."""

    async def act(self, action: str, request: Any, by: str) -> str:
        """Do it in the name of ``by``; return what came of it.

        Raises:
            ProblemError: if it cannot be done.

        """

    @property
    def previews(self) -> Mapping[str, type[Struct]]:
        """Of what can be asked what would come of it, by the name of the resource."""

    async def preview(self, request: Any) -> tuple[str, ...]:
        """Return what would come of a request of ``previews``, in sentences."""


class ApiRoute(Struct, frozen=True):
    """One operation of the API."""

    method: Literal["GET", "POST"]
    path: str
    answer: type[Struct]
    handler: Callable[..., Awaitable[Struct]]
    """Given the request, the parts of the path by name, and the session."""
    summary: str
    request: type[Struct] = Nothing
    """From the query of a GET, the body of a POST."""
    role: RoleName | None = "viewer"
    """Who may call it at least; None: without a session."""


class Api:
    """The ASGI application.

    Args:
        feed: the log.
        resources: what stands now, of the same log.
        story: what the run comes to so far.
        sessions: checks who asks.
        hosts: names that the server may be called by, against DNS rebinding.
        controls: what can be done; None: the log is of a run that is over.
        live: whether the log grows.
        secure: whether it is served over TLS, so that the cookie never goes in the clear.

    """

    def __init__(
        self,
        feed: Feed,
        resources: StandingView,
        story: StoryView,
        sessions: Sessions,
        *,
        hosts: list[str],
        controls: Controls | None = None,
        live: bool = False,
        secure: bool = False,
    ) -> None:
        self._feed, self._resources, self._story = feed, resources, story
        self._sessions = sessions
        self._controls = controls
        self._live, self._secure = live, secure
        self._logins = RateLimit(5, 1 / 12, time.monotonic)
        self._calls = RateLimit(200, 20, time.monotonic)
        self.closing = False
        """Whether streams shall end."""
        self.routes = self._make_routes()
        self._openapi = msgspec.json.encode(openapi(self.routes))
        self.app: ASGIApp = Starlette(
            routes=[
                Route("/", self._asset("index.html", "text/html"), methods=["GET"]),
                Route("/page.js", self._asset("page.js", "text/javascript"), methods=["GET"]),
                Route("/page.css", self._asset("page.css", "text/css"), methods=["GET"]),
                Route("/api/stream", self._stream, methods=["GET"]),
                Route("/api/openapi.json", self._schema, methods=["GET"]),
                *(Route(r.path, self._endpoint(r), methods=[r.method]) for r in self.routes),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
                Middleware(_Headers),
            ],
            exception_handlers={ProblemError: _answer_problem, 404: _not_found, 405: _not_found},
        )

    def _make_routes(self) -> list[ApiRoute]:
        routes = [
            ApiRoute("POST", "/api/login", SessionAnswer, self._login, "log in with a token",
                     LoginRequest, None),
            ApiRoute("POST", "/api/logout", ActionAnswer, self._logout, "end the session"),
            ApiRoute("GET", "/api/session", SessionAnswer, self._session, "who is logged in"),
            ApiRoute("GET", "/api/events", EventPage, self._events, "events of the log, by page",
                     PageQuery),
            ApiRoute("GET", "/api/story", RunStory, self._summary, "what the run comes to so far"),
            ApiRoute("GET", "/api/events/{id}/causes", CausesAnswer, self._causes,
                     "an event with all that led to it"),
        ]  # fmt: skip
        routes += [
            ApiRoute("GET", f"/api/{name}", ResourceList, self._reader(name), summary)
            for name, summary in RESOURCES.items()
        ]
        if self._controls is not None:
            asked = self._controls.requests
            routes += [
                ApiRoute("POST", f"/api/actions/{name}", ActionAnswer, self._actor(name),
                         f"do it: {(request.__doc__ or name).splitlines()[0]}", request, "operator")
                for name, request in asked.items()
            ]  # fmt: skip
            routes += [
                ApiRoute("POST", f"/api/{name}/preview", PreviewAnswer, self._preview,
                         f"look only: {(request.__doc__ or name).splitlines()[0]}", request,
                         "operator")
                for name, request in self._controls.previews.items()
            ]  # fmt: skip
        return routes

    # -- handlers -----------------------------------------------------------------------------

    async def _login(self, request: LoginRequest, _: object, __: object) -> Struct:
        session = self._sessions.login(request.token)
        if session is None:
            _audit.warning("a login was refused: the token is not known")
            raise ProblemError(401, "this is no token of this server")
        _audit.info("%s logged in", session.name)
        return session

    async def _logout(self, _: object, __: object, session: ConsoleSession) -> Struct:
        return ActionAnswer(f"{session.name} is logged out")

    async def _session(self, _: object, __: object, session: ConsoleSession) -> Struct:
        return self._about(session)

    def _about(self, session: ConsoleSession) -> SessionAnswer:
        may = self._controls if session.role == "operator" else None
        mode: Literal["recorded", "live"] = "live" if self._live else "recorded"
        acts = ((), ()) if may is None else (tuple(may.requests), tuple(may.previews))
        said = (mode, session.role, session.name, session.csrf)
        return SessionAnswer(*said, *acts, self._feed.thinned)

    async def _events(self, query: PageQuery, _: object, __: object) -> Struct:
        return await asyncio.to_thread(page, self._feed, query)

    async def _summary(self, _: object, __: object, ___: object) -> Struct:
        return self._story.result()

    async def _causes(self, _: object, path: Mapping[str, str], __: object) -> Struct:
        found = causes(self._feed, path["id"])
        if found is None:
            raise ProblemError(404, "the log has no such event")
        return found

    def _reader(self, name: str) -> Callable[..., Awaitable[Struct]]:
        async def read(_: object, __: object, ___: object) -> Struct:
            return self._resources.read(name)

        return read

    def _actor(self, name: str) -> Callable[..., Awaitable[Struct]]:
        async def act(request: Struct, _: object, session: ConsoleSession) -> Struct:
            assert self._controls is not None
            try:
                detail = await self._controls.act(name, request, session.name)
            except ProblemError as problem:
                _audit.warning("%s: %s was not done: %s", session.name, name, problem.detail)
                raise
            _audit.info("%s: %s: %s", session.name, name, detail)
            return ActionAnswer(detail)

        return act

    async def _preview(self, request: Struct, _: object, __: object) -> Struct:
        assert self._controls is not None
        return PreviewAnswer(await self._controls.preview(request))

    # -- requests -----------------------------------------------------------------------------

    def _endpoint(self, route: ApiRoute) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            client = request.client.host if request.client else "?"
            if route.role is None:
                _limited(self._logins, client)
                session = None
            else:
                session = self._allowed(request, route.role)
                _limited(self._calls, session.name)
            if route.method == "POST":
                _same_origin(request)
                if session is not None and request.headers.get("x-csrf") != session.csrf:
                    raise ProblemError(403, "the header x-csrf is not that of this session")
            asked = await _read(request, route)
            answer = await route.handler(asked, request.path_params, session)
            begun = answer if isinstance(answer, ConsoleSession) else None
            said = answer if begun is None else self._about(begun)
            response = Response(msgspec.json.encode(said), media_type="application/json")
            if begun is not None:
                response.set_cookie(
                    COOKIE, begun.cookie, httponly=True, samesite="strict", secure=self._secure
                )
            elif route.path == "/api/logout":
                response.delete_cookie(COOKIE)
            return response

        return endpoint

    def _allowed(self, request: Request, role: RoleName) -> ConsoleSession:
        session = self._sessions.check(request.cookies.get(COOKIE, ""))
        if session is None:
            raise ProblemError(401, "log in first")
        if role == "operator" and session.role != "operator":
            _audit.warning("%s may not call %s", session.name, request.url.path)
            raise ProblemError(403, "a viewer may look, and change nothing")
        return session

    def _asset(self, name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def serve(_: Request) -> Response:
            return Response(asset(name), media_type=kind)

        return serve

    async def _schema(self, request: Request) -> Response:
        self._allowed(request, "viewer")
        return Response(self._openapi, media_type="application/json")

    async def _stream(self, request: Request) -> Response:
        session = self._allowed(request, "viewer")
        _limited(self._calls, session.name)
        begin = 0
        last = request.headers.get("last-event-id", "")
        if last:
            place = self._feed.place(last.partition(" ")[2])
            if place is None and not self._feed.whole:
                # A server that was just started reads its log: the event may be about to come.
                await asyncio.sleep(1.0)
                place = self._feed.place(last.partition(" ")[2])
            begin = -1 if place is None else place + 1
        return StreamingResponse(self._told(begin), media_type="text/event-stream")

    async def _told(self, begin: int) -> AsyncIterator[bytes]:
        """Yield the events from number ``begin`` on; each message has its number and id."""
        if begin < 0:
            yield b"event: reset\ndata: 0\n\n"
            return
        yield b"retry: 1000\n\n"
        silent = 0.0
        while not self.closing:
            end = min(begin + BATCH, len(self._feed))
            if end > begin:
                lines = await asyncio.to_thread(self._feed.told, begin, end)
                name = self._feed.read(end - 1, end)[0].id
                number = f"id: {end - 1} {name}\n".encode() if name.isprintable() else b""
                yield number + b"data: [" + b",".join(lines) + b"]\n\n"
                begin, silent = end, 0.0
                continue
            await asyncio.sleep(POLL_S)
            silent += POLL_S
            if silent >= ALIVE_S:
                silent = 0.0
                yield b": still here\n\n"


class PreviewAnswer(Struct, frozen=True):
    """What would change, in sentences."""

    words: tuple[str, ...]


def _limited(limit: RateLimit, client: str) -> None:
    wait_s = limit.wait_s(client)
    if wait_s > 0:
        raise ProblemError(
            429, f"too many requests; try again in {wait_s:.0f} s", {"retry-after": f"{wait_s:.0f}"}
        )


def _same_origin(request: Request) -> None:
    """Refuse what a page of another site sends."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ProblemError(403, "the request comes from another site")
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ProblemError(403, "the request comes from another site")


async def _read(request: Request, route: ApiRoute) -> Struct:
    """Return what is asked, checked against its type."""
    try:
        if route.method == "GET":
            given = dict(request.query_params)
            return msgspec.convert(given, route.request, strict=False)
        if route.request is Nothing:
            return Nothing()
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/json":
            raise ProblemError(415, "the body must be application/json")
        body = b""
        async for block in request.stream():
            body += block
            if len(body) > MOST_BODY:
                raise ProblemError(413, f"the body has more than {MOST_BODY} octets")
        return msgspec.json.decode(body, type=route.request)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProblemError(400, str(error)) from None


async def _answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    body = msgspec.json.encode(ProblemAnswer(error.detail))
    return Response(body, error.status, error.headers, media_type="application/json")


async def _not_found(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    words = "there is nothing here" if status == 404 else "this method is not for this path"
    headers = getattr(error, "headers", None) or {}
    body = msgspec.json.encode(ProblemAnswer(words))
    return Response(body, status, headers, media_type="application/json")


class _Headers:
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        await self._app(scope, receive, added)


def openapi(routes: list[ApiRoute]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the routes."""
    types: set[type[Struct]] = {
        ProblemAnswer,
        *(r.answer for r in routes),
        *(r.request for r in routes),
    }
    ordered = sorted(types, key=lambda each: each.__name__)
    schemas, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        statuses = {"400": "bad request", "401": "no session", "429": "too many requests"}
        if route.method == "POST":
            statuses |= {"403": "not allowed", "413": "too long", "415": "not JSON"}
        if route.role == "operator":
            statuses |= {"409": "cannot be done", "502": "the agent does not answer"}
        if "{" in route.path:
            statuses["404"] = "no such thing"
        about: dict[str, Any] = {
            "summary": route.summary,
            "operationId": route.method.lower() + route.path.replace("/api", "").replace("/", "_"),
            "responses": {
                "200": {"description": "done", "content": _json(by_type[route.answer])},
                **{
                    status: {"description": words, "content": _json(by_type[ProblemAnswer])}
                    for status, words in statuses.items()
                },
            },
        }
        parameters = _parameters(route, components)
        if parameters:
            about["parameters"] = parameters
        if route.method == "POST" and route.request is not Nothing:
            about["requestBody"] = {"required": True, "content": _json(by_type[route.request])}
        if route.role is not None:
            about["security"] = [{"session": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = about
    return {
        "openapi": "3.1.0",
        "info": {"title": "Phalanx console", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"session": {"type": "apiKey", "in": "cookie", "name": COOKIE}},
        },
    }


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _parameters(route: ApiRoute, components: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    text = {"type": "string", "minLength": 1}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in parts
    ]
    if route.method == "GET" and route.request is not Nothing:
        fields = components[route.request.__name__]["properties"]
        found += [{"name": name, "in": "query", "schema": about} for name, about in fields.items()]
    return found
