"""Two real processes over gloo on loopback, one start for all cases; each test reads what the ranks saw (`two_ranks`).

Tolerances. fp32: losses of 10 steps within 1e-5 relative of a plain torch loop, weights within 1e-5 absolute (seen: 2e-7 and 3e-7).
bf16: losses within 2e-2 relative (bf16 keeps 8 bits, and 10 steps of Adam carry them on; seen: 2e-3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.two_processes import seen_by_two_ranks

pytestmark = pytest.mark.slow

STAGES = ("ddp", "zero0", "zero1", "zero2", "zero3")
ALL = (*STAGES, "zero1-offload", "zero3-offload")


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What rank 0 and rank 1 saw."""
    return seen_by_two_ranks("tests.engine.two_ranks")


@pytest.fixture(scope="module")
def seen(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    return ranks[0]


def worst(got: list[float], wanted: list[float]) -> float:
    """Largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(got, wanted, strict=True))


def flat(nested: Any) -> list[float]:
    return [number for item in nested for number in flat(item)] if isinstance(nested, list) else [nested]


def apart(got: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Largest absolute difference of two state dicts of the same names and shapes."""
    assert got.keys() == wanted.keys()
    return max(abs(a - b) for name in wanted for a, b in zip(flat(got[name]), flat(wanted[name]), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("engine", STAGES)
def test_every_engine_trains_as_a_plain_torch_loop_does(seen: dict[str, Any], engine: str, optimizer: str) -> None:
    got, wanted = seen[f"agree/{optimizer}/{engine}"], seen[f"reference/{optimizer}"]
    assert worst(got["losses"], wanted["losses"]) < 1e-5
    assert apart(got["weights"], wanted["weights"]) < 1e-5


def test_the_compared_trainings_move_and_clip(seen: dict[str, Any]) -> None:
    """Else agreement would say little: losses move, and the clip norm changes them."""
    clipped, unclipped = seen["reference/sgd"]["losses"], seen["reference/unclipped"]["losses"]
    assert max(clipped) - min(clipped) > 0.1
    assert worst(clipped, unclipped) > 1e-2


@pytest.mark.parametrize("engine", ALL)
def test_without_a_clip_norm_nothing_is_clipped(seen: dict[str, Any], engine: str) -> None:
    assert worst(seen[f"unclipped/{engine}"]["losses"], seen["reference/unclipped"]["losses"]) < 1e-5


@pytest.mark.parametrize("engine", ALL)
def test_accumulated_micro_batches_equal_the_whole_batch(seen: dict[str, Any], engine: str) -> None:
    got, wanted = seen[f"accumulated/{engine}"], seen["reference/adamw"]
    assert worst(got["losses"], wanted["losses"]) < 1e-5
    assert apart(got["weights"], wanted["weights"]) < 1e-5


@pytest.mark.parametrize("engine", ALL)
def test_bf16_follows_fp32_within_its_precision(seen: dict[str, Any], engine: str) -> None:
    got, wanted = seen[f"bf16/{engine}"]["losses"], seen["reference/adamw"]["losses"]
    assert worst(got, wanted) < 2e-2
    assert got != wanted, "bf16 was not used"


@pytest.mark.parametrize("engine", ALL)
def test_a_loaded_checkpoint_goes_on_exactly_as_the_saved_engine(seen: dict[str, Any], engine: str) -> None:
    resumed = seen[f"resumed/{engine}"]
    assert resumed["again"] == resumed["on"]
    assert resumed["fresh"] == resumed["on"]


@pytest.mark.parametrize("engine", ALL)
def test_a_checkpoint_is_json_and_safetensors(seen: dict[str, Any], engine: str) -> None:
    assert {Path(file).suffix for file in seen[f"resumed/{engine}"]["files"]} == {".json", ".safetensors"}


@pytest.mark.parametrize("engine", ALL)
def test_weights_are_whole_on_rank_0_and_absent_elsewhere(ranks: list[dict[str, Any]], engine: str) -> None:
    weights = [rank[f"accumulated/{engine}"]["weights"] for rank in ranks]
    assert len(flat(weights[0]["body.0.weight"])) == 24 * 48
    assert weights[0]["again.weight"] == weights[0]["body.0.weight"], "a tied weight stands under both names"
    assert weights[0]["stem.weight"] == ranks[0]["reference/adamw"]["weights"]["stem.weight"], "a frozen weight stays as it was"
    assert weights[1] == {}


@pytest.mark.parametrize("engine", ALL)
def test_running_statistics_are_averaged_over_ranks(ranks: list[dict[str, Any]], engine: str) -> None:
    first, second = (rank[f"batch_norm/{engine}"] for rank in ranks)
    mean = [(a + b) / 2 for a, b in zip(first["own"], second["own"], strict=True)]
    assert first["own"] != second["own"]
    assert first["synced"] == second["synced"] == first["gathered"] == pytest.approx(mean, abs=1e-6)
    assert flat(first["outputs"]) == pytest.approx(flat(second["outputs"]), abs=1e-6), "both ranks evaluate the same model"


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_recomputed_activations_give_the_same_losses(seen: dict[str, Any], engine: str) -> None:
    kept, recomputed = (seen[f"checkpointed/{engine}/{on}"] for on in (False, True))
    assert recomputed["losses"] == pytest.approx(kept["losses"], rel=1e-6)
    assert kept["forwards_of_a_block"] == 3
    assert recomputed["forwards_of_a_block"] == 6, "three steps, each forward done again in backward"


def test_a_checkpoint_of_another_engine_or_stage_is_refused_by_name(seen: dict[str, Any]) -> None:
    assert seen["mismatch"]["zero1"].startswith("checkpoint_mismatch: ")
    assert seen["mismatch"]["zero1"].endswith("stage is 2, this engine has 1")
    assert seen["mismatch"]["ddp"].endswith("engine is 'zero', this engine has 'torch'")


def test_a_closed_engine_and_its_module_are_collected_even_after_an_interrupted_step(ranks: list[dict[str, Any]]) -> None:
    assert [rank["left_behind"] for rank in ranks] == [[], []]
