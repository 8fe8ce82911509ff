"""Energy is what the counters counted meanwhile; without counters there is none."""

import sys
import time
from types import ModuleType

import pytest

from s2dnas_deploy.bench.workers import energy


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch, tmp_path):
    """A device that counts nothing."""
    monkeypatch.setattr(energy, "_RAPL", tmp_path / "powercap")
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)


def package(tmp_path, name, microjoules, *, most=2**32, kind="package-0"):
    folder = tmp_path / "powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def test_where_nothing_counts_nothing_is_done():
    assert energy.joules_of(lambda: pytest.fail("the work was done for nothing"), "cpu") is None


def test_packages_are_added_up_and_what_is_within_them_is_not(tmp_path):
    package(tmp_path, "intel-rapl:0", 1_000_000)
    package(tmp_path, "intel-rapl:1", 5_000_000)
    package(tmp_path, "intel-rapl:0:0", 500_000, kind="core")
    package(tmp_path, "intel-rapl:2", 500_000, kind="psys")

    def work():
        package(tmp_path, "intel-rapl:0", 3_000_000)
        package(tmp_path, "intel-rapl:1", 5_500_000)
        package(tmp_path, "intel-rapl:0:0", 900_000, kind="core")
        package(tmp_path, "intel-rapl:2", 9_000_000, kind="psys")

    counted = energy.joules_of(work, "cpu")
    assert counted.joules == pytest.approx(2.5)
    assert counted.source == "RAPL"


def test_a_counter_that_began_again_is_read_right(tmp_path):
    package(tmp_path, "intel-rapl:0", 9_000_000, most=10_000_000)
    counted = energy.joules_of(lambda: package(tmp_path, "intel-rapl:0", 2_000_000, most=10_000_000), "cpu")
    assert counted.joules == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("rails", "watts"),
    [
        ("VDD_IN 4000mW/4100mW VDD_CPU_GPU_CV 900mW/900mW", 4.0),
        ("POM_5V_IN 4000/4100 POM_5V_GPU 10/20", 4.0),
        ("VDD_GPU_SOC 2000mW/1mW VDD_CPU_CV 1500mW/1mW VIN_SYS_5V0 500mW/1mW", 4.0),
    ],
)
def test_a_jetsons_rails_are_averaged_over_the_time(tmp_path, monkeypatch, rails, watts):
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile :; do echo 'RAM 1/2MB {rails}'; sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(energy.shutil, "which", lambda name: str(program))
    begun = time.monotonic()
    counted = energy.joules_of(lambda: time.sleep(0.3), "cuda")
    assert watts * 0.3 <= counted.joules <= watts * (time.monotonic() - begun)
    assert counted.source == "tegrastats"


def test_gpus_count_in_millijoules_and_only_for_what_runs_there(tmp_path, monkeypatch):
    package(tmp_path, "intel-rapl:0", 1_000_000)
    fake, counts = ModuleType("pynvml"), iter([1000, 2000, 4000, 2500])
    fake.NVMLError = RuntimeError
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: 2
    fake.nvmlDeviceGetHandleByIndex = lambda i: i
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: next(counts)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert energy.joules_of(lambda: None, "cpu").source == "RAPL"
    counted = energy.joules_of(lambda: None, "cuda")
    assert counted.joules == pytest.approx(3.5)
    assert counted.source == "NVML"
