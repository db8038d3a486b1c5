"""What a worker reads of itself and its machine."""

from __future__ import annotations

import time

import pytest

from trainables.adapters.machine import Gauge, over_workers

BUSY_S = 0.3


def test_a_busy_worker_reads_a_busy_core_and_the_memory_it_holds() -> None:
    began = time.monotonic()
    gauge = Gauge("cpu")
    held = bytearray(100_000_000)
    until = time.process_time() + BUSY_S
    while time.process_time() < until:
        pass
    read = gauge.read()
    wall_s = time.monotonic() - began  # much longer than it was busy, where others want the core
    assert read["system/worker_cpu_percentage"] > 0.8 * 100 * BUSY_S / wall_s
    assert read["system/worker_memory_megabytes"] * 1e6 > len(held)
    assert 0 < read["system/system_memory_usage_percentage"] <= 100
    assert 0 < read["system/cpu_utilization_percentage"] <= 100


def test_a_trial_reads_the_mean_use_and_the_largest_memory_of_its_workers() -> None:
    found = over_workers([{"a_percentage": 10.0, "b_megabytes": 5.0}, {"a_percentage": 50.0, "b_megabytes": 2.0}, {"a_percentage": 0.0}])
    assert found == {"a_percentage": 20.0, "b_megabytes": 5.0}
    assert over_workers([{}, {}]) == {}


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_reads_its_memory_and_use() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    held = torch.zeros(64, 1 << 20, device="cuda")
    read = Gauge("cuda:0").read()
    assert read["system/gpu_memory_usage_megabytes"] * 1e6 > held.numel() * 4
    assert 0 <= read["system/gpu_utilization_percentage"] <= 100
