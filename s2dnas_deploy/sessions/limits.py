"""What numbers the options of a run may have, for commands and for Python alike.

NumPy's numbers are numbers here, and so are arrays of no dimension; what is true or false is none. Imports
little, for a command's --help tells the limits.
"""

import math
import os
from numbers import Real

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown

MOST_THREADS = max(256, os.cpu_count() or 1)  # every stage has so many: more take memory, and time to end
MOST_BATCH = 65_536
MOST_WORKERS = 256
MOST_PROCESSES = 1_000
MOST_CLIENTS = 1_024
LEAST_SECONDS, MOST_SECONDS = 1e-3, 24 * 3600


def whole_number(value: object, what: str, least: int, most: int) -> int:
    """A whole number within bounds, or an `OptionError`."""
    plain = _plain(value)
    if not isinstance(plain, int) or not least <= plain <= most:
        raise OptionError(f"expected a whole number from {least:,} to {most:,} as {what}, got {shown(value)}")
    return plain


def finite_number(value: object, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A number that is neither infinite nor none, within bounds, or an `OptionError`."""
    plain = _plain(value)
    try:
        number = float(plain) if isinstance(plain, Real) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number) or not least <= number <= most:
        bound = "" if least == -math.inf else f" of {least:g} or more"
        bound = bound if most == math.inf else f" from {least:,} to {most:,}"
        raise OptionError(f"expected a finite number{bound} as {what}, got {shown(value)}")
    return number


def _plain(value: object) -> object:
    """NumPy's numbers and arrays of no dimension as Python's; truths as no number at all."""
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    return None if isinstance(plain, bool) else plain
