"""The four methods of Zhou et al. and the sentiment of MVSA by two real processes over gloo on loopback; one start for all cases.

Each test reads what the ranks saw (`two_ranks`). Tolerance against one process: 2e-5 absolute after 4 steps of AdamW at 5e-3, on
weights that move by 2e-2. A trial that goes on after a kill is equal bit for bit; an export's loss is equal to 1e-4 of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.two_processes import seen_by_two_ranks
from tests.vlm_peft.ranked_cases import ALONE, CASES, KILLED

pytestmark = pytest.mark.slow

COMPARED = [case for case in CASES if case.split("/")[0] in ALONE]


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return seen_by_two_ranks("tests.vlm_peft.two_ranks")


@pytest.mark.parametrize("case", COMPARED)
def test_two_workers_train_what_one_does(ranks: list[dict[str, Any]], case: str) -> None:
    method = case.split("/")[0]
    alone = next(rank[method] for rank in ranks if method in rank)
    seen = ranks[0][case]["metrics"]
    assert seen["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-4) and seen["test/accuracy"] == alone["test/accuracy"]
    assert ranks[0][case]["apart"] < 2e-5


def test_workers_of_unequal_memory_choose_one_engine_by_the_least(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["auto"] == ranks[1]["auto"] and ranks[0]["auto"]["engine"] == {"workers": 2, "zero": {"stage": 3}, "accumulation": 4}
    alone = next(rank["lora"] for rank in ranks if "lora" in rank)
    assert ranks[0]["auto"]["metrics"]["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_ends_a_trial_of_two_workers_in_the_middle_of_an_epoch(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["diverged"] == ranks[1]["diverged"]
    assert ranks[0]["diverged"] == "not_finite: train/loss is nan at step 16 (of 0 to 17); lower optim.lr or check the data"


@pytest.mark.parametrize("case", CASES)
def test_the_workers_agree_on_every_figure(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case] for rank in ranks)
    assert first["metrics"] == second["metrics"] and first["last"] == second["last"]


@pytest.mark.parametrize("case", CASES)
def test_a_trial_goes_on_from_its_checkpoint_as_if_never_stopped(ranks: list[dict[str, Any]], case: str) -> None:
    seen = ranks[0][case]
    assert seen["resumed reports"] == [seen["last"]] and seen["resumed"] == seen["metrics"] and seen["resumed apart"] == 0.0


def test_workers_killed_while_they_write_their_last_checkpoint_go_on_exactly(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["killed"] == -9 and ranks[1]["killed"] != 0
    assert ranks[0]["half written"] == ["course.json"], "else nothing was half done"
    assert ranks[0]["gone on"] == ranks[0][KILLED]["metrics"] and ranks[0]["gone on apart"] == 0.0


@pytest.mark.parametrize("case", CASES)
def test_an_export_answers_as_the_trained_model_did(ranks: list[dict[str, Any]], case: str) -> None:
    seen = next(rank[case] for rank in ranks if "export" in rank[case])
    assert seen["export"]["kind"] == "PeftModelForCausalLM"
    assert seen["export"]["loss"] == pytest.approx(seen["metrics"]["test/loss"], rel=1e-4)
    assert seen["export"]["answers"] == seen["export"]["predicted"] == seen["export"]["tested"]
