"""Two real processes over gloo on loopback, one start for all cases; each test reads what the ranks saw (`two_ranks`)."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

from tests.two_processes import seen_by_two_ranks  # noqa: E402
from tests.vlm_classifier.two_ranks import CASES  # noqa: E402


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return seen_by_two_ranks("tests.vlm_classifier.two_ranks")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_what_one_process_does_under_any_engine(case: str, ranks: list[dict[str, Any]]) -> None:
    alone = ranks[0][f"{case.split('/')[0]}/alone"]
    for seen in ranks:
        assert seen[case]["val"] == pytest.approx(alone["val"], rel=1e-3)
        assert seen[case]["test"] == pytest.approx(alone["test"], rel=1e-3)
