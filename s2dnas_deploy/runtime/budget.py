"""Which choice of a setting fits into a budget of time, on this device and by its clock.

Place in the flow: `Cascade` + a few images ──timed, each choice in turns──▶ the best that fits ──▶ settings.
"""

import time
from collections.abc import Mapping, Sequence

from s2dnas_deploy.decide.flow import Choices
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array

_WARM_UP, _ROUNDS = 4, 20


def settings_within(cascade: Cascade, budget_ms: float, batches: Sequence[Array]) -> dict[str, str]:
    """The best choice with which an image takes no longer than the budget, on average over the batches.

    The best is the most accurate if the bundle knows how accurate each is, else that of the most MACs.
    """
    if len(cascade.flow.settings) != 1:
        raise OptionError(
            f"a budget chooses among the choices of one setting; this bundle has {len(cascade.flow.settings)}"
        )
    ((name, setting),) = cascade.flow.settings.items()
    times = times_of(cascade, name, setting.choices, batches)
    within = [choice for choice in setting.choices if times[choice] <= budget_ms]
    if not within:
        quickest = min(times, key=times.__getitem__)
        raise OptionError(
            f"nothing fits into {budget_ms:g} ms: the quickest, {name}={quickest}, takes "
            f"{times[quickest]:.3g} ms an image on this device"
        )
    return {name: max(within, key=_worth(setting).__getitem__)}


def times_of(
    cascade: Cascade, name: str, choices: Sequence[str], batches: Sequence[Array]
) -> dict[str, float]:
    """Milliseconds of an image with each choice; they take turns, so that a busy moment meets them all."""
    seconds, images = dict.fromkeys(choices, 0.0), 0
    for number in range(_WARM_UP + _ROUNDS):
        batch = batches[number % len(batches)]
        images += len(batch) if number >= _WARM_UP else 0
        for choice in choices:
            begun = time.perf_counter()
            cascade.predict(batch, settings={name: choice})
            if number >= _WARM_UP:
                seconds[choice] += time.perf_counter() - begun
    return {choice: 1e3 * each / images for choice, each in seconds.items()}


def _worth(setting: Choices) -> Mapping[str, tuple[float, float]]:
    """Of each choice: how accurate it is; of equals or where nobody knows, how much it computes."""
    unknown = (0.0,) * len(setting.choices)
    pairs = zip(setting.accuracy or unknown, setting.macs or unknown, strict=True)
    return dict(zip(setting.choices, pairs, strict=True))
