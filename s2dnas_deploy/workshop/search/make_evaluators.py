"""Making what judges plans: many of them quickly, or a few by training, as was asked for.

Place in the flow: `Terms`, prices and shared weights ──▶ an `Evaluator`. Nothing here takes long: `run` has
the shared weights trained and the machine timed, and hands over what came of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.network.nested import planned
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.pricing.price import Price, as_known
from s2dnas_deploy.workshop.search.judging.evaluators import (
    STATISTICS_IMAGES,
    FinetuneEvaluator,
    SharedEvaluator,
    SharedStart,
    Start,
)
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.training.request import Prepared
from s2dnas_deploy.workshop.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What all plans of a search are judged by, however that is done."""

    prepared: Prepared
    splits: ImageSplits
    """What is left to train with."""
    judging: LabelledImages
    """What was set aside to judge by."""
    settings: Settings
    """How a plan is trained, and on which device it is judged."""
    target: float
    static_accuracy: float


def by_shared_weights(terms: Terms, price: Price, weights: SharedWeights) -> SharedEvaluator:
    """Judges by masks over shared weights."""
    return SharedEvaluator(
        price=price,
        start=_from_shared(terms, weights),
        judging=terms.judging,
        target=terms.target,
        static_accuracy=terms.static_accuracy,
    )


def by_training(terms: Terms, price: Price, keep: Path | None) -> FinetuneEvaluator:
    """Judges by training a plan for a few epochs, as the winner is trained for more."""
    static = terms.prepared.static
    return _by_training(terms, price, keep, lambda division: planned(static, division.plan))


def by_training_on(
    terms: Terms, costs: Mapping[str, tuple[float, ...]], keep: Path | None, weights: SharedWeights
) -> FinetuneEvaluator:
    """Judges plans of known costs by training that goes on from the shared weights.

    From the static network on, an epoch favours plans that learn fast: those with a large first stage. What
    the shared weights know they have learned already, and less is left to learn for all alike.
    """
    slower = replace(terms, settings=replace(terms.settings, lr=terms.settings.lr / 2))
    return _by_training(slower, as_known(costs), keep, _from_shared(terms, weights))


def _by_training(terms: Terms, price: Price, keep: Path | None, start: Start) -> FinetuneEvaluator:
    return FinetuneEvaluator(
        price=price,
        start=start,
        teacher=as_network(terms.prepared.static).eval(),
        splits=terms.splits,
        preprocessing=terms.prepared.preprocessing,
        settings=terms.settings,
        keep=keep,
        judging=terms.judging,
        target=terms.target,
        static_accuracy=terms.static_accuracy,
    )


def _from_shared(terms: Terms, weights: SharedWeights) -> SharedStart:
    return SharedStart(
        shared=weights,
        statistics=terms.splits.train.evenly(STATISTICS_IMAGES).in_memory(),
        preprocessing=terms.prepared.preprocessing,
        settings=terms.settings,
    )
