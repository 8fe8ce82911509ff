"""The server's HTTP side, as an ASGI application: the Open Inference Protocol, metrics, and operators' needs.

Place in the flow: uvicorn ──▶ `App` ──▶ `Service` of a bundle ──▶ answers.

Requests to infer, of which there are thousands a second, are taken by themselves; all others by Starlette's
routes. A body is admitted before it is read: all bodies that are on their way in have a bound together, and a
client that sends its body too slowly is let go.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from s2dnas_deploy import __version__
from s2dnas_deploy.errors import DataError, OptionError, S2dnasError
from s2dnas_deploy.serve.ask import answers_of, inputs_of, outputs_of, pixels_of
from s2dnas_deploy.serve.bell import Bell
from s2dnas_deploy.serve.house import House, Resident, UnknownModelError
from s2dnas_deploy.serve.http.codec import HEADER_LENGTH, Decoded, decoded, encoded, metadata_of
from s2dnas_deploy.serve.metrics import CONTENT_TYPE, metrics
from s2dnas_deploy.serve.queue import BusyError, ClosedError
from s2dnas_deploy.serve.service import Service
from s2dnas_deploy.serve.ticket import CancelledError, Ticket

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_WATCH_SECONDS = 0.02
"""After so long it is asked whether the client still waits; most answers are there before."""
_BODY_SECONDS = 30.0
_OFF_THE_LOOP = 2**16
"""JSON of more bytes is read by another thread, for the loop has others to serve."""


class App:
    """The ASGI application."""

    def __init__(self, house: House, *, most_body: int, most_bodies: int) -> None:
        """`most_body`: bytes of one request; `most_bodies`: of all that are being received."""
        self.house, self._most_body, self._most_bodies = house, most_body, most_bodies
        self._receiving = 0
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._bell: Bell | None = None
        self._threads = ThreadPoolExecutor(thread_name_prefix="s2dnas-decode")
        self._others = Starlette(routes=self._routes(), exception_handlers={S2dnasError: _told})

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
        self._bell = Bell()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.get_running_loop().run_in_executor(None, self.house.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await send({"type": "lifespan.shutdown.complete"})

    # --- inference -----------------------------------------------------------------------------------------

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        size = _content_length(headers)
        model = "-"
        if size > self._most_body:
            await _send(send, *_error(413, f"expected at most {self._most_body} bytes, got {size}"))
            return
        if self._receiving + size > self._most_bodies:
            self.refused[model] += 1
            await _send(send, *_error(503, "too many requests are being received: try again", retry_after=1))
            return
        self._receiving += size
        try:
            body = await asyncio.wait_for(_received(receive, self._most_body), _BODY_SECONDS)
            if body is None:
                return  # the client is gone
            model, version = _named(scope["path"])
            service, resident = self.house.service(model, version)
            asked = await self._decoded(body, headers.get(_LENGTH), service)
            ticket = await self._ended(asked, service, scope["client"], receive)
            answers = answers_of(ticket.answers(), service.cascade.labels, asked.ask.outputs)
            manifest = service.cascade.manifest
            content = encoded(asked, answers, manifest, model=resident.name, version=resident.version)
            await _send(send, 200, *_as_response(*content))
        except TimeoutError:
            await _send(send, *_error(408, f"the body was not there within {_BODY_SECONDS:g} s"))
        except CancelledError:
            return
        except S2dnasError as error:
            status, told, extra = _status(error)
            (self.refused if status == 503 else self.failed)[model] += 1
            await _send(send, *_error(status, told, **extra))
        finally:
            self._receiving -= size

    async def _decoded(self, body: bytes, length: bytes | None, service: Service) -> Decoded:
        said, manifest = None if length is None else length.decode("latin-1"), service.cascade.manifest
        is_number = said is not None and said.isascii() and said.isdigit()
        if (int(said or 0) if is_number else len(body)) > _OFF_THE_LOOP:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, decoded, body, said, manifest)
        return decoded(body, said, manifest)

    async def _ended(self, asked: Decoded, service: Service, client: Any, receive: Receive) -> Ticket:
        """The ticket of a request, once it has ended."""
        loop, bell = asyncio.get_running_loop(), self._bell
        assert bell is not None, "the application has started"
        pixels = (
            await loop.run_in_executor(self._threads, pixels_of, asked.ask, service.cascade.reader)
            if isinstance(asked.ask.images, tuple)
            else asked.ask.images
        )
        caller = ":".join(map(str, client or ()))
        ticket = service.submit(pixels, caller=caller, ended=bell.ring, **asked.ask.options)
        watch = loop.call_later(_WATCH_SECONDS, _watch, loop, receive, ticket)
        await bell.hear(ticket)
        watch.cancel()
        return ticket

    # --- all else ------------------------------------------------------------------------------------------

    def _routes(self) -> list[Route]:
        one = "/v2/models/{model}"
        both = (one, one + "/versions/{version}")
        return [
            Route("/v2", self._server),
            Route("/v2/health/live", _fine),
            Route("/v2/health/ready", self._ready),
            *(Route(path, self._metadata) for path in both),
            *(Route(path + "/infer", _fine, methods=["POST"]) for path in both),  # for all other methods
            *(Route(path + "/ready", self._model_ready) for path in both),
            *(Route(path + "/config", self._config) for path in both),
            *(Route(path + "/stats", self._statistics) for path in (*both, "/v2/models")),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
            Route("/metrics", self._metrics),
        ]

    async def _server(self, request: Request) -> Response:
        return JSONResponse({"name": "s2dnas_deploy", "version": __version__, "extensions": EXTENSIONS})

    async def _ready(self, request: Request) -> Response:
        loaded = [each for each in self.house.each if each.service is not None]
        return Response(status_code=200 if loaded and len(loaded) == len(self.house.each) else 503)

    async def _model_ready(self, request: Request) -> Response:
        return Response(status_code=503 if self._resident(request).service is None else 200)

    async def _metadata(self, request: Request) -> Response:
        service, resident = self._service(request)
        manifest = service.cascade.manifest
        versions = sorted(self.house.residents[resident.name], key=int)
        return JSONResponse(
            {
                "name": resident.name,
                "versions": versions,
                "platform": "s2dnas_onnxruntime",
                "inputs": [metadata_of(each) for each in inputs_of(manifest)],
                "outputs": [metadata_of(each) for each in outputs_of(manifest)],
            }
        )

    async def _config(self, request: Request) -> Response:
        service, resident = self._service(request)
        return JSONResponse(config_of(service, resident))

    async def _statistics(self, request: Request) -> Response:
        chosen = [self._resident(request)] if "model" in request.path_params else self.house.each
        return JSONResponse(
            {"model_stats": [statistics_of(each) for each in chosen if each.service is not None]}
        )

    async def _index(self, request: Request) -> Response:
        found = [
            {
                "name": each.name,
                "version": each.version,
                "state": "UNAVAILABLE" if each.service is None else "READY",
                "reason": each.reason,
            }
            for each in self.house.each
        ]
        return JSONResponse(found)

    async def _load(self, request: Request) -> Response:
        return await self._managed(self.house.load, request)

    async def _unload(self, request: Request) -> Response:
        return await self._managed(self.house.unload, request)

    async def _managed(self, act: Callable[[str], None], request: Request) -> Response:
        await asyncio.get_running_loop().run_in_executor(None, act, request.path_params["model"])
        return JSONResponse({})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(metrics(self.house, self.refused, self.failed), media_type=CONTENT_TYPE)

    def _resident(self, request: Request) -> Resident:
        return self.house.find(request.path_params["model"], request.path_params.get("version", ""))

    def _service(self, request: Request) -> tuple[Service, Resident]:
        return self.house.service(request.path_params["model"], request.path_params.get("version", ""))


def config_of(service: Service, resident: Resident) -> dict[str, Any]:
    """What Triton calls a model's configuration: as far as it says something here."""
    manifest, batch = service.cascade.manifest, service.batch
    ((image,), outputs) = inputs_of(manifest), outputs_of(manifest)
    return {
        "name": resident.name,
        "platform": "s2dnas_onnxruntime",
        "backend": "s2dnas",
        "max_batch_size": batch,
        "input": [{"name": image.name, "data_type": f"TYPE_{image.datatype}", "dims": image.shape[1:]}],
        "output": [
            {
                "name": each.name,
                "data_type": "TYPE_STRING" if each.datatype == "BYTES" else f"TYPE_{each.datatype}",
                "dims": each.shape[1:] or [1],
            }
            for each in outputs
        ],
        "dynamic_batching": {"max_queue_delay_microseconds": round(1e6 * service.max_wait)},
    }


def statistics_of(resident: Resident) -> dict[str, Any]:
    """What a model has done, as Triton tells it, and by stage and exit."""
    assert resident.service is not None, "it is loaded"
    counts, names = resident.service.counts, resident.service.cascade.names

    def lasting(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(1e9 * seconds)}

    return {
        "name": resident.name,
        "version": resident.version,
        "inference_count": sum(counts.exits),
        "execution_count": counts.fill[0].count,
        "inference_stats": {
            "success": lasting(counts.took.count, counts.took.sum),
            "queue": lasting(counts.waited.count, counts.waited.sum),
            "compute_infer": lasting(sum(each.count for each in counts.fill), sum(counts.seconds)),
        },
        "exits": dict(zip(names, counts.exits, strict=True)),
        "stages": [
            {"name": name, "runs": fill.count, "samples": int(fill.sum), "ns": round(1e9 * seconds)}
            for name, fill, seconds in zip(names, counts.fill, counts.seconds, strict=True)
        ],
    }


def _watch(loop: asyncio.AbstractEventLoop, receive: Receive, ticket: Ticket) -> None:
    """From now on, a client that hangs up frees its place."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ticket.cancel()

    task = loop.create_task(listen())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _fine(request: Request) -> Response:
    return Response()


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, S2dnasError), "the only kind that comes here"
    status, told, _ = _status(error)
    return JSONResponse({"error": told}, status_code=status)


def _status(error: S2dnasError) -> tuple[int, str, dict[str, Any]]:
    """The HTTP status of an error, what is told, and when to come back."""
    if isinstance(error, BusyError):
        return (
            (503, str(error), {"retry_after": error.retry_after})
            if error.retry_after
            else (413, str(error), {})
        )
    if isinstance(error, ClosedError):
        return 503, str(error), {"retry_after": 1}
    if isinstance(error, UnknownModelError):
        return 404, str(error), {}
    return (400 if isinstance(error, (DataError, OptionError)) else 500), str(error), {}


def _error(
    status: int, told: str, *, retry_after: float | None = None
) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    headers = [(b"content-type", b"application/json")]
    if retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(retry_after))).encode()))
    if status in (408, 413):  # what is still to come of the body is not read
        headers.append((b"connection", b"close"))
    return status, json.dumps({"error": " ".join(told.split())}).encode(), headers


def _as_response(content: bytes, header: int | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    if header is None:
        return content, [(b"content-type", b"application/json")]
    return content, [(b"content-type", b"application/octet-stream"), (_LENGTH, str(header).encode())]


async def _send(send: Send, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
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
_HEADERS = frozenset({b"content-length", _LENGTH})
