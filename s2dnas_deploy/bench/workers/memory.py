"""The most memory that this process has held so far."""

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Resident bytes at the most; 0 where the system does not tell."""
    if _STATUS.exists():  # what getrusage tells on Linux begins with the memory of who started this process
        peak = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        return 1024 * int(peak[1]) if peak else 0
    if sys.platform != "darwin":
        return 0
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
