"""What tests of serving share: the application in a thread, with its gRPC side beside it."""

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvicorn
from exports import chain_from, export_to
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.entries import Promise
from s2dnas_deploy.bundle.saving import replace_manifest
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Stages
from s2dnas_deploy.serve.grpc.server import listening
from s2dnas_deploy.serve.house import House
from s2dnas_deploy.serve.http.app import App

SIZE, SOON = 12, 30
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)


def make_bundle(folder: Path) -> None:
    """Three stages, with about a third of the images leaving at each exit, and a promise."""
    static = residual(shape=(3, SIZE, SIZE))
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    export_to(folder, chain)
    with Cascade.load(folder, provider="cpu") as cascade:
        confidence = cascade.all_exits(IMAGES).confidence
    thresholds = (float(np.quantile(confidence[0], 0.66)), float(np.median(confidence[1])))
    made = export_to(folder, chain, thresholds=thresholds)
    promise = Promise(
        statement="Made up.",
        images=9,
        max_drop=0.01,
        probability=0.95,
        observed_drop=0.0,
        other_answers=0.1,
    )
    replace_manifest(made, replace(made.manifest, promise=promise))


class Server:
    """The application in a thread, on free ports of the loopback."""

    def __init__(self, folders, *, most_body=2**20, most_bodies=2**22, **pace):
        house = House(folders=folders, how={"provider": "cpu", "threads": 1}, pace={"batch": 8, **pace})
        house.open()
        ports = []

        def beside(front):
            return listening(
                front, "127.0.0.1:0", most_body=most_body, most_requests=1000, began=ports.append
            )

        self.app = App(house, most_body=most_body, most_bodies=most_bodies, beside=beside)
        http = socket.create_server(("127.0.0.1", 0))
        self.port = http.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", ws="none"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [http]}, daemon=True)
        self._thread.start()
        until = time.monotonic() + SOON
        while not self._server.started:
            assert time.monotonic() < until
            time.sleep(0.001)
        (self.grpc_port,) = ports

    def close(self):
        self._server.should_exit = True
        self._thread.join(SOON)
        assert not self._thread.is_alive()


class Held:
    """Stages that wait before they run, until they are let go."""

    def __init__(self, monkeypatch):
        self.go, self.begun, run = threading.Event(), threading.Event(), Stages.run

        def held(stages, stage, buffers, count, brought=None):
            self.begun.set()
            assert self.go.wait(SOON)
            run(stages, stage, buffers, count, brought)

        monkeypatch.setattr(Stages, "run", held)
