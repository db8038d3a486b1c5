"""Properties of few-shot blocks, over many tables and seeds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.phases.blocks import Rows, draw_blocks, rows_of
from trainables.phases.spec import PhasesSpec, phases_of
from tune.core.errors import UserError

CLASSES = ("cats", "dogs", "birds")


class Table:
    """Rows of three classes in turn, every third of them no training row."""

    def __init__(self, n: int, salt: str = ""):
        self.labels = np.arange(n) % len(CLASSES)
        self.ids = [f"{salt}picture {i}" for i in range(n)]
        self.train: Rows = np.array([i for i in range(n) if i // 3 % 3], dtype=np.int64)

    def blocks(self, **fields: Any) -> list[Rows]:
        return draw_blocks(PhasesSpec.model_validate(fields), self.train, self.labels, self.ids, CLASSES)

    def per_class(self, rows: Rows) -> list[int]:
        return np.bincount(self.labels[rows], minlength=len(CLASSES)).tolist()


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 6), per_class=st.integers(1, 5), seed=st.integers(0, 1000))
def test_blocks_of_a_number_share_no_row_and_have_that_many_of_each_class(count: int, per_class: int, seed: int) -> None:
    table = Table(150)
    blocks = table.blocks(count=count, per_class=per_class, seed=seed)
    together = np.concatenate(blocks)
    assert len(set(together.tolist())) == len(together) == count * per_class * len(CLASSES)
    assert set(together) <= set(table.train.tolist())
    assert all(table.per_class(block) == [per_class] * len(CLASSES) for block in blocks)
    assert all((np.diff(block) > 0).all() for block in blocks)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(60, 300), count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_blocks_of_equal_shares_of_the_whole_are_all_the_rows(n: int, count: int, seed: int) -> None:
    table = Table(n)
    blocks = table.blocks(count=count, share=1 / count, seed=seed)
    assert sorted(np.concatenate(blocks).tolist()) == table.train.tolist()
    whole = np.array(table.per_class(table.train))
    for block in blocks:
        assert (abs(np.array(table.per_class(block)) - whole / count) <= 1).all()


def test_blocks_may_each_have_a_size_of_their_own() -> None:
    table = Table(150)
    assert [len(block) for block in table.blocks(count=3, per_class=[1, 2, 8])] == [3, 6, 24]
    shares = [len(block) / len(table.train) for block in table.blocks(count=2, share=[0.1, 0.9])]
    assert shares == pytest.approx([0.1, 0.9], abs=0.02)


def test_cumulative_phases_contain_the_earlier_ones() -> None:
    table = Table(150)
    spec = PhasesSpec(count=4, per_class=3, rows="cumulative")
    blocks = draw_blocks(spec, table.train, table.labels, table.ids, CLASSES)
    rows = [rows_of(phase, blocks, table.train).tolist() for phase in phases_of(spec, 1, 100)]
    assert [len(each) for each in rows] == [9, 18, 27, 36]
    assert all(set(few) < set(more) and more == sorted(more) for few, more in itertools.pairwise(rows))


def test_a_zero_shot_phase_has_no_rows_and_a_trial_without_phases_all() -> None:
    table = Table(150)
    spec = PhasesSpec(count=1, per_class=3, zero_shot=True)
    blocks = draw_blocks(spec, table.train, table.labels, table.ids, CLASSES)
    assert rows_of(phases_of(spec, 1, 100)[0], blocks, table.train).tolist() == []
    assert rows_of(phases_of(None, 1, 100)[0], [], table.train) is table.train


def test_the_seed_and_the_ids_alone_decide() -> None:
    table, other = Table(150), Table(150, salt="other ")
    fields = {"count": 2, "per_class": 5}
    first, again = table.blocks(**fields), table.blocks(**fields)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], table.blocks(**fields, seed=1)[0])
    assert not np.array_equal(first[0], other.blocks(**fields)[0])
    table.train = table.train[::-1]
    assert np.array_equal(first[1], table.blocks(**fields)[1])


def test_another_block_leaves_the_first_ones_as_they_are() -> None:
    table = Table(150)
    assert np.array_equal(table.blocks(count=1, per_class=5)[0], table.blocks(count=4, per_class=5)[0])


def test_classes_with_too_few_rows_are_named() -> None:
    table = Table(30)
    with pytest.raises(UserError) as caught:
        table.blocks(count=4, per_class=2)
    assert "trainable.phases.per_class" in str(caught.value)
    assert "class cats has 6 training rows, 4 blocks need 8" in str(caught.value) and "class birds" in str(caught.value)
    with pytest.raises(UserError, match="class dogs has 6 training rows, so that one of 10 blocks has none of it"):
        table.blocks(count=10, share=0.1)
