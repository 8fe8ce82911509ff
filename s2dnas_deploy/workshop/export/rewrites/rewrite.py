"""All rewrites of a stage, in the order in which they are done.

Place in the flow: `slice_stages` ──rewritten──▶ `StageNetwork` ──▶ ONNX. Whoever prices a stage looks at what
comes of it as well, so a rewrite that is added here is in every price.
"""

from collections.abc import Callable
from functools import partial, reduce

from s2dnas_deploy.workshop.export.rewrites.broadcast import drop_expansions
from s2dnas_deploy.workshop.export.rewrites.express import express_pooling
from s2dnas_deploy.workshop.export.rewrites.fold import fold_batch_norms
from s2dnas_deploy.workshop.export.rewrites.means import pool_means
from s2dnas_deploy.workshop.export.rewrites.split import split_convolutions
from s2dnas_deploy.workshop.network.stages import Stage


def rewritten(stage: Stage, image_shape: tuple[int, ...], *, split: bool) -> Stage:
    """The stage as it is exported; `split` takes convolutions over joined features apart."""
    rewrites: list[Callable[[Stage], Stage]] = [
        fold_batch_norms,
        drop_expansions,
        partial(pool_means, image_shape=image_shape),
        partial(express_pooling, image_shape=image_shape),
        *([split_convolutions] if split else []),
    ]
    return reduce(lambda changed, rewrite: rewrite(changed), rewrites, stage)
