"""A connection to a Ray cluster, for whoever gives its machines work.

Place in the flow: `--ray HOST:PORT` ──▶ `Connection`: judging plans (workshop) and answering (serve) stand on
it. Ray, because it is what clusters of workstations run; it is an extra.
"""

import re
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from s2dnas_deploy import __version__
from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.quoting import in_a_line

Own = TypeVar("Own", bound="Connection")
_SECONDS_TO_ANSWER = 10


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a piece of the work takes on a machine, and how that is called."""

    what: str
    cores: int
    cores_by: str
    """What sets how many cores."""
    gpus: int
    extra: str
    """The extra of this package with which Ray is installed for it."""

    def fit(self, offered: dict[str, float]) -> int:
        """How many such pieces a machine takes at a time."""
        gpus = offered.get("GPU", 0) // self.gpus if self.gpus else float("inf")
        return int(min(offered.get("CPU", 0) // self.cores, gpus))


class Connection:
    """A cluster, until it is closed; `at_once` pieces of the work fit on its machines."""

    def __init__(self, address: str, needs: Needs) -> None:
        """Connect, or raise an `OptionError` that says what is missing."""
        self.address, self.needs = address, needs
        self.ray = _ray(needs.extra)
        try:
            _knock(address)
            self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError, self.ray.exceptions.RayError) as problem:
            raise OptionError(
                f"--ray {address}: no Ray cluster answers there ({in_a_line(problem)}); start one with "
                "`ray start --head`, join machines with `ray start --address HOST:PORT`, this one too; if it "
                "asks for a token, set RAY_AUTH_MODE=token"
            ) from problem
        self.at_once = sum(needs.fit(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
        if not self.at_once:
            self.ray.shutdown()
            raise OptionError(
                f"--ray {address}: no machine of the cluster offers what {needs.what} takes here: "
                f"{needs.cores} cores ({needs.cores_by} sets how many) and {needs.gpus} GPUs"
            )

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ray.shutdown()

    def fail(self, error: Exception, advice: str) -> NoReturn:
        """Raise what went wrong on a machine: this package's own error, if it is one."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, S2dnasError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        if isinstance(error, self.ray.exceptions.RayTaskError):
            raise error
        raise S2dnasError(f"--ray {self.address}: {error}; {advice}") from error


def check_same_version(theirs: str) -> None:
    """Only the same version can be relied on to read what was sent, and to answer alike."""
    if theirs != __version__:
        raise S2dnasError(
            f"a machine of the cluster has s2dnas_deploy {__version__}, this one {theirs}; install the same "
            "on all (what was done before is kept)"
        )


def _knock(address: str) -> None:
    """Fail at once if nobody listens: Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=_SECONDS_TO_ANSWER).close()
    elif address != "auto":
        raise ValueError(
            "expected HOST:PORT, ray://HOST:PORT, or auto for the cluster that this machine is in"
        )


def _ray(extra: str) -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise OptionError(f"--ray needs Ray: pip install 's2dnas-deploy[{extra}]'") from error
    return ray
