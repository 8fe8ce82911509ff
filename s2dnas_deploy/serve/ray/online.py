"""The server as a deployment of Ray Serve: replicas on the machines of a cluster, as many as there is work.

    serve run s2dnas_deploy.serve.ray.online:app bundle=/shared/bundle threads=4 replicas=auto

Place in the flow: Ray's HTTP proxy ──▶ a replica ──▶ the same `App` that `s2dnas-serve` runs. Survivors of
requests that come to one replica share batches there; replicas share nothing.
"""

import json
from collections.abc import Mapping
from typing import Any

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.serve.defaults import MOST_BODY_MIB
from s2dnas_deploy.serve.house import House, named
from s2dnas_deploy.serve.http.app import App
from s2dnas_deploy.sessions.providers import ON_GPU, usable_cores

_HOW = ("provider", "threads", "allow_fallback", "trust")
_PACE = ("batch", "max_wait_ms", "workers", "max_queue_ms", "most_bytes", "audit", "on_broken")
_OWN = ("bundle", "replicas", "most_body")
_ONGOING = 256
"""Requests that a replica may have at once: enough that survivors meet in full batches."""


def app(args: Mapping[str, Any]) -> Any:
    """An application of Ray Serve.

    Args:
        args: `bundle`, a folder or several, `NAME=FOLDER` if need be, which all machines see under the same
            name; `replicas`, a number or `auto`; and what `Cascade.load` and `Service` take.

    Returns:
        What `ray.serve.run` takes, and `serve run` on the command line. Any other option of the deployment
        may be set in Ray Serve's own configuration.
    """
    from ray import serve

    given = {key: _read(value) for key, value in args.items()}
    unknown = sorted(set(given) - {*_HOW, *_PACE, *_OWN})
    if unknown or "bundle" not in given:
        raise OptionError(
            f"expected bundle=FOLDER and perhaps {', '.join((*_OWN[1:], *_HOW, *_PACE))}, got {sorted(given)}"
        )
    bundles = given["bundle"] if isinstance(given["bundle"], list) else [given["bundle"]]
    threads = given.get("threads") or usable_cores()
    how = {**{key: given[key] for key in _HOW if key in given}, "threads": threads}
    pace = {key: given[key] for key in _PACE if key in given}
    most_body = given.get("most_body", MOST_BODY_MIB * 2**20)

    def built() -> App:
        house = House(folders=named(bundles), how=how, pace=pace)
        house.open()
        return App(house, most_body=most_body, most_bodies=8 * most_body)

    @serve.deployment(
        name="s2dnas",
        num_replicas=given.get("replicas", 1),
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": threads, "num_gpus": int(given.get("provider") in ON_GPU)},
    )
    @serve.ingress(built)
    class Bundles:
        """A replica."""

    return Bundles.bind()  # type: ignore[attr-defined]  # for Ray, untyped, has made a deployment of it


def _read(value: Any) -> Any:
    """What was typed, as the number that it is, if it is one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
