"""The server as a deployment of Ray Serve: replicas on the machines of a cluster, as many as there is work.

    serve run s2dnas_deploy.serve.ray.online:app bundle=/shared/bundle threads=4 replicas=auto

Place in the flow: Ray's HTTP proxy ──▶ a replica ──▶ the same `App` that `s2dnas-serve` runs. Survivors of
requests that come to one replica share batches there; replicas share nothing.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.serve.defaults import MOST_BODY_MIB
from s2dnas_deploy.serve.house import House, named, versions_of
from s2dnas_deploy.serve.http.app import App
from s2dnas_deploy.sessions.providers import ON_GPU, choose_provider, is_choice, usable_cores

_WHOLE = ("threads", "batch", "workers", "most_waiting", "most_body")
_NUMBERS = ("max_wait_ms", "max_queue_ms", "audit")
_TEXTS = ("bundle", "provider", "trust", "on_broken", "replicas")
_MIB = 2**20
_ONGOING, _AIM = 256, 64
"""Requests that a replica may have at once, and has on average before there is another: survivors of so many
meet in full batches."""
_MOST_REPLICAS = 1000


def app(args: Mapping[str, Any]) -> Any:
    """An application of Ray Serve.

    Args:
        args: `bundle`, a folder or a list of them, `NAME=FOLDER` if need be, which all machines see under the
            same name; `replicas`, a number or `auto`; and what `s2dnas-serve` takes, with `_` for `-` in the
            names: `provider`, `threads`, `trust`, `batch`, `max_wait_ms`, `workers`, `max_queue_ms`,
            `most_waiting` and `most_body` (MiB), `audit` (`1%` or 0.01), `on_broken`.

    Returns:
        What `ray.serve.run` takes, and `serve run` on the command line. Any other option of the deployment
        may be set in Ray Serve's own configuration.
    """
    from ray import serve

    given = {key: _read(key, value) for key, value in args.items()}
    if not given.get("bundle"):
        raise OptionError("expected bundle=FOLDER, got none")
    bundles = _seen_from_anywhere(given["bundle"])
    provider = given.get("provider", "auto")
    if is_choice(provider):  # all replicas take what is best here
        provider = choose_provider(provider).name
    threads = given.get("threads") or usable_cores()
    how = {
        "provider": provider,
        "threads": threads,
        "trust": given.get("trust") or os.environ.get("S2DNAS_TRUST") or None,
    }
    asked = ("batch", "max_wait_ms", "workers", "max_queue_ms", "audit", "on_broken")
    pace = {key: given[key] for key in asked if key in given}
    if "most_waiting" in given:
        pace["most_bytes"] = given["most_waiting"] * _MIB
    most_body = given.get("most_body", MOST_BODY_MIB) * _MIB

    def built() -> App:
        say = logging.getLogger("ray.serve").warning
        house = House(folders=bundles, how=how, pace={**pace, "say": say})
        house.open()
        return App(house, most_body=most_body, most_bodies=8 * most_body, is_replica=True)

    @serve.deployment(
        name="s2dnas",
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": threads, "num_gpus": int(provider in ON_GPU)},
        **_replicas(str(given.get("replicas", "1"))),
    )
    @serve.ingress(built)
    class Bundles:
        """A replica."""

    return Bundles.bind()  # type: ignore[attr-defined]  # for Ray, untyped, has made a deployment of it


def _read(key: str, value: Any) -> Any:
    """An argument as the command line gives it, all text, or as a configuration does."""
    if key in _TEXTS:
        return value
    if key not in (*_WHOLE, *_NUMBERS):
        known = ", ".join((*_TEXTS, *_WHOLE, *_NUMBERS))
        raise OptionError(
            f"{shown(key)} is no argument; expected bundle=FOLDER and perhaps others of {known}"
        )
    text = str(value)
    try:
        if key in _WHOLE:
            return int(text)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as problem:
        raise OptionError(f"{key}: expected a number, got {shown(value)}") from problem


def _seen_from_anywhere(given: Any) -> dict[str, Path]:
    """The bundles by name, which must be there; replicas begin in another folder than this process did."""
    texts = given if isinstance(given, (list, tuple)) else [given]
    bundles = {name: folder.resolve() for name, folder in named([str(text) for text in texts]).items()}
    for folder in bundles.values():
        versions_of(folder)
    return bundles


def _replicas(asked: str) -> dict[str, Any]:
    """How many, as Ray Serve takes it."""
    if asked == "auto":
        return {
            "autoscaling_config": {
                "min_replicas": 1,
                "max_replicas": _MOST_REPLICAS,
                "target_ongoing_requests": _AIM,
            }
        }
    if not asked.isdigit() or not int(asked):
        raise OptionError(f"replicas: expected a number above 0 or auto, got {shown(asked)}")
    return {"num_replicas": int(asked)}
