"""One graph leaves where the rule says, at ties and whatever confidences are."""

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
from scored_bundle import CLASSES, images_of, scored_bundle

from s2dnas_deploy.errors import VerificationError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.every_stage import StageSession
from s2dnas_deploy.workshop.export.checks.verify import verify_single_file
from s2dnas_deploy.workshop.export.graphs.single_file import EXIT, nest

SURE = np.float32([0, 0.3, 0.5, 0.9, 1, 1.0000001, 2, 1e30, np.inf, -np.inf, -1, np.nan])


def around(value):
    tie = np.float32(np.clip(value, -9, 9))
    return [np.nextafter(tie, np.float32(-9)), tie, np.nextafter(tie, np.float32(9))]


@pytest.mark.parametrize(
    "thresholds",
    [
        (0.9, 0.3),
        (2.0, 0.7),
        (0.7, 2.0),
        (1 + 1e-9, 1e300),
        (1.0, 0.0),
        (0.0, 2.0),
        (-1e300, 1 / 3),
        (2.0,),
        (),
    ],
)
def test_it_leaves_where_the_cascade_does(tmp_path, thresholds):
    bundle = scored_bundle(tmp_path / "b", thresholds)
    flow = bundle.manifest.flow
    content = nest([onnx.load_model_from_string(graph) for graph in bundle.graphs], flow, CLASSES)
    assert sum(node.op_type == "If" for node in content.graph.node) <= sum(t <= 1 for t in thresholds)
    single = StageSession(content.SerializeToString())
    values = np.concatenate([SURE, *map(around, thresholds)]).astype(np.float32)
    scores = np.random.default_rng(0).choice(values, (150, len(flow.stops)))
    scores[: len(values), 0] = values
    images = images_of(scores)
    with Cascade.load(bundle.folder, provider="cpu", threads=1) as cascade:
        expected = cascade.predict(images)
    got = [single.run({"image": images[i : i + 1]}) for i in range(len(images))]
    assert [int(each.features[EXIT][0]) for each in got] == expected.exit.tolist()
    assert [int(each.label[0]) for each in got] == expected.label.tolist()


def test_a_single_file_that_leaves_where_nobody_may_is_found(tmp_path):
    """A threshold just above 1 is no threshold of about 1: no tolerance makes up for that."""
    bundle = scored_bundle(tmp_path / "b", (1.00005,))
    models = [onnx.load_model_from_string(graph) for graph in bundle.graphs]
    flow, other = bundle.manifest.flow, bundle.manifest.flow.with_thresholds([1.0])
    images = images_of(np.ones((3, 2)))
    verify_single_file(nest(models, flow, CLASSES).SerializeToString(), bundle.graphs, flow, images)
    with pytest.raises(VerificationError, match="answers image 0 otherwise"):
        verify_single_file(nest(models, other, CLASSES).SerializeToString(), bundle.graphs, flow, images)
