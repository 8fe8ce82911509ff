"""The server's gRPC side, in the event loop of the HTTP side.

Place in the flow: grpc.aio ──▶ a handler a method ──▶ `Front` ──▶ answers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import json_format
from grpc import aio

from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.serve import told
from s2dnas_deploy.serve.ask import answers_of
from s2dnas_deploy.serve.failure import failure_of
from s2dnas_deploy.serve.front import Front
from s2dnas_deploy.serve.grpc.codec import decoded, encoded
from s2dnas_deploy.serve.grpc.messages import MESSAGES, PACKAGE, SERVICE
from s2dnas_deploy.serve.tracing import PARENT

Handler = Callable[[Any, Any], Awaitable[Any]]

_STREAM_AHEAD = 64
"""Requests of one stream that are on their way at once."""
_GRACE_SECONDS = 30


@asynccontextmanager
async def listening(
    front: Front, address: str, *, most_body: int, most_requests: int, began: Callable[[int], None]
) -> AsyncIterator[None]:
    """Serve at an address meanwhile, whose port is told; in the end, all that was accepted is answered."""
    server = aio.server(
        maximum_concurrent_rpcs=most_requests,
        options=[
            ("grpc.max_receive_message_length", most_body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    handler = grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", _methods(front))
    server.add_generic_rpc_handlers((handler,))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as problem:
        raise OptionError(
            f"gRPC cannot listen on {address}: it is taken, or not of this machine"
        ) from problem
    await server.start()
    began(port)
    try:
        yield
    finally:
        await server.stop(_GRACE_SECONDS)


def _methods(front: Front) -> Mapping[str, Any]:
    said = _Said(front)
    unary = {
        "ServerLive": said.live,
        "ServerReady": said.ready,
        "ModelReady": said.model_ready,
        "ServerMetadata": said.server,
        "ModelMetadata": said.metadata,
        "ModelConfig": said.config,
        "ModelStatistics": said.statistics,
        "RepositoryIndex": said.index,
        "RepositoryModelLoad": said.load,
        "RepositoryModelUnload": said.unload,
    }
    methods = {name: _unary(name, _plain(name, act)) for name, act in unary.items()}
    methods["ModelInfer"] = _unary("ModelInfer", said.infer)
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        said.stream,
        request_deserializer=MESSAGES["ModelInferRequest"].FromString,
        response_serializer=MESSAGES["ModelStreamInferResponse"].SerializeToString,
    )
    return methods


def _unary(name: str, handler: Handler) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        handler,
        request_deserializer=MESSAGES[f"{name}Request"].FromString,
        response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
    )


def _plain(name: str, act: Callable[[Any], Awaitable[told.Values]]) -> Handler:
    """A handler of what answers with plain values."""

    async def handler(request: Any, context: Any) -> Any:
        try:
            return json_format.ParseDict(await act(request), MESSAGES[f"{name}Response"]())
        except S2dnasError as error:
            await _abort(context, error)

    return handler


async def _abort(context: Any, error: S2dnasError) -> None:
    failure = failure_of(error)
    after = () if failure.retry_after is None else (("retry-after", str(failure.retry_after)),)
    await context.abort(grpc.StatusCode[failure.code], " ".join(str(error).split()), after)


class _Said:
    """What each method answers."""

    def __init__(self, front: Front) -> None:
        self._front, self._house = front, front.house

    async def infer(self, request: Any, context: Any) -> Any:
        """ModelInfer."""
        try:
            return await self._answer(request, context)
        except S2dnasError as error:
            refused = failure_of(error).is_refusal
            (self._front.refused if refused else self._front.failed)[request.model_name] += 1
            await _abort(context, error)

    async def stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """ModelStreamInfer: answers in the order of the requests, of which some are on their way at once."""
        ahead: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(_STREAM_AHEAD)

        async def read() -> None:
            async for request in requests:
                await ahead.put(asyncio.create_task(self._answer(request, context)))
            await ahead.put(None)

        reading = asyncio.create_task(read())
        try:
            while (task := await ahead.get()) is not None:
                try:
                    yield MESSAGES["ModelStreamInferResponse"](infer_response=await task)
                except S2dnasError as error:
                    yield MESSAGES["ModelStreamInferResponse"](error_message=" ".join(str(error).split()))
        finally:
            reading.cancel()

    async def _answer(self, request: Any, context: Any) -> Any:
        service, resident = self._house.service(request.model_name, request.model_version)
        ask = decoded(request, service.tensors)
        parent = {key: value for key, value in context.invocation_metadata() or () if key in PARENT}
        ticket = await self._front.ended(ask, service, context.peer(), parent=parent)
        answers = answers_of(ticket.answers(), service.cascade.labels, ask.outputs)
        return encoded(ask, answers, service.tensors, model=resident.name, version=resident.version)

    async def live(self, request: Any) -> told.Values:
        """ServerLive."""
        return {"live": True}

    async def ready(self, request: Any) -> told.Values:
        """ServerReady."""
        return {"ready": told.is_ready(self._house)}

    async def model_ready(self, request: Any) -> told.Values:
        """ModelReady."""
        return {"ready": self._house.find(request.name, request.version).service is not None}

    async def server(self, request: Any) -> told.Values:
        """ServerMetadata."""
        return told.server()

    async def metadata(self, request: Any) -> told.Values:
        """ModelMetadata."""
        return told.metadata(self._house, *self._house.service(request.name, request.version))

    async def config(self, request: Any) -> told.Values:
        """ModelConfig."""
        return {"config": told.config(*self._house.service(request.name, request.version))}

    async def statistics(self, request: Any) -> told.Values:
        """ModelStatistics, of one model or of all."""
        loaded = self._house.loaded(request.name, request.version)
        return {"model_stats": [told.statistics(*each) for each in loaded]}

    async def index(self, request: Any) -> told.Values:
        """RepositoryIndex."""
        return {
            "models": [
                each for each in told.index(self._house) if each["state"] == "READY" or not request.ready
            ]
        }

    async def load(self, request: Any) -> told.Values:
        """RepositoryModelLoad."""
        await self._front.aside(self._house.load, request.model_name)
        return {}

    async def unload(self, request: Any) -> told.Values:
        """RepositoryModelUnload."""
        await self._front.aside(self._house.unload, request.model_name)
        return {}
