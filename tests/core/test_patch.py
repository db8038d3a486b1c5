"""Dotted keys merged into a trainable."""

from __future__ import annotations

import pytest

from tune.core.patch import Branching, PatchError, apply, flatten, get, settled_key

FLAT = {
    "schedule": Branching("kind", {"cosine": frozenset({"kind", "t_max", "warmup"}), "plateau": frozenset({"kind", "patience", "warmup"})})
}
NESTED = {"peft": Branching("method", {"lora": frozenset({"lora"}), "ia3": frozenset({"ia3"})}, nested=True)}


def test_a_point_changes_its_keys_and_nothing_else_and_not_its_argument() -> None:
    base = {"optim": {"lr": 1.0, "wd": 0.1}, "batch": 8}
    assert apply(base, {"optim.lr": 2.0}) == {"optim": {"lr": 2.0, "wd": 0.1}, "batch": 8}
    assert base == {"optim": {"lr": 1.0, "wd": 0.1}, "batch": 8}


def test_missing_and_null_mappings_on_the_way_are_made() -> None:
    assert apply({"early_stop": None}, {"early_stop.patience": 3, "a.b.c": 1}) == {
        "early_stop": {"patience": 3},
        "a": {"b": {"c": 1}},
    }


def test_a_key_through_a_value_is_an_error_that_names_both() -> None:
    with pytest.raises(PatchError, match=r"batch\.x: 'batch' is 8, which has no keys"):
        apply({"batch": 8}, {"batch.x": 1})


def test_another_branch_of_a_flat_union_drops_what_it_does_not_have_and_keeps_what_it_has() -> None:
    base = {"schedule": {"kind": "plateau", "patience": 2, "warmup": 1}}
    assert apply(base, {"schedule.kind": "cosine"}, FLAT) == {"schedule": {"kind": "cosine", "warmup": 1}}
    assert apply(base, {"schedule.kind": "plateau"}, FLAT) == base


def test_a_key_of_a_branch_of_a_flat_union_lands_beside_the_selector() -> None:
    base = {"schedule": {"kind": "plateau", "patience": 2}}
    patched = apply(base, {"schedule.kind": "cosine", "schedule.cosine.t_max": 9}, FLAT)
    assert patched == {"schedule": {"kind": "cosine", "t_max": 9}}
    assert settled_key("schedule.cosine.t_max", FLAT) == "schedule.t_max"


def test_another_branch_of_a_nested_union_drops_the_branch_before() -> None:
    base = {"peft": {"method": "lora", "lora": {"r": 8}, "dropout": 0.1}}
    assert apply(base, {"peft.method": "ia3"}, NESTED) == {"peft": {"method": "ia3", "dropout": 0.1}}
    assert apply(base, {"peft.method": "lora", "peft.lora.r": 4}, NESTED) == {"peft": {"method": "lora", "lora": {"r": 4}, "dropout": 0.1}}


def test_flatten_and_get_agree() -> None:
    nested = {"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": None}
    flat = flatten(nested)
    assert flat == {"a.b.c": 1, "a.d": [], "e": {}, "f": None}
    assert all(get(nested, key) == value for key, value in flat.items())
    with pytest.raises(KeyError, match=r"a\.b\.x"):
        get(nested, "a.b.x")
