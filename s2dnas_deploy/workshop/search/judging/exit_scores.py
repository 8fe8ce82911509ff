"""What every exit of a plan says of images, and the norms' statistics of a plan that was not trained.

Place in the flow: a plan's network + images ──▶ what every exit says (`ExitScores`), in a second. On shared
weights, the means and variances of batch norms are those of the plan's own features: they are taken anew for
each.
"""

import torch
from torch import Tensor

from s2dnas_deploy.bundle.exits import USUAL_RULE, ConfidenceRule
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.training.batches import at_once, in_order, normalised
from s2dnas_deploy.workshop.training.devices import Autocast

_BATCH = 250


@torch.no_grad()
def logits_of(
    network: MultiStageNetwork,
    images: LabelledImages,
    preprocessing: Preprocessing,
    device: torch.device,
    autocast: Autocast,
) -> Tensor:
    """What every exit says of images, [exits, N, classes], on the CPU."""
    network.eval()
    found = []
    for inputs, _ in in_order(images, preprocessing, at_once(network), device):
        with autocast():
            logits = torch.stack(network(inputs))
        found.append(logits.float().cpu())
    return torch.cat(found, dim=1)


def scores_from(logits: Tensor, truth: Tensor, rule: ConfidenceRule = USUAL_RULE) -> ExitScores:
    """Label and confidence, as every exit says."""
    _, confidence = probabilities_and_confidence(logits.flatten(0, 1), rule, 1.0)
    label = logits.argmax(2)
    return ExitScores(
        label=label.numpy(), confidence=confidence.reshape(label.shape).numpy(), truth=truth.numpy()
    )


@torch.no_grad()
def take_statistics(
    network: MultiStageNetwork,
    images: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    autocast: Autocast,
) -> None:
    """Estimate the statistics of every batch norm on images, uint8 [N, C, H, W], and nothing else.

    A running average that starts at zero is, after n batches, short of the average by 1 - (1 - momentum)^n.
    """
    network.eval()
    weights = network.weights()
    norms = {
        weights[prefix + node.weights[role]]: float(node.attributes["momentum"])
        for node, prefixes in _nodes(network)
        if node.operator == "batch_norm" and node.attributes["momentum"]
        for prefix in prefixes
        for role in ("mean", "variance")
    }
    for statistic in norms:
        statistic.zero_()
    parts = images.chunk(
        -(-len(images) // min(_BATCH, at_once(network)))
    )  # alike in size, for each weighs the same
    for part in parts:
        with autocast():
            network.answers(
                normalised(part, preprocessing, device), weights, training=frozenset({"batch_norm"})
            )
    for statistic, momentum in norms.items():
        statistic.div_(1 - (1 - momentum) ** len(parts))


def _nodes(network: MultiStageNetwork) -> list[tuple[Node, tuple[str, ...]]]:
    """All nodes, and what precedes the names of their weights."""
    division = network.division
    own = [(node, division.prefixes(node)) for node in division.body[1:]]
    return [*own, *((node, ("",)) for exit_ in division.exits for node in exit_.nodes)]
