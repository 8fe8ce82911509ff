"""A server that answers in place of a cascade: asked over HTTP, by the Open Inference Protocol.

Place in the flow: `--server URL` ──▶ `Remote`, which a load asks as it would ask a cascade. Connections stay
open, one for each thread that asks; images go as binary tensors and labels come back so.
"""

import http.client
import json
import re
import threading
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.quoting import in_a_line, shown

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_HEADER_LENGTH = "inference-header-content-length"
_SECONDS = 60


class Remote:
    """A model of a server; safe to share between threads."""

    def __init__(self, url: str, model: str) -> None:
        """`url` is `http://HOST:PORT`; the model is asked whether it is ready."""
        found = re.fullmatch(r"http://([^/:]+|\[[^]]+\]):(\d{1,5})/?", url)
        if found is None:
            raise OptionError(f"--server: expected http://HOST:PORT, got {shown(url)}")
        self._host, self._port = found[1].strip("[]"), int(found[2])
        self._path, self._own = f"/v2/models/{quote(model, safe='')}", threading.local()
        try:
            status, body = self._ask("GET", f"{self._path}/ready", b"", {})
        except S2dnasError as problem:
            raise OptionError(str(problem)) from problem
        if status != 200:
            raise OptionError(f"--server {url}: no model {model} is ready there ({status} {_said(body)})")

    def labels(self, images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The class of each image, by number."""
        tensor = {
            "name": "image",
            "shape": images.shape,
            "datatype": _DATATYPES[images.dtype.name],
            "parameters": {"binary_data_size": images.nbytes},
        }
        wanted = [{"name": "label", "parameters": {"binary_data": True}}]
        header = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
        length = {_HEADER_LENGTH: str(len(header))}
        status, body = self._ask("POST", f"{self._path}/infer", header + images.tobytes(), length)
        if status != 200:
            raise S2dnasError(f"the server answered {status}: {_said(body)}")
        start = len(body) - 8 * len(images)
        if start < 0:
            raise S2dnasError(f"the server gave {len(body)} bytes for {len(images)} labels")
        return np.frombuffer(body[start:], "<i8")

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
            self._own.connection = connection
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            del self._own.connection
            raise S2dnasError(f"--server {self._host}:{self._port}: {in_a_line(problem)}") from problem


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return shown(body[:200])
