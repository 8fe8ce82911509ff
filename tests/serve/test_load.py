"""`s2dnas-bench load` against a server."""

from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner
from served import IMAGES, Server

from s2dnas_deploy.bench.remote import Remote
from s2dnas_deploy.cli import bench
from s2dnas_deploy.errors import OptionError, S2dnasError

pytest.importorskip("mlperf_loadgen")


@pytest.fixture(scope="module")
def server(bundle):
    with closing(Server({"net": bundle})) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_a_server_answers_as_the_cascade_does(server, cascade):
    remote = Remote(server, "net")
    for count in (1, 7, 40):
        assert remote.labels(IMAGES[:count]).tolist() == cascade.predict(IMAGES[:count]).label.tolist()
    with pytest.raises(S2dnasError, match="the server answered 400: "):
        remote.labels(IMAGES[:, :2])


def test_a_server_that_is_not_there_is_an_error(server):
    with pytest.raises(OptionError, match="expected http://HOST:PORT, got 'localhost'"):
        Remote("localhost", "net")
    with pytest.raises(OptionError, match="no model other is ready there"):
        Remote(server, "other")
    with pytest.raises(OptionError, match="refused"):
        Remote("http://127.0.0.1:1", "net")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["SingleStream", "Offline", "Server"])
def test_a_load_is_put_on_it(server, bundle, tmp_path, scenario):
    np.save(tmp_path / "images.npy", IMAGES)
    asked = ["--data", str(tmp_path / "images.npy"), "--noise", "--seconds", "0.5", "--within-ms", "1000"]
    asked += ["--log", str(tmp_path / "log"), "--scenario", scenario, "--clients", "4", "--batch", "4"]
    result = CliRunner().invoke(bench, ["load", str(bundle), *asked, "--server", server])
    assert result.exit_code == 0, result.output
    assert "  valid  " in result.stdout
