"""The clock of this machine: what stages take here, timed once, and kept for a search that is resumed.

Place in the flow: plans ──`probes`──▶ bundles ──`Timer`──▶ a device profile in the run's folder, which
prices every plan of the space (`latency`), or only the few plans that were timed themselves.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from s2dnas_deploy.bundle.device_profile import STATIC, Profile
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.sessions.environment import device_here
from s2dnas_deploy.workshop.search.pricing.probes import probe_plans, write_probes
from s2dnas_deploy.workshop.search.space.space import SearchSpace
from s2dnas_deploy.workshop.training.run import Prepared

DEVICE, TIMED = "device.json", "finalists.device.json"
_TIMED_ON, _THREADS = "cpu", 1


def this_device() -> dict[str, Any]:
    """The machine this runs on, as its stages are timed."""
    return device_here(provider=_TIMED_ON, threads=_THREADS)


class Timer(Protocol):
    """What times a folder of probes against the static network among them."""

    def __call__(self, folder: Path, *, provider: str, threads: int | None, progress: Progress) -> Profile:
        """Their times, on this provider."""


@dataclass(frozen=True, kw_only=True)
class MachineClock:
    """Times the stages of plans of a network, and keeps the times in a folder."""

    prepared: Prepared
    folder: Path
    timer: Timer
    reporter: Reporter

    def profile(self, space: SearchSpace) -> Profile:
        """The times of plans that span the space."""
        path = self.folder / DEVICE
        profile = self._kept(path)
        if profile is None:
            profile = self._timed(probe_plans(space), "probes")
            write_text_atomically(path, profile.to_json())
        return profile

    def costs(self, plans: Sequence[Plan]) -> dict[str, tuple[float, ...]]:
        """What it costs up to each exit, of plans that are timed themselves, by their digests.

        The model that prices plans errs by a few percent, and the best of hundreds is easily one that it
        prices too low.
        """
        path = self.folder / TIMED
        before = self._kept(path)
        known = {} if before is None else dict(before.times)
        missing = {plan.digest: plan for plan in plans if plan.digest not in known}
        if missing:
            static = static_plan(self.prepared.static.divisible.space)
            timed = self._timed({STATIC: static, **missing}, "finalists")
            profile = timed if before is None else before.joined(timed)
            write_text_atomically(path, profile.to_json())
            known = dict(profile.times)
        times = {plan.digest: known[plan.digest] for plan in plans}
        return {
            digest: tuple(accumulate(ms / of.reference_ms for ms in of.stage_ms))
            for digest, of in times.items()
        }

    def _kept(self, path: Path) -> Profile | None:
        """Times that were taken before, if on this very device and of images of this size."""
        if not path.exists():
            return None
        profile = Profile.load(path)
        shape = self.prepared.static.graph.input_shape
        if (profile.device, profile.input_shape) == (this_device(), shape):
            return profile
        self.reporter.say(
            f"{path} is of another device, onnxruntime or size of images: stages are timed anew"
        )
        return None

    def _timed(self, plans: Mapping[str, Plan], what: str) -> Profile:
        """The stages of plans, exported and timed on this machine."""
        with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as passing:
            write_probes(self.prepared, plans, Path(passing), self.reporter.phase(f"writing {what}"))
            progress = self.reporter.phase(f"timing {what} on this machine")
            return self.timer(Path(passing), provider=_TIMED_ON, threads=_THREADS, progress=progress)
