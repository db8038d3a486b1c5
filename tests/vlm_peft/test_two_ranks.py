"""Two real processes over gloo on loopback, one start for all cases; each test reads what the ranks saw (`two_ranks`).

Tolerance: 2e-5 absolute after 4 steps of AdamW at 5e-3, on weights that move by 2e-2.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.two_processes import seen_by_two_ranks

pytestmark = pytest.mark.slow

CASES = ("lora/ddp", "lora/zero2", "lora/zero3", "spider/zero2", "spider/zero3", "prefix/zero3")


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return seen_by_two_ranks("tests.vlm_peft.two_ranks")


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_what_one_does_and_agree_on_every_figure(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case]["metrics"] for rank in ranks)
    assert first == second
    alone = ranks[0][case.split("/")[0]]["metrics"]
    assert first["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-4) and first["test/accuracy"] == alone["test/accuracy"]
    assert ranks[0][case]["apart"] < 2e-5


@pytest.mark.parametrize("case", ["lora/zero2", "spider/zero3"])
def test_a_trial_cut_off_under_zero_goes_on_exactly(ranks: list[dict[str, Any]], case: str) -> None:
    assert ranks[0][case]["resumed"] == ranks[0][case]["metrics"] and ranks[0][case]["resumed apart"] == 0.0


@pytest.mark.parametrize(("case", "kind"), [("lora/zero3", "PeftModelForCausalLM"), ("spider/zero3", "LlavaForConditionalGeneration")])
def test_a_model_trained_in_shares_is_kept_whole(ranks: list[dict[str, Any]], case: str, kind: str) -> None:
    assert ranks[0][case]["loads"] == kind
