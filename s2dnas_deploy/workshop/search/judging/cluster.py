"""Judging plans on the machines of a Ray cluster, as they would be judged on this one.

Place in the flow: an `Evaluator` ──▶ a judge of many plans, which `Trials` asks instead. The evaluator is
sent once; a plan goes to whichever machine has cores free, and comes back in the order asked. A plan
whose machine dies is judged again elsewhere. Each judging uses as many threads as it would here, for sums
in another order would be other numbers. Ray, because it is what clusters of workstations run; it is an
extra.
"""

import pickle
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch

from s2dnas_deploy import __version__
from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.workshop.search.judging.evaluators import Evaluator, JudgeMany
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.space.candidate import Candidate

_SECONDS_TO_ANSWER = 10
_MOST_RETRIES = 20  # of a plan whose machine died: more is no accident


class Cluster(AbstractContextManager["Cluster"]):
    """A connection to a cluster, for as long as plans are judged."""

    def __init__(self, address: str, device: torch.device) -> None:
        """Connect; `device` is where plans would be judged on this machine, and are there."""
        self._ray = _ray()
        self.address, self.threads = address, torch.get_num_threads()
        self._needs = {"num_cpus": self.threads, "num_gpus": int(device.type == "cuda")}
        try:
            _knock(address)
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as problem:
            raise OptionError(
                f"--ray {address}: no Ray cluster answers there ({problem}); start one with "
                "`ray start --head`, join machines with `ray start --address HOST:PORT`, this one too"
            ) from problem
        self.at_once = sum(self._fits(node["Resources"]) for node in self._ray.nodes() if node["Alive"])
        if not self.at_once:
            self._ray.shutdown()
            raise OptionError(
                f"--ray {address}: no machine of the cluster offers what judging a plan takes here: "
                f"{self.threads} cores (OMP_NUM_THREADS sets how many) and {self._needs['num_gpus']} GPUs"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def judge_by(self, evaluator: Evaluator) -> JudgeMany:
        """Send the evaluator; the result gives the worth of plans, in order, as they become known."""
        sent = self._ray.put(self._ray.cloudpickle.dumps(evaluator))
        task = self._ray.remote(max_retries=_MOST_RETRIES, **self._needs)(_judge)

        def judge(asked: Sequence[Candidate]) -> Iterator[Worth]:
            pending = [task.remote(sent, candidate, self.threads, __version__) for candidate in asked]
            return map(self._answer, pending)

        return judge

    def _answer(self, answer: Any) -> Worth:
        try:
            worth: Worth = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, S2dnasError) else error from None
        except self._ray.exceptions.RayError as error:
            raise S2dnasError(
                f"--ray {self.address}: a plan could not be judged ({error}); those judged before are kept: "
                "give the same command again once the cluster is well"
            ) from error
        return worth

    def _fits(self, offered: dict[str, float]) -> int:
        gpus = offered.get("GPU", 0) if self._needs["num_gpus"] else float("inf")
        return int(min(offered.get("CPU", 0) // self.threads, gpus))


def _judge(sent: bytes, candidate: Candidate, threads: int, version: str) -> Worth:
    """Runs on a machine of the cluster. Only the same version can be relied on to read what was sent."""
    if version != __version__:
        raise S2dnasError(
            f"a machine of the cluster has s2dnas_deploy {__version__}, this one {version}; install the same "
            "on all (plans judged before are kept)"
        )
    torch.set_num_threads(threads)
    evaluator: Evaluator = pickle.loads(sent)  # noqa: S301 - the cluster's own, as all that Ray sends
    return evaluator(candidate)


def _knock(address: str) -> None:
    """Fail at once if nobody listens: Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=_SECONDS_TO_ANSWER).close()
    elif address != "auto":
        raise ValueError(
            "expected HOST:PORT, ray://HOST:PORT, or auto for the cluster that this machine is in"
        )


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise OptionError("--ray needs the package ray: pip install ray") from error
    return ray
