"""Which phases follow from a spec, and what a spec refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainables.phases.spec import Phase, PhasesSpec, check_lists, phases_of


def spec(**fields: Any) -> PhasesSpec:
    return PhasesSpec.model_validate({"count": 4, "per_class": 7, **fields})


def test_four_disjoint_phases_are_the_published_chain() -> None:
    assert phases_of(spec(), 3, 400) == (
        Phase(1, (0,), "base", 3, 400, 0),
        Phase(2, (1,), "previous", 3, 400, 3),
        Phase(3, (2,), "previous", 3, 400, 6),
        Phase(4, (3,), "previous", 3, 400, 9),
    )


def test_cumulative_phases_have_all_blocks_so_far_and_may_each_begin_at_the_base() -> None:
    phases = phases_of(spec(count=3, rows="cumulative", start="base"), 5, 100)
    assert [phase.blocks for phase in phases] == [(0,), (0, 1), (0, 1, 2)]
    assert {phase.start for phase in phases} == {"base"}


def test_each_phase_may_have_its_own_epochs_and_resolution() -> None:
    phases = phases_of(spec(count=3), (2, 4, 8), (100, 200, 400))
    assert [(phase.epochs, phase.resolution_px, phase.first_epoch) for phase in phases] == [(2, 100, 0), (4, 200, 2), (8, 400, 6)]


def test_zero_shot_is_phase_0_without_rows_or_epochs_before_the_others() -> None:
    zero, first, *_ = phases_of(spec(zero_shot=True), 3, 200)
    assert zero == Phase(0, (), "base", 0, 200, 0)
    assert (first.number, first.first_epoch, first.start) == (1, 0, "base")


def test_without_a_spec_there_is_one_phase_on_all_rows() -> None:
    assert phases_of(None, 10, 224) == (Phase(1, None, "base", 10, 224, 0),)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"per_class": None}, "neither per_class nor share; give one of the two"),
        ({"share": 0.25}, "both per_class and share; give one of the two"),
        ({"per_class": [7, 7]}, "per_class has 2 sizes for 4 blocks; give one number, or one for each block"),
        ({"per_class": None, "share": 0.3}, "the blocks take 1.2 of the rows, more than there are; lower share or count"),
        ({"per_class": 0}, "greater than or equal to 1"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"start": "prev"}, "'previous' or 'base'"),
    ],
)
def test_a_wrong_spec_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**fields)


def test_a_tenth_ten_times_is_all_of_the_rows() -> None:
    assert len(spec(count=10, per_class=None, share=0.1).shares) == 10


def test_a_list_must_have_a_number_for_each_phase() -> None:
    check_lists(spec(), epochs=[1, 2, 3, 4], image_size=100)
    with pytest.raises(ValueError, match="epochs has 3 numbers for 4 phases"):
        check_lists(spec(), epochs=[1, 2, 3])
    with pytest.raises(ValueError, match="image_size has a list, and there are no phases"):
        check_lists(None, image_size=[100])
