"""Processes that take timings, one after the other, and what they have found.

Place in the flow: `Configuration` ──`Job`──▶ `worker`s ──▶ `Cold` starts and `Run`s of a report.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bench.report import Cold, Configuration, Energy, Run, Taken
from s2dnas_deploy.bench.workers.job import Job
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC
from s2dnas_deploy.bundle.bundle import Bundle
from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.runtime.stages import Array

PYTHON = "S2DNAS_PYTHON"  # what starts Python here, where `sys.executable` cannot be started: in an emulator
IMAGES = "images.npy"
_ENERGY_SECONDS = 3.0
_DIGITS = 5  # of milliseconds: no clock here tells more than a hundredth of a microsecond


def run_worker(job: Job, folder: Path) -> Mapping[str, Array]:
    """What a process of its own has found."""
    told, out = folder / "job.json", folder / "timings.npz"
    out.unlink(missing_ok=True)
    # Its folder is the current one of the process: another's would be searched for modules first.
    # The yardsticks' arithmetic would spread over all cores.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [
        os.environ.get(PYTHON) or sys.executable,
        "-m",
        "s2dnas_deploy.bench.workers.worker",
        str(told),
        str(out),
    ]
    told.write_text(replace(job, started=time.monotonic()).to_json(), encoding="utf-8")
    done = subprocess.run(
        command, env={**os.environ, **one}, cwd=folder, check=False, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise S2dnasError(f"a process that was to take timings ended with {done.returncode}: {reason}")
    with np.load(out) as archive:
        return {name: archive[name] for name in archive.files}


class Crew:
    """Starts processes, one after the other, and gathers what they found; images lie in `folder`."""

    def __init__(
        self, bundle: Bundle, folder: Path, static: Path | None, *, processes: int, seconds: float
    ) -> None:
        self.bundle, self.folder, self.static = bundle, folder, static
        self.processes, self.seconds = processes, seconds
        self.subjects = (CASCADE,) if static is None else (CASCADE, STATIC)

    def cold(self, name: str, configuration: Configuration, reporter: Reporter) -> Cold:
        """Several starts from nothing."""
        progress = reporter.phase(f"starting the {name}{' network' if name == STATIC else ''}", "processes")
        job = self._job("cold", configuration, subject=name)
        found = list(self._repeat(job, self.processes, progress))
        return Cold(
            libraries=_numbers(np.array([each["libraries"] for each in found])),
            network=_numbers(np.array([each["network"] for each in found])),
            first=_numbers(np.array([each["answers"][0] for each in found])),
            second=_numbers(np.array([each["answers"][1] for each in found])),
            peak_bytes=tuple(int(each["peak_bytes"]) for each in found),
        )

    def warm(self, configuration: Configuration, reporter: Reporter) -> Run:
        """All subjects in turns, in several processes; then energy, where it is counted."""
        name = f"timing on {configuration.in_words}"
        job = self._job("warm", configuration, seconds=self.seconds / self.processes)
        found = list(self._repeat(job, self.processes, reporter.phase(name, "processes")))
        names = [key for key in found[0] if key not in ("copied", "stages", "moved")]
        return Run(
            provider=configuration.provider,
            threads=configuration.threads,
            batch=configuration.batch,
            subjects={key: _taken([each[key] for each in found]) for key in names},
            stages=tuple(
                _taken([each["stages"][k] for each in found]) for k in range(len(found[0]["stages"]))
            ),
            copied=_taken([each["copied"] for each in found]),
            moved=_taken([each["moved"] for each in found]),
            energy=dict(self._energy(configuration)) or None,
        )

    def _energy(self, configuration: Configuration) -> Iterator[tuple[str, Energy]]:
        """Of nothing, where nothing counts it."""
        for name in self.subjects:
            job = self._job("energy", configuration, subject=name, seconds=_ENERGY_SECONDS)
            found = run_worker(job, self.folder)
            if not found:
                return
            joules, images, source = (found[key].item() for key in ("joules", "images", "source"))
            yield name, Energy(joules=joules, images=images, source=source)

    def _repeat(self, job: Job, times: int, progress: Progress) -> Iterator[Mapping[str, Array]]:
        for done in range(times):
            yield run_worker(job, self.folder)
            progress(done + 1, times, "")

    def _job(self, kind: Any, configuration: Configuration, **more: Any) -> Job:
        preprocessing = self.bundle.manifest.preprocessing
        return Job(
            kind=kind,
            bundle=str(self.bundle.folder.absolute()),
            images=str(self.folder / IMAGES),
            static=None if self.static is None else str(self.static.absolute()),
            mean=preprocessing.mean,
            std=preprocessing.std,
            provider=configuration.provider,
            threads=configuration.threads,
            batch=configuration.batch,
            trust=None if self.bundle.trust is None else str(self.bundle.trust),
            **more,
        )


def _taken(arrays: Sequence[Array]) -> Taken:
    return tuple(tuple(_numbers(block) for block in array) for array in arrays)


def _numbers(values: Array) -> tuple[float, ...]:
    return tuple(np.round(values, _DIGITS).tolist())
