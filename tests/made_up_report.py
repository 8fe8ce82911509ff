"""Made-up measurements: a report whose every number is known."""

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

from s2dnas_deploy.bench.report import Answers, Cold, Energy, Example, Measured, Report, Run
from s2dnas_deploy.bench.summary import Summary, summarise
from s2dnas_deploy.decide.thresholds import Point
from s2dnas_deploy.sessions.environment import Environment, Machine, State

TIMES = {
    "cascade": 0.4,
    "exit 0": 0.2,
    "exit 1": 0.6,
    "exit 2": 1.2,
    "static": 1.0,
    "arithmetic": 0.1,
    "memory": 0.8,
}
# How much of a subject's time is spent on memory that other programs read, too.
SHARED = {"memory": 1.0, "stage 2": 0.8, "exit 2": 0.7, "static": 0.4, "cascade": 0.2}
PROCESSOR = "Quick & <Dirty> 9000"


def taken(milliseconds, rng, noise, moods):
    """[process][block][batch], with the machine's mood of each block."""
    return tuple(
        tuple(tuple((milliseconds * mood * (1 + noise * rng.random(16))).tolist()) for mood in own)
        for own in moods
    )


def made_up_report(
    seed=0,
    *,
    factors=None,
    processes=5,
    blocks=40,
    noise=0.05,
    layout=0.0,
    contention=0.0,
    speed=1.0,
    static=True,
    machine=(),
) -> Report:
    """`factors` slow subjects or stages down; `layout`: how much processes differ; `contention`: how much
    reading memory does among them; `speed`: the machine's.
    """
    rng = np.random.default_rng(seed)
    factors = factors or {}
    crowded = contention * np.abs(rng.standard_normal(processes))
    moods = [speed * (1 + 0.3 * rng.random(blocks)) for _ in range(processes)]

    def times(name, milliseconds):
        own = [
            mood * max(1 + layout * rng.standard_normal(), 0.01) * np.exp(SHARED.get(name, 0.0) * others)
            for mood, others in zip(moods, crowded, strict=True)
        ]
        return taken(milliseconds * factors.get(name, 1.0), rng, noise, own)

    names = [name for name in TIMES if static or name != "static"]
    run = Run(
        provider="cpu",
        threads=1,
        batch=1,
        subjects={name: times(name, TIMES[name]) for name in names},
        stages=tuple(times(f"stage {k}", ms) for k, ms in enumerate((0.2, 0.1, 0.05))),
        copied=times("copied", 0.01),
        moved=times("moved", 0.01),
        energy={"cascade": Energy(joules=2.0, images=1000, source="RAPL")},
    )
    return Report(
        date="2026-01-02T03:04:05+00:00",
        measured=Measured(
            name="made up",
            digest="a" * 64,
            precision="float32",
            thresholds=(0.9, 0.8),
            stage_macs=(100, 200, 700),
            static="static.onnx" if static else None,
            static_digest="b" * 64 if static else None,
            static_macs=2000 if static else None,
            images="images/",
            images_digest="c" * 64,
            timed_exits=tuple([0, 0, 1, 0, 2] * 20),
        ),
        environment=Environment(
            machine=Machine(
                **{"architecture": "x86_64", "processor": PROCESSOR, "flags": ("avx2",), "cores": 2}
                | {"memory_bytes": 2**33, "system": "Linux", "kernel": "6.1"}
                | dict(machine)
            ),
            versions={"onnxruntime": "1.30.0", "numpy": "2.4.0"},
            state=State(governor=None, load=0.25, celsius=41.0),
        ),
        boundary="from here to there",
        decode_ms=0.05,
        answers=Answers(
            images=100,
            counts=(60, 20, 20),
            cascade_accuracy=0.875,
            exit_accuracy=(0.8, 0.85, 0.9),
            static_accuracy=0.88 if static else None,
        ),
        frontier=tuple(
            Point(
                thresholds=(0.5, 0.5),
                shares=(1.0, 0.0, 0.0),
                cost=0.2 + 0.1 * i,
                loss=0.0,
                accuracy=0.8 + 0.01 * i,
            )
            for i in range(9)
        ),
        cold={name: cold(rng) for name in ("cascade", *(["static"] if static else []))},
        runs=(run,),
        examples=(
            Example(exit=0, truth="cat <b>", answer="cat <b>", jpeg=jpeg(0)),
            Example(exit=0, truth="dog", answer="cat <b>", jpeg=jpeg(1)),
            Example(exit=1, truth=None, answer="dog", jpeg=jpeg(2)),
        ),
    )


def jpeg(seed: int) -> str:
    """A small picture in base64."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


@cache
def report_and_summary() -> tuple[Report, Summary]:
    """A report, and what it says, which takes a while to find."""
    report = made_up_report()
    return report, summarise(report.runs[0], report)


def cold(rng) -> Cold:
    return Cold(
        libraries=tuple((100 + rng.random(3)).tolist()),
        network=tuple((20 + rng.random(3)).tolist()),
        first=(2.0, 2.1, 2.2),
        second=(1.0, 1.1, 1.2),
        peak_bytes=(10**8, 10**8 + 1, 10**8 + 2),
    )
