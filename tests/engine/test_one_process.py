"""What one process can see of the engines without DeepSpeed: refusals, precision, forward's types, and, with a GPU, fp16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from trainables.adapters.engine import Engine, cast_floats, open_engine  # noqa: E402
from trainables.engine_spec import AdamSpec, EngineSpec, ZeroSpec  # noqa: E402
from tune.core.errors import FailTrial, UserError  # noqa: E402


def opened(module: nn.Module, spec: EngineSpec, device: str = "cpu", batch: int = 8, clip: float | None = 1.0) -> Engine:
    reporter: Any = SimpleNamespace(rank=0, world_size=1, device=device)
    groups: list[Any] = [{"name": "all", "params": list(module.parameters()), "lr": 1e-2, "weight_decay": 0.0}]
    return open_engine(module, groups, optimizer=AdamSpec(), engine=spec, batch=batch, clip_grad_norm=clip, reporter=reporter)


def train(engine: Engine, seeds: range) -> list[float]:
    losses = []
    for seed in seeds:
        inputs_BD = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(engine.device)
        loss = functional.cross_entropy(engine.forward(inputs_BD), inputs_BD.argmax(dim=1) % 3)
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def test_fp16_on_a_cpu_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match="fp16 on a CPU"):
        opened(net(), EngineSpec(precision="fp16"))


def test_batch_norm_in_fp16_under_deepspeed_fails_the_trial_by_name() -> None:
    module = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    with pytest.raises(FailTrial, match=r"fp16_batch_norm: .* set precision: bf16, or leave zero out"):
        opened(module, EngineSpec(precision="fp16", zero=ZeroSpec(stage=1)), device="cuda:0")


def test_a_model_that_cannot_recompute_fails_the_trial_by_name() -> None:
    with pytest.raises(FailTrial, match="no_activation_checkpointing: Sequential has no block that can recompute"):
        opened(net(), EngineSpec(activation_checkpointing=True))


def test_bf16_computes_in_bf16_and_answers_in_fp32() -> None:
    module = net()
    seen: list[Any] = []
    module.get_submodule("0").register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    engine = opened(module, EngineSpec(precision="bf16"))
    assert engine.forward(torch.zeros(2, 6)).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert {tensor.dtype for tensor in engine.weights().values()} == {torch.float32}
    engine.close()


def test_the_lr_factor_scales_the_base_and_not_the_last_rate() -> None:
    """Ten times a factor of a half is a half: two engines, one told once and one told often, stay equal."""
    once, often = opened(net(), EngineSpec()), opened(net(), EngineSpec())
    once.set_lr_factor(0.5)
    for _ in range(10):
        often.set_lr_factor(0.5)
    assert train(once, range(4)) == train(often, range(4))
    assert train(once, range(4, 6)) != train(opened(net(), EngineSpec()), range(4, 6))


def test_saving_in_the_middle_of_an_accumulated_batch_is_our_own_bug(tmp_path: Path) -> None:
    engine = opened(net(), EngineSpec(accumulation=2), batch=16)
    train(engine, range(1))
    with pytest.raises(AssertionError, match="would lose its gradients"):
        engine.save(tmp_path)


def test_peak_memory_counts_from_the_opening_on() -> None:
    engine = opened(net(), EngineSpec())
    before = engine.peak_memory_bytes()
    block = torch.ones(64 * 1024 * 1024 // 4)
    grown = engine.peak_memory_bytes() - before
    assert block.numel() and 0.9 * 64 * 1024 * 1024 < grown < 4 * 64 * 1024 * 1024


def test_casting_goes_through_nests_and_leaves_integers() -> None:
    half = torch.float16
    cast = cast_floats({"a": (torch.zeros(1), [torch.zeros(1, dtype=torch.int64)]), "b": "text"}, half)
    assert cast["a"][0].dtype == half and cast["a"][1][0].dtype == torch.int64 and cast["b"] == "text"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("zero", [None, ZeroSpec(stage=1), ZeroSpec(stage=2), ZeroSpec(stage=3)], ids=str)
def test_fp16_on_a_gpu_follows_fp32_and_resumes(zero: ZeroSpec | None, tmp_path: Path) -> None:
    plain = opened(net(), EngineSpec(), device="cuda:0")
    wanted = train(plain, range(8))
    engine = opened(net(), EngineSpec(precision="fp16", zero=zero), device="cuda:0")
    assert train(engine, range(4)) == pytest.approx(wanted[:4], rel=2e-2)
    engine.save(tmp_path)
    on = train(engine, range(4, 8))
    assert on == pytest.approx(wanted[4:], rel=2e-2)
    engine.load(tmp_path)
    assert train(engine, range(4, 8)) == pytest.approx(on, rel=1e-3)
    engine.close()
