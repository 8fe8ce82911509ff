"""Runs `s2dnas-search --ray` on a cluster of two nodes of its own, one of which is killed midway.

Meant for a network namespace of its own, where no port is taken and nothing outside can be reached:

    unshare --user --map-root-user --net python cluster_search.py RUN_FOLDER OPTION…

Prints how many plans were judged when the node was killed; ends with the search's exit code.
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
from pathlib import Path

_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING
_SEARCH = "from s2dnas_deploy.cli import search; search()"
_TRIED_BEFORE_THE_KILL = 6


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))


def tried(run_folder: Path) -> int:
    plans = run_folder / "plans.jsonl"
    return max(len(plans.read_text().splitlines()) - 1, 0) if plans.exists() else 0


def main(run_folder: Path, options: list[str]) -> int:
    from ray.cluster_utils import Cluster

    bring_loopback_up()
    # Of its own, and short: Ray makes sockets below it, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        os.environ["HOME"] = os.environ["RAY_TMPDIR"] = temporary
        # Else a busy machine leaves the workers nothing.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so Ray spells it
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            second = cluster.add_node(**node)
            process = subprocess.Popen([sys.executable, "-c", _SEARCH, *options, f"--ray={cluster.address}"])
            while process.poll() is None and tried(run_folder) < _TRIED_BEFORE_THE_KILL:
                time.sleep(0.01)
            at = tried(run_folder)
            cluster.remove_node(second, allow_graceful=False)
            code = process.wait()
        finally:
            cluster.shutdown()
    print(json.dumps({"killed_after": at}))
    return code


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
