"""A process that serves: uvicorn with the application, until it is told to end.

Place in the flow: `ServeRequest` ──▶ bundles loaded ──▶ ports are listened on ──SIGTERM──▶ all that was
accepted is answered ──▶ the end. Uvicorn, because its protocol and loop are in C, and it drains on signals.
"""

import resource
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import in_a_line
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.serve.defaults import MOST_BODY_MIB
from s2dnas_deploy.serve.front import Front
from s2dnas_deploy.serve.house import House, named

_BACKLOG = 2048
_DRAIN_SECONDS = 30
_OTHER_FILES = 256


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What to serve, where and how; `how` is for `Cascade.load`, and `pace` for `Service`."""

    bundles: Sequence[str]
    host: str
    port: int
    grpc_port: int | None
    """None: no gRPC."""
    how: Mapping[str, Any]
    pace: Mapping[str, Any]
    most_body: int = MOST_BODY_MIB * 2**20
    most_bodies: int = 8 * MOST_BODY_MIB * 2**20
    most_connections: int = 16_384


def serve(request: ServeRequest, reporter: Reporter) -> None:
    """Serve until SIGTERM or SIGINT."""
    try:
        import uvicorn

        from s2dnas_deploy.serve.grpc.server import listening as over_grpc
        from s2dnas_deploy.serve.http.app import App
    except ImportError as missing:
        raise OptionError("serving needs more packages: pip install -e '.[serve]'") from missing

    if request.grpc_port is not None and request.grpc_port == request.port != 0:
        raise OptionError(f"--grpc-port {request.grpc_port} is --port, too: give each its own")
    pace = {**request.pace, "say": reporter.say}
    house = House(folders=named(request.bundles), how=request.how, pace=pace)
    listening = _listening(request.host, request.port)
    house.open()
    ports = [f"http://{request.host}:{listening.getsockname()[1]}"]

    def beside(front: Front) -> AbstractAsyncContextManager[None]:
        if request.grpc_port is None:
            return nullcontext()
        return over_grpc(
            front,
            f"{request.host}:{request.grpc_port}",
            most_body=request.most_body,
            most_requests=connections,
            began=lambda port: ports.append(f"grpc://{request.host}:{port}"),
        )

    def started() -> None:
        for service, each in house.loaded():
            stages = ", ".join(service.cascade.names)
            reporter.say(f"{each.name}, version {each.version}: {each.folder} ({stages})")
        reporter.say(f"serving on {' and '.join(ports)}")

    connections = _connections(request.most_connections)
    app = App(house, most_body=request.most_body, most_bodies=request.most_bodies, beside=beside)
    config = uvicorn.Config(
        app,
        # It warns of each request that it refuses, so a log that nobody reads would stop the server; and why
        # it does not start is told below.
        log_level="critical",
        access_log=False,
        limit_concurrency=connections,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        date_header=False,
        ws="none",
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Begin to listen, and say so."""
            await super().startup(sockets)
            if app.failure is None:
                started()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """End well on a signal; uvicorn's own would raise it again, once all is answered."""
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    try:
        Server(config).run(sockets=[listening])
    except SystemExit:  # it could not start
        if app.failure is None:
            raise
    if app.failure is not None:
        raise app.failure


def _connections(most: int) -> int:
    """How many connections there may be at once: at most so many, and as many as the system lets be."""
    bound = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = most + _OTHER_FILES
    files = wanted if bound == resource.RLIM_INFINITY else min(wanted, bound)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, bound))
    return max(files - _OTHER_FILES, 1)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as problem:
        raise OptionError(f"--host {host} --port {port}: {in_a_line(problem)}") from problem
    return listening
