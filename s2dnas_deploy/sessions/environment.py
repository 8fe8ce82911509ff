"""The device that something was measured on: enough to tell whether two measurements may be compared.

What the system does not tell is None, never guessed.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime

from s2dnas_deploy import __version__
from s2dnas_deploy.files.bounds import Between, Count, Name, Shown

_CPUS = Path("/sys/devices/system/cpu")
_ZONES = Path("/sys/class/thermal")
# What kernels are chosen by; the full list has hundreds.
_TELLING = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16",
            "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What it is, which stays."""

    architecture: Shown
    processor: Shown
    flags: tuple[Shown, ...]
    cores: Count | None
    memory_bytes: Count | None
    system: Shown
    kernel: Shown


@dataclass(frozen=True, kw_only=True)
class State:
    """What it was like at that moment."""

    governor: Shown | None
    load: Annotated[float, Between(0, 10**9)] | None
    celsius: Annotated[float, Between(-300, 10**6)] | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Machine and versions, which stay, and the state it was in, which does not."""

    machine: Machine
    versions: Mapping[Name, Shown]
    state: State


def look_around() -> Environment:
    """The device as it is now."""
    return Environment(
        machine=Machine(
            architecture=platform.machine(),
            processor=processor(),
            flags=_flags(),
            cores=os.cpu_count(),
            memory_bytes=_memory_bytes(),
            system=platform.system(),
            kernel=platform.release(),
        ),
        versions={
            "s2dnas-deploy": __version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        state=State(
            governor=_read(_CPUS / "cpu0" / "cpufreq" / "scaling_governor"),
            load=_load(),
            celsius=_celsius(),
        ),
    )


def processor() -> str:
    """What the processor calls itself, or its kind, where it has no name."""
    return (
        _told("model name")
        or _told("Model")
        or _read_device_tree()
        or platform.processor()
        or platform.machine()
    )


def _told(key: str) -> str | None:
    """The first such line of /proc/cpuinfo."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _read_device_tree() -> str | None:
    """Boards without a processor's name have one of their own: Raspberry Pi 4 Model B."""
    return (_read(Path("/proc/device-tree/model")) or "").rstrip("\0") or None


def _flags() -> tuple[str, ...]:
    flags = set((_told("flags") or _told("Features") or "").split())
    return tuple(flag for flag in _TELLING if flag in flags)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _celsius() -> float | None:
    """The hottest of the zones that the kernel knows."""
    told = [_read(zone / "temp") for zone in sorted(_ZONES.glob("thermal_zone*"))]
    degrees = [int(text) / 1000 for text in told if text and text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def device_here(*, provider: str, threads: int | None) -> dict[str, Any]:
    """What times depend on: those of one device are not those of another."""
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "provider": provider,
        "threads": threads,
    }
