"""Other servers with the static network, to hold the package's own against: PyTriton, and MLServer.

Place in the flow: `serving.py` starts this file with the Python of an environment that has one of them:

    python yardsticks.py pytriton|mlserver GRAPH.onnx PORT

Each serves a graph that takes `image` and gives `label` as the model `net`, over the Open Inference Protocol,
with batches of at most 32 that form while others run, as their pages recommend. The graph runs in
onnxruntime on all cores, as it does in `s2dnas-serve`.
"""

import json
import os
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_BATCH = 32
_MLSERVER = """
import numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Net(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        (label,) = self.session.run(["label"], {"image": NumpyCodec.decode_input(payload.inputs[0])})
        output = NumpyCodec.encode_output("label", label.reshape(-1, 1))
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def pytriton(graph: str, port: int) -> None:
    """Serve by the Triton that PyTriton brings."""
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    session = onnxruntime.InferenceSession(graph)
    shape = tuple(session.get_inputs()[0].shape[1:])

    def infer(image: Any) -> dict[str, Any]:
        (label,) = session.run(["label"], {"image": image})
        return {"label": label.reshape(-1, 1)}

    # The server runs Python itself, and has to find the one that it is run by.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(
        http_port=port, http_address="127.0.0.1", grpc_port=_free_port(), metrics_port=_free_port()
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="net",
            infer_func=batch(infer),
            inputs=[Tensor(name="image", dtype=np.uint8, shape=shape)],
            outputs=[Tensor(name="label", dtype=np.int64, shape=(1,))],
            config=ModelConfig(max_batch_size=_BATCH, batcher=DynamicBatcher()),
        )
        triton.serve()


def mlserver(graph: str, port: int) -> None:
    """Serve by MLServer, in one process, which is its quickest for a graph that takes all cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net_by_onnxruntime.py").write_text(_MLSERVER)
        ports = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
        settings = {"host": "127.0.0.1", "parallel_workers": 0, "metrics_endpoint": None, **ports}
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {
            "name": "net",
            "implementation": "net_by_onnxruntime.Net",
            "parameters": {"uri": os.path.abspath(graph)},
            "max_batch_size": _BATCH,
            "max_batch_time": 0.001,
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        sys.path.insert(0, name)
        from mlserver.cli import main

        sys.argv = ["mlserver", "start", name]
        main()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        return int(any_port.getsockname()[1])


if __name__ == "__main__":
    {"pytriton": pytriton, "mlserver": mlserver}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
