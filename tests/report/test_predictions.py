"""The file of answers item by item: what is read from it, and what is wrong with a bad one in words."""

from __future__ import annotations

import pytest

from tune.report.predictions import of_counts, parse

GOOD = "item,label,predicted\nb,cat,cat\na,dog,cat\nc,dog,dog\nd,cat,cat\n"


def test_metrics_are_those_of_the_answers() -> None:
    found = parse(GOOD)
    assert found.items == ("a", "b", "c", "d")
    assert found.metric("accuracy") == 0.75
    assert found.metric("f1_macro") == pytest.approx((0.8 + 2 / 3) / 2)
    assert found.metric("loss") is None


def test_an_interval_surrounds_the_value() -> None:
    rows = "".join(f"i{i},x,{'x' if i % 4 else 'y'}\n" for i in range(100))
    found = parse("item,label,predicted\n" + rows).interval("accuracy", seed=1)
    assert found is not None and found.low < 0.75 < found.high


def test_a_confusion_matrix_has_the_metrics_and_the_interval_of_its_items() -> None:
    found = of_counts(["cat", "dog"], [[2, 0], [1, 1]])
    assert found.metric("accuracy") == 0.75
    assert found.metric("f1_macro") == parse(GOOD).metric("f1_macro")
    assert of_counts(["cat"], [[0]]).interval("accuracy", seed=0) is None


def test_other_columns_may_stand_beside_the_three() -> None:
    assert parse("item,score,predicted,label\na,0.3,x,y\n").metric("accuracy") == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column item, label, predicted"),
        ("item,label\na,x\n", "lacks the column predicted"),
        ("item,label,predicted\n", "no rows"),
        ("item,label,predicted\na,x,x\na,x,y\n", "an item stands there twice"),
        ("item,label,predicted\na,x\n", "too short"),
    ],
)
def test_a_bad_file_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)
