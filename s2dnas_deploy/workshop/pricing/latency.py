"""How long a stage takes, learned from the stages that a device has timed.

Place in the flow: device.json + the plans that it timed ──fit──▶ `LatencyModel` ──▶ a `Price` by the
clock. For a stage with layers l, shared features read r and given g,

    t = session + image + Σ_l (a · MACs_l + b · MACs_l in whole blocks + c · |y_l| + d) + e · |r| + f · |g|

with coefficients of its own for each kind of layer (kernel, groups, size of its output), none negative: a
sum of costs. Kernels work in blocks of channels, which differ from device to device: MACs are offered as
they are, and rounded up to several blocks; the fit takes what explains the times. Errors count relative
to the time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.device_profile import STATIC, Profile
from s2dnas_deploy.errors import PlanError, RecordError
from s2dnas_deploy.plan import has_all
from s2dnas_deploy.quoting import in_a_line
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.network.divided import Divided
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, carry_over
from s2dnas_deploy.workshop.network.stages import Stage, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.pricing.price import Price

_BLOCKS = ((1, 1), (8, 1), (16, 1), (8, 8), (16, 16))  # of output and input channels
_FREE = frozenset({"dropout", "identity", "reshape", "stochastic_depth"})

Features = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Coefficients by feature; `time` gives a stage's time relative to the static network's."""

    coefficients: Features

    def time(self, features: Features) -> float:
        """Expected time of a stage."""
        return sum(self.coefficients.get(name, 0.0) * amount for name, amount in features.items())


def by_clock(static: StaticNetwork, profile: Profile) -> Price:
    """The time of all stages up to an exit on the profile's device, relative to the static network's."""
    expected = static.graph.input_shape
    if profile.input_shape not in (None, expected):
        raise RecordError(
            f"the device profile is of images {profile.input_shape}, the network's are {expected}; "
            "write its probes and time them on the device"
        )
    model, space = fit(static, profile), static.divisible.space

    def price(divided: Divided) -> tuple[float, ...]:
        features = features_of(divided.stages, static.graph.input_shape)
        times = [model.time(each) for each in features]
        if divided.plan.nested and has_all(divided.plan, divided.plan.stages - 1, space):
            times[-1] = 1.0
        return divided.plan.up_to_exits(times)

    return price


def fit(static: StaticNetwork, profile: Profile, names: Sequence[str] | None = None) -> LatencyModel:
    """Learn from the profile's probes (or those named) what a stage's time is made of."""
    from scipy.optimize import nnls

    rows, times = [], []
    for name in names if names is not None else profile.times:
        probe = profile.times[name]
        network = _network(static, name, profile)
        features = features_of(slice_stages(network), static.graph.input_shape)
        if len(features) != len(probe.stage_ms):
            raise RecordError(f"probe {name}: {len(probe.stage_ms)} times for {len(features)} stages")
        rows += features
        times += [ms / probe.reference_ms for ms in probe.stage_ms]
    keys = sorted({key for row in rows for key in row})
    amounts: npt.NDArray[np.float64] = np.array([[row.get(key, 0.0) for key in keys] for row in rows])
    scale = amounts.max(axis=0)
    # Σ (prediction / time - 1)²: a tenth of a short stage matters as much as a tenth of a long one.
    relative = amounts / scale / np.array(times)[:, None]
    try:
        coefficients, _ = nnls(relative, np.ones(len(times)))
    except RuntimeError as problem:
        raise RecordError(
            f"the device profile's times are no sum of costs ({in_a_line(problem)}); time the probes anew"
        ) from problem
    return LatencyModel(
        coefficients={k: float(c / s) for k, c, s in zip(keys, coefficients, scale, strict=True) if c}
    )


def features_of(stages: Sequence[Stage], image_shape: tuple[int, ...]) -> list[Features]:
    """What each stage's time is made of, as its graph is exported; numbers of weights have no say."""
    return [_features(stage) for stage in rewritten(stages, image_shape, split=False)]


def _features(stage: Stage) -> Features:
    counts: Counter[str] = Counter({"session": 1})
    counts["image read"] = int(any(INPUT in node.inputs for node in stage.nodes))
    for node in stage.nodes:
        size = prod(node.shape)
        if node.operator in ("conv", "grouped_conv", "linear"):
            out, inputs, *kernel = stage.weights[node.weights["weight"]].shape
            space = prod(node.shape[1:])
            kind = f"{node.operator} {'x'.join(map(str, kernel))} at {space}"
            # A grouped convolution reads a group's inputs for each output: these are never filled up.
            blocks = [block for block in _BLOCKS if node.operator != "grouped_conv" or block[1] == 1]
            for block_out, block_in in blocks:
                macs = _up(out, block_out) * _up(inputs, block_in) * prod(kernel) * space
                counts[f"{kind}: MACs in {block_out}x{block_in}"] += macs
            counts[f"{kind}: outputs"] += size
            counts[f"{kind}: layers"] += 1
        elif node.operator not in _FREE:
            counts[f"{node.operator}: outputs"] += size
    for name, features in (("read", stage.reads), ("given", stage.gives)):
        counts[f"features {name}"] += len(features)
        counts[f"numbers {name}"] += sum(prod(feature.shape) for feature in features)
    return {name: float(count) for name, count in counts.items() if count}


def _up(count: int, block: int) -> int:
    """A count rounded up to whole blocks."""
    return -(-count // block) * block


def _network(static: StaticNetwork, name: str, profile: Profile) -> MultiStageNetwork:
    if name == STATIC:
        return as_network(static)
    try:
        return carry_over(static, profile.plans[name])
    except PlanError as problem:
        raise RecordError(
            f"the device profile is of another network: its {name} does not fit ({problem})"
        ) from problem
