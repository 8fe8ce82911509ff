"""What tests of export share: a chain of a small network, exported without a command."""

from pathlib import Path

import numpy as np
import torch
from full_check import with_random_exits

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.bundle import Bundle, load_bundle
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain
from s2dnas_deploy.workshop.export.assemble import write_bundle
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.staged import StagedNetwork
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, carry_over
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

QUIET = Console(quiet=True)


def model_of(static: StaticNetwork, plan: plans.Plan) -> Model:
    """The static network divided by a plan, each exit with weights of its own."""
    torch.manual_seed(0)
    return as_model(with_random_exits(carry_over(static, plan)).eval())


def as_model(network: MultiStageNetwork) -> Model:
    """A network as if it had been trained."""
    channels, height, width = network.division.graph.input_shape
    return Model(
        network=network,
        class_names=tuple(f"class {i}" for i in range(network.division.graph.classes)),
        preprocessing=Preprocessing(
            input_shape=(channels, height, width), mean=(0.4,) * channels, std=(0.3,) * channels
        ),
        provenance={},
    )


def chain_from(static: StaticNetwork, plan: plans.Plan, *, split: bool = True) -> StagedNetwork:
    return chain_of(model_of(static, plan), name="test", split=split)


def export_to(folder: Path, chain: StagedNetwork, images=None, **options: object) -> Bundle:
    write_bundle(Export(network=chain, options=ExportOptions(**options), images=images), folder, QUIET)
    return load_bundle(folder)


def pixels(chain: StagedNetwork, count: int, seed: int = 0) -> np.ndarray:
    channels, height, width = chain.preprocessing.input_shape
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def normalised(chain: StagedNetwork, images: np.ndarray) -> torch.Tensor:
    p = chain.preprocessing
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.double).reshape(-1, 1, 1) for v in (p.mean, p.std))
    return ((x - mean) / std).float()


def assert_answers_like_torch(chain: StagedNetwork, bundle: Bundle, batches=(1, 3, 16)) -> None:
    """Every exit's probabilities within 1e-4 of torch's, and its label torch's own."""
    sessions = [StageSession(graph) for graph in bundle.graphs]
    for size in batches:
        images = pixels(chain, size, seed=size)
        with torch.no_grad():
            expected = chain.reference(normalised(chain, images))
        answers = run_chain(sessions, images)
        assert len(answers) == len(expected)
        for answer, logits, stage in zip(answers, expected, bundle.manifest.stages, strict=True):
            wanted = torch.softmax(logits / stage.exit.temperature, 1).numpy()
            assert wanted.shape == answer.probabilities.shape
            assert np.abs(answer.probabilities - wanted).max() <= 1e-4 * wanted.max()
            assert (answer.label == logits.argmax(1).numpy()).all()
