"""Whether a network gets a new classifier, by what a person says of the classes and what the images show.

Place in the flow: static network + `--classes` + the images' classes ──▶ the network that is trained.
"""

from collections.abc import Sequence
from pathlib import Path

from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.workshop.data.splits import listed
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.classifier import NewClassifier, with_new_classifier

_AUTO = "auto"
_LARGEST_BYTES = 2**24


def new_classifier(
    static: StaticNetwork, asked: str | None, names: Sequence[str], *, seed: int
) -> NewClassifier | None:
    """The network with a classifier for the images' classes; None where it keeps its own.

    `auto` keeps it where there are as many outputs as classes; who says how many or which wants a new one.
    """
    if asked is None or (asked == _AUTO and static.graph.classes == len(names)):
        return None
    if asked != _AUTO:
        _check(asked, names)
    return with_new_classifier(static, len(names), seed=seed)


def _check(asked: str, names: Sequence[str]) -> None:
    """Refuse images of other classes than a person says."""
    if asked.isdecimal() and len(asked) <= 9:
        if int(asked) != len(names):
            raise DataError(f"--classes {asked}: the data has {len(names)} classes, {listed(names)}")
        return
    wanted = _names_in(Path(asked).expanduser())
    if list(names) == wanted:
        return
    if sorted(names) == sorted(wanted):
        at = next(k for k, name in enumerate(wanted) if name != names[k])
        raise DataError(
            f"--classes {asked} has the data's classes in another order: expected {shown(names[at])} in line "
            f"{at + 1}, got {shown(wanted[at])}; outputs are in the order of the data"
        )
    missing = listed(sorted(set(wanted) - set(names))) or "none"
    more = listed(sorted(set(names) - set(wanted))) or "none"
    raise DataError(f"--classes {asked}: the data lacks {missing}, and has besides: {more}")


def _names_in(path: Path) -> list[str]:
    try:
        text = read_file(path, _LARGEST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"--classes {path} is not text in UTF-8: {in_a_line(error)}") from error
    except OSError as error:
        raise OptionError(
            f"--classes: expected auto, a number or a file with a class a line, got {shown(str(path))}: "
            f"{error.strerror or in_a_line(error)}"
        ) from error
    return [line for line in text.splitlines() if line]
