"""A divided network in a user's hands: trained by any loop, then saved or exported.

Place in the flow: `divide` ──▶ `DynamicNetwork` ──the user's loop──▶ `save`, `export`. It wraps the network
that `s2dnas-train` trains, with that training's loss. It is a plain module: optimizers, wrappers for several
processes, checkpoints and copies need to know nothing of it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.errors import CheckpointError, ModelError, OptionError
from s2dnas_deploy.files.atomic import check_writable
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Silent
from s2dnas_deploy.workshop.network.division import divide
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.groups import divide_into_groups
from s2dnas_deploy.workshop.network.model_file import in_order, order_of, save_model
from s2dnas_deploy.workshop.network.nested import NestedNetwork
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.training.course import allowed_after
from s2dnas_deploy.workshop.training.gate import Learnt, teach_gate
from s2dnas_deploy.workshop.training.losses import exits_loss
from s2dnas_deploy.workshop.training.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

    from s2dnas_deploy.bundle.manifest import Manifest
    from s2dnas_deploy.workshop.export.options import Precision

_MOST_STEPS = 2**53


class DynamicNetwork(nn.Module):
    """A network that a plan has divided: `forward(images [N, C, H, W])` gives every exit's logits.

    They are a list of one [N, classes] tensor for each exit or width, first to last. Made by `divide`. All is
    as of any module: `to`, `state_dict`, `copy.deepcopy`, `torch.autocast`, `DistributedDataParallel`.
    """

    steps_done: Tensor

    def __init__(
        self,
        network: MultiStageNetwork,
        *,
        made_of: str = "a module",
        share: float | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if steps is not None and not (type(steps) is int and 0 < steps < _MOST_STEPS):
            raise OptionError(f"steps: expected a whole number above 0, got {steps!r}")
        self.network, self.made_of = network, made_of
        self._share, self._steps = share, steps
        if share is not None:
            self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        _freeze_what_no_exit_reads(network)

    @property
    def plan(self) -> Plan:
        """The plan that the network is divided by."""
        return self.network.division.plan

    @property
    def exits(self) -> int:
        """How many exits `forward` gives."""
        return self.network.stages

    @property
    def spent(self) -> Tensor | None:
        """Of a network with gates before blocks: what each image of the last batch took of its MACs, [N]."""
        network = self.network
        return network.spent if isinstance(network, GatedNetwork) and network.has_answered else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Every exit's logits, [N, classes] each."""
        logits: list[Tensor] = self.network(images)
        return logits

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers that training changes.

        Masks and numbers of channels are left out: they follow from the plan, so processes need not send them
        to each other, and an average of them over time would be none.
        """
        kept = self.state_dict(prefix=prefix).keys()
        return (
            (name, b) for name, b in super().named_buffers(prefix, recurse, remove_duplicate) if name in kept
        )

    def get_extra_state(self) -> Tensor:
        """What a `state_dict` holds beside weights: the plan, and in which order stages take the channels.

        A network that was begun with images has an order of its own, and its weights are of no use in
        another. It is JSON as bytes, because some formats of checkpoints hold tensors only.
        """
        division = self.network.division
        about = {"plan": division.plan.digest, "order": order_of(division.divisible)}
        return torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the order of the channels that a `state_dict` has; it must be of the same plan."""
        division = self.network.division
        about = json.loads(bytes(state.tolist()))
        if about["plan"] != division.plan.digest:
            raise CheckpointError(
                "the state is of a network that was divided by another plan: divide by the plan that it was "
                "trained with (its network.plan.to_json() is a file for --plan and for divide)"
            )
        if about["order"] != order_of(division.divisible):
            divisible = in_order(divide_into_groups(division.graph), about["order"])
            self.network.divide_anew(divide(divisible, division.plan))

    # -- learning ------------------------------------------------------------------------------------

    def exit_loss(
        self,
        logits: Sequence[Tensor],
        labels: Tensor,
        teacher: Tensor | None = None,
        *,
        distill: float = Settings.distill,
        self_distill: float = Settings.self_distill,
        temperature: float = Settings.temperature,
        exit_weights: Sequence[float] = (),
        label_smoothing: float = Settings.label_smoothing,
    ) -> Tensor:
        """The loss of all exits, as `s2dnas-train` has it.

        Each exit learns from the label, from the teacher, and from the last exit. Of a network with gates
        before blocks (`blocks:0.5`), a call in training mode also steers the gates, by what the images of the
        last `forward` took.

        Args:
            logits: what `forward` gave: one [N, classes] tensor for each exit.
            labels: the classes [N], or their probabilities [N, classes].
            teacher: the static network's logits [N, classes] for the same images, if it is trained.
            distill: the weight of the teacher's answers against the labels; without a teacher, none.
            self_distill: the weight of the last exit's answers in what earlier exits learn.
            temperature: softens the answers that are learned from.
            exit_weights: one for each exit; all 1, by default.
            label_smoothing: as torch's cross-entropy has it.

        Returns:
            The loss, a number to call `backward` on.

        Raises:
            OptionError: a setting cannot be what it is, or tensors do not fit.

        Example:
            >>> with torch.no_grad():
            ...     taught = module(images)
            >>> loss = network.exit_loss(network(images), labels, taught, exit_weights=(1.5, 1, 1))
        """
        settings = Settings(
            epochs=0,
            distill=distill,
            self_distill=self_distill,
            temperature=temperature,
            exit_weights=tuple(exit_weights),
            label_smoothing=label_smoothing,
        )
        self._check_fit(logits, labels, teacher, settings.exit_weights)
        if self._share is not None and self.training and torch.is_grad_enabled():
            self._steer(self._share)
        taught = None if teacher is None else _in_full(teacher.detach())
        return exits_loss([_in_full(z) for z in logits], labels, taught, settings)

    def parameter_groups(
        self, lr: float, weight_decay: float = Settings.weight_decay
    ) -> list[dict[str, Any]]:
        """The weights in groups, for any optimizer of torch: what decays, what does not, and gates.

        Norms and biases are scales and offsets, so they do not decay. Gates before blocks learn more slowly,
        each at a part of `lr`: with one rate for all, they would shut in a few steps. Schedules of torch
        keep these parts.
        """
        rates = self._gate_rates()
        learning = [p for p in self.parameters() if p.requires_grad]
        rest = [p for p in learning if id(p) not in rates]
        of_gates = {
            rate: [p for p in learning if rates.get(id(p)) == rate] for rate in sorted({*rates.values()})
        }
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "lr": lr, "weight_decay": 0.0},
            *({"params": ps, "lr": lr * rate, "weight_decay": 0.0} for rate, ps in of_gates.items()),
        ]
        return [group for group in groups if group["params"]]

    def train_gate(self, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int = 0) -> Learnt:
        """Teach the gate of a plan `gate:…` which width an image needs, once the widths are trained.

        Only the gate's own weights change. Every batch is looked at once: an epoch or two of the training
        images, (images [N, C, H, W] as the network reads them, labels [N]). One process does it, then saves.
        What comes back says which share of the images goes to each width, and how many are right.
        """
        network = self.network
        if not isinstance(network, NestedNetwork) or network.division.gate is None:
            raise OptionError(
                "train_gate: expected a network of a plan gate:0.25,0.5,1, got one without a gate"
            )
        try:
            with torch.enable_grad():
                return teach_gate(network, _placed(batches, next(network.parameters()).device), seed=seed)
        finally:
            network.train(self.training)

    # -- handing over --------------------------------------------------------------------------------

    def save(
        self,
        path: str | PathLike[str],
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        resize: str | None = None,
    ) -> None:
        """Write a `model.pt`, which `load_model`, `s2dnas-inspect` and `s2dnas-export` read.

        It holds the network as it answers, without your code. To go on with a training, keep a `state_dict`.

        Args:
            path: the file.
            class_names: the name of each output, in order.
            mean: of each channel, what was taken from pixels of 0 to 1.
            std: of each channel, what that was divided by.
            resize: how a device fits images of another size, `crop` or `stretch`; None: it refuses them.

        Returns:
            Nothing.

        Raises:
            OptionError: names, mean, std or resize do not fit the network, or the file cannot be written.
            TrainingError: weights are not finite.

        Example:
            >>> network.save("model.pt", class_names=("cat", "dog"), mean=(0.5,), std=(0.25,))
        """
        from s2dnas_deploy.workshop.own_loop.handover import Reading, model_of

        reading = Reading(class_names=class_names, mean=mean, std=std, resize=resize)
        check_writable(Path(path), "path")
        save_model(model_of(self.network, self.made_of, reading), Path(path))

    def export(
        self,
        out: str | PathLike[str],
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        resize: str | None = None,
        name: str | None = None,
        images: "npt.ArrayLike | None" = None,
        labels: "npt.ArrayLike | None" = None,
        calibration: "npt.ArrayLike | None" = None,
        precision: "Precision" = "float32",
        thresholds: Sequence[float] = (),
        in_turn: Sequence[str] | None = None,
        static: nn.Module | None = None,
    ) -> "Manifest":
        """Write a bundle of ONNX graphs, which `Cascade` runs, after comparing it with the network in torch.

        `s2dnas-calibrate` then chooses thresholds for a promise or a budget. What else `s2dnas-export` can
        do, it does with the file of `save`.

        Args:
            out: the folder; a bundle that is there is replaced.
            class_names: the name of each output, in order.
            mean: of each channel, what was taken from pixels of 0 to 1.
            std: of each channel, what that was divided by.
            resize: how a device fits images of another size, `crop` or `stretch`; None: it refuses them.
            name: of the bundle; that of the module's class, by default.
            images: to compare and judge on, uint8 [N, H, W, C], not trained on; made-up ones, by default.
            labels: their classes [N].
            calibration: images that were trained on, uint8 [N, H, W, C], to measure ranges on for `int8`.
            precision: `float32`, `float16` or `int8`.
            thresholds: of stages or widths in turn, the confidence with which an image exits: one for all, or
                one for each exit but the last; 0.9, by default.
            in_turn: of widths, the names of those that are tried one after the other; as the plan says, by
                default. `()`: the caller picks one.
            static: the trained static network, which then answers what no exit is sure of.

        Returns:
            What the bundle says of itself.

        Raises:
            OptionError: an argument cannot be what it is.
            DataError: images or labels are of another shape or type.
            TrainingError: weights are not finite.
            VerificationError: a graph does not answer as the network does; nothing is written.

        Example:
            >>> network.export("bundle/", class_names=("cat", "dog"), mean=(0.5,), std=(0.25,))
            >>> with s2dnas_deploy.Cascade.load("bundle/") as cascade:
            ...     cascade.predict(pixels).label
        """
        from s2dnas_deploy.workshop.export.assemble import write_bundle
        from s2dnas_deploy.workshop.export.options import ExportOptions
        from s2dnas_deploy.workshop.own_loop.handover import Judging, Reading, export_of, model_of

        reading = Reading(class_names=class_names, mean=mean, std=std, resize=resize)
        check_writable(Path(out), "out")
        model = model_of(self.network, self.made_of, reading)
        export = export_of(
            model,
            name=name or self.made_of,
            options=ExportOptions(precision=precision, thresholds=tuple(thresholds)),
            judging=Judging(images=images, labels=labels, calibration=calibration),
            in_turn=in_turn,
            static=None if static is None else read_static(static, model.preprocessing.input_shape),
        )
        return write_bundle(export, Path(out), Silent())

    # -- of use above --------------------------------------------------------------------------------

    def _check_fit(
        self, logits: Sequence[Tensor], labels: Tensor, teacher: Tensor | None, weights: Sequence[float]
    ) -> None:
        classes = self.network.division.graph.classes
        wanted = (len(labels), classes)
        if isinstance(logits, Tensor) or [tuple(z.shape) for z in logits] != [wanted] * self.exits:
            got = logits.shape if isinstance(logits, Tensor) else [list(z.shape) for z in logits]
            raise OptionError(
                f"logits: expected what forward gives, {self.exits} tensors of {list(wanted)} for "
                f"{len(labels)} labels, got {got}"
            )
        if teacher is not None and tuple(teacher.shape) != wanted:
            raise OptionError(f"teacher: expected logits {list(wanted)}, got {list(teacher.shape)}")
        if weights and len(weights) != self.exits:
            raise OptionError(f"{len(weights)} exit_weights for {self.exits} exits; give one for each")

    def _steer(self, share: float) -> None:
        """The gates shut a little if images take too much of the network for this part of the run."""
        assert isinstance(self.network, GatedNetwork), "a share goes with gates"
        assert self._steps is not None, "and with steps"
        if not self.network.has_answered:
            raise OptionError(
                "exit_loss: expected a forward before it, whose images tell how far the gates are to shut; "
                "call it on the network itself that gave the logits, not on a copy"
            )
        self.network.steer(allowed_after(int(self.steps_done) / self._steps, share), self._steps)
        self.steps_done += 1

    def _gate_rates(self) -> dict[int, float]:
        """Of the weights of gates before blocks, by id, how fast each learns, of 1."""
        if not isinstance(self.network, GatedNetwork):
            return {}
        weights = self.network.weights()
        return {id(weights[key]): rate for key, rate in self.network.gate_rates.items()}


def read_static(module: nn.Module, input_shape: Sequence[int]) -> StaticNetwork:
    """A module as this package holds it: on the CPU, in float32, apart from the module's own weights."""
    if not isinstance(module, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got a {type(module).__name__}")
    static = read_network(module, tuple(input_shape))
    weights = {key: _in_cpu(tensor) for key, tensor in static.weights.items()}
    return StaticNetwork(divisible=static.divisible, weights=weights)


def _in_cpu(tensor: Tensor) -> Tensor:
    plain = tensor.detach().cpu().clone()
    return plain.float() if plain.is_floating_point() else plain


def _in_full(numbers: Tensor) -> Tensor:
    """Losses are sums of many numbers, for which half precision is too little."""
    return numbers if numbers.dtype == torch.float64 else numbers.float()


def _placed(
    batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on a device; there must be one."""
    is_empty = True
    for images, labels in batches:
        is_empty = False
        yield images.to(device), labels.to(device)
    if is_empty:
        raise OptionError("train_gate: expected batches of images and labels, got none")


@torch.enable_grad()
def _freeze_what_no_exit_reads(network: MultiStageNetwork) -> None:
    """Weights that no answer depends on do not learn: who gathers gradients would wait for theirs.

    They are those of blocks that no width has, and of a gate, which is taught afterwards. A run on shapes
    alone tells which they are.
    """
    shapes = deepcopy(network).eval().to("meta")
    own = dict(shapes.named_parameters())
    logits = shapes(torch.empty(2, *network.division.graph.input_shape, device="meta"))
    found = torch.autograd.grad(torch.stack(logits).sum(), list(own.values()), allow_unused=True)
    read = {name for name, gradient in zip(own, found, strict=True) if gradient is not None}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in read)
