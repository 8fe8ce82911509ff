"""What the package offers by name is there, documented in full, and costs nothing until it is asked for."""

import inspect
import operator
import re
import subprocess
import sys

import pytest

import s2dnas_deploy

NAMES = [name for name in s2dnas_deploy.__all__ if name != "__version__"]
FUNCTIONS = [
    s2dnas_deploy.Cascade.load,
    s2dnas_deploy.Cascade.predict,
    s2dnas_deploy.Cascade.stream,
    s2dnas_deploy.load_bundle,
    s2dnas_deploy.verify_bundle,
]
# Those that need torch, by their names.
OF_TORCH = ("divide", "DynamicNetwork", "load_model")
LOOP = ("divide", "DynamicNetwork.exit_loss", "DynamicNetwork.save", "DynamicNetwork.export")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_told_of(name):
    if name in OF_TORCH:
        pytest.importorskip("torch")
    assert (inspect.getdoc(getattr(s2dnas_deploy, name)) or "").strip()
    assert re.search(rf"\b{name}\b", s2dnas_deploy.__doc__)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'cascade_of_everything'"):
        _ = s2dnas_deploy.cascade_of_everything
    assert len(NAMES) <= 18


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__qualname__)
def test_functions_say_what_they_take_give_and_raise(function):
    assert_told_in_full(function)


@pytest.mark.parametrize("name", LOOP)
def test_those_of_torch_too(name):
    pytest.importorskip("torch")
    assert_told_in_full(operator.attrgetter(name)(s2dnas_deploy))


def assert_told_in_full(function):
    told = inspect.getdoc(function)
    for name in inspect.signature(function).parameters:
        assert name in ("self", "cls", "options") or f"{name}:" in told, name
    assert "Returns:" in told or "Yields:" in told
    assert "Raises:" in told
    assert "Example:" in told


def test_importing_it_imports_no_heavy_library():
    code = "import sys, s2dnas_deploy; print({'numpy', 'torch', 'onnxruntime', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
