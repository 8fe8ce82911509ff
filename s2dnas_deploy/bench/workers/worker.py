"""One process of a measurement: started afresh, it takes its timings and writes them down.

    python -m s2dnas_deploy.bench.workers.worker JOB.json TIMINGS.npz

Place in the flow: `measure` starts several, one after the other. What two processes of the same program
differ by (where their memory lies, what the machine does meanwhile) is then in the spread that is reported.

In milliseconds, a cold start's file holds how long it took until the `libraries` were there since the
process was asked for, then the `network`, and each of the first `answers`; and `peak_bytes`. A warm one
holds for every subject those of each batch, [blocks, batches], and of the cascade in parts `copied` and
`moved` [blocks, batches] and `stages` [stages, blocks, batches]. `energy` holds `joules` of so many
`images`, by a `source`.
"""

import gc
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bench.workers.job import Job

_FIRST = 8  # answers of a cold start
_FEWEST_BLOCKS = 2
_WARM_UP = 4  # calls: after one, means are 7% above those of a stream, after four 2%


def main(job: Path, out: Path) -> None:
    """Do one job."""
    asked = Job.load(job)
    found = {"cold": _cold, "warm": _warm, "energy": _energy}[asked.kind](asked)
    from s2dnas_deploy.files.atomic import naming  # not among the libraries whose loading is timed

    with naming(out):
        np.savez(out, **found)


def _images(job: Job) -> Any:
    """On disk: only what is answered comes into memory, which is measured, too."""
    return np.load(job.images, mmap_mode="r")


def _cold(job: Job) -> dict[str, Any]:
    import s2dnas_deploy.bundle.bundle
    import s2dnas_deploy.runtime.pictures  # noqa: F401 - what loading a cascade imports is a library, too
    from s2dnas_deploy.bench.workers.memory import peak_bytes
    from s2dnas_deploy.bench.workers.subjects import load_subject

    assert job.subject is not None
    imported = time.monotonic()
    images = _images(job)
    given = [np.array(images[rows]) for rows in next(job.blocks(len(images)))[:_FIRST]]
    moments = [time.monotonic()]
    subject = load_subject(job, job.subject)
    moments.append(time.monotonic())
    for batch in given:
        subject(batch)
        moments.append(time.monotonic())
    network, *answers = 1e3 * np.diff(moments)
    return {
        "libraries": 1e3 * (imported - job.started),
        "network": network,
        "answers": np.array(answers),
        "peak_bytes": peak_bytes(),
    }


def _warm(job: Job) -> dict[str, Any]:
    """All subjects on a block, then all on the next, each time another one first."""
    from s2dnas_deploy.bench.workers.subjects import CASCADE, exit_name, load_all

    subjects, cascade = load_all(job)
    # What the one before has left in the caches is no subject's fault: calls that do not count bring its
    # weights there. The cascade's are those of every stage, as in a stream of images, which reaches them all.
    every_stage = subjects.get(exit_name(len(cascade.names) - 1), subjects[CASCADE])
    images = _images(job)
    blocks = job.blocks(len(images))
    for subject in reversed(subjects.values()):  # the very first run of a graph is no warm one
        for rows in next(blocks):
            subject(np.array(images[rows]))
    taken: dict[str, list[Any]] = {name: [] for name in (*subjects, "copied", "stages", "moved")}
    gc.disable()  # a collection would fall on some batches and not on others
    names, ends = list(subjects), time.monotonic() + job.seconds
    for number, block in enumerate(job.blocks(len(images))):
        gc.collect()
        given = [np.array(images[rows]) for rows in block]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            warm_up(every_stage if name == CASCADE else subjects[name], given)
            times = []
            for batch in given:
                start = time.perf_counter()
                subjects[name](batch)
                times.append(time.perf_counter() - start)
            taken[name].append([1e3 * seconds for seconds in times])
        warm_up(every_stage, given)
        parts = [
            said.timing for said in (cascade.predict(batch, timed=True) for batch in given) if said.timing
        ]
        taken["copied"].append([1e3 * each.copied for each in parts])
        taken["stages"].append([[1e3 * seconds for seconds in each.stages] for each in parts])
        taken["moved"].append([1e3 * each.rest for each in parts])
        if number + 1 >= _FEWEST_BLOCKS and time.monotonic() > ends:
            break
    arrays = {name: np.array(values) for name, values in taken.items()}
    return arrays | {"stages": np.moveaxis(arrays["stages"], 2, 0)}


def warm_up(subject: Any, batches: list[Any]) -> None:
    """Some calls that do not count."""
    for batch in batches[-_WARM_UP:]:
        subject(batch)


def _energy(job: Job) -> dict[str, Any]:
    from s2dnas_deploy.bench.workers.energy import joules_of
    from s2dnas_deploy.bench.workers.subjects import load_subject

    assert job.subject is not None
    images, subject = _images(job), load_subject(job, job.subject)
    batches = [np.array(images[rows]) for rows in next(job.blocks(len(images)))]
    for batch in batches:
        subject(batch)
    turns, done = cycle(batches), 0

    def work() -> None:
        nonlocal done
        ends = time.monotonic() + job.seconds
        while time.monotonic() < ends:
            subject(next(turns))
            done += job.batch

    counted = joules_of(work, job.provider)
    return {} if counted is None else {"joules": counted.joules, "source": counted.source, "images": done}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
