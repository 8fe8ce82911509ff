"""A forecast in words: what is said before a training, and by `s2dnas-inspect --forecast`."""

from collections.abc import Iterator, Mapping

from s2dnas_deploy.workshop.forecast.forecast import FIRST, Forecast


def in_words(forecast: Forecast) -> Iterator[str]:
    """A line each: where, what stages take, what comes of it."""
    yield f"forecast: {_where(forecast)}"
    stages = " + ".join(f"{share:.2f}" for share in forecast.stages)
    what = "the MACs" if forecast.device is None else "the time"
    last = ", which answers last" if forecast.ends_in_static else ""
    yield f"the stages take {stages} = {forecast.up_to[-1]:.2f} of {what} of the static network{last}"
    faster = " / ".join(f"{forecast.with_first(share):.1f}" for share in FIRST)
    first = " / ".join(f"{100 * share:.0f}" for share in FIRST)
    yield (
        f"if {first}% of the images exit first and the others last, the average image is answered {faster} "
        f"times as fast; {forecast.best:.1f} times is the best that is possible"
    )
    right = " / ".join(f"{100 * share:.0f}" for share in forecast.accuracies)
    if forecast.falls_short:
        yield (
            f"expected of the exits, trained: {right}%, the last {100 * forecast.falls_short + 1:.0f} points "
            "below the static network; longer training, or a plan whose last stage owns more, may help"
        )
    else:
        yield (
            f"expected of the exits, trained: {right}%, so {forecast.expected:.1f} times as fast at a point "
            "below the static network"
        )


def _where(forecast: Forecast) -> str:
    if forecast.device is None:
        return "by MACs, which tell less than a clock does"
    took = (
        "" if forecast.static_ms is None else f", where the static network takes {forecast.static_ms:.3g} ms"
    )
    threads = forecast.device.get("threads")
    return f"{forecast.device.get('processor')}, threads: {threads}, one image at a time{took}"


def alternatives_in_words(times_as_fast: Mapping[str, float]) -> str:
    """What else makes a network faster, as measured."""
    measured = "; ".join(f"{what}: {faster:.1f} times as fast" for what, faster in times_as_fast.items())
    return f"little is to be gained here by dividing this network. Measured instead: {measured}"
