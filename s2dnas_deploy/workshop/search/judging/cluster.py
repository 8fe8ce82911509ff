"""Judging plans on the machines of a Ray cluster, as they would be judged on this one.

Place in the flow: an `Evaluator` ──▶ a judge of many plans, which `Trials` asks instead. The evaluator is
sent once; a plan goes to whichever machine has cores free, and comes back in the order asked. A plan
whose machine dies is judged again elsewhere. Each judging uses as many threads as it would here, for sums
in another order would be other numbers.
"""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from s2dnas_deploy import __version__
from s2dnas_deploy.ray_cluster import Connection, Needs, check_same_version
from s2dnas_deploy.workshop.search.judging.evaluators import Evaluator, JudgeMany
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.space.candidate import Candidate

_MOST_RETRIES = 20  # of a plan whose machine died: more is no accident


class Cluster(Connection):
    """A connection to a cluster, for as long as plans are judged."""

    def __init__(self, address: str, device: torch.device) -> None:
        """Connect; `device` is where plans would be judged on this machine, and are there."""
        self.threads = torch.get_num_threads()
        needs = Needs(
            what="judging a plan",
            cores=self.threads,
            cores_by="OMP_NUM_THREADS",
            gpus=int(device.type == "cuda"),
            extra="build,ray",
        )
        super().__init__(address, needs)

    def judge_by(self, evaluator: Evaluator) -> JudgeMany:
        """Send the evaluator; the result gives the worth of plans, in order, as they become known."""
        sent = self.ray.put(self.ray.cloudpickle.dumps(evaluator))
        remote = self.ray.remote(
            max_retries=_MOST_RETRIES, num_cpus=self.needs.cores, num_gpus=self.needs.gpus
        )
        task = remote(_judge)

        def judge(asked: Sequence[Candidate]) -> Iterator[Worth]:
            pending = [task.remote(sent, candidate, self.threads, __version__) for candidate in asked]
            return map(self._answer, pending)

        return judge

    def _answer(self, answer: Any) -> Worth:
        try:
            worth: Worth = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self.fail(error, "plans judged before are kept: give the same command again once it is well")
        return worth


def _judge(sent: bytes, candidate: Candidate, threads: int, version: str) -> Worth:
    """Runs on a machine of the cluster."""
    check_same_version(version)
    torch.set_num_threads(threads)
    evaluator: Evaluator = pickle.loads(sent)  # noqa: S301 - the cluster's own, as all that Ray sends
    return evaluator(candidate)
