"""One exception tree: every failure a user can meet, each with the exit code its command ends with.

    S2dnasError                     1   anything that is the user's to mend; the base of all below
    ├── ModelError                  1   the static network could not be imported, built or run
    │   └── UnsupportedNetworkError 1   it was read, and an operator in it has no channel rule
    ├── DataError                   1   images or labels that cannot be used as they are
    │   └── UnreadableError         1   image files that cannot be read, all of them
    ├── TrainingError               1   training could not go on (a loss that is not a number)
    ├── OptionError                 2   an option's value that cannot work
    ├── PlanError                   2   a plan that is malformed, or not legal for this network
    ├── CheckpointError             3   a weights file, a `model.pt` or a training checkpoint that is
    │                                   damaged, hostile or made for something else
    ├── BundleError                 3   a bundle that is damaged, hostile or of an unknown version
    ├── RecordError                 3   what was recorded (exit scores, a device profile, a measurement, a
    │                                   run's journal and lines) and is damaged or made for something else
    ├── ProviderError               4   the execution provider asked for is not there, or fails
    └── VerificationError           5   two computations that must agree do not

A message says what was expected, what was found, where, and what to do. Only `cli/` prints it.
"""

from collections.abc import Sequence

from s2dnas_deploy.quoting import named_in_line


class S2dnasError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ModelError(S2dnasError):
    """The static network could not be imported, built or run."""


class UnsupportedNetworkError(ModelError):
    """The static network uses something that has no channel rule."""


class DataError(S2dnasError):
    """Images or labels that cannot be used as they are."""


_NAMED_FILES = 20


class UnreadableError(DataError):
    """Image files that cannot be read, (file, reason) each."""

    def __init__(self, files: Sequence[tuple[str, str]]) -> None:
        named = "".join(f"\n  {named_in_line(path)}: {reason}" for path, reason in files[:_NAMED_FILES])
        more = len(files) - _NAMED_FILES
        rest = f"\n  and {more:,} more" if more > 0 else ""
        super().__init__(
            f"expected image files that can be read, got {len(files):,} that cannot. Replace or remove:"
            f"{named}{rest}"
        )
        self.files = files

    def __reduce__(self) -> tuple[type, tuple[Sequence[tuple[str, str]]]]:
        """From process to process with its files, not with its message as if that were files."""
        return UnreadableError, (self.files,)


class TrainingError(S2dnasError):
    """Training could not go on."""


class OptionError(S2dnasError):
    """An option's value that cannot work."""

    exit_code = 2


class PlanError(S2dnasError):
    """A plan that is malformed, or not legal for this network."""

    exit_code = 2


class CheckpointError(S2dnasError):
    """A weights file, `model.pt` or training checkpoint that must not or cannot be used."""

    exit_code = 3


class BundleError(S2dnasError):
    """A bundle that must not or cannot be used."""

    exit_code = 3


class RecordError(S2dnasError):
    """Scores, a device profile, a measurement or a run's output that must not or cannot be read."""

    exit_code = 3


class ProviderError(S2dnasError):
    """The execution provider asked for is not there, or does not start."""

    exit_code = 4


class VerificationError(S2dnasError):
    """Two computations that must agree do not."""

    exit_code = 5
