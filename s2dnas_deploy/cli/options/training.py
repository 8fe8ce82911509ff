"""The options that say what to train on, and how, spelled alike wherever something is trained."""

from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s2dnas_deploy.cli.options.kinds import Numbers, Resize
from s2dnas_deploy.cli.options.network import NetworkOptions
from s2dnas_deploy.cli.options.recipe import apply_recipe, check_code_of_recipe, is_from_recipe, is_left_open
from s2dnas_deploy.cli.options.sections import option

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.training.request import Request
    from s2dnas_deploy.workshop.training.settings import Settings
    from s2dnas_deploy.workshop.training.start.begin import Start

recipe_option = option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=apply_recipe,
    help="A TOML file of these options; the command line overrides it.",
)
limit_option = option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Use at most N images of each part, for a quick try.",
)
IMAGES = (
    option(
        "--data",
        required=True,
        help="Labelled images: a folder of classes, a CIFAR python folder, an .npz archive, or `digits`.",
    ),
    option(
        "--val-fraction",
        type=float,
        default=0.1,
        show_default=True,
        help="Share of the images that becomes the validation images, if there is no val/.",
    ),
    option(
        "--resize",
        type=Resize(),
        help="Fit images of another size: crop, stretch, or crop:SHARE of the shorter side, as networks for "
        "ImageNet are judged (crop:0.875); :bicubic behind it takes that in place of bilinear.",
    ),
    option(
        "--normalize",
        help="imagenet (if not given), cifar10, cifar100, data (measured), none (pixels 0 to 1), unit "
        "(-1 to 1), or M,M,M/S,S,S.",
    ),
    limit_option,
    option(
        "--classes",
        metavar="auto|N|FILE",
        help="Give a network of other classes a new classifier for those of --data, and tune it first. auto: "
        "if their numbers differ; N: there must be N; FILE: they must be these, one a line.",
    ),
)
TRAINING = (
    option(
        "--epochs",
        type=int,
        show_default="as many as suit the number of images, fewer if exits no longer gain",
        help="Passes over the images; 0 ends with the weights of --start.",
    ),
    option(
        "--lr",
        type=float,
        default=0.1,
        show_default="0.1; 0.01 for networks without norms",
        help="Peak learning rate.",
    ),
    option(
        "--batch",
        "batch_size",
        formerly="--batch-size",
        type=int,
        default=64,
        show_default=True,
        help="How many images go through the network at a time.",
    ),
    option(
        "--augment",
        metavar="WAYS",
        default="flip",
        show_default="flip; crop,flip for a network that nobody teaches, as the static one; "
        "resized-crop,flip for photos that --resize makes smaller",
        help="How images are varied: none, or some of crop, flip, resized-crop, colour and randaugment, with "
        "commas between. Flips change the meaning of digits and text.",
    ),
    option(
        "--static-epochs",
        type=int,
        show_default="0; with a new classifier as many as suit the images, fewer if it no longer gains",
        help="Without --weights, or with --classes: first train the static network for as many passes.",
    ),
    option(
        "--start",
        type=click.Choice(["fitted", "ranked", "copied"]),
        default="fitted",
        show_default=True,
        help="Weights of the stages before training: fitted to what the static network gives, its channels "
        "ranked by how much they matter; only ranked; or copied as they are.",
    ),
    option("--static-lr", type=float, help="Peak learning rate of that; as --lr if not given."),
    option(
        "--body-lr",
        type=float,
        show_default="a tenth of --static-lr",
        help="Peak learning rate of all but a new classifier, once that has learnt for an epoch; 0: never.",
    ),
)
TRAINING_IN_DETAIL = (
    option(
        "--optimizer",
        type=click.Choice(["muon", "sgd"]),
        default="muon",
        show_default=True,
        help="What weights learn by: muon turns the kernels of convolutions by equal angles and learns more "
        "in as many epochs; sgd goes down the gradients of all alike.",
    ),
    option(
        "--crop-padding",
        type=int,
        help="Pixels that a crop may shift by; an eighth of the side if not given.",
    ),
    option("--warmup", type=float, default=0.1, show_default=True, help="Part of the run in which lr rises."),
    option(
        "--weight-decay", type=float, default=5e-4, show_default=True, help="How strongly weights shrink."
    ),
    option(
        "--label-smoothing",
        type=float,
        default=0.0,
        show_default=True,
        help="Share of a label that is spread over all classes.",
    ),
    option(
        "--distill",
        type=float,
        default=0.9,
        show_default=True,
        help="Weight of the static network's answers, against the labels.",
    ),
    option(
        "--self-distill",
        type=float,
        default=0.3,
        show_default=True,
        help="Share of the last exit's answers in that.",
    ),
    option(
        "--distill-temperature",
        "temperature",
        formerly="--temperature",
        type=float,
        default=3.0,
        show_default=True,
        help="Divides the logits of those answers, which softens them.",
    ),
    option(
        "--exit-weights", type=Numbers(), default=(), help="Weight of each exit's loss; all 1 if not given."
    ),
    option(
        "--ema", type=float, default=0.995, show_default=True, help="Moving average of weights; 0 is off."
    ),
)
HOW_TO_TRAIN = (
    option(
        "--device",
        default="auto",
        show_default=True,
        help="What trains the network: auto, cpu, cuda or cuda:N.",
    ),
    option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Numbers to compute with; auto takes bfloat16 where the device is fast with it.",
    ),
    option(
        "--workers",
        type=int,
        show_default="as many as cores, at most 8, for images on disk; none for those in memory",
        help="Processes that decode and vary images while the network learns; 0 for none.",
    ),
    option("--seed", type=int, default=0, show_default=True, help="Another seed draws other random numbers."),
    option(
        "--checkpoint-seconds",
        type=float,
        default=30.0,
        show_default=True,
        help="How often the run is kept: at most this much is lost.",
    ),
    option("--restart", is_flag=True, help="Discard what an earlier run left at --out."),
)
out_option = option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where model.pt goes."
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What to train on and where the result goes, as the command line says it."""

    recipe: Path | None
    data: str
    val_fraction: float
    resize: str | None
    normalize: str | None
    limit: int | None
    classes: str | None
    static_epochs: int | None
    static_lr: float | None
    body_lr: float | None
    start: "Start"
    restart: bool
    out: Path

    def check(self, network: NetworkOptions) -> None:
        """Refuse a place for the result that is none, before network and images are read."""
        if self.out.suffix not in ("", ".pt"):
            meant = self.out.with_suffix(".pt").name
            raise click.UsageError(f"--out {self.out}: expected a name that ends in .pt, such as {meant}")
        if network.weights is not None and realpath(self.out) == realpath(network.weights):
            raise click.UsageError(
                f"--out {self.out} is the file of --weights, which is only read; give another --out"
            )

    def request(self, network: NetworkOptions, settings: "Settings", *, plan: str, align: int) -> "Request":
        """The same as training takes it."""
        from s2dnas_deploy.workshop.training.request import Request

        check_code_of_recipe(network.model, self.recipe)
        return Request(
            source=network.source(seed=settings.seed, is_from_a_recipe=is_from_recipe("model")),
            data=self.data,
            val_fraction=self.val_fraction,
            resize=self.resize,
            limit=self.limit,
            normalize=self.normalize,
            plan=plan,
            align=align,
            static_epochs=self.static_epochs,
            static_lr=self.static_lr,
            classes=self.classes,
            body_lr=self.body_lr,
            start=self.start,
            settings=settings,
            rate_is_open=is_left_open("lr"),
            augment_is_open=is_left_open("augment"),
            out=self.out,
            restart=self.restart,
        )
