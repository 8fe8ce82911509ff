"""What a bundle reaches on labelled images, run as a device would run it.

Place in the flow: finished graphs + images ──▶ `Told` ──▶ `Expected` for the manifest, and a table for the
report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.entries import Expected
from s2dnas_deploy.decide.course import Array
from s2dnas_deploy.decide.flow import LABEL, Choices, Flow
from s2dnas_deploy.decide.rules import CONFIDENCE, Always, Setting, Threshold
from s2dnas_deploy.decide.walk import Walked
from s2dnas_deploy.workshop.export.graphs.follow import Party, Run, without_exits

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Told:
    """What stages say of images if nobody exits early, [stages, N] each; of those that `came` to a stage."""

    came: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]


def told_by(flow: Flow, run: Run, images: Array, settings: Mapping[str, str] | None = None) -> Told:
    """Take all images through, given as the graphs take them."""
    course = without_exits(flow, settings)
    parties = [Party(course, images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    parts = [_told_to(party, run) for party in parties]
    return Told(
        came=np.concatenate([part.came for part in parts], axis=1),
        label=np.concatenate([part.label for part in parts], axis=1),
        confidence=np.concatenate([part.confidence for part in parts], axis=1),
    )


def _told_to(party: Party, run: Run) -> Told:
    """Of a batch; the features, which may be large, are not kept."""
    label, confidence = np.full(party.came.shape, -1, np.int64), np.zeros(party.came.shape, np.float32)
    for k in range(len(party.came)):
        visit = party.visit(k, run)
        if LABEL in visit.given:
            label[k, visit.rows], confidence[k, visit.rows] = visit.given[LABEL], visit.given[CONFIDENCE]
    return Told(came=party.came, label=label, confidence=confidence)


def walked(flow: Flow, told: Told) -> Walked:
    """The ways of the images if they exit by the flow's thresholds: each is a part of that without exits."""
    going = np.ones(told.came.shape[1], np.bool_)
    exits, ran = np.full(len(going), -1, np.int64), np.zeros_like(told.came)
    for k, stop in enumerate(flow.stops):
        ran[k] = told.came[k] & going
        if stop.answers:
            exits[ran[k]] = k
        if k in flow.early and isinstance(stop.then.by, Threshold):
            going &= ~(ran[k] & stop.then.by.reached(told.confidence[k]))
    return Walked(exit=exits, ran=ran)


def expected_of(flow: Flow, told: Told, labels: npt.NDArray[np.int64], macs: Sequence[int]) -> Expected:
    """Accuracy of each exit on those that come to it, and what comes of exiting early by the thresholds."""
    ways, right = walked(flow, told), told.label == labels
    accuracies = [
        float(right[k, came].mean()) if stop.answers and came.any() else None
        for k, (stop, came) in enumerate(zip(flow.stops, told.came, strict=True))
    ]
    return Expected(
        images=len(labels),
        exit_accuracy=tuple(accuracies),
        exit_share=tuple(ways.exit_share.tolist()),
        cascade_accuracy=float(right[ways.exit, np.arange(len(labels))].mean()),
        mean_macs=ways.mean_cost(macs),
    )


def priced(flow: Flow, run: Run, images: Array, macs: Sequence[int], *, made_up: bool) -> dict[str, Choices]:
    """The settings, with the mean MACs of each choice where they are known: by images, or for any."""
    rules = {type(route.by) for route in (flow.start, *(stop.then for stop in flow.stops))}
    same_for_all = rules <= {Always, Setting}
    if made_up and not same_for_all:
        return dict(flow.settings)
    looked_at = images[:1] if same_for_all else images
    priced = {}
    for name, each in flow.settings.items():
        told = [told_by(flow, run, looked_at, {name: choice}) for choice in each.choices]
        costs = tuple(walked(flow, one).mean_cost(macs) for one in told)
        priced[name] = replace(each, macs=costs) if each.macs is None and min(costs) > 0 else each
    return priced


def before_and_after(
    flow: Flow, before: Told, after: Told, labels: npt.NDArray[np.int64], precision: str
) -> str:
    """A table for the report: each exit's accuracy on what comes to it, in float32 and in less."""
    width = max(4, *map(len, flow.called))
    lines = [
        f"\n{'exit':>{width}} {'float32':>9} {precision:>9} {'same label':>11}   on {len(labels)} images"
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
