"""Turn a trained image CNN into a multi-stage network and deploy it: two wings and a bridge.

    static CNN ──▶ channel graph ──▶ plan ──▶ multi-stage network ──▶ model.pt ──▶ bundle ──▶ cascade

`build/` is the workstation's wing (torch), `run/` the device's (onnxruntime and numpy); they meet in
`bundle/` and `plan.py` only. Importing this package imports none of the heavy libraries.
"""

__version__ = "0.1.0"
