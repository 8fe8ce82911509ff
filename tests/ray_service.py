"""Serves a bundle by Ray Serve in two replicas, kills one under load, and prints what clients were told.

Meant for a network namespace of its own; see `on_a_cluster`, by which it is run:

    unshare --user --map-root-user --net python ray_service.py BUNDLE IMAGES.npy

Prints, as JSON: how many requests ended with each status, and the labels by image.
"""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from on_a_cluster import bring_loopback_up, own_ray_folder

_PORT, _CLIENTS, _SECONDS, _UNTIL_THE_KILL = 8123, 8, 6.0, 2.0


def replicas() -> list[int]:
    """The replicas' processes, of those that this one has started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return [process for process, name in names.items() if "ServeReplica:" in name and is_ours(process)]


def ask(connection: http.client.HTTPConnection, image: np.ndarray) -> tuple[int, bytes]:
    tensor = {
        "name": "image",
        "shape": [1, *image.shape],
        "datatype": "UINT8",
        "data": image.ravel().tolist(),
    }
    connection.request("POST", "/v2/models/net/infer", json.dumps({"inputs": [tensor]}))
    response = connection.getresponse()
    return response.status, response.read()


def main(bundle: str, images: np.ndarray) -> None:
    import ray
    from ray import serve

    from s2dnas_deploy.serve.ray.online import app

    bring_loopback_up()
    statuses, labels = Counter(), {}

    def client(first: int, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=30)
        number = first
        while time.monotonic() < until:
            at = number % len(images)
            status, body = ask(connection, images[at])
            statuses[status] += 1
            if status == 200:
                labels[at] = json.loads(body)["outputs"][0]["data"][0]
            number += _CLIENTS

    with own_ray_folder():
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": _PORT})
            serve.run(app({"bundle": f"net={bundle}", "threads": "1", "replicas": "2", "provider": "cpu"}))
            until = time.monotonic() + _SECONDS
            clients = [threading.Thread(target=client, args=(k, until)) for k in range(_CLIENTS)]
            for each in clients:
                each.start()
            time.sleep(_UNTIL_THE_KILL)
            os.kill(replicas()[0], signal.SIGKILL)
            for each in clients:
                each.join()
            serve.shutdown()
        finally:
            ray.shutdown()
    print(json.dumps({"statuses": statuses, "labels": labels}))


if __name__ == "__main__":
    main(sys.argv[1], np.load(sys.argv[2]))
