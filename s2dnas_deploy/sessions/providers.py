"""Which part of the device runs a graph: onnxruntime's execution providers under short names.

Place in the flow: `--provider NAME` ──▶ `Provider`, which every stage's session is made with. What was asked
for must be active on every session; onnxruntime itself would say nothing and use the CPU.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnxruntime

from s2dnas_deploy.errors import BundleError, OptionError, ProviderError
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.sessions.limits import MOST_THREADS, whole_number

_CPU = "CPUExecutionProvider"
# A graph was checked by ONNX's rules, and leads to no other file. onnxruntime is told, where it can be.
_READ_NO_FILES = {
    "session.load_model_format": "ONNX",  # and not its own, whatever the bytes look like
    "session.model_external_initializers_file_folder_path": f"{os.devnull}/none",  # newer ones know it
}
_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider: onnxruntime's name, its options, and where its tensors live.

    `own_memory`: whether the host's memory is not its own, so that inputs are copied when they are bound and
    features had better stay; `buckets`: whether a batch size that it has not seen stalls it, so that only a
    few sizes may occur; `threads`: its option for how many, where threads of its own do the work; `else_on`:
    the provider of what it does not take, before the CPU.
    """

    name: str
    ort_name: str
    device: str = "cpu"
    own_memory: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    buckets: bool = False
    threads: str = ""
    else_on: str = ""
    install: str = ""

    def batch_size(self, count: int) -> int:
        """How many rows to run for `count` samples."""
        if not self.buckets:
            return count
        largest = _BUCKETS[-1]
        return next((size for size in _BUCKETS if size >= count), -(-count // largest) * largest)


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(name="cpu", ort_name=_CPU),
        Provider(
            name="cuda",
            ort_name="CUDAExecutionProvider",
            device="cuda",
            own_memory=True,
            # The exhaustive search of algorithms runs anew for every batch size, and takes seconds.
            options={"cudnn_conv_algo_search": "HEURISTIC"},
            buckets=True,
            install="pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        ),
        Provider(
            name="tensorrt",
            ort_name="TensorrtExecutionProvider",
            device="cuda",
            own_memory=True,
            buckets=True,
            else_on="cuda",
            install="pip uninstall onnxruntime, then pip install onnxruntime-gpu tensorrt",
        ),
        Provider(
            name="openvino",
            ort_name="OpenVINOExecutionProvider",
            threads="num_of_threads",
            install="pip uninstall onnxruntime, then pip install onnxruntime-openvino",
        ),
        Provider(
            name="xnnpack",
            ort_name="XnnpackExecutionProvider",
            threads="intra_op_num_threads",
            install="build onnxruntime with --use_xnnpack",
        ),
        Provider(
            name="coreml",
            ort_name="CoreMLExecutionProvider",
            install="pip install onnxruntime on macOS, whose wheel brings it",
        ),
    )
}
# The best of what is there, best first. TensorRT compiles for minutes, so it is used only when asked for.
_BEST = {"auto": ("cuda", "coreml", "cpu"), "arm": ("xnnpack", "cpu")}
NAMES = (*PROVIDERS, *_BEST)
ON_GPU = tuple(name for name, provider in PROVIDERS.items() if provider.device == "cuda")


CPU = PROVIDERS["cpu"]


def is_choice(name: str) -> bool:
    """Whether a name stands for the best there is, rather than for one provider."""
    return name in _BEST


def choose_provider(name: str, *, allow_fallback: bool = False) -> Provider:
    """The provider asked for, if this onnxruntime has it; with `allow_fallback`, the CPU if it has not."""
    there = set(onnxruntime.get_available_providers())
    if not isinstance(name, str) or name not in (*PROVIDERS, *_BEST):
        raise OptionError(f"expected a provider among {', '.join(NAMES)}, got {shown(name)}")
    if name in _BEST:
        return next(PROVIDERS[each] for each in _BEST[name] if PROVIDERS[each].ort_name in there)
    provider = PROVIDERS[name]
    if provider.ort_name in there:
        return provider
    if allow_fallback:
        return CPU
    known = [each.name for each in PROVIDERS.values() if each.ort_name in there]
    raise ProviderError(
        f"--provider {name}: onnxruntime {onnxruntime.__version__} here has {', '.join(known)} only. "
        f"To get it: {provider.install}. Or ask for --provider {known[0]}, or --allow-fallback."
    )


# It would let a graph's metadata set a session's options, which can write files.
os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)


def make_session(
    graph: bytes, provider: Provider, *, threads: int | None = None, holds_memory: bool = True
) -> Any:
    """A session on the provider asked for, or a `ProviderError`; of a graph that was checked.

    One that holds its memory is faster the next time, and keeps what the largest batch took.
    """
    options = onnxruntime.SessionOptions()
    cores = usable_cores() if threads is None else whole_number(threads, "number of threads", 1, MOST_THREADS)
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = holds_memory
    options.log_severity_level = 4
    # Sessions take turns: a pool that spins while another one works would only be in its way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in _READ_NO_FILES.items():
        options.add_session_config_entry(name, value)
    try:
        # Its own fallback would print to stdout, among the results.
        session = onnxruntime.InferenceSession(
            graph, options, providers=_in_order(provider, cores), enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors have no base of their own
        if provider.ort_name == _CPU:
            version = onnxruntime.__version__
            raise BundleError(f"onnxruntime {version} refuses a graph: {in_a_line(error)}") from error
        raise ProviderError(f"--provider {provider.name} does not start: {in_a_line(error)}") from error
    if session.get_providers()[0] != provider.ort_name:
        raise ProviderError(
            f"--provider {provider.name}: this onnxruntime has it, but would run the graph on "
            f"{session.get_providers()[0]}, for the provider's libraries or its device are missing. "
            f"To get them: {provider.install}. Or --allow-fallback to accept that."
        )
    return session


def is_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which onnxruntime says in words only."""
    return any(words in str(error) for words in ("allocate memory", "bad_alloc", "bad allocation"))


def _in_order(provider: Provider, threads: int) -> list[tuple[str, dict[str, str]]]:
    """Who is asked in turn to take an operator; the CPU last, for those on shapes belong there always."""
    own = {provider.threads: str(threads)} if provider.threads else {}
    asked = [(provider.ort_name, {**provider.options, **own})]
    if provider.else_on:
        asked += _in_order(PROVIDERS[provider.else_on], threads)
    return asked if asked[-1][0] == _CPU else [*asked, (_CPU, {})]


def usable_cores() -> int:
    """How many cores this process may use; fewer than the machine has, where it was bound to some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
