"""Does the bundle answer as the network does? Asked after every export, of every stage and of the chain.

Place in the flow: `Chain` + ONNX files + images ──verify──▶ `Verification`, or `VerificationError`.
Each stage alone, on the features that torch computes, and then the chain on its own features; with batches of
1, 2 and an odd number. Numbers must agree within

    |ours - theirs| ≤ tolerance · max(1, largest |theirs|)        per tensor

A label or a decision may differ only where torch itself is that close to the other answer; those are counted
apart. Reduced precision answers differently by design, so there the agreement is measured and reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.decide.course import course_of
from s2dnas_deploy.decide.flow import IMAGE, Flow
from s2dnas_deploy.decide.rules import CONFIDENCE, Rule, Threshold
from s2dnas_deploy.decide.walk import walk
from s2dnas_deploy.errors import VerificationError
from s2dnas_deploy.sessions.every_stage import Array, StageAnswer, StageSession, run_chain, whole_batch
from s2dnas_deploy.workshop.export.chain import Chain, run_links
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence
from s2dnas_deploy.workshop.export.graphs.single_file import EXIT
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.samples import normalised

TOLERANCE = 1e-4
LEAST_AGREEMENT = 0.8  # below this share of equal labels, reduced precision has broken an exit
BATCHES = (1, 2, 7)
_LARGE_BATCH = 64
_SINGLE_FILE_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class ExitCheck:
    """How one exit of the chain compares with torch over all images."""

    exit: int
    images: int
    stage_difference: float
    chain_difference: float
    labels_differ: int
    labels_near_a_tie: int
    decisions_differ: int
    decisions_near_the_threshold: int

    @property
    def agreement(self) -> float:
        """Share of images with the same label."""
        return 1 - (self.labels_differ + self.labels_near_a_tie) / self.images


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and how it came out."""

    images: str
    precision: str
    tolerance: float
    exits: tuple[ExitCheck, ...]

    def report(self) -> str:
        """For a person to read."""
        lines = [
            f"Verified against torch on {self.exits[0].images} images ({self.images}), precision "
            f"{self.precision}, in batches of {', '.join(map(str, BATCHES))} and {_LARGE_BATCH}.",
            "",
            "Largest differences are relative to the largest value of a tensor, or 1 if that is smaller;",
            f"allowed: {self.tolerance:g}."
            if self.precision == "float32"
            else "they are measured, not limited: reduced precision answers differently by design.",
            "",
            f"{'exit':>4} {'stage alone':>12} {'in the chain':>13} {'same label':>11} "
            f"{'near a tie':>11} {'other decision':>15} {'near threshold':>15}",
        ]
        for e in self.exits:
            lines.append(
                f"{e.exit:>4} {e.stage_difference:>12.1e} {e.chain_difference:>13.1e} "
                f"{100 * e.agreement:>10.2f}% {e.labels_near_a_tie:>11} {e.decisions_differ:>15} "
                f"{e.decisions_near_the_threshold:>15}"
            )
        return "\n".join(lines) + "\n"


def verify(
    chain: Chain,
    graphs: Sequence[StageGraph],
    files: Sequence[bytes],
    images: npt.NDArray[np.uint8],
    *,
    flow: Flow,
    images_are: str,
    precision: str,
) -> Verification:
    """Compare the ONNX files with torch on uint8 images [N, H, W, C]."""
    sessions = [StageSession(content) for content in files]
    pairs = zip(graphs, flow.stops, strict=True)
    comparison = [
        _Comparison(k, graph.exit, stop.then.by, precision) for k, (graph, stop) in enumerate(pairs)
    ]
    for batch in _batches(images):
        _compare(chain, graphs, sessions, batch, comparison)
    verification = Verification(
        images=images_are,
        precision=precision,
        tolerance=TOLERANCE,
        exits=tuple(each.check() for each in comparison),
    )
    _judge(verification)
    return verification


def verify_single_file(content: bytes, files: Sequence[bytes], flow: Flow, images: Array) -> None:
    """The single file must exit where the flow says, with its answer; `images` as graphs take them.

    Where a confidence is as close to a threshold as rounding brings it, either decision is right.
    """
    single = StageSession(content)
    sessions = [StageSession(each) for each in files]
    for i in range(min(len(images), _SINGLE_FILE_IMAGES)):
        answers = run_chain(sessions, images[i : i + 1])
        got = single.run({IMAGE: images[i : i + 1]})
        k = int(got.features[EXIT][0])
        same = np.abs(got.probabilities - answers[k].probabilities).max() <= TOLERANCE
        if not (_may_exit(flow, answers, k) and same):
            sure = [float(answer.confidence[0]) for answer in answers]
            raise VerificationError(
                f"the single file answers image {i} otherwise than the chain of stages (it took exit {k}, "
                f"confidences {sure}); no bundle was written"
            )


def _may_exit(flow: Flow, answers: Sequence[StageAnswer], k: int) -> bool:
    """Whether the one sample may exit at k: thresholds before it a little higher, its own a little lower."""
    shifts = [TOLERANCE if j < k else -TOLERANCE for j in range(len(flow.thresholds))]
    pairs = zip(flow.thresholds, shifts, strict=True)
    moved = [at if at > 1 else at + shift for at, shift in pairs]  # above 1, nobody exits
    course = course_of(flow.with_thresholds(moved))
    return int(walk(course, [{CONFIDENCE: answer.confidence} for answer in answers], 1).exit[0]) == k


def _judge(verification: Verification) -> None:
    """Raise if what must agree does not."""
    for each in verification.exits:
        if verification.precision == "float32":
            wrong = each.labels_differ + each.decisions_differ
            worst = max(each.stage_difference, each.chain_difference)
            if wrong or not worst <= verification.tolerance:
                raise VerificationError(
                    f"the exported graphs do not answer as the network does, at exit {each.exit}; no bundle "
                    f"was written\n{verification.report()}"
                )
        elif each.agreement < LEAST_AGREEMENT:
            raise VerificationError(
                f"in {verification.precision}, exit {each.exit} gives the network's label for "
                f"{100 * each.agreement:.1f}% of the images only, expected "
                f"{100 * LEAST_AGREEMENT:.0f}% or more; no bundle was written\n{verification.report()}"
            )


def _batches(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """All images: the first few in small batches, the rest in large ones."""
    at = 0
    for size in (*BATCHES, *[_LARGE_BATCH] * len(images)):
        if at >= len(images):
            return
        yield images[at : at + size]
        at += size


@torch.no_grad()
def _compare(
    chain: Chain,
    graphs: Sequence[StageGraph],
    sessions: Sequence[StageSession],
    batch: npt.NDArray[np.uint8],
    comparison: Sequence["_Comparison"],
) -> None:
    floats = normalised(batch, chain.preprocessing)
    image = floats if graphs[0].form.float_input else batch
    expected = chain.reference(torch.from_numpy(floats))
    values = whole_batch(image, len(sessions))
    alone: list[tuple[Tensor, dict[str, Tensor]]] = run_links(chain.links, torch.from_numpy(floats))
    together = run_chain(sessions, image)
    for each, session, (logits, features), answer, wanted in zip(
        comparison, sessions, alone, together, expected, strict=True
    ):
        if each.precision == "float32":  # other precisions hand over what torch does not have
            given = session.run(values)
            values.update({name: x.numpy() for name, x in features.items()})
            for name, x in features.items():
                each.stage_difference = max(each.stage_difference, _difference(given.features[name], x))
            each.stage_difference = max(each.stage_difference, each.answers_difference(given, logits))
        each.add(answer, wanted)


def _difference(ours: Array, theirs: Tensor, scale: float | None = None) -> float:
    """Largest difference, relative to the largest value (or 1); not finite if anything is not."""
    a, b = ours.astype(np.float64), theirs.double().numpy()
    if scale is None:
        scale = float(np.abs(b).max(initial=0))
    difference = np.abs(a - b)
    if not np.isfinite(difference).all():
        return float("inf")
    return float(difference.max(initial=0)) / max(1.0, scale)


class _Comparison:
    """Collects how one exit compares, batch by batch."""

    def __init__(self, index: int, exit_: Exit, rule: Rule, precision: str) -> None:
        self.index, self.exit, self.precision = index, exit_, precision
        self.threshold = rule if isinstance(rule, Threshold) else None
        self.images = 0
        self.stage_difference = self.chain_difference = 0.0
        self.labels_differ = self.near_ties = 0
        self.decisions_differ = self.near_threshold = 0

    def answers_difference(self, answer: StageAnswer, logits: Tensor) -> float:
        """Of probabilities and confidence. d softmax = p (1 - p) d z, so they move with the logits' scale."""
        probabilities, confidence = self._expected(logits)
        scale = float(logits.abs().max()) / self.exit.temperature
        return max(
            _difference(answer.probabilities, probabilities, scale),
            _difference(answer.confidence, confidence, scale),
        )

    def add(self, answer: StageAnswer, logits: Tensor) -> None:
        """Count a batch of the chain's answers against torch's logits."""
        self.images += len(logits)
        self.chain_difference = max(self.chain_difference, self.answers_difference(answer, logits))
        _, confidence = self._expected(logits)
        scale = max(1.0, float(logits.abs().max()))
        z = logits.double().numpy()
        own = z[np.arange(len(z)), answer.label]
        differs = answer.label != z.argmax(1)
        near_tie = differs & (z.max(1) - own <= 10 * TOLERANCE * scale)
        self.near_ties += int(near_tie.sum())
        self.labels_differ += int((differs & ~near_tie).sum())
        if self.threshold is not None:
            wanted = confidence.double().numpy()
            other = self.threshold.reached(answer.confidence) != self.threshold.reached(wanted)
            near = other & (np.abs(wanted - self.threshold.limit) <= 10 * TOLERANCE * scale)
            self.near_threshold += int(near.sum())
            self.decisions_differ += int((other & ~near).sum())

    def check(self) -> ExitCheck:
        """All that was collected."""
        return ExitCheck(
            exit=self.index,
            images=self.images,
            stage_difference=self.stage_difference,
            chain_difference=self.chain_difference,
            labels_differ=self.labels_differ,
            labels_near_a_tie=self.near_ties,
            decisions_differ=self.decisions_differ,
            decisions_near_the_threshold=self.near_threshold,
        )

    def _expected(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return probabilities_and_confidence(logits, self.exit.rule, self.exit.temperature)
