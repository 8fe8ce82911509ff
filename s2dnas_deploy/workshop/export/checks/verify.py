"""Does the bundle answer as the network does? Asked after every export, of every stage and of all together.

Place in the flow: `StagedNetwork` + ONNX files + images ──verify──▶ `Verification`, or `VerificationError`.
Each stage alone, on what torch gives it, and then all on what they give each other, along the ways that the
samples go if nobody exits early; with batches of 1, 2 and an odd number, and then as large as memory allows.
Numbers must agree within

    |ours - theirs| ≤ tolerance · max(1, largest |theirs|)        per tensor

A label or a decision may differ only where torch itself is that close to the other answer; those are counted
apart, and a sample that goes another way is not compared any further. Reduced precision answers differently
by design, so there the agreement is measured and reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.decide.course import Array, Course, course_of
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, LABEL, PROBABILITIES, Flow, Stop
from s2dnas_deploy.decide.rules import CONFIDENCE, Largest, Threshold
from s2dnas_deploy.decide.walk import walk
from s2dnas_deploy.errors import VerificationError
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.sessions.every_stage import StageAnswer, StageSession, run_chain
from s2dnas_deploy.workshop.export.graphs.follow import (
    OnnxStages,
    Party,
    TorchStages,
    Values,
    Visit,
    answers_to,
    passing,
    sent_to,
)
from s2dnas_deploy.workshop.export.graphs.single_file import EXIT
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.samples import Images, Normalised
from s2dnas_deploy.workshop.export.staged import LOGITS, StagedNetwork

TOLERANCE = 1e-4
LEAST_AGREEMENT = 0.8  # below this share of equal labels, reduced precision has broken an exit
LARGE_BATCH = 64
_LEAST_BATCH, _ODD_BATCH = 3, 7
_COMPARED = 2**20
"""So many numbers at a time, for they are compared in float64."""
_SINGLE_FILE_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class StageCheck:
    """How one stage compares with torch, over all images that come to it.

    `called` is its name or number; to one that is `forced`, no image came by itself, and some were sent.
    """

    called: str
    answers: bool
    forced: bool
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
        return 1 - (self.labels_differ + self.labels_near_a_tie) / self.images if self.answers else 1.0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and how it came out."""

    images: str
    count: int
    batches: tuple[int, ...]
    is_chain: bool
    precision: str
    tolerance: float
    exits: tuple[StageCheck, ...]

    def report(self) -> str:
        """For a person to read."""
        first, last = ", ".join(map(str, self.batches[:-1])), self.batches[-1]
        lines = [
            f"Verified against torch on {number_of(self.count, 'image')} ({self.images}), precision "
            f"{self.precision}, in batches of {first} and {last}.",
            "",
            "Largest differences are relative to the largest value of a tensor, or 1 if that is smaller;",
            f"allowed: {self.tolerance:g}."
            if self.precision == "float32"
            else "they are measured, not limited: reduced precision answers differently by design.",
            "",
            *(self._of_a_chain() if self.is_chain else self._of_ways()),
        ]
        return "\n".join(lines) + "\n"

    def _of_a_chain(self) -> list[str]:
        width = max(4, *(len(each.called) for each in self.exits))
        return [
            f"{'exit':>{width}} {'stage alone':>12} {'in the chain':>13} {'same label':>11} "
            f"{'near a tie':>11} {'other decision':>15} {'near threshold':>15}",
            *(
                f"{e.called:>{width}} {e.stage_difference:>12.1e} {e.chain_difference:>13.1e} "
                f"{100 * e.agreement:>10.2f}% {e.labels_near_a_tie:>11} {e.decisions_differ:>15} "
                f"{e.decisions_near_the_threshold:>15}"
                for e in self.exits
            ),
        ]

    def _of_ways(self) -> list[str]:
        """With how many images came: with each choice of a setting, if there are settings."""
        width = max(5, *(len(each.called) for each in self.exits))
        forced = [each.called for each in self.exits if each.forced]
        return [
            f"{'stage':>{width}} {'images':>7} {'stage alone':>12} {'on their way':>13} {'same label':>11} "
            f"{'near a tie':>11} {'other way':>10} {'near the edge':>14}",
            *(
                f"{e.called:>{width}} {e.images:>7} "
                + (
                    f"{e.stage_difference:>12.1e} {e.chain_difference:>13.1e} "
                    if e.answers or self.precision == "float32"
                    else " " * 27
                )
                + (f"{100 * e.agreement:>10.2f}% {e.labels_near_a_tie:>11}" if e.answers else " " * 23)
                + f" {e.decisions_differ:>10} {e.decisions_near_the_threshold:>14}"
                for e in self.exits
            ),
            *(f"No image came to {called} by itself, so some were sent there." for called in forced),
        ]


def verify(
    network: StagedNetwork,
    graphs: Sequence[StageGraph],
    files: Sequence[bytes],
    images: Images,
    *,
    flow: Flow,
    images_are: str,
    precision: str,
    large: int = LARGE_BATCH,
) -> Verification:
    """Compare the ONNX files with torch on uint8 images [N, H, W, C], `large` at a time at the most."""
    pairs = list(zip(graphs, flow.stops, strict=True))
    comparison = [_Comparison(graph.exit, stop) for graph, stop in pairs]
    compare = _Compare(network, graphs, files, alone=precision == "float32")
    sizes = _sizes(large)
    for batch in _batches(images, sizes):
        for course in passing(flow):
            compare.along(course, batch, comparison)
    forced = [k for k, each in enumerate(comparison) if not each.images]
    for k in forced:
        for at in range(0, min(LARGE_BATCH, len(images)), sizes[-1]):
            rows = slice(at, min(at + sizes[-1], LARGE_BATCH))
            compare.along(sent_to(flow, k), images[rows], [*[None] * k, comparison[k]])
    verification = Verification(
        images=images_are,
        count=len(images),
        batches=sizes,
        is_chain=flow.is_chain,
        precision=precision,
        tolerance=TOLERANCE,
        exits=tuple(each.check(flow.called[k], forced=k in forced) for k, each in enumerate(comparison)),
    )
    _judge(verification)
    return verification


def verify_single_file(content: bytes, files: Sequence[bytes], flow: Flow, images: Images) -> None:
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
    where = "exit" if verification.is_chain else "stage"
    for each in verification.exits:
        if verification.precision == "float32":
            wrong = each.labels_differ + each.decisions_differ
            worst = max(each.stage_difference, each.chain_difference)
            if wrong or not worst <= verification.tolerance:
                raise VerificationError(
                    f"the exported graphs do not answer as the network does, at {where} {each.called}; no "
                    f"bundle was written\n{verification.report()}"
                )
        elif each.agreement < LEAST_AGREEMENT:
            raise VerificationError(
                f"in {verification.precision}, {where} {each.called} gives the network's label for "
                f"{100 * each.agreement:.1f}% of the images only, expected "
                f"{100 * LEAST_AGREEMENT:.0f}% or more; no bundle was written\n{verification.report()}"
            )


def _sizes(large: int) -> tuple[int, ...]:
    """Of the first batches, and of all others: 1, 2, an odd number, and a large one."""
    large = max(_LEAST_BATCH, large)
    return 1, 2, min(_ODD_BATCH, (large - 1) | 1), large


def _batches(images: Images, sizes: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """All images: the first few in small batches, the rest in large ones."""
    at = 0
    for size in (*sizes, *[sizes[-1]] * len(images)):
        if at >= len(images):
            return
        yield images[at : at + size]
        at += size


class _Compare:
    """Takes images through the stages in torch and in ONNX, and compares each stage alone if need be."""

    def __init__(
        self, network: StagedNetwork, graphs: Sequence[StageGraph], files: Sequence[bytes], *, alone: bool
    ) -> None:
        self.network, self.graphs, self.alone = network, graphs, alone
        self.ours = OnnxStages(graphs, files)
        self.theirs = TorchStages(network.links, [graph.exit for graph in graphs])

    @torch.no_grad()
    def along(
        self, course: Course, batch: npt.NDArray[np.uint8], comparison: Sequence["_Comparison | None"]
    ) -> None:
        """Compare what is said of a batch on its way."""
        floats = Normalised(images=batch, preprocessing=self.network.preprocessing)[:]
        image = floats if self.graphs[0].form.float_input else batch
        ours, theirs = Party(course, image), Party(course, floats)
        reference = self.network.reference
        itself = None if reference is None else reference(torch.from_numpy(floats))
        alike = np.ones(len(batch), np.bool_)
        for k, each in enumerate(comparison):
            mine, wanted = ours.visit(k, self.ours), theirs.visit(k, self.theirs)
            alike &= ours.came[k] == theirs.came[k]
            if each is None or not (alike & ours.came[k]).any():
                continue
            if self.alone:  # other precisions hand over what torch does not have
                brought = {**wanted.brought, IMAGE: image[wanted.rows]}
                each.compare_alone(self.ours(k, brought), wanted.given)
            mine, wanted = _some(mine, alike), _some(wanted, alike)
            given = dict(wanted.given)
            if itself is not None and each.exit is not None:
                answers = answers_to(itself[k][wanted.rows], each.exit)
                given |= {name: tensor.numpy() for name, tensor in answers.items()}
            each.add(mine, replace(wanted, given=given), features=self.alone and itself is None)


def _some(visit: Visit, chosen: npt.NDArray[np.bool_]) -> Visit:
    """Of those that came to a stage, the ones that are chosen among all."""
    here = chosen[visit.rows]
    return replace(
        visit,
        rows=visit.rows[here],
        given={name: array[here] for name, array in visit.given.items()},
    )


def _difference(ours: Array, theirs: Array, scale: float | None = None) -> float:
    """Largest difference, relative to the largest value (or 1); not finite if anything is not."""
    if scale is None:
        scale = _largest(theirs)
    parts = max(1, ours.size // _COMPARED)
    worst = 0.0
    for a, b in zip(*(np.array_split(each.reshape(-1), parts) for each in (ours, theirs)), strict=True):
        difference = np.abs(a.astype(np.float64) - b)
        if not np.isfinite(difference).all():
            return float("inf")
        worst = max(worst, float(difference.max(initial=0)))
    return worst / max(1.0, scale)


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))


class _Comparison:
    """Collects how one stage compares, batch by batch."""

    def __init__(self, exit_: Exit | None, stop: Stop) -> None:
        self.exit, self.stop = exit_, stop
        self.images = 0
        self.stage_difference = self.chain_difference = 0.0
        self.labels_differ = self.near_ties = 0
        self.decisions_differ = self.near_edge = 0

    def compare_alone(self, given: Values, wanted: Values) -> None:
        """All that it gives where it is given what torch gives it."""
        differences = self._features_differ(given, wanted), self._answers_differ(given, wanted)
        self.stage_difference = max(self.stage_difference, *differences)

    def add(self, ours: Visit, theirs: Visit, *, features: bool) -> None:
        """Count those of a batch that came on the same way in both; compare features, too, if need be."""
        self.images += len(ours.rows)
        differences = [self._answers_differ(ours.given, theirs.given)]
        if features:
            differences.append(self._features_differ(ours.given, theirs.given))
        self.chain_difference = max(self.chain_difference, *differences)
        if self.exit is not None:
            self._count_labels(ours.given[LABEL], theirs.given[LOGITS].astype(np.float64))
        rule = self.stop.then.by
        if isinstance(rule, Threshold | Largest):
            mine, wanted = (visit.given[rule.of] for visit in (ours, theirs))
            scale = max(1.0, _largest(theirs.given[LOGITS] if rule.of in ANSWERS else wanted))
            self._count_decisions(rule, mine, wanted.astype(np.float64), 10 * TOLERANCE * scale)

    def _features_differ(self, given: Values, wanted: Values) -> float:
        return max((_difference(given[name], wanted[name]) for name in self.stop.gives), default=0.0)

    def _answers_differ(self, given: Values, wanted: Values) -> float:
        """Of probabilities and confidence. d softmax = p (1 - p) d z, so they move with the logits' scale."""
        if self.exit is None:
            return 0.0
        scale = _largest(wanted[LOGITS]) / self.exit.temperature
        return max(_difference(given[name], wanted[name], scale) for name in (PROBABILITIES, CONFIDENCE))

    def _count_labels(self, label: Array, logits: Array) -> None:
        own = logits[np.arange(len(logits)), label]
        differs = label != logits.argmax(1)
        near_tie = differs & (logits.max(1) - own <= 10 * TOLERANCE * max(1.0, _largest(logits)))
        self.near_ties += int(near_tie.sum())
        self.labels_differ += int((differs & ~near_tie).sum())

    def _count_decisions(self, rule: Threshold | Largest, ours: Array, theirs: Array, edge: float) -> None:
        """Where samples are sent otherwise, and whether torch is so close to that, too."""
        if isinstance(rule, Threshold):
            other = rule.reached(ours) != rule.reached(theirs)
            number = theirs if rule.column is None else theirs[:, rule.column]
            near = other & (np.abs(number - rule.limit) <= edge)
        else:
            picked, numbers = rule.column(ours), rule.numbers(theirs)
            other = picked != rule.column(theirs)
            near = other & (numbers.max(1) - numbers[np.arange(len(numbers)), picked] <= edge)
        self.near_edge += int(near.sum())
        self.decisions_differ += int((other & ~near).sum())

    def check(self, called: str, *, forced: bool) -> StageCheck:
        """All that was collected."""
        return StageCheck(
            called=called,
            answers=self.exit is not None,
            forced=forced,
            images=self.images,
            stage_difference=self.stage_difference,
            chain_difference=self.chain_difference,
            labels_differ=self.labels_differ,
            labels_near_a_tie=self.near_ties,
            decisions_differ=self.decisions_differ,
            decisions_near_the_threshold=self.near_edge,
        )
