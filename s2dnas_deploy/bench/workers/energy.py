"""Energy that a piece of work took, where the device counts it: RAPL, NVML, or a Jetson's tegrastats.

Counters are of the whole package or board, so what else runs there is in them. Where there are none for what
does the work, or they may not be read (RAPL's are root's on most systems), there is no answer.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RAPL = Path("/sys/class/powercap")
_EVERY_MS = 100
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/")
_BOARD = ("VDD_IN", "POM_5V_IN")  # what the whole board draws; boards without it have parts that add up to it
_PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_GPU = ("cuda", "tensorrt")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Joules, and which counter told."""

    joules: float
    source: str


def joules_of(work: Callable[[], None], provider: str) -> Counted | None:
    """Joules during work that a provider does; None where nothing counts them, and then it is not done."""
    own = ("NVML", _by_nvml) if provider in _GPU else ("RAPL", _by_rapl)
    for source, meter in (("tegrastats", _by_tegrastats), own):
        spent = meter()
        if spent is not None:
            work()
            joules = spent()
            return None if joules is None else Counted(joules=joules, source=source)
    return None


def _by_rapl() -> Callable[[], float | None] | None:
    """Microjoules since some time, of each processor package; they begin again at their largest."""
    before = _rapl()
    if not before:
        return None

    def spent() -> float:
        after = _rapl()
        return sum(_since(before[path], after[path], path) for path in before) / 1e6

    return spent


def _rapl() -> dict[Path, int]:
    """Packages only: what is within one is counted in it, and `psys` counts packages again."""
    found = {}
    for path in sorted(_RAPL.glob("*-rapl:*")):
        try:
            if (path / "name").read_text(encoding="utf-8").startswith("package"):
                found[path] = int((path / "energy_uj").read_text(encoding="utf-8"))
        except OSError:
            return {}
    return found


def _since(before: int, after: int, path: Path) -> int:
    if after >= before:
        return after - before
    return after - before + int((path / "max_energy_range_uj").read_text(encoding="utf-8"))


def _by_tegrastats() -> Callable[[], float | None] | None:
    """A Jetson's sensors, several times a second; their mean times how long it took."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    told = subprocess.Popen([program, "--interval", str(_EVERY_MS)], stdout=subprocess.PIPE, text=True)
    begun = time.monotonic()

    def spent() -> float | None:
        seconds = time.monotonic() - begun
        told.terminate()
        lines, _ = told.communicate()
        watts = [each for each in map(_watts, lines.splitlines()) if each is not None]
        return seconds * sum(watts) / len(watts) if watts else None

    return spent


def _watts(line: str) -> float | None:
    """Of the board, by a line of tegrastats."""
    rails = {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}
    whole = next((rails[name] for name in _BOARD if name in rails), None)
    parts = [rails[name] for name in _PARTS if name in rails]
    return whole if whole is not None else sum(parts) if len(parts) == len(_PARTS) else None


def _by_nvml() -> Callable[[], float | None] | None:
    """Millijoules since the driver was loaded, of all NVIDIA GPUs; needs nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        before = sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in gpus)
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None
    return lambda: (sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpus)) - before) / 1e3
