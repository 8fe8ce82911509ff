"""Runs on the device, with the base install only: answers of a cascade in every way, as JSON on stdout.

python tests/arm/answer.py BUNDLE PICTURES ARRAYS.npy
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np

from s2dnas_deploy import Cascade

bundle, pictures, arrays = sys.argv[1:]
images = np.load(arrays)
files = sorted(str(path) for path in Path(pictures).rglob("*.*"))


def said(label: object, confidence: object, exits: object) -> dict[str, list[float]]:
    return {
        "label": np.asarray(label).tolist(),
        "confidence": np.asarray(confidence, float).tolist(),
        "exit": np.asarray(exits).tolist(),
    }


answers = {}
with Cascade.load(bundle, provider="arm", threads=1) as cascade:
    for batch in (1, 7, len(images)):
        parts = [cascade.predict(images[i : i + batch]) for i in range(0, len(images), batch)]
        answers[f"batches of {batch}"] = said(
            *(np.concatenate([getattr(p, key) for p in parts]) for key in ("label", "confidence", "exit"))
        )
    streamed = list(cascade.stream(files, batch=5))
    answers["stream of files"] = said(*zip(*((p.label, p.confidence, p.exit) for p in streamed), strict=True))
    every = cascade.predict(images, thresholds=(2.0,) * len(cascade.flow.early), probabilities=True)
    answers["all stages"] = said(every.label, every.confidence, every.exit)
    answers["probabilities"] = every.probabilities.tolist()
    for name, setting in cascade.flow.settings.items():
        for choice in setting.choices:
            picked = cascade.predict(images, settings={name: choice})
            answers[f"{name}={choice}"] = said(picked.label, picked.confidence, picked.exit)
    if cascade.flow.gate is not None:
        ways = len(cascade.flow.stops) - 1
        moved = cascade.predict(images, offsets=(0.0,) * (ways - 1) + (0.05,))
        answers["with offsets"] = said(moved.label, moved.confidence, moved.exit)
print(json.dumps({"machine": platform.machine(), "answers": answers}))
