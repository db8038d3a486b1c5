"""EngineSpec -> the DeepSpeed JSON of one engine. A pure function; imports neither torch nor DeepSpeed.

Why each choice: bf16 is DeepSpeed's `torch_autocast`, so weights, masters and BatchNorm statistics stay fp32 and losses equal plain
torch's autocast; fp16 is its `fp16` section with a dynamic loss scale, because under ZeRO the scaler of `torch_autocast` is updated
once a parameter group. Adam is torch's own, so that no machine needs a compiler, unless `offload_adam: deepspeed` asks otherwise.
Learning rates and weight decay stand in the parameter groups that the engine hands over, not here.
"""

from __future__ import annotations

from typing import Any

from trainables.engine_spec import AdamSpec, AdamWSpec, EngineSpec, SgdSpec, ZeroSpec, engine_problems, micro_batch_of
from tune.core.errors import Problem, UserError


def deepspeed_json(
    spec: EngineSpec,
    *,
    batch: int,
    workers: int,
    clip_grad_norm: float | None,
    optimizer: AdamSpec | SgdSpec,
    device: str,
    model_elements: int,
) -> dict[str, Any]:
    """The configuration that `deepspeed.initialize` is given.

    batch: global. device: "cpu" or "cuda:0". model_elements: parameters of the model; buckets larger than it are memory for nothing.
    Raises UserError for a batch that does not divide, a precision the device lacks, or an optimizer the offload cannot step.
    """
    assert spec.zero is not None, "plain torch has no DeepSpeed configuration"
    problems = engine_problems(spec, device)
    if spec.zero.offload_adam == "deepspeed" and not isinstance(optimizer, AdamSpec):
        problems.append(
            Problem(
                "engine.zero.offload_adam",
                f"deepspeed with optimizer {optimizer.kind}",
                "leave offload_adam out, or use the optimizer adam or adamw",
            )
        )
    if problems:
        raise UserError(problems)
    config: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": micro_batch_of(batch, workers, spec),
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_clipping": 0.0 if clip_grad_norm is None else clip_grad_norm,  # DeepSpeed's word for no clipping
        "steps_per_print": None,
        "optimizer": _optimizer(optimizer, spec.zero),
        "zero_allow_untested_optimizer": True,  # SGD is not on DeepSpeed's list; our tests hold it to plain torch
        "zero_optimization": _zero(spec.zero, on_gpu=device != "cpu", model_elements=model_elements),
    }
    if spec.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if spec.precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0}  # 0: dynamic
    return config


def _optimizer(optimizer: AdamSpec | SgdSpec, zero: ZeroSpec) -> dict[str, Any]:
    if isinstance(optimizer, SgdSpec):
        return {"type": "SGD", "params": {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}}
    decoupled = isinstance(optimizer, AdamWSpec)
    params: dict[str, Any] = {"betas": list(optimizer.betas), "eps": optimizer.eps, "adam_w_mode": decoupled}
    if zero.offload_adam == "torch":
        params["torch_adam"] = True
    return {"type": "AdamW" if decoupled else "Adam", "params": params}


def _zero(zero: ZeroSpec, *, on_gpu: bool, model_elements: int) -> dict[str, Any]:
    if zero.stage == 0:
        return {"stage": 0}
    config: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": zero.overlap_comm and on_gpu,
        "contiguous_gradients": zero.contiguous_gradients,
        "reduce_bucket_size": min(zero.reduce_bucket_elements, model_elements),
    }
    if zero.stage < 3:
        size = min(zero.allgather_bucket_elements, model_elements)
        config["allgather_bucket_size"] = size + size % 2  # DeepSpeed wants it even
    else:
        config["stage3_prefetch_bucket_size"] = min(zero.prefetch_bucket_elements, model_elements)
        config["stage3_param_persistence_threshold"] = zero.persistence_threshold_elements
        config["stage3_max_live_parameters"] = zero.max_live_elements
    for what, place in (("offload_optimizer", zero.offload_optimizer), ("offload_param", zero.offload_parameters)):
        if place == "cpu":
            config[what] = {"device": "cpu", "pin_memory": on_gpu}
    return config
