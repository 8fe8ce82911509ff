"""Clients of a server, in one process of their own: so many at once, or so many requests a second.

Place in the flow: `serving.py` starts this file with a plan as JSON; it prints what the clients saw as JSON.
A client keeps its connection, sends one image at a time as a binary tensor over HTTP, and looks at the label
of the answer only. Sockets and bytes by hand, so that two cores are left to the server.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_CONNECTIONS = 256


def requests_of(images: np.ndarray[Any, Any], model: str, *, binary: bool = True) -> list[bytes]:
    """A request for each image; its pixels as bytes, or as numbers in JSON."""
    found = []
    for image in images:
        tensor: dict[str, Any] = {"name": "image", "shape": [1, *image.shape], "datatype": "UINT8"}
        kind, pixels = "Content-Type: application/json\r\n", b""
        if binary:
            pixels = image.tobytes()
            tensor["parameters"] = {"binary_data_size": len(pixels)}
            label = {"name": "label", "parameters": {"binary_data": True}}
            header = json.dumps({"inputs": [tensor], "outputs": [label]}).encode()
            kind = f"Inference-Header-Content-Length: {len(header)}\r\n"
        else:
            header = json.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]}).encode()
        lines = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n{kind}"
            f"Content-Length: {len(header) + len(pixels)}\r\n\r\n"
        )
        found.append(lines.encode() + header + pixels)
    return found


@dataclass
class Seen:
    """What clients saw: seconds until each answer, how many were refused, and the labels."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    labels: list[tuple[int, int]] = field(default_factory=list)
    """With the image's number, for some."""


class Connection(asyncio.Protocol):
    """One connection, with one request on its way at most."""

    def __init__(self, seen: Seen) -> None:
        self._seen, self._received = seen, b""
        self._answered: asyncio.Future[None] | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As a `Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, error: Exception | None) -> None:
        """As a `Protocol`: what was asked has no answer."""
        self.is_lost = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def ask(self, request: bytes, number: int, since: float) -> None:
        """Send a request, and wait for its answer; the time counts from `since`."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answered
        if self._received.startswith(b"HTTP/1.1 200"):
            self._seen.seconds.append(time.perf_counter() - since)
            if len(self._seen.labels) < 2000:
                label = int.from_bytes(self._received[-8:], "little")
                self._seen.labels.append((number, label))
        else:
            self._seen.refused += 1
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """As a `Protocol`."""
        self._received += data
        end = self._received.find(_END)
        if end < 0:
            return
        head = self._received[:end].lower()
        at = head.rfind(_LENGTH)  # after inference-header-content-length, or before it
        if head[at - 2 : at] != b"\r\n":
            at = head.rfind(b"\r\n" + _LENGTH, 0, at) + 2
        size = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        is_whole = len(self._received) >= end + len(_END) + size
        if is_whole and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


async def connected(port: int, seen: Seen) -> Connection:
    """A new connection."""
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(lambda: Connection(seen), "127.0.0.1", port))[1]


async def closed(port: int, requests: Sequence[bytes], at_once: int, seconds: float) -> Seen:
    """So many clients, each asking as soon as it is answered."""
    seen, until = Seen(), time.perf_counter() + seconds

    async def client(first: int) -> None:
        number, connection = first, await connected(port, seen)
        while (now := time.perf_counter()) < until:
            if connection.is_lost:
                connection = await connected(port, seen)
            await connection.ask(requests[number % len(requests)], number % len(requests), now)
            number += at_once

    await asyncio.gather(*map(client, range(at_once)))
    return seen


async def opened(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Seen:
    """So many requests a second, at random times, whether the server keeps up or not."""
    seen, loop, drawn = Seen(), asyncio.get_running_loop(), np.random.default_rng(0)
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        free.put_nowait(await connected(port, seen))

    async def one(number: int, due: float) -> None:
        connection = await free.get()
        if connection.is_lost:
            connection = await connected(port, seen)
        await connection.ask(requests[number % len(requests)], number % len(requests), due)
        free.put_nowait(connection)

    due, number, tasks = time.perf_counter(), 0, set[asyncio.Task[None]]()
    until = due + seconds
    while due < until:
        due += float(drawn.exponential(1 / rate))
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    return seen


def main() -> None:
    """Do what the plan on the command line says."""
    plan = json.loads(sys.argv[1])
    images = np.load(Path(plan["images"]))
    requests = requests_of(images, plan["model"], binary=plan.get("binary", True))
    begun = time.perf_counter()
    if "at_once" in plan:
        seen = uvloop.run(closed(plan["port"], requests, plan["at_once"], plan["seconds"]))
    else:
        seen = uvloop.run(opened(plan["port"], requests, plan["rate"], plan["seconds"]))
    took = time.perf_counter() - begun
    milliseconds = 1e3 * np.array(seen.seconds)
    quantiles = {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 99)}
    told = {"answered": len(seen.seconds), "refused": seen.refused, "a_second": len(seen.seconds) / took}
    print(json.dumps({**told, **quantiles, "mean": float(milliseconds.mean()), "labels": seen.labels}))


if __name__ == "__main__":
    main()
