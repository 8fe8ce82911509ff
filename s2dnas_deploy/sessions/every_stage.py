"""All stages on all images: the chain, without anyone exiting early.

Place in the flow: a bundle's graphs ──▶ onnxruntime sessions ──▶ what each stage answers and hands on. Export
checks its work with it; `cascade` is what answers early.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.flow import IMAGE, LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.sessions.providers import CPU, make_session

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class StageAnswer:
    """What a stage says of a batch: label [N], confidence [N], probabilities [N, classes]; its features."""

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    features: Mapping[str, Array]


class StageSession:
    """One stage's graph, loaded; on the CPU, on as many threads as said.

    Between batches it holds no memory: several of them, after a large batch, would hold all that it took.
    """

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        self._session = make_session(graph, CPU, threads=threads, holds_memory=False)
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, values: Mapping[str, Array]) -> StageAnswer:
        """Answer for the batch whose image and shared features are in `values`."""
        named = self.outputs_on(values)
        return StageAnswer(
            label=named.pop(LABEL),
            confidence=named.pop(CONFIDENCE),
            probabilities=named.pop(PROBABILITIES),
            features=named,
        )

    def outputs_on(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """All that the graph gives, by name, whether it answers or not."""
        results = self._session.run(list(self.outputs), {name: values[name] for name in self.inputs})
        return dict(zip(self.outputs, results, strict=True))


def rows_of(stage: int) -> str:
    """The input by which a graph picks, of what `stage` gave, those that go on; of the image, 0's."""
    return f"rows_{stage}"


def whole_batch(images: Array, stages: int) -> dict[str, Array]:
    """What the stages of a chain are given from outside when no image exits: images, and all rows."""
    every = np.arange(len(images), dtype=np.int64)
    return {IMAGE: images, **{rows_of(stage): every for stage in range(stages)}}


def run_chain(sessions: Sequence[StageSession], images: Array) -> list[StageAnswer]:
    """Every stage's answer on every image of a batch."""
    values = whole_batch(images, len(sessions))
    answers = []
    for session in sessions:
        answer = session.run(values)
        values.update(answer.features)
        answers.append(answer)
    return answers
