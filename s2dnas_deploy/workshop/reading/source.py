"""The user's own files: import the factory of a network, and load trained weights into it.

Place in the flow: `--model` and `--weights` ──▶ `nn.Module`, which `static_network` reads. The module named
by `--model` is the user's code and runs as such; a weights file is data and never runs anything.
"""

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.errors import CheckpointError, ModelError, OptionError
from s2dnas_deploy.quoting import in_a_line, named_in_line, shortened, shown
from s2dnas_deploy.workshop.network.torch_file import read_torch_file

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_OF_A_CLASSIFIER = 2  # a weight and a bias
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the weights
_OPTIONAL = "num_batches_tracked"
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")


def build_network(
    spec: str, arguments: Mapping[str, Any] | None = None, *, is_from_recipe: bool = False
) -> nn.Module:
    """Call the factory that `path/file.py:factory` or `package.module:factory` names.

    Of a package, a recipe may only name a class of networks: a recipe looks like data and comes from
    anyone's hands, and with `os:system` as its factory it would be a program.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ModelError(
            f"cannot read --model {shown(spec)}; expected path/file.py:factory or package.module:factory"
        )
    is_suspect = is_from_recipe and not place.endswith(".py")
    if is_suspect and _is_no_library(place):
        raise _not_called(spec)
    module = _import(place, with_own_folder=not is_suspect)
    factory = getattr(module, name, None)
    if factory is None:
        raise ModelError(f"{place} defines no {shown(name)}; {_what_it_defines(module, name)}")
    if isinstance(factory, nn.Module):
        return factory
    if is_suspect and not (isinstance(factory, type) and issubclass(factory, nn.Module)):
        raise _not_called(spec)
    try:
        network = factory(**(arguments or {}))
    except Exception as error:
        raise ModelError(f"{spec} failed: {_told(error)}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}; expected a torch.nn.Module")
    return _without_wrapper(network)


def _is_no_library(place: str) -> bool:
    """Whether a module is Python's own, or a program that runs when it is imported."""
    first, *others = place.split(".")
    return first in sys.stdlib_module_names or "__main__" in (first, *others)


def _not_called(spec: str) -> OptionError:
    return OptionError(
        f"the recipe's model {shown(spec)} is no class of torch modules, so it was not called: a recipe may "
        "name a file in its folder (FILE.py:NAME) or such a class; where you trust it, give "
        f"--model {shortened(spec, 100)} on the command line"
    )


def _what_it_defines(module: ModuleType, name: str) -> str:
    """Its own functions and classes, the most alike first; what it only imports are not what is meant."""
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    close = difflib.get_close_matches(name, own)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"it defines {', '.join(own[:12]) or 'nothing callable'}{', …' if len(own) > 12 else ''}"


def _without_wrapper(network: nn.Module) -> nn.Module:
    """The network inside `torch.compile` or `DataParallel`, which change how it runs, not what it is."""
    inner = getattr(network, "_orig_mod", None)
    if inner is None and isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = network.module
    return _without_wrapper(inner) if isinstance(inner, nn.Module) else network


def load_weights(network: nn.Module, path: Path, key: str | None = None) -> None:
    """Load a state dict into `network`; every entry must be there, known, of the right shape and kind."""
    state = unwrapped(read_state(path, key), set(network.state_dict()))
    own = network.state_dict()
    optional = {name for name in own if name.endswith(_OPTIONAL)}
    shared = sorted(set(own) & set(state))
    found = {
        "missing": sorted(set(own) - set(state) - optional),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": [
            f"{name}: {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
            for name in shared
            if own[name].shape != state[name].shape
        ],
        "of another kind": [
            f"{name}: {state[name].dtype}, expected {own[name].dtype}"
            for name in shared
            if not (name in optional or _converts(state[name].dtype, own[name].dtype))
        ],
    }
    problems = [f"{len(names)} {what}: {_listed(names)}" for what, names in found.items() if names]
    if problems:
        only = len(problems) == 1 and 0 < len(found["of another shape"]) <= _OF_A_CLASSIFIER
        raise CheckpointError(
            f"{path} does not fit the network ({len(own)} entries expected, {len(state)} found): "
            + "; ".join(problems)
            + (
                "; for other classes make the network as it was trained, and give --classes auto"
                if only
                else ""
            )
        )
    network.load_state_dict(state, strict=False)


def _converts(given: torch.dtype, own: torch.dtype) -> bool:
    """Whether numbers of one kind mean the same as numbers of another: those quantised do not."""
    if own.is_floating_point:
        return given in _REAL
    return given == own or not (given.is_floating_point or given.is_complex)


def _listed(names: Sequence[str]) -> str:
    """The first few, as they can stand in one line."""
    few = [shortened(named_in_line(name), 100) for name in names[:5]]
    return shortened(", ".join(few), 200) + (", …" if len(names) > len(few) else "")


def read_state(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a .pt, .pth, .th or .safetensors file; no code in the file is ever run."""
    document = _read_file(path)
    if key is not None:
        document = _entry(document, key, path)
    state = _find_state(document, path, "" if key is None else f"{key}.")
    if state is None:
        raise CheckpointError(
            f"{path} holds no state dict: expected names mapped to tensors, also inside one of "
            f"{', '.join(_STATE_KEYS)}; found {_described(document)}. Name the entry with --weights-key"
        )
    return state


def unwrapped(state: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Strip the prefixes that wrappers leave (`module.` of DataParallel, `_orig_mod.` of compile)."""
    state = {name: tensor for name, tensor in state.items() if name != _COUNTER or name in known}
    while not known & set(state):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"no weights file {path}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # data types that this torch does not know raise errors of other kinds
        raise CheckpointError(f"{path} is no safetensors file, or is damaged: {in_a_line(error)}") from error


def _entry(document: Any, key: str, path: Path) -> Any:
    """What stands under a key, or under `outer.inner`."""
    if _is_state(document):
        raise CheckpointError(f"{path} is a state dict itself: leave --weights-key {shortened(key, 60)} out")
    found = document
    for part in [key] if isinstance(document, Mapping) and key in document else key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise CheckpointError(
                f"{path} has no entry {shown(key)}; {shown(part)} is not among {_described(found)}"
            )
        found = found[part]
    return found


def _find_state(document: Any, path: Path, prefix: str) -> dict[str, Tensor] | None:
    """The weights in a document that stands under `prefix` in the file."""
    if _is_state(document):
        return {str(name): tensor for name, tensor in document.items()}
    if not isinstance(document, Mapping):
        return None
    found = next((document[key] for key in _STATE_KEYS if _is_state(document.get(key))), None)
    if found is None:
        return None
    alike = [key for key, value in document.items() if _is_state(value) and set(value) == set(found)]
    if len(alike) > 1:
        names = _listed([f"{prefix}{key}" for key in alike])
        raise CheckpointError(
            f"{path} holds several state dicts, {names}: name the one meant with --weights-key"
        )
    return {str(name): tensor for name, tensor in found.items()}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(x, Tensor) for x in value.values())


def _described(document: Any) -> str:
    if isinstance(document, Mapping):
        left = f", … ({len(document)} in all)" if len(document) > 8 else ""
        return "the entries " + ", ".join(shortened(repr(key), 40) for key in list(document)[:8]) + left
    return f"a {type(document).__name__}"


def _import(place: str, *, with_own_folder: bool) -> ModuleType:
    """The module; of packages, those in the folder where the command was called only if asked for."""
    if place.endswith(".py"):
        return _import_file(Path(place).expanduser())
    try:
        with _on_path(Path.cwd()) if with_own_folder else nullcontext():
            return importlib.import_module(place)
    except Exception as error:
        raise ModelError(f"cannot import {place}: {_told(error)}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"no file {path} in {Path.cwd()}" if not path.is_absolute() else f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        with _on_path(path.resolve().parent):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"cannot import {path}: {_told(error)}") from error
    finally:
        if previous is not None:
            sys.modules[path.stem] = previous
    return module


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Let the user's module import its neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _told(error: BaseException) -> str:
    """The error in one line, with the place in the user's code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {in_a_line(error) if str(error) else ''}{place}"
