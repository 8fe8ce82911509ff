"""The clock of this machine: what stages take here, timed once, and kept for a run that is resumed.

Place in the flow: plans ──`probes`──▶ bundles ──`Timer`──▶ device profiles in the run's folder. One of them
prices every plan of a search space (`latency`); others hold plans that are priced by their own times.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from s2dnas_deploy.bundle.device_profile import STATIC, Profile, StageTimes
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.plan import Plan, has_all, narrowed
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.sessions.environment import device_here
from s2dnas_deploy.workshop.pricing.probes import Probed, write_probes

_MOST_BYTES = 2**29
TIMED_ON, THREADS = "cpu", 1


def this_device() -> dict[str, Any]:
    """The machine this runs on, as its stages are timed."""
    return device_here(provider=TIMED_ON, threads=THREADS)


class Timer(Protocol):
    """What times a folder of probes against the static network among them."""

    def __call__(
        self, folder: Path, *, provider: str, threads: int | None, progress: Progress, batch: int = 1
    ) -> Profile:
        """Their times for so many images at a time, on this provider."""


@dataclass(frozen=True, kw_only=True)
class MachineClock:
    """Times the stages of plans of a network, and keeps the times in a folder."""

    probed: Probed
    folder: Path
    timer: Timer
    reporter: Reporter

    def profile(self, plans: Mapping[str, Plan], kept_in: str) -> Profile:
        """The times of plans that span a space, the static one among them; those kept, if there are any."""
        path = self.folder / kept_in
        profile = self._kept(path)
        if profile is None or profile.plans != plans:
            profile = self._timed(plans, "probes")
            write_text_atomically(path, profile.to_json())
        return profile

    def times(self, plans: Sequence[Plan], kept_in: str, *, called: str) -> dict[str, StageTimes]:
        """The times of these plans, by their digests; those that are not kept yet are taken."""
        space = self.probed.static.divisible.space
        # A width is the first of two stages, which is the same graph; one that has all needs no clock.
        chains = {
            plan.digest: [narrowed(plan, k, space) for k in range(plan.stages) if not has_all(plan, k, space)]
            if plan.nested
            else [plan]
            for plan in plans
        }
        found = self._of_chains([chain for each in chains.values() for chain in each], kept_in, called=called)
        return {
            plan.digest: _of_widths(plan, times) if plan.nested else times[0]
            for plan in plans
            for times in [[found[chain.digest] for chain in chains[plan.digest]]]
        }

    def _of_chains(self, plans: Iterable[Plan], kept_in: str, *, called: str) -> dict[str, StageTimes]:
        path = self.folder / kept_in
        before = self._kept(path)
        known = {} if before is None else dict(before.times)
        asked = {plan.digest: plan for plan in plans}
        missing = {digest: plan for digest, plan in asked.items() if digest not in known}
        static = static_plan(self.probed.static.divisible.space)
        for part in _parts(list(missing), self._at_once):
            timed = self._timed({STATIC: static, **{digest: missing[digest] for digest in part}}, called)
            before = timed if before is None else before.joined(timed)
            write_text_atomically(path, before.to_json())
            known |= before.times
        return {digest: known[digest] for digest in asked}

    @property
    def _at_once(self) -> int:
        """How many plans of a network of this size may lie on the disk at a time."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.probed.static.weights.values())
        return max(1, _MOST_BYTES // max(1, size))

    def _kept(self, path: Path) -> Profile | None:
        """Times that were taken before, if on this very device and of images of this size."""
        if not path.exists():
            return None
        profile = Profile.load(path)
        shape = self.probed.static.graph.input_shape
        if (profile.device, profile.input_shape) == (this_device(), shape):
            return profile
        self.reporter.say(
            f"{path} is of another device, onnxruntime or size of images: stages are timed anew"
        )
        return None

    def _timed(self, plans: Mapping[str, Plan], what: str) -> Profile:
        """The stages of plans, exported and timed on this machine."""
        with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as passing:
            write_probes(self.probed, plans, Path(passing), self.reporter.phase(f"writing {what}", "probes"))
            progress = self.reporter.phase(f"timing {what} on this machine", "probes")
            return self.timer(Path(passing), provider=TIMED_ON, threads=THREADS, progress=progress)


def _parts(digests: Sequence[str], count: int) -> list[Sequence[str]]:
    return [digests[start : start + count] for start in range(0, len(digests), count)]


def _of_widths(plan: Plan, firsts: Sequence[StageTimes]) -> StageTimes:
    """The times of nested widths, from each as the first stage of a chain, but the static network."""
    reference = firsts[0].reference_ms
    shares = [each.stage_ms[0] / each.reference_ms for each in firsts]
    return StageTimes(
        stage_ms=tuple(reference * share for share in (*shares, 1.0)[: plan.stages]), reference_ms=reference
    )


def relative_times(plan: Plan, times: StageTimes) -> tuple[float, ...]:
    """The time to each answer, relative to the static network's."""
    return plan.up_to_exits(ms / times.reference_ms for ms in times.stage_ms)
