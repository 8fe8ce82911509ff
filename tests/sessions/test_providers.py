"""What was asked for is what runs, or it is an error that says what to do."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from scored_bundle import scored_bundle

from s2dnas_deploy.cli.options import bundle as bundle_options
from s2dnas_deploy.errors import BundleError, OptionError, ProviderError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions import providers
from s2dnas_deploy.sessions.providers import PROVIDERS, choose_provider, make_session

CPU_EP = "CPUExecutionProvider"


def test_the_command_knows_all_names():
    assert set(bundle_options.PROVIDERS) == set(providers.NAMES)


def test_the_best_there_is(monkeypatch):
    there = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    assert choose_provider("auto").name == "cpu"
    assert choose_provider("arm").name == "cpu"
    there.append("XnnpackExecutionProvider")
    assert choose_provider("arm").name == "xnnpack"
    there.append("CUDAExecutionProvider")
    assert choose_provider("auto").name == "cuda"


def test_what_is_not_there_is_an_error_or_the_cpu(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name in ("cuda", "tensorrt", "openvino", "xnnpack", "coreml"):
        with pytest.raises(ProviderError, match=f"--provider {name}: onnxruntime .* has cpu only. To get it"):
            choose_provider(name)
        assert choose_provider(name, allow_fallback=True).name == "cpu"
    with pytest.raises(OptionError, match="expected a provider among cpu, cuda"):
        choose_provider("gpu")


def test_a_provider_that_is_listed_but_does_not_run_is_an_error(monkeypatch, tmp_path):
    """As in onnxruntime-gpu on a machine without CUDA: it is in the list, and the CPU runs the graph."""
    bundle = scored_bundle(tmp_path / "b")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession

    def silently_on_the_cpu(graph, options, *, providers, enable_fallback):
        assert providers[0][0] in ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert not enable_fallback
        return real(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", silently_on_the_cpu)
    with pytest.raises(ProviderError, match="would run the graph on CPUExecutionProvider"):
        Cascade.load(bundle.folder, provider="cuda")
    for options in ({"provider": "cuda", "allow_fallback": True}, {"provider": "auto"}):
        with Cascade.load(bundle.folder, **options) as cascade:
            assert cascade.provider == "cpu"
            assert cascade.stages.provider.device == "cpu"
            assert len(cascade.predict(np.zeros((3, 4, 1, 1), np.float32))) == 3


def test_a_provider_that_fails_to_start_prints_nothing_among_the_results(monkeypatch, tmp_path, capfd):
    """onnxruntime's own fallback, on by default, says so on stdout."""
    bundle = scored_bundle(tmp_path / "b")
    cuda = PROVIDERS["cuda"].ort_name
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, "CPUExecutionProvider"])
    create = onnxruntime.InferenceSession._create_inference_session

    def no_driver(self, providers, *more):
        if providers[0][0] == cuda:
            raise RuntimeError("no CUDA driver")
        create(self, providers, *more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", no_driver)
    with pytest.raises(ProviderError, match="--provider cuda does not start: no CUDA driver"):
        Cascade.load(bundle.folder, provider="cuda")
    with Cascade.load(bundle.folder, provider="auto") as cascade:
        assert cascade.provider == "cpu"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("cpu", [(CPU_EP, {})]),
        ("xnnpack", [("XnnpackExecutionProvider", {"intra_op_num_threads": "3"}), (CPU_EP, {})]),
        ("openvino", [("OpenVINOExecutionProvider", {"num_of_threads": "3"}), (CPU_EP, {})]),
        (
            "tensorrt",
            [
                ("TensorrtExecutionProvider", {}),
                ("CUDAExecutionProvider", dict(PROVIDERS["cuda"].options)),
                (CPU_EP, {}),
            ],
        ),
    ],
)
def test_what_onnxruntime_is_asked_for(monkeypatch, name, asked):
    seen = {}

    class Session:
        def __init__(self, graph, options, **how):
            seen.update(how, threads=options.intra_op_num_threads)

        def get_providers(self):
            return [seen["providers"][0][0]]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    make_session(b"", PROVIDERS[name], threads=3)
    assert seen == {"providers": asked, "enable_fallback": 0, "threads": 3}


def test_every_stage_has_its_session_on_the_provider(tmp_path):
    with Cascade.load(scored_bundle(tmp_path / "b").folder, provider="cpu") as cascade:
        assert [s.get_providers() for s in cascade.stages.sessions] == [["CPUExecutionProvider"]] * 3


def test_a_stage_that_fails_while_it_runs_is_told(tmp_path):
    class OutOfMemory:
        def __init__(self, session):
            self.io_binding = session.io_binding

        def run_with_iobinding(self, binding):
            raise RuntimeError("Failed to allocate memory\nand more")

    with Cascade.load(scored_bundle(tmp_path / "b").folder, provider="cpu") as cascade:
        cascade.stages.sessions = tuple(map(OutOfMemory, cascade.stages.sessions))
        with pytest.raises(
            ProviderError, match="stage 0 failed on 3 images, on cpu: Failed to allocate memory;"
        ):
            cascade.predict(np.zeros((3, 4, 1, 1), np.float32))


def test_a_graph_that_onnxruntime_refuses_is_the_bundles_fault():
    with pytest.raises(BundleError, match=r"onnxruntime .* refuses a graph"):
        make_session(b"no graph", PROVIDERS["cpu"])


def test_buckets_are_few_and_large_enough():
    cuda = PROVIDERS["cuda"]
    sizes = [cuda.batch_size(count) for count in range(1, 2000)]
    assert all(size >= count for count, size in enumerate(sizes, start=1))
    assert all(size <= max(2 * count, count + 255) for count, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 25
    assert PROVIDERS["cpu"].batch_size(37) == 37


def test_importing_the_cascade_brings_no_more_than_it_needs():
    code = (
        "import sys; from s2dnas_deploy import Cascade; Cascade; "
        "print(sorted({'torch', 'onnx', 'matplotlib', 'click', 'scipy', 'pyarrow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
