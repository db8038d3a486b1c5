"""The classifiers of report D by two real processes over gloo on loopback, one start for all cases.

Each test reads what the ranks saw (`two_ranks`). Tolerance of losses against one process: 1e-3 of them; of an export's: 1e-4. A trial
that goes on after a kill is equal bit for bit.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.two_processes import seen_by_two_ranks
from tests.vlm_classifier.cases import ALONE, CASES, KILLED

pytestmark = pytest.mark.slow

COMPARED = [case for case in CASES if case.split("/")[0] in ALONE]


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return seen_by_two_ranks("tests.vlm_classifier.two_ranks")


@pytest.mark.parametrize("case", COMPARED)
def test_two_ranks_learn_what_one_process_does_under_any_engine(case: str, ranks: list[dict[str, Any]]) -> None:
    alone = next(rank[case.split("/")[0]] for rank in ranks if case.split("/")[0] in rank)
    for seen in ranks:
        assert seen[case]["val"] == pytest.approx(alone["val"], rel=1e-3)
        assert seen[case]["metrics"]["test/loss"] == pytest.approx(alone["metrics"]["test/loss"], rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_trial_goes_on_from_its_checkpoint_as_if_never_stopped(case: str, ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        assert seen[case]["resumed reports"] == [seen[case]["last"]] and seen[case]["resumed"] == seen[case]["metrics"]
        assert seen[case]["resumed apart"] == 0.0


def test_workers_killed_while_they_write_a_checkpoint_go_on_exactly(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["killed"] == -9 and ranks[1]["killed"] != 0
    assert "engine.safetensors" in ranks[0]["half written"], "else nothing was half done"
    assert ranks[0]["gone on"] == ranks[0][KILLED]["metrics"] and ranks[0]["gone on apart"] == 0.0


@pytest.mark.parametrize("case", CASES)
def test_an_export_answers_as_the_trained_model_did(case: str, ranks: list[dict[str, Any]]) -> None:
    seen = next(rank[case] for rank in ranks if "export" in rank[case])
    assert seen["export"]["answers"] == seen["export"]["tested"]
    assert seen["export"]["loss"] == pytest.approx(seen["metrics"]["test/loss"], rel=1e-4)
