"""What a bundle reaches on labelled images, run as a device would run it.

Place in the flow: finished graphs + images ──▶ `Told` ──▶ `Expected` for the manifest, and a table for the
report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.entries import Expected
from s2dnas_deploy.decide.course import Array, Course, course_of
from s2dnas_deploy.decide.flow import LABEL, Choices, Flow
from s2dnas_deploy.decide.rules import Always, Setting
from s2dnas_deploy.decide.walk import Walked, walk
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.export.graphs.follow import Party, Run, without_exits
from s2dnas_deploy.workshop.export.samples import Images


@dataclass(frozen=True, kw_only=True)
class Told:
    """What stages say of images if nobody exits early: of those that `came` to a stage, [stages, N].

    `seen` is what each stage's rule looks at, by name, [N, …].
    """

    course: Course
    came: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int64]
    seen: Sequence[Mapping[str, Array]]

    @cached_property
    def walked(self) -> Walked:
        """The ways of the images if they exit by the thresholds: each is a part of that without exits."""
        return walk(self.course, self.seen, self.came.shape[1])


def told_by(
    flow: Flow, run: Run, images: Images, settings: Mapping[str, str] | None = None, *, batch: int
) -> Told:
    """Take all images through, as the graphs take them, a batch at a time; features are not kept."""
    count, passing_all = len(images), without_exits(flow, settings)
    came = np.zeros((len(flow.stops), count), np.bool_)
    label = np.full(came.shape, -1, np.int64)
    seen: list[dict[str, Array]] = [{} for _ in flow.stops]
    for at in range(0, count, batch):
        party = Party(passing_all, images[at : at + batch])
        for k, looks in enumerate(flow.looked_at):
            visit = party.visit(k, run)
            rows = at + visit.rows
            came[k, rows] = True
            if LABEL in visit.given:
                label[k, rows] = visit.given[LABEL]
            if looks is not None and looks in visit.given:
                found = visit.given[looks]
                if looks not in seen[k]:
                    seen[k][looks] = np.zeros((count, *found.shape[1:]), found.dtype)
                seen[k][looks][rows] = found
    return Told(course=course_of(flow, settings), came=came, label=label, seen=seen)


def expected_of(flow: Flow, told: Told, labels: npt.NDArray[np.int64], macs: Sequence[int]) -> Expected:
    """Accuracy of each exit on those that come to it, and what comes of exiting early by the thresholds."""
    ways, right = told.walked, told.label == labels
    accuracies = [
        float(right[k, came].mean()) if stop.answers and came.any() else None
        for k, (stop, came) in enumerate(zip(flow.stops, told.came, strict=True))
    ]
    return Expected(
        images=len(labels),
        exit_accuracy=tuple(accuracies),
        exit_share=tuple(ways.exit_share.tolist()),
        cascade_accuracy=_right(told, labels),
        mean_macs=ways.mean_cost(macs),
    )


def weighed(
    flow: Flow,
    run: Run,
    images: Images,
    macs: Sequence[int],
    labels: npt.NDArray[np.int64] | None,
    *,
    batch: int,
) -> dict[str, Choices]:
    """The settings, with the mean MACs of each choice, and its accuracy where images have labels.

    Images without labels are made up: they tell costs only where these are the same for any image.
    """
    rules = {type(route.by) for route in (flow.start, *(stop.then for stop in flow.stops))}
    same_for_all = rules <= {Always, Setting}
    if labels is None and not same_for_all:
        return dict(flow.settings)
    looked_at = images[:1] if labels is None else images
    found = {}
    for name, each in flow.settings.items():
        told = [told_by(flow, run, looked_at, {name: choice}, batch=batch) for choice in each.choices]
        costs = tuple(one.walked.mean_cost(macs) for one in told)
        known = replace(each, macs=costs) if each.macs is None and min(costs) > 0 else each
        if labels is not None:
            known = replace(known, accuracy=tuple(_right(one, labels) for one in told))
        found[name] = known
    return found


def _right(told: Told, labels: npt.NDArray[np.int64]) -> float:
    """The share of all images that are answered right on their ways."""
    return float((told.label == labels)[told.walked.exit, np.arange(len(labels))].mean())


def before_and_after(
    flow: Flow, before: Told, after: Told, labels: npt.NDArray[np.int64], precision: str
) -> str:
    """A table for the report: each exit's accuracy on what comes to it, in float32 and in less."""
    width = max(4, *map(len, flow.called))
    lines = [
        f"\n{'exit':>{width}} {'float32':>9} {precision:>9} {'same label':>11}   on "
        + number_of(len(labels), "image")
    ]
    for k, stop in enumerate(flow.stops):
        if not (stop.answers and (before.came[k] & after.came[k]).any()):
            continue
        was, now = (100 * (each.label[k] == labels)[each.came[k]].mean() for each in (before, after))
        both = before.came[k] & after.came[k]
        same = 100 * (after.label[k] == before.label[k])[both].mean()
        lines.append(f"{flow.called[k]:>{width}} {was:>8.2f}% {now:>8.2f}% {same:>10.2f}%")
    again = "calibrated" if flow.is_chain else "chosen"
    lines.append(f"Confidences have moved as well: thresholds chosen in float32 need to be {again} again.")
    return "\n".join(lines) + "\n"
