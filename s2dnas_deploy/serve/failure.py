"""What a caller is told of an error: HTTP's status, gRPC's code, and when to come back."""

from dataclasses import dataclass

from s2dnas_deploy.errors import DataError, OptionError, S2dnasError
from s2dnas_deploy.serve.house import UnknownModelError
from s2dnas_deploy.serve.queue import BusyError, ClosedError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One kind of failure; `retry_after` is in whole seconds, if another try may help."""

    status: int
    code: str
    retry_after: int | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether nothing was wrong with the request, and it was not taken all the same."""
        return self.retry_after is not None


def failure_of(error: S2dnasError) -> Failure:
    """What an error is to whoever asked."""
    if isinstance(error, BusyError) and error.retry_after:
        return Failure(status=503, code="RESOURCE_EXHAUSTED", retry_after=max(1, round(error.retry_after)))
    if isinstance(error, BusyError):  # too large, at any time
        return Failure(status=413, code="RESOURCE_EXHAUSTED")
    if isinstance(error, ClosedError):
        return Failure(status=503, code="UNAVAILABLE", retry_after=1)
    if isinstance(error, UnknownModelError):
        return Failure(status=404, code="NOT_FOUND")
    if isinstance(error, (DataError, OptionError)):
        return Failure(status=400, code="INVALID_ARGUMENT")
    return Failure(status=500, code="INTERNAL")
