"""A checkpoint goes on with another number of workers: groups of 2, 3, 1, 2 and 4 real processes, each from what the last one saved.

Each test reads what `other_workers` saw. What is loaded and saved again is equal bit for bit; losses of the next steps are equal to the
uninterrupted ones to 1e-5 of them (seen: 1.1e-7).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.cases import CASES, CHAIN
from tests.two_processes import ROOT, TIMEOUT_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By each group in turn."""
    home = tmp_path_factory.mktemp("other_workers")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    command = [sys.executable, "-m", "tests.engine.other_workers", str(home)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-5000:]
    groups: list[dict[str, Any]] = json.loads((home / "seen.json").read_text())
    return groups


@pytest.mark.parametrize("case", CASES)
def test_masters_moments_and_weights_are_the_saved_ones_bit_for_bit(seen: list[dict[str, Any]], case: str) -> None:
    moments = {"ddp": "optimizer.0.exp_avg", "zero0": "0.exp_avg", "zero2-sgd": "momentum_buffer"}.get(case, "exp_avg")
    for group in seen:
        assert group[case]["differ"] == []
        assert any(name.endswith("head.weight") for name in group[case]["compared"]) and moments in group[case]["compared"]


@pytest.mark.parametrize("case", CASES)
def test_the_next_losses_are_those_of_the_uninterrupted_training(seen: list[dict[str, Any]], case: str) -> None:
    for group in seen[1:]:
        assert group[case]["losses"] == pytest.approx(seen[0][case]["losses"], rel=1e-5)


def test_masters_that_hold_other_vectors_were_among_them(seen: list[dict[str, Any]]) -> None:
    """Else the case of sub-groups would be that of stage 3."""
    cuts = {workers: group["zero3-sub_groups"]["masters"] for workers, group in zip(CHAIN, seen, strict=True)}
    assert len({str(cut) for cut in cuts.values()}) > 2 and seen[0]["zero3"]["masters"] == [5, 2]


@pytest.mark.parametrize("case", ["zero2", "zero3"])
def test_a_lost_part_and_another_model_are_refused_by_name(seen: list[dict[str, Any]], case: str) -> None:
    refused = seen[CHAIN.index(1)][case]["refused"]
    assert refused["part missing"].startswith("checkpoint_mismatch: ") and "engine-rank1.safetensors is missing" in refused["part missing"]
    assert refused["other model"].startswith("checkpoint_mismatch: ") and "it trains 199 numbers" in refused["other model"]
