"""The model that a worker keeps: what a trial is lent is what was loaded, whatever the trial before did with it."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow]

from torch import nn  # noqa: E402

from trainables.adapters.resident import Resident, _bit_sums  # noqa: E402


class _Loader:
    """Loads a small network with a tied weight and a buffer, and counts how often."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.loads, self._dtype = 0, dtype

    def __call__(self) -> nn.Module:
        self.loads += 1
        torch.manual_seed(1)
        model = nn.Sequential(nn.Embedding(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)).to(self._dtype)
        model[2].weight = model[0].weight
        return model


def lent(resident: Resident, load: _Loader, *, trained: tuple[str, ...] = (), dtype: torch.dtype = torch.bfloat16, key: str = "a") -> Any:
    model = resident.lend(key, load)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for parameter in model.parameters():
        parameter.data = resident.typed(parameter, torch.float32 if parameter.requires_grad else dtype)
    return model


def test_it_is_loaded_once_and_each_trial_gets_what_was_loaded() -> None:
    resident, load = Resident(), _Loader()
    first = lent(resident, load, trained=("0.weight",))
    assert first[2].weight is first[0].weight, "tied weights stay tied"
    with torch.no_grad():
        first[0].weight.add_(1.0)
        first[1].running_mean.add_(1.0)
    resident.keep()
    second, fresh = lent(resident, load), _Loader()()
    assert load.loads == 1
    assert {name: tensor.tolist() for name, tensor in second.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in fresh.state_dict().items()
    }


def test_what_is_frozen_is_shared_and_what_is_trained_is_a_copy_even_in_the_type_it_was_loaded_in() -> None:
    resident, load = Resident(), _Loader(torch.float32)
    first = lent(resident, load, trained=("1.weight",), dtype=torch.float32)
    resident.keep()
    second = lent(resident, load, trained=("1.weight",), dtype=torch.float32)
    assert second[0].weight.data_ptr() == first[0].weight.data_ptr()
    assert second[1].weight.data_ptr() != first[1].weight.data_ptr()


def test_a_frozen_tensor_in_another_type_is_kept_as_the_last_trial_used_it_and_let_go_when_the_next_one_trains_it() -> None:
    resident, load = Resident(), _Loader(torch.float32)
    first = lent(resident, load)
    held = resident.held_bytes()
    resident.keep()
    assert resident.held_bytes() == held + sum(parameter.nbytes for parameter in first.parameters())
    second = lent(resident, load)
    assert second[0].weight.data_ptr() == first[0].weight.data_ptr()
    resident.keep()
    third = lent(resident, load, trained=("0.weight", "1.weight", "1.bias"))
    assert third[0].weight.dtype == torch.float32 and resident.held_bytes() == held
    resident.keep()
    assert resident.held_bytes() == held


@pytest.mark.parametrize(("dtype", "loads"), [(torch.float32, 2), (torch.bfloat16, 1)])
def test_what_a_trial_wrote_to_in_place_is_not_lent_again(dtype: torch.dtype, loads: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In fp32 those are the tensors that were loaded; in bf16 copies, which are made again from these."""
    resident, load = Resident(), _Loader(torch.float32)
    for _ in range(2):
        lent(resident, load, dtype=dtype)
        resident.keep()
    assert load.loads == 1
    lent(resident, load, dtype=dtype)[0].weight.data[2, 3] += 1.0
    resident.keep()
    assert ("changed its base model in place" in capsys.readouterr().err) == (loads == 2)
    again = lent(resident, load, dtype=dtype)
    assert load.loads == loads and torch.equal(again[0].weight, _Loader(torch.float32)()[0].weight.to(dtype))


def test_a_write_before_the_types_are_set_spoils_neither_this_trial_nor_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    resident, load = Resident(), _Loader(torch.float32)
    lent(resident, load)
    resident.keep()
    model = resident.lend("a", load)  # its placed tensors are in bf16
    model.requires_grad_(False)
    model[0].weight.data[2, 3] += 1.0  # as an adapter that changes its base
    written = model[0].weight.data.clone()
    for parameter in model.parameters():
        parameter.data = resident.typed(parameter, torch.bfloat16)
    assert torch.equal(model[0].weight, written.to(torch.bfloat16)), "this trial computes with what was written"
    resident.keep()
    assert "changed its base model in place" in capsys.readouterr().err
    again = lent(resident, load, dtype=torch.float32)
    assert load.loads == 2 and torch.equal(again[0].weight, _Loader(torch.float32)()[0].weight)


def test_a_trial_that_failed_before_its_end_leaves_nothing_unchecked() -> None:
    resident, load = Resident(), _Loader(torch.float32)
    lent(resident, load, dtype=torch.float32)[0].weight.data[2, 3] += 1.0
    again = lent(resident, load, dtype=torch.float32)  # nobody kept anything
    assert load.loads == 2 and torch.equal(again[0].weight, _Loader(torch.float32)()[0].weight)


def test_a_tensor_that_a_trial_replaced_is_not_kept_and_the_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    resident, load = Resident(), _Loader(torch.float32)
    model = lent(resident, load)
    replaced = model[0].weight.data + 1
    model[0].weight.data = replaced
    resident.keep()
    again = lent(resident, load)
    assert load.loads == 1 and capsys.readouterr().err == ""
    assert torch.equal(again[0].weight, _Loader(torch.float32)()[0].weight.to(torch.bfloat16))
    assert again[1].weight.data_ptr() == model[1].weight.data_ptr()


def test_values_that_change_places_are_seen_over_blocks() -> None:
    rows = torch.randn(4, 4096, dtype=torch.float64)
    assert _bit_sums([rows]) != _bit_sums([rows[[1, 0, 2, 3]]]) and _bit_sums([rows]) == _bit_sums([rows.clone()])


def test_another_key_lets_the_last_model_go() -> None:
    resident, load = Resident(), _Loader()
    lent(resident, load)
    resident.keep()
    lent(resident, load, key="b")
    resident.keep()
    lent(resident, load)
    assert load.loads == 3


def test_an_engine_that_splits_parameters_finds_none_of_them_placed() -> None:
    resident, load = Resident(), _Loader(torch.float32)
    lent(resident, load)
    held = resident.held_bytes()
    resident.keep()
    model = resident.lend("a", load, splits=True)
    assert resident.held_bytes() == held
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.data = torch.empty(0)
    resident.keep()
    assert resident.held_bytes() == held and load.loads == 1
