"""All rewrites of a stage, in the order in which they are done.

Place in the flow: `slice_stages` ──rewritten──▶ `StageNetwork` ──▶ ONNX. Whoever prices a stage looks at what
comes of it as well, so a rewrite that is added here is in every price.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce

from s2dnas_deploy.workshop.export.rewrites.broadcast import drop_expansions
from s2dnas_deploy.workshop.export.rewrites.express import express_pooling
from s2dnas_deploy.workshop.export.rewrites.fold import fold_batch_norms
from s2dnas_deploy.workshop.export.rewrites.gates import keep_pixels
from s2dnas_deploy.workshop.export.rewrites.means import pool_means
from s2dnas_deploy.workshop.export.rewrites.repeats import drop_repeats
from s2dnas_deploy.workshop.export.rewrites.shortcuts import convolve_shortcuts
from s2dnas_deploy.workshop.export.rewrites.split import split_convolutions
from s2dnas_deploy.workshop.export.rewrites.spread import spread_gates
from s2dnas_deploy.workshop.export.rewrites.zeros import drop_zeros
from s2dnas_deploy.workshop.network.stages import Stage


def rewritten(
    stages: Sequence[Stage], image_shape: tuple[int, ...], *, split: bool, blocks: bool = True
) -> tuple[Stage, ...]:
    """The stages as they are exported.

    `split` takes convolutions over joined features apart; `blocks` is for numbers that a runtime works on in
    blocks of channels: `ExportOptions.in_blocks` says of which it does.
    """
    alone: list[Callable[[Stage], Stage]] = [
        fold_batch_norms,
        drop_expansions,
        drop_zeros,
        drop_repeats,
        partial(pool_means, image_shape=image_shape),
        partial(express_pooling, image_shape=image_shape),
    ]
    in_blocks: list[Callable[[Stage], Stage]] = [
        partial(convolve_shortcuts, image_shape=image_shape),
        spread_gates,
    ]
    in_the_end = [*([split_convolutions] if split else []), *(in_blocks if blocks else [])]
    stages = keep_pixels([_all(alone, stage) for stage in stages])
    return tuple(_all(in_the_end, stage) for stage in stages)


def _all(rewrites: Sequence[Callable[[Stage], Stage]], stage: Stage) -> Stage:
    return reduce(lambda changed, rewrite: rewrite(changed), rewrites, stage)
