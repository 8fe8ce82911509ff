"""A bundle needs nothing of ours: the loop in docs/bundle.md runs it, also with an onnxruntime of 2024."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from exports import chain_from, export_to, pixels
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain

ROOT = Path(__file__).parents[1]
OLD = Path(os.environ.get("S2DNAS_OLD_PYTHON", ROOT / ".venv-old" / "bin" / "python"))
PYTHONS = [
    sys.executable,
    pytest.param(
        str(OLD), marks=pytest.mark.skipif(not OLD.exists(), reason=f"no {OLD}; `make test-slow` sets it up")
    ),
]


def loop() -> str:
    (code,) = re.findall(
        r"```python\n(import json.*?)```", (ROOT / "docs" / "bundle.md").read_text(), re.DOTALL
    )
    return code


def test_the_loop_is_twenty_lines_without_this_package():
    assert len([line for line in loop().splitlines() if line.strip()]) <= 20
    assert "s2dnas" not in loop()


@pytest.fixture(
    scope="module", params=[{}, {"gather": False, "rule": "margin", "opset": 13}], ids=["default", "other"]
)
def exported(request, tmp_path_factory):
    """A folder with a bundle and images, the names of its classes, and every exit's answers."""
    folder = tmp_path_factory.mktemp("exported")
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    images = pixels(chain, 12)
    answers = run_chain(
        [StageSession(graph) for graph in export_to(folder / "b", chain, **request.param).graphs], images
    )
    thresholds = [float(np.median(answer.confidence)) for answer in answers[:2]]
    export_to(folder / "b", chain, thresholds=tuple(thresholds), single_file=True, **request.param)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder, chain.class_names, answers


@pytest.mark.parametrize("python", PYTHONS, ids=["this", "old"])
def test_the_loop_gives_the_cascades_answers(exported, tmp_path, python):
    folder, class_names, answers = exported
    files = [str(path) for path in sorted(folder.glob("*.png"))]
    script = tmp_path / "loop.py"
    script.write_text(loop())
    result = subprocess.run(
        [python, "-I", script, folder / "b", *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    exits = []
    for i, line in enumerate(result.stdout.splitlines()):
        file, label, confidence, exit_ = line.split("\t")
        exits.append(int(exit_))
        answer = answers[exits[-1]]
        assert file == files[i]
        assert label == class_names[answer.label[i]]
        assert float(confidence) == pytest.approx(answer.confidence[i], abs=2e-3)
    assert len(exits) == 12
    assert set(exits) == {0, 1, 2}
    check = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "for file in sys.argv[2:]:\n"
        "    from PIL import Image\n"
        "    image = numpy.asarray(Image.open(file))[None]\n"
        "    print(int(session.run(['exit'], {'image': image})[0][0]))\n"
    )
    single = subprocess.run(
        [python, "-I", "-c", check, folder / "b" / "cascade.onnx", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert single.returncode == 0, single.stderr
    assert [int(line) for line in single.stdout.split()] == exits
