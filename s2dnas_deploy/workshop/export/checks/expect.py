"""What a bundle reaches on labelled images, run as a device would run it.

Place in the flow: finished graphs + images ──▶ `Expected` for the manifest, and a table for the report.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.entries import Expected
from s2dnas_deploy.decide.course import course_of
from s2dnas_deploy.decide.flow import Flow
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.decide.walk import walk
from s2dnas_deploy.sessions.every_stage import Array, StageAnswer, StageSession, run_chain

_BATCH = 100


def answers_of(files: Sequence[bytes], images: Array) -> list[StageAnswer]:
    """Every stage's answers on all images, given as the graphs take them; without the features."""
    sessions = [StageSession(content) for content in files]
    parts = [run_chain(sessions, images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    return [_joined([part[k] for part in parts]) for k in range(len(files))]


def expected_of(
    answers: Sequence[StageAnswer],
    labels: npt.NDArray[np.int64],
    flow: Flow,
    macs: Sequence[int],
) -> Expected:
    """Accuracy of each exit, and what comes of exiting early by the flow's thresholds."""
    walked = walk(course_of(flow), [{CONFIDENCE: answer.confidence} for answer in answers], len(labels))
    right = np.stack([answer.label == labels for answer in answers])  # [exits, N]
    return Expected(
        images=len(labels),
        exit_accuracy=tuple(right.mean(axis=1).tolist()),
        exit_share=tuple(walked.exit_share.tolist()),
        cascade_accuracy=float(right[walked.exit, np.arange(len(labels))].mean()),
        mean_macs=walked.mean_cost(macs),
    )


def before_and_after(
    before: Sequence[StageAnswer],
    after: Sequence[StageAnswer],
    labels: npt.NDArray[np.int64],
    precision: str,
) -> str:
    """A table for the report: each exit's accuracy in float32 and in reduced precision."""
    lines = [f"\n{'exit':>4} {'float32':>9} {precision:>9} {'same label':>11}   on {len(labels)} images"]
    for k, (b, a) in enumerate(zip(before, after, strict=True)):
        was, now = 100 * (b.label == labels).mean(), 100 * (a.label == labels).mean()
        lines.append(f"{k:>4} {was:>8.2f}% {now:>8.2f}% {100 * (a.label == b.label).mean():>10.2f}%")
    lines.append("Confidences have moved as well: thresholds chosen in float32 need to be calibrated again.")
    return "\n".join(lines) + "\n"


def _joined(parts: Sequence[StageAnswer]) -> StageAnswer:
    return StageAnswer(
        label=np.concatenate([part.label for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        features={},
    )
