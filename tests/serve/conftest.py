"""A bundle to serve, and what it answers by itself."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("uvicorn")
pytest.importorskip("grpc")

from served import make_bundle

from s2dnas_deploy.runtime.cascade import Cascade


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "net"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def cascade(bundle):
    with Cascade.load(bundle, provider="cpu", threads=1) as cascade:
        yield cascade
