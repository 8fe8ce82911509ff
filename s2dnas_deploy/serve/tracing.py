"""A span for each request, by OpenTelemetry, where that is installed; where it is not, nothing.

Place in the flow: `Front` ──a ticket has ended──▶ a span, below that of whoever asked. Where spans go is for
OpenTelemetry's own settings to say, as in `opentelemetry-instrument s2dnas-serve bundle/`.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from s2dnas_deploy.serve.ticket import Ticket

PARENT = ("traceparent", "tracestate")
"""The headers that name the caller's span."""
_NAME = "s2dnas_deploy"


class Traces:
    """Tells OpenTelemetry of requests."""

    def __init__(self) -> None:
        self._tracer, self._api = _opentelemetry()

    def tell(self, ticket: Ticket, model: str, parent: Mapping[str, str]) -> None:
        """A ticket has ended: how long it took, where its images exited, and what went wrong if anything."""
        if self._tracer is None:
            return
        ended = time.time_ns()
        span = self._tracer.start_span(
            "infer",
            context=self._api.propagate.extract(dict(parent)),
            kind=self._api.trace.SpanKind.SERVER,
            start_time=ended - int(1e9 * (time.perf_counter() - ticket.since)),
        )
        if span.is_recording():
            exits = np.bincount(ticket.exit[ticket.exit >= 0], minlength=len(ticket.stages))
            span.set_attributes(
                {
                    "s2dnas.model": model,
                    "s2dnas.images": len(ticket.images),
                    "s2dnas.stages": ticket.stages,
                    "s2dnas.exits": exits.tolist(),
                }
            )
            if ticket.error is not None:
                span.set_status(self._api.trace.StatusCode.ERROR, str(ticket.error))
        span.end(ended)


def _opentelemetry() -> tuple[Any, Any]:
    """A tracer and the API, or neither."""
    try:
        import opentelemetry.propagate
        import opentelemetry.trace
    except ImportError:
        return None, None
    return opentelemetry.trace.get_tracer(_NAME), opentelemetry
