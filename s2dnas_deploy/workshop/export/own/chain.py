"""Stages without names (of BranchyNet, MSDNet, shallow-deep networks): a chain with an exit each.

Place in the flow: `stages()`, a list ──▶ `StagedNetwork`. All there is to the protocol:

    stages() → a list of modules;   stage k: (image, *features) → (logits [N, classes], *features)

Stage 0 gets the image alone; each later one gets the image and, in order, the features that the one before it
gave. A feature is a tensor [N, …] that a stage computes; one that it was given and gives again, the very same
tensor, goes on to the next stage without being copied. The last stage gives no features.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.quoting import in_a_line, number_of
from s2dnas_deploy.workshop.export.own.trial import BATCH, is_of_a_batch, macs_of
from s2dnas_deploy.workshop.export.staged import Link, StagedNetwork
from s2dnas_deploy.workshop.network.stages import Feature


def chain_of_modules(
    modules: Sequence[nn.Module], preprocessing: Preprocessing, class_names: tuple[str, ...], *, name: str
) -> StagedNetwork:
    """The network's stages as links, after a trial run that shows what they give and read."""
    modules = [module.eval() for module in modules]
    links = _links(modules, preprocessing.input_shape, len(class_names))

    def reference(image: Tensor) -> list[Tensor]:
        logits, given = [], ()
        for module in modules:
            result, *given = _several(module(image.clone(), *given))  # a stage may work in place
            logits.append(result)
        return logits

    return StagedNetwork(
        name=name, links=links, reference=reference, class_names=class_names, preprocessing=preprocessing
    )


@dataclass(frozen=True, kw_only=True)
class _Given:
    """A feature as the next stage gets it: which one it is, and an example."""

    feature: Feature
    example: Tensor


class _OwnStage(nn.Module):
    """A user's stage that takes only the features it computes with, and gives only those it computes."""

    def __init__(self, module: nn.Module, takes: Sequence[int], count: int, gives: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.takes, self.count, self.gives = tuple(takes), count, tuple(gives)

    def forward(self, image: Tensor, *shared: Tensor) -> tuple[Tensor, ...]:
        """Logits, then the features of the stage's own."""
        image, *read = (x.clone() for x in (image, *shared))  # the module may work in place
        features = dict(zip(self.takes, read, strict=True))
        passed_by = image.new_zeros(0)  # only handed on, never computed with
        logits, *given = _several(
            self.module(image, *(features.get(i, passed_by) for i in range(self.count)))
        )
        return (logits, *(given[i] for i in self.gives))


def _links(modules: Sequence[nn.Module], input_shape: tuple[int, ...], classes: int) -> tuple[Link, ...]:
    links: list[Link] = []
    arriving: list[_Given] = []
    for k, module in enumerate(modules):
        inputs = [torch.randn(BATCH, *input_shape, requires_grad=True)]
        inputs += [given.example.detach().clone().requires_grad_() for given in arriving]
        given = [x.clone() for x in inputs]  # a stage may work in place, on tensors that are no leaves
        outputs = _run(module, given, k)
        logits, *features = outputs
        if tuple(logits.shape) != (BATCH, classes):
            raise ModelError(
                f"stage {k} gives logits {list(logits.shape)} for {BATCH} images, "
                f"expected [{BATCH}, {classes}]"
            )
        leaving, own = _leaving(features, given[1:], arriving, k)
        used = _used(inputs, [logits, *(features[i] for i in own)])
        takes = [i for i in range(len(arriving)) if used[1 + i]]
        links.append(
            Link(
                name=f"stage_{k}",
                module=_OwnStage(module, takes, len(arriving), own).eval(),
                reads_image=used[0],
                reads=_shapes(arriving[i].feature for i in takes),
                gives=_shapes(leaving[i].feature for i in own),
                macs=macs_of(module, inputs),
            )
        )
        arriving = leaving
    if arriving:
        raise ModelError(f"the last stage gives {len(arriving)} features that no stage reads; expected none")
    return _only_what_is_read(links)


def _shapes(features: Iterable[Feature]) -> dict[str, tuple[int, ...]]:
    return {feature.name: feature.shape for feature in features}


def _run(module: nn.Module, inputs: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
    try:
        outputs = _several(module(*inputs))
    except Exception as error:
        raise ModelError(
            f"stage {k} failed on an image and {number_of(len(inputs) - 1, 'feature')}: "
            f"{type(error).__name__}: {in_a_line(error)}; "
            f"it is called as stage(image, *features){inspect.signature(module.forward)}"
        ) from error
    if not isinstance(outputs, (tuple, list)) or not all(isinstance(x, Tensor) for x in outputs):
        raise ModelError(
            f"stage {k} gives a {type(outputs).__name__}; expected (logits, *features), all tensors"
        )
    return tuple(outputs)


def _several(outputs: Any) -> Any:
    """What a stage gives: logits alone may come without a tuple around them."""
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _leaving(
    features: Sequence[Tensor], taken: Sequence[Tensor], arriving: Sequence[_Given], k: int
) -> tuple[list[_Given], list[int]]:
    """What the next stage gets, and which of it this stage computed itself."""
    leaving, own = [], []
    for i, x in enumerate(features):
        # Changed in place it is another tensor, though the same object.
        same = (given for given, y in zip(arriving, taken, strict=True) if y is x and not y._version)
        passed = next(same, None)
        if passed is not None:
            leaving.append(passed)
            continue
        if not is_of_a_batch(x, dimensions=2):
            raise ModelError(
                f"feature {i} of stage {k} is {x.dtype} {list(x.shape)}; "
                "expected float32 with the batch first"
            )
        feature = Feature(node=f"feature_{i}", stage=k, shape=tuple(x.shape[1:]))
        leaving.append(_Given(feature=feature, example=x))
        own.append(i)
    return leaving, own


def _used(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[bool]:
    """Which inputs the outputs depend on: those that a gradient reaches."""
    reached = [x.sum() for x in outputs if x.requires_grad]
    if not reached:
        return [False] * len(inputs)
    total = torch.stack(reached).sum()
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    return [gradient is not None for gradient in gradients]


def _only_what_is_read(links: Sequence[Link]) -> tuple[Link, ...]:
    """Refuse features that are computed for nobody: they would cost every image something."""
    read = {name for link in links for name in link.reads}
    idle = [name for link in links for name in link.gives if name not in read]
    if idle:
        raise ModelError(f"no later stage reads {', '.join(idle[:5])}; leave it out of what the stage gives")
    return tuple(links)
