"""A model repository of Triton, from a bundle.

Place in the flow: bundle ──▶ REPO/NAME_STAGE (a graph of a stage, batched and warmed up by Triton) for each
stage, and REPO/NAME, which sends images through them (`router.py`), with the bundle's manifest.

Triton's ensembles have no conditions, so the routing is a model of its own: it calls the stages' models from
within Triton (business logic scripting), and survivors of all requests that Triton has put together go on in
one call. Later stages wait a little for survivors of other calls.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from s2dnas_deploy.bundle.bundle import MANIFEST, Bundle, load_bundle
from s2dnas_deploy.bundle.entries import StageEntry
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.files.atomic import naming, write_text_atomically
from s2dnas_deploy.serve.house import checked_name

BATCH = 64
"""The most samples that Triton gives a stage at once."""
_CONFIG, _MARK = "config.pbtxt", "# Written by s2dnas-export --triton."
_WAIT_MICROSECONDS = 1000
"""How long later stages wait for survivors of other calls."""
_ROUTERS = 4
"""So many calls are on their way at once; each waits most of the time."""
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int64": "TYPE_INT64",
}
_SCALARS = {LABEL: "TYPE_INT64", CONFIDENCE: "TYPE_FP32"}


def write_repository(
    folder: Path, repository: Path, *, name: str | None = None, trust: Path | None = None
) -> tuple[str, ...]:
    """Write the models of a bundle into a repository, new or there; return their names, the router first.

    Models of the same names that were written so are replaced, all else stays.
    """
    bundle = load_bundle(folder, trust)
    manifest = bundle.manifest
    if manifest.gathers:
        raise OptionError(
            "--triton: these graphs pick the images that go on themselves; export without --gather"
        )
    own = checked_name(name or Path(folder).resolve().name)
    stages = {f"{own}_{stage.name}": stage for stage in manifest.stages}
    for model in (own, *stages):
        _check_replaceable(repository / model)
    for model, stage, graph in zip(stages, manifest.stages, bundle.graphs, strict=True):
        version = _emptied(repository / model) / "1"
        version.mkdir(parents=True)
        with naming(version / "model.onnx"):
            (version / "model.onnx").write_bytes(graph)
        write_text_atomically(repository / model / _CONFIG, _stage_config(model, stage, manifest))
    version = _emptied(repository / own) / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("router.py"), version / "model.py")
    shutil.copy(Path(folder) / MANIFEST, version / MANIFEST)
    write_text_atomically(repository / own / _CONFIG, _router_config(own, bundle))
    write_text_atomically(repository / own / "README.md", _readme(own, tuple(stages), manifest))
    return (own, *stages)


def _emptied(folder: Path) -> Path:
    """A model's folder, of which an earlier one is gone."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _check_replaceable(folder: Path) -> None:
    """What is there under a model's name must have been written here."""
    config = folder / _CONFIG
    if folder.exists() and not (config.is_file() and config.read_bytes().startswith(_MARK.encode())):
        raise OptionError(f"{folder} is there already, and not from s2dnas-export: move it away")


# --- configurations ----------------------------------------------------------------------------------------


def _stage_config(model: str, stage: StageEntry, manifest: Manifest) -> str:
    """A stage: batched by Triton, and run once before it is ready."""
    inputs = [(name, *_kind(name, manifest)) for name in stage.reads]
    outputs = [(output, *_kind(name, manifest)) for name, output in stage.outputs_of.items()]
    wait = 0 if stage.name in manifest.start.to else _WAIT_MICROSECONDS
    zeros = " ".join(
        f"inputs {{ key: {_text(name)} value {{ data_type: {kind} dims: [ {_listed(shape)} ] "
        "zero_data: true } }"
        for name, kind, shape in inputs
    )
    return _lines(
        f"name: {_text(model)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {BATCH}",
        *(_tensor("input", *each) for each in inputs),
        *(_tensor("output", *each) for each in outputs),
        f"dynamic_batching {{ max_queue_delay_microseconds: {wait} }}",
        f"model_warmup [ {{ name: {_text('zeros')} batch_size: 1 {zeros} }} ]",
    )


def _router_config(model: str, bundle: Bundle) -> str:
    manifest = bundle.manifest
    outputs = (
        (LABEL, "TYPE_INT64", ()),
        ("name", "TYPE_STRING", ()),
        (CONFIDENCE, "TYPE_FP32", ()),
        ("exit", "TYPE_INT64", ()),
        (PROBABILITIES, "TYPE_FP32", (len(manifest.labels),)),
    )
    return _lines(
        f"name: {_text(model)}",
        'backend: "python"',
        f"max_batch_size: {BATCH}",
        _tensor("input", IMAGE, *_kind(IMAGE, manifest)),
        *(_tensor("output", *each, reshaped=False) for each in outputs),
        "dynamic_batching { }",
        f"instance_group [ {{ kind: KIND_CPU count: {_ROUTERS} }} ]",
    )


def _kind(name: str, manifest: Manifest) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor, without the batch."""
    if name == IMAGE:
        return _TYPES[manifest.image_type], manifest.image_shape
    if name in ANSWERS:
        return _SCALARS.get(name, "TYPE_FP32"), () if name in _SCALARS else (len(manifest.labels),)
    tensor = manifest.tensors[name]
    return _TYPES[tensor.type], tensor.shape


def _tensor(way: str, name: str, kind: str, shape: Sequence[int], *, reshaped: bool = True) -> str:
    """An input or output. Triton has no shape without dimensions: a number is a list of one to it."""
    numbers = " reshape { shape: [ ] }" if reshaped and not shape else ""
    return f"{way} [ {{ name: {_text(name)} data_type: {kind} dims: [ {_listed(shape)} ]{numbers} }} ]"


def _listed(shape: Iterable[int]) -> str:
    return ", ".join(map(str, shape)) or "1"


def _text(value: str) -> str:
    """A string as protobuf's text form has it."""
    return '"' + value.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def _lines(*lines: str) -> str:
    return "\n".join((_MARK, *lines)) + "\n"


def _readme(model: str, stages: Sequence[str], manifest: Manifest) -> str:
    shape = ", ".join(map(str, manifest.image_shape))
    rows = "\n".join(f"| `{each}` | a stage, in onnxruntime |" for each in stages)
    settings = "".join(
        f"\n`setting.{name}` is one of {', '.join(setting.choices)} (`{setting.default}` if nothing is said)."
        for name, setting in manifest.settings.items()
    )
    return f"""# {model}, for Triton

| model | |
| --- | --- |
| `{model}` | ask this one: it sends each image through as many stages as it needs |
{rows}

Serve this folder:

```text
docker run --rm -p 8000:8000 -p 8001:8001 -v "$PWD:/models" nvcr.io/nvidia/tritonserver:25.08-py3 \\
    tritonserver --model-repository /models
```

Any image of Triton with the Python and the onnxruntime backend will do; numpy is all that the router needs.

Ask it:

```python
import numpy as np
import tritonclient.http as client

server = client.InferenceServerClient("localhost:8000")
images = np.zeros((1, {shape}), np.{manifest.image_type})
given = client.InferInput("image", images.shape, "{"UINT8" if manifest.image_type == "uint8" else "FP32"}")
given.set_data_from_numpy(images)
said = server.infer("{model}", [given])
print(said.as_numpy("name"), said.as_numpy("exit"))
```

Outputs have a row for each image: `label`, `name`, `confidence`, `exit` (the stage whose answer it is) and
`probabilities`. A request may have the parameter `thresholds`, a number for each exit that may be passed, as
in `"0.9,0.8"`.{settings} (`s2dnas-serve` knows more of them.) The client is `pip install tritonclient[http]`.

Thresholds are those of the bundle: export anew after it was calibrated. Triton batches each stage, at most
{BATCH} images; later stages wait {_WAIT_MICROSECONDS} µs for survivors of other calls
(`max_queue_delay_microseconds` in their `config.pbtxt`).
"""
