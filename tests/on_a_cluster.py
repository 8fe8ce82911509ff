"""Runs a command on a Ray cluster of two nodes of its own, one of which is killed midway.

Meant for a network namespace of its own, where no port is taken and nothing outside can be reached; see
`run_on_a_cluster`, which makes one:

    unshare --user --map-root-user --net python on_a_cluster.py search|run FILE LINES OPTION…

A node is killed as soon as FILE has so many lines. Prints how many it had then; ends with the command's exit
code.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING
_MOST_SECONDS = 400
_OWN_NETWORK = ("unshare", "--user", "--map-root-user", "--net")


def run_on_a_cluster(command: str, file: Path, lines: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command with `--ray`, and have a node killed once the file has so many lines."""
    return in_own_network(__file__, command, str(file), str(lines), *options)


def in_own_network(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script where no port is taken and nothing outside can be reached."""
    pytest.importorskip("ray.data")
    if subprocess.run([*_OWN_NETWORK, "true"], check=False).returncode:
        pytest.skip("no network namespace of one's own can be had here")
    # Into files: what Ray leaves running for a moment would hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            [*_OWN_NETWORK, sys.executable, script, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
            stdout=out,
            stderr=errors,
            timeout=_MOST_SECONDS,
        )
        out.seek(0), errors.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, out.read(), errors.read())


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))


@contextmanager
def own_ray_folder() -> Iterator[None]:
    """Where Ray keeps what it keeps, for a cluster of one's own."""
    # Short: Ray makes sockets below it, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        os.environ["HOME"] = os.environ["RAY_TMPDIR"] = temporary
        # Else a busy machine leaves the workers nothing.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so Ray spells it
        yield


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def main(command: str, file: Path, lines: int, options: list[str]) -> int:
    from ray.cluster_utils import Cluster

    bring_loopback_up()
    with own_ray_folder():
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            second = cluster.add_node(**node)
            code = f"from s2dnas_deploy.cli import {command}; {command}()"
            process = subprocess.Popen([sys.executable, "-c", code, *options, f"--ray={cluster.address}"])
            while process.poll() is None and lines_of(file) < lines:
                time.sleep(0.01)
            at = lines_of(file)
            cluster.remove_node(second, allow_graceful=False)
            status = process.wait()
        finally:
            cluster.shutdown()
    print(json.dumps({"killed_after": at}))
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
