"""The bottleneck adapter against its formulas, and as a method of the peft library."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.slow

from tests.peft_methods.tiny import inputs, llava  # noqa: E402
from tune.core.errors import UserError  # noqa: E402


class Two(nn.Module):
    """Two linear layers, so that both sides of a serial adapter are seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def wrapped(**config: Any) -> tuple[Any, Two]:
    """The wrapped model with every adapter weight moved away from its start, and the plain one."""
    from trainables.peft_methods.bottleneck import BottleneckConfig
    from trainables.peft_methods.library import get_peft_model

    torch.manual_seed(0)
    plain = Two()
    fields: dict[str, Any] = {"target_modules": ["first", "second"], "output_modules": ["second"], "bottleneck_size": 3, "scaling": 0.7}
    model = get_peft_model(copy.deepcopy(plain), BottleneckConfig(**(fields | config)))  # type: ignore[arg-type]
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    return model.eval(), plain


def matrices(model: Any, name: str) -> tuple[Tensor, Tensor]:
    layer = model.get_submodule(f"base_model.model.{name}")
    return layer.bottleneck_down["default"].weight, layer.bottleneck_up["default"].weight


def test_a_serial_adapter_stands_on_the_input_or_on_the_output() -> None:
    model, plain = wrapped()
    x = torch.randn(4, 6)
    (down_1, up_1), (down_2, up_2) = matrices(model, "first"), matrices(model, "second")
    h = plain.first(x + 0.7 * torch.tanh(x @ down_1.T) @ up_1.T)
    y = plain.second(h)
    wanted = y + 0.7 * torch.tanh(y @ down_2.T) @ up_2.T
    assert torch.allclose(model(x), wanted, atol=1e-6)


@pytest.mark.parametrize(("name", "act"), [("relu", torch.relu), ("gelu", nn.functional.gelu), ("silu", nn.functional.silu)])
def test_a_parallel_adapter_goes_from_the_input_to_the_output(name: str, act: Any) -> None:
    model, plain = wrapped(placement="parallel", output_modules=None, target_modules=["first"], non_linearity=name)
    x = torch.randn(4, 6)
    down, up = matrices(model, "first")
    wanted = plain.second(plain.first(x) + 0.7 * act(x @ down.T) @ up.T)
    assert torch.allclose(model(x), wanted, atol=1e-6)


def test_the_published_start_is_normal_and_no_identity_and_the_option_is() -> None:
    from trainables.peft_methods.bottleneck import BottleneckConfig
    from trainables.peft_methods.library import get_peft_model

    x = torch.randn(4, 256)
    for init, same in (("normal", False), ("identity", True)):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(256, 256))
        config = BottleneckConfig(target_modules=["0"], bottleneck_size=64, init=init)
        model = get_peft_model(copy.deepcopy(plain), config).eval()  # type: ignore[arg-type]
        assert torch.equal(model(x), plain(x)) is same
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert [tuple(p.shape) for p in trained] == [(64, 256), (256, 64)], "no biases"
        assert trained[0].std().item() == pytest.approx(0.02, rel=0.05)
        assert init == "identity" or trained[1].std().item() == pytest.approx(0.02, rel=0.05)


def test_dropout_acts_in_training_only() -> None:
    model, _ = wrapped(adapter_dropout=0.5)
    x = torch.randn(4, 6)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_a_linear_adapter_merges_exactly_and_can_be_taken_out_again(placement: str) -> None:
    model, plain = wrapped(non_linearity="linear", placement=placement)
    x = torch.randn(4, 6)
    before = model(x)
    model.merge_adapter()
    assert torch.allclose(model(x), before, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(model.base_model.model.second.base_layer.weight, plain.second.weight, atol=1e-5)
    assert torch.allclose(model(x), before, atol=1e-5)
    merged = model.merge_and_unload()
    assert type(merged.first) is nn.Linear and torch.allclose(merged(x), before, atol=1e-5)


def test_merging_through_a_tanh_is_refused_by_name_and_leaves_the_model_whole() -> None:
    model, _ = wrapped()
    x = torch.randn(4, 6)
    before = model(x)
    with pytest.raises(UserError) as caught:
        model.merge_and_unload()
    (problem,) = caught.value.problems
    assert problem.where == "peft.bottleneck.non_linearity" and "with tanh, which is no linear map" in problem.got
    assert "export the adapter without merging" in problem.fix
    assert torch.equal(model(x), before)


def test_the_base_model_comes_back_when_the_adapter_is_disabled_or_unloaded() -> None:
    model, plain = wrapped()
    x = torch.randn(4, 6)
    with model.disable_adapter():
        assert torch.equal(model(x), plain(x))
    assert not torch.equal(model(x), plain(x))
    assert torch.equal(model.unload()(x), plain(x))


def test_two_adapters_live_side_by_side_and_one_can_go() -> None:
    from trainables.peft_methods.bottleneck import BottleneckConfig

    model, _ = wrapped()
    x = torch.randn(4, 6)
    first = model(x)
    model.add_adapter("other", BottleneckConfig(target_modules=["first"], bottleneck_size=2))
    model.set_adapter("other")
    assert not torch.equal(model(x), first)
    model.set_adapter("default")
    assert torch.equal(model(x), first)
    model.delete_adapter("other")
    assert torch.equal(model(x), first)


def test_a_saved_adapter_is_safetensors_and_loads_as_the_librarys_own(tmp_path: Path) -> None:
    from trainables.peft_methods.bottleneck import BottleneckConfig
    from trainables.peft_methods.library import PeftConfig, PeftModel, get_peft_model

    config = BottleneckConfig(
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
        target_modules=["gate_proj", "up_proj", "down_proj"],
        output_modules=["down_proj"],
        bottleneck_size=8,
        modules_to_save=["multi_modal_projector"],
    )
    model = get_peft_model(llava(), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(tmp_path))
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "BOTTLENECK"
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), BottleneckConfig)
    again = PeftModel.from_pretrained(llava(), str(tmp_path)).eval()
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)
    assert not torch.allclose(llava()(**inputs()).logits, model(**inputs()).logits)


def test_a_wrong_word_in_the_configuration_is_named() -> None:
    from trainables.peft_methods.bottleneck import BottleneckConfig

    for field in ("placement", "non_linearity", "init"):
        with pytest.raises(ValueError, match=f"{field} is 'sideways'; use one of"):
            BottleneckConfig(target_modules=["first"], **{field: "sideways"})
