"""Turn a trained image CNN into a multi-stage network and deploy it: two wings and a bridge.

    static CNN ──▶ channel graph ──▶ plan ──▶ multi-stage network ──▶ model.pt ──▶ bundle ──▶ cascade

`build/` is the workstation's wing (torch), `run/` the device's (onnxruntime and numpy); they meet in
`bundle/` and `plan.py` only. Importing this package imports none of the heavy libraries; `Cascade` and what
it answers with are found here, and imported when they are asked for.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2dnas_deploy.run.cascade import Cascade, Prediction, Predictions

__version__ = "0.2.0.dev0"
# onnxruntime 1.31 would send what it has noted of its use. It looks when it is imported, which is after this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Cascade", "Prediction", "Predictions", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Cascade", "Prediction", "Predictions"):
        from s2dnas_deploy.run import cascade

        return getattr(cascade, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
