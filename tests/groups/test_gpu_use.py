"""How busy a GPU was while a trial trained: looked at all along, not only when the trial reports."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainables.adapters.machine import Gauge, _not_told
from trainables.adapters.order import Order
from trainables.adapters.worker import watched
from tune.core.ports import Answer, Decision, Outcome, Question

USE, MEMORY = "system/gpu_utilization_percentage", "system/gpu_memory_usage_megabytes"


class FakeCard:
    """Busy as `uses` says, look by look; `looked` is set when as many looks have been taken as `uses` has."""

    def __init__(self, uses: Iterable[float | None], memory: tuple[int, int] | None = (1_000_000, 4_000_000)):
        self._uses, self._memory = list(uses), memory
        self.looked = threading.Event()
        self.lookers: set[str] = set()

    def busy_percentage(self) -> float | None:
        self.lookers.add(threading.current_thread().name)
        use = self._uses.pop(0) if self._uses else 0.0
        if not self._uses:
            self.looked.set()
        return use

    def memory_bytes(self) -> tuple[int, int] | None:
        return self._memory


def test_a_report_gives_the_mean_use_since_the_one_before() -> None:
    gauge = Gauge("cuda:0", FakeCard([100.0, 50.0, 90.0, 20.0]))
    gauge.look(), gauge.look(), gauge.look()
    first = gauge.read()
    assert (first[USE], first[MEMORY]) == (80.0, 3.0)
    gauge.look()
    assert gauge.read()[USE] == 20.0


def test_reports_that_follow_each_other_at_once_each_look_for_themselves() -> None:
    gauge = Gauge("cuda:0", FakeCard([30.0, 70.0]))
    assert [gauge.read()[USE], gauge.read()[USE]] == [30.0, 70.0]


def test_a_trial_is_looked_at_while_it_trains_and_not_after_and_what_was_before_is_not_its_own() -> None:
    card = FakeCard([0.0, *itertools.repeat(60.0, 5)])
    gauge = Gauge("cuda:0", card)
    gauge.look()  # of nothing, between two trials
    with gauge.watch(every_s=0.001):
        assert card.looked.wait(30)
    [looker] = card.lookers - {threading.current_thread().name}
    for thread in threading.enumerate():
        if thread.name == looker:
            thread.join(30)
            assert not thread.is_alive()


def test_what_was_seen_before_a_trial_is_not_in_its_mean() -> None:
    gauge = Gauge("cuda:0", FakeCard([0.0, 60.0]))
    gauge.look()
    with gauge.watch(every_s=3600):
        gauge.look()
        assert gauge.read()[USE] == 60.0


def test_a_driver_that_does_not_tell_leaves_the_use_out_and_a_gpu_that_is_not_used_yet_all_of_it() -> None:
    assert {USE, MEMORY} & set(Gauge("cuda:0", FakeCard([None])).read()) == {MEMORY}
    assert {USE, MEMORY} & set(Gauge("cuda:0", FakeCard([50.0], memory=None)).read()) == set()


LOOKED = threading.Event()  # for the recipe below, which is called by its name


def trains_until_looked_at(spec: Any, reporter: Any) -> Outcome:
    assert LOOKED.wait(30)
    return Outcome()


class NobodyThere:
    """A channel to no other rank and no search."""

    def meet(self, what: str, failure: object) -> None: ...

    def report(self, step: int, metrics: Mapping[str, float], failure: object) -> Decision:
        return "continue"

    def ask(self, question: Question) -> Answer:
        raise AssertionError(question)


def test_a_worker_looks_at_its_gpu_while_it_runs_an_order(tmp_path: Path) -> None:
    card = FakeCard([60.0])
    card.looked = LOOKED
    order = Order("t0", "curve", f"{__name__}:trains_until_looked_at", {}, 0, str(tmp_path), str(tmp_path), 0)
    end = watched(order, NobodyThere(), Gauge("cuda:0", card), 0, 1, "cpu")
    assert end.kind == "done", end


def test_what_the_drivers_library_raises_counts_as_not_told() -> None:
    """Its errors are no RuntimeErrors, and one that got through would end the trial."""
    import pynvml

    with pytest.raises(_not_told()):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)  # as of a MIG slice


def test_without_a_gpu_nothing_looks() -> None:
    before = threading.active_count()
    gauge = Gauge("cpu")
    with gauge.watch(every_s=0.001):
        assert threading.active_count() == before
    assert not any("gpu" in name for name in gauge.read())


def test_a_gauge_of_a_gpu_neither_imports_torch_nor_begins_to_use_the_gpu() -> None:
    code = (
        "import sys\nfrom trainables.adapters.machine import Gauge\ngauge = Gauge('cuda:0')\n"
        "with gauge.watch(every_s=0.001):\n    gauge.look()\n    print(sorted(name for name in gauge.read() if 'gpu' in name))\n"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.split() == ["[]", "False"], said.stderr


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_that_computed_and_then_waited_was_busy_for_that_part_of_the_time() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    a = torch.randn(4096, 4096, device="cuda")
    gauge = Gauge("cuda:0")
    with gauge.watch(every_s=0.2):
        until = time.monotonic() + 4
        while time.monotonic() < until:
            a = (a @ a).clamp(-1, 1)
            torch.cuda.synchronize()
        threading.Event().wait(2)  # as for a checkpoint: what a single look at the report would see
        assert 40 < gauge.read()[USE] < 95
        assert gauge.read()[USE] < 40
