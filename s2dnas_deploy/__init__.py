"""Turn a trained image CNN into a dynamic one and deploy it: two wings on common ground.

    static CNN ──▶ channel graph ──▶ plan ──▶ multi-stage network ──▶ model.pt ──▶ bundle ──▶ cascade

`workshop/` is the workstation's wing (torch), `runtime/` the device's (onnxruntime and numpy); they meet in
`bundle/`, `decide/` and `plan/` only. What is listed here is public, and nothing else. It is imported when
it is asked for, so that importing the package imports none of the heavy libraries:

    Cascade           a bundle, running
    Prediction        what it says of one image
    Predictions       what it says of a batch
    Timing            where the seconds of a batch went
    Bundle            a bundle that was read and checked
    Manifest          what a bundle says of itself
    load_bundle       read a bundle and check it
    verify_bundle     the same, and every file of the folder
    Flow              which samples go where
    Plan              how a network is divided
    divide            a module of torch and a plan, for a training loop of your own (needs the extra `build`)
    DynamicNetwork    what that makes: to train, to save, to export
    load_model        a `model.pt`, as a network of torch (needs the extra `build`)
    S2dnasError       the base of all errors that this package raises on purpose; `errors` has the tree
    BundleError, DataError, OptionError, ProviderError      those that running a bundle can meet
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2dnas_deploy.bundle.bundle import Bundle, load_bundle, verify_bundle
    from s2dnas_deploy.bundle.manifest import Manifest
    from s2dnas_deploy.decide.flow import Flow
    from s2dnas_deploy.errors import BundleError, DataError, OptionError, ProviderError, S2dnasError
    from s2dnas_deploy.plan import Plan
    from s2dnas_deploy.runtime.cascade import Cascade
    from s2dnas_deploy.runtime.predictions import Prediction, Predictions, Timing
    from s2dnas_deploy.workshop.network.model_file import load_model
    from s2dnas_deploy.workshop.own_loop import DynamicNetwork, divide

__version__ = "0.2.0.dev0"

# onnxruntime 1.31 would send what it has noted of its use. It looks when it is imported, which is after this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Bundle",
    "BundleError",
    "Cascade",
    "DataError",
    "DynamicNetwork",
    "Flow",
    "Manifest",
    "OptionError",
    "Plan",
    "Prediction",
    "Predictions",
    "ProviderError",
    "S2dnasError",
    "Timing",
    "__version__",
    "divide",
    "load_bundle",
    "load_model",
    "verify_bundle",
]
_HOMES = {
    "runtime.cascade": ("Cascade",),
    "runtime.predictions": ("Prediction", "Predictions", "Timing"),
    "bundle.bundle": ("Bundle", "load_bundle", "verify_bundle"),
    "bundle.manifest": ("Manifest",),
    "decide.flow": ("Flow",),
    "plan": ("Plan",),
    "workshop.network.model_file": ("load_model",),
    "workshop.own_loop": ("DynamicNetwork", "divide"),
    "errors": ("BundleError", "DataError", "OptionError", "ProviderError", "S2dnasError"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
