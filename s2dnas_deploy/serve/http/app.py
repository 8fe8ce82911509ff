"""The server's HTTP side, as an ASGI application: the Open Inference Protocol, metrics, and operators' needs.

Place in the flow: uvicorn ──▶ `App` ──▶ `Front` ──▶ answers.

Requests to infer, of which there are thousands a second, are taken by themselves; all others by Starlette's
routes. A body is admitted before it is read: all bodies that are on their way in have a bound together, and a
client that sends its body too slowly is let go.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.serve import told
from s2dnas_deploy.serve.ask import answers_of
from s2dnas_deploy.serve.failure import failure_of
from s2dnas_deploy.serve.front import Front
from s2dnas_deploy.serve.house import House, Resident, UnknownModelError
from s2dnas_deploy.serve.http.codec import HEADER_LENGTH, Decoded, decoded, encoded
from s2dnas_deploy.serve.metrics import CONTENT_TYPE, metrics
from s2dnas_deploy.serve.queue import BusyError
from s2dnas_deploy.serve.service import Service
from s2dnas_deploy.serve.ticket import CancelledError, Ticket
from s2dnas_deploy.serve.tracing import PARENT

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PAGE = Path(__file__).parent / "page.html"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "connect-src 'self'",
        "img-src blob:",
    )
)
_BODY_SECONDS = 30.0
_OFF_THE_LOOP = 2**16
"""JSON of more bytes is read by another thread."""


class App:
    """The ASGI application."""

    def __init__(
        self,
        house: House,
        *,
        most_body: int,
        most_bodies: int,
        beside: Callable[[Front], AbstractAsyncContextManager[None]] | None = None,
        is_replica: bool = False,
    ) -> None:
        """`most_body`: bytes of one request; `most_bodies`: of all that are being received.

        `beside` is what else serves from the same front, as long as this does. One of several replicas loads
        and unloads nothing by itself: the others would not.
        """
        self.house, self._most_body, self._most_bodies = house, most_body, most_bodies
        self._beside, self._is_replica = beside, is_replica
        self._receiving = 0
        self._front: Front | None = None
        self.failure: S2dnasError | None = None
        """Why it could not start."""
        self._others = Starlette(routes=self._routes(), exception_handlers={S2dnasError: _told})

    @property
    def front(self) -> Front:
        """Where requests go, once the loop runs."""
        assert self._front is not None, "the application has started"
        return self._front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/infer"):
            await self._infer(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._front = Front(self.house)
        try:
            async with nullcontext() if self._beside is None else self._beside(self._front):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except S2dnasError as failure:
            self.failure = failure
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        finally:
            await self._front.close()
        await send({"type": "lifespan.shutdown.complete"})

    # --- inference -----------------------------------------------------------------------------------------

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        size, front = _content_length(headers), self.front
        if size > self._most_body:
            await _send(send, *_error(413, f"expected at most {self._most_body} bytes, got {size}"))
            return
        if self._receiving + size > self._most_bodies:
            front.refused["-"] += 1
            await _send(send, *_error(503, "too many requests are being received: try again", retry_after=1))
            return
        self._receiving += size
        model = "-"
        try:
            body = await asyncio.wait_for(_received(receive, self._most_body), _BODY_SECONDS)
            if body is None:
                return  # the client is gone
            model, version = _named(scope["path"].removeprefix(scope.get("root_path", "")))
            service, resident = self.house.service(model, version)
            asked = await self._decoded(body, headers.get(_LENGTH), service)
            caller = ":".join(map(str, scope["client"] or ()))
            parent = {name: headers[key].decode("latin-1") for key, name in _PARENT.items() if key in headers}
            ticket = await front.ended(asked.ask, service, caller, lambda late: _watch(receive, late), parent)
            answers = answers_of(ticket.answers(), service.cascade.labels, asked.ask.outputs)
            tensors = service.tensors
            content = encoded(asked, answers, tensors, model=resident.name, version=resident.version)
            await _send(send, 200, *_as_response(*content))
        except asyncio.TimeoutError:  # the same as TimeoutError, since Python 3.11
            await _send(send, *_error(408, f"the body was not there within {_BODY_SECONDS:g} s"))
        except CancelledError:
            return
        except S2dnasError as error:
            failure = failure_of(error)
            (front.refused if failure.is_refusal else front.failed)[model] += 1
            await _send(send, *_error(failure.status, str(error), failure.retry_after))
        finally:
            self._receiving -= size

    async def _decoded(self, body: bytes, length: bytes | None, service: Service) -> Decoded:
        said, tensors = None if length is None else length.decode("latin-1"), service.tensors
        is_number = said is not None and said.isascii() and said.isdigit()
        if (int(said or 0) if is_number else len(body)) > _OFF_THE_LOOP:
            return await self.front.aside(decoded, body, said, tensors)
        return decoded(body, said, tensors)

    # --- all else ------------------------------------------------------------------------------------------

    def _routes(self) -> list[Route]:
        one = "/v2/models/{model}"
        both = (one, one + "/versions/{version}")
        return [
            Route("/", _page),
            Route("/v2", self._server),
            Route("/v2/health/live", _fine),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models/stats", self._statistics),  # before a model's own name
            *(Route(path, self._metadata) for path in both),
            *(Route(path + "/infer", _fine, methods=["POST"]) for path in both),  # for all other methods
            *(Route(path + "/ready", self._model_ready) for path in both),
            *(Route(path + "/config", self._config) for path in both),
            *(Route(path + "/stats", self._statistics) for path in both),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
            Route("/metrics", self._metrics),
        ]

    async def _server(self, request: Request) -> Response:
        return JSONResponse(told.server())

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=200 if told.is_ready(self.house) else 503)

    async def _model_ready(self, request: Request) -> Response:
        return Response(status_code=503 if self.house.find(*_asked_of(request)).service is None else 200)

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(told.metadata(self.house, *self._service(request)))

    async def _config(self, request: Request) -> Response:
        return JSONResponse(told.config(*self._service(request)))

    async def _statistics(self, request: Request) -> Response:
        asked = _asked_of(request) if "model" in request.path_params else ()
        loaded = self.house.loaded(*asked)
        stats = [{**told.statistics(*each), **told.by_stage(each[0])} for each in loaded]
        return JSONResponse({"model_stats": stats})

    async def _index(self, request: Request) -> Response:
        return JSONResponse(told.index(self.house))

    async def _load(self, request: Request) -> Response:
        self._check_alone()
        await self.front.aside(self.house.load, request.path_params["model"])
        return JSONResponse({})

    async def _unload(self, request: Request) -> Response:
        self._check_alone()
        await self.front.aside(self.house.unload, request.path_params["model"])
        return JSONResponse({})

    async def _metrics(self, request: Request) -> Response:
        text = metrics(self.house, self.front.refused, self.front.failed)
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    def _check_alone(self) -> None:
        if self._is_replica:
            raise OptionError("this is one of several replicas: deploy again to load bundles anew")

    def _service(self, request: Request) -> tuple[Service, Resident]:
        return self.house.service(*_asked_of(request))


def _asked_of(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _watch(receive: Receive, ticket: Ticket) -> None:
    """From now on, a client that hangs up frees its place."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ticket.cancel()

    task = asyncio.get_running_loop().create_task(listen())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _page(request: Request) -> Response:
    """What is going on, to look at; nothing is loaded from elsewhere, nor may be."""
    return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers={"content-security-policy": _POLICY})


async def _fine(request: Request) -> Response:
    return Response()


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, S2dnasError), "the only kind that comes here"
    return JSONResponse({"error": str(error)}, status_code=failure_of(error).status)


def _error(status: int, said: str, retry_after: int | None = None) -> tuple[int, bytes, Headers]:
    headers = [(b"content-type", b"application/json")]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    if status in (408, 413):  # what is still to come of the body is not read
        headers.append((b"connection", b"close"))
    return status, json.dumps({"error": " ".join(said.split())}).encode(), headers


def _as_response(content: bytes, header: int | None) -> tuple[bytes, Headers]:
    if header is None:
        return content, [(b"content-type", b"application/json")]
    return content, [(b"content-type", b"application/octet-stream"), (_LENGTH, str(header).encode())]


async def _send(send: Send, status: int, content: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content})


async def _received(receive: Receive, most: int) -> bytes | None:
    """The body; None if the client went away before its end."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise BusyError(f"expected at most {most} bytes, got more", 0)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _content_length(headers: dict[bytes, bytes]) -> int:
    given = headers.get(b"content-length", b"0")
    return int(given) if given.isdigit() and len(given) < 20 else 0


def _named(path: str) -> tuple[str, str]:
    """Model and version, of a path to infer."""
    parts = path.split("/")
    if parts[1:3] == ["v2", "models"] and len(parts) == 5:
        return parts[3], ""
    if parts[1:3] == ["v2", "models"] and len(parts) == 7 and parts[4] == "versions":
        return parts[3], parts[5]
    raise UnknownModelError("expected /v2/models/NAME/infer or /v2/models/NAME/versions/VERSION/infer")


_LENGTH = HEADER_LENGTH.encode()
_PARENT = {name.encode(): name for name in PARENT}
_HEADERS = frozenset({b"content-length", _LENGTH, *_PARENT})
