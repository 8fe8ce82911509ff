"""What training would still add: shared weights answer worse than a plan's own weights will, and all alike.

Place in the flow: what shared weights answer ──▶ one number, the gain, by which the logit of the right class
is raised before plans are compared. Shared weights are trained for minutes over thousands of plans. Judged as
they are, a late exit seems to gain too little over an early one, and a plan that spends its budget on a large
first stage too much. A trained plan's last exit is about as often right as the static network, so

    gain = the least g ≥ 0 for which the best uniform plan's last exit, z_y + g·u for z_y, is as often right

as the static network, on images that neither has learned from. u is how sure the exit is: its first logit's
lead over its second, averaged over images. Without it, an exit that knows next to nothing, all its logits
alike, would be lifted over all others.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def raised(logits: Tensor, truth: Tensor, gain: float) -> Tensor:
    """Logits [exits, N, classes] with those of the right classes, `truth` [N], raised."""
    right = torch.nn.functional.one_hot(truth, logits.shape[2]).to(logits)
    return logits + gain * _sureness(logits)[:, None, None] * right


def expected_gain(last_exits: Iterable[Tensor], truth: Tensor, accuracy: float) -> float:
    """The gain by which the best of some exits, logits [N, classes] each, reaches `accuracy`."""
    return min(_gain(logits, truth, accuracy) for logits in last_exits)


def _gain(logits: Tensor, truth: Tensor, accuracy: float) -> float:
    """An image is right from the gain on that its right class lacks against the best other one."""
    right = logits.gather(1, truth[:, None])[:, 0]
    others = logits.scatter(1, truth[:, None], -math.inf).amax(1)
    lacking = ((others - right) / _sureness(logits[None])).sort().values
    count = math.ceil(accuracy * len(truth) - 1e-9)
    return max(float(lacking[count - 1]), 0.0) if count else 0.0


def _sureness(logits: Tensor) -> Tensor:
    """[exits]: the first logit's lead over the second, averaged over images."""
    first, second = logits.topk(2, dim=2).values.unbind(2)
    return (first - second).mean(1).clamp(min=1e-9)
