"""The machine that a benchmark ran on, for its record."""

import os
import platform
from typing import Any

from s2dnas_deploy.sessions.environment import processor


def machine() -> dict[str, Any]:
    """Processor, cores and Python."""
    return {"cpu": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
