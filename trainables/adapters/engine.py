"""The seam between a recipe and what computes its steps: plain torch, DDP or DeepSpeed ZeRO, behind one protocol.

A recipe calls, on every rank: `forward`, `backward`, `step` for each micro-batch; `sync_buffers` before evaluating; `save`/`load`
around a checkpoint; `weights` for the whole model; `close` at the end, always. It promises that the losses do not depend on the
engine beyond rounding, that a loaded engine goes on as the saved one would have, and that `close` gives the memory back.
It does not choose learning rates, draw data or evaluate. A checkpoint holds JSON and safetensors, no pickle.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor, nn

from trainables.engine_spec import AdamSpec, EngineSpec, SgdSpec, engine_problems, micro_batch_of
from tune.core.errors import FailTrial, UserError
from tune.core.ports import Reporter

FORMAT = 1


class ParamGroup(TypedDict):
    """Parameters trained at one learning rate. `lr` is the base: `set_lr_factor(f)` trains at lr x f."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float


class Engine(Protocol):
    """All methods are called on every rank, in the same order and equally often."""

    module: nn.Module  # the module as given: for train(), eval(), names; compute through `forward`
    micro_batch: int  # samples per rank and micro-step
    device: torch.device

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The module's output for inputs on `device`, floating ones cast as the precision asks; floating outputs are fp32.

        Evaluate under `torch.no_grad()`: with gradients on, a forward counts as part of a training step.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the micro-batch's mean loss, divided by the accumulation."""
        ...

    def step(self) -> bool:
        """After each backward. At every `accumulation`-th call clips, updates and clears gradients.

        True if this call ended a whole batch (even when an fp16 overflow left the weights as they were).
        """
        ...

    def set_lr_factor(self, factor: float) -> None:
        """Train every group at its base lr x factor from the next update on."""
        ...

    def sync_buffers(self) -> None:
        """Average floating buffers (BatchNorm's running statistics) over ranks. Call before evaluating; `save` and `weights` do."""
        ...

    def save(self, folder: Path) -> None:
        """Write module, optimizer and loss scaler into an existing folder. Only between whole batches."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, with as many workers as there are now. Raises FailTrial `checkpoint_mismatch` for another engine,
        stage or model, and where a part is missing."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Rank 0: the module's state dict in whole, on the CPU, floating tensors in fp32. Other ranks: empty."""
        ...

    def peak_memory_bytes(self) -> int:
        """Most memory held since the engine was opened: allocated on the GPU, or resident of this process on a CPU."""
        ...

    def close(self) -> None:
        """Give back all memory. Neither the engine nor the module may be used afterwards. Calling it twice is fine."""
        ...


def open_engine(
    module: nn.Module,
    groups: Sequence[ParamGroup],
    *,
    optimizer: AdamSpec | SgdSpec,
    engine: EngineSpec,
    batch: int,
    clip_grad_norm: float | None,
    reporter: Reporter,
    save_frozen: bool = True,
) -> Engine:
    """An engine over `module`, which is moved to the reporter's device and owned by the engine from here on.

    groups: what is trained; every other parameter must have requires_grad False. batch: the global one, over all ranks.
    save_frozen: False leaves frozen parameters out of checkpoints, for callers that give the same ones again before `load`.
    With several ranks the caller has initialised torch.distributed (gloo on CPU, nccl on GPU). Raises UserError for a batch that
    does not divide and for a precision the device lacks, FailTrial for a model that cannot be computed as asked.
    """
    problems = engine_problems(engine, reporter.device)
    if problems:
        raise UserError(problems)
    micro_batch = micro_batch_of(batch, reporter.world_size, engine)
    _check_groups(module, groups)
    if reporter.world_size > 1:
        assert torch.distributed.is_initialized(), "several ranks need torch.distributed initialised by the worker group"
    if engine.activation_checkpointing:
        switch_on_checkpointing(module)
    if engine.zero is None:
        from trainables.adapters.torch_engine import TorchEngine

        return TorchEngine(
            module,
            groups,
            optimizer=optimizer,
            spec=engine,
            micro_batch=micro_batch,
            clip_grad_norm=clip_grad_norm,
            reporter=reporter,
            save_frozen=save_frozen,
        )
    if engine.precision == "fp16" and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        # DeepSpeed casts BatchNorm's weights to fp16 and leaves its statistics in fp32; torch refuses the mixture
        raise FailTrial("fp16_batch_norm", "a model with BatchNorm in fp16 under DeepSpeed; set precision: bf16, or leave zero out")
    from trainables.adapters.zero_engine import ZeroEngine  # importing DeepSpeed costs 4.5 s

    return ZeroEngine(
        module,
        groups,
        optimizer=optimizer,
        spec=engine,
        batch=batch,
        clip_grad_norm=clip_grad_norm,
        reporter=reporter,
        save_frozen=save_frozen,
    )


def switch_on_checkpointing(module: nn.Module) -> None:
    """Recompute activations block by block, by the outermost part that knows how (timm's or transformers' switch)."""
    for part in module.modules():
        for name, arguments in (("set_grad_checkpointing", (True,)), ("gradient_checkpointing_enable", ())):
            switch: Callable[..., Any] | None = getattr(part, name, None)
            if callable(switch):
                try:
                    switch(*arguments)
                except AssertionError as error:  # timm: architectures without it assert
                    raise FailTrial("no_activation_checkpointing", f"{type(part).__name__}: {error}") from error
                return
    raise FailTrial(
        "no_activation_checkpointing",
        f"{type(module).__name__} has no block that can recompute activations; set activation_checkpointing: false",
    )


# ---- parts both engines use


class PeakMemory:
    """Peak memory since construction: CUDA's allocated maximum, else the process's resident high-water mark."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # not Linux, or not permitted: the mark is then the process's whole life
                Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present size

    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def average_buffers(module: nn.Module, world_size: int) -> None:
    """Average the floating buffers over ranks, in one collective."""
    if world_size == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel()]
    if not buffers:
        return
    flat = torch.cat([buffer.detach().float().reshape(-1) for buffer in buffers])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    offset = 0
    for buffer in buffers:
        buffer.copy_(flat[offset : offset + buffer.numel()].view_as(buffer))
        offset += buffer.numel()


def cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """`value` with every floating tensor in it cast; tuples, lists and mappings are gone through."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cast_floats(item, dtype) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(cast_floats(item, dtype) for item in value)
    if isinstance(value, dict):  # a transformers ModelOutput is one, and keeps its class
        cast = {key: cast_floats(item, dtype) for key, item in value.items()}
        return type(value)(**cast) if type(value) is not dict else cast
    return value


def is_saved(tensor: Tensor, save_frozen: bool) -> bool:
    """Whether a checkpoint holds this tensor of a module's state."""
    return save_frozen or not isinstance(tensor, nn.Parameter) or tensor.requires_grad


def whole_fp32(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares nothing; floating ones in fp32."""
    copied = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
    return copied.contiguous()


def write_part(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """`<name>.safetensors` and `<name>.json`."""
    from safetensors.torch import save_file

    save_file(
        {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}, str(folder / f"{name}.safetensors")
    )
    (folder / f"{name}.json").write_text(json.dumps({"format": FORMAT, **facts}, indent=1, allow_nan=False))


def read_part(folder: Path, name: str, expected: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_part` wrote. Raises FailTrial `checkpoint_mismatch` when a fact in `expected` differs."""
    from safetensors.torch import load_file

    facts = read_facts(folder, name, expected)
    return load_file(str(folder / f"{name}.safetensors")), facts


def read_facts(folder: Path, name: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a part alone. Raises as `read_part`, and where one of the part's two files is missing."""
    file = folder / f"{name}.json"
    for needed in (file, folder / f"{name}.safetensors"):
        if not needed.exists():
            raise FailTrial("checkpoint_mismatch", f"{needed} is missing: written by another engine, or a worker's part was lost")
    facts: dict[str, Any] = json.loads(file.read_text())
    for key, value in {"format": FORMAT, **expected}.items():
        if facts.get(key) != value:
            raise FailTrial("checkpoint_mismatch", f"{file}: {key} is {facts.get(key)!r}, this engine has {value!r}")
    return facts


def _check_groups(module: nn.Module, groups: Sequence[ParamGroup]) -> None:
    """Our own bugs: a parameter in two groups, a trained one in none, a group that trains nothing."""
    seen: set[int] = set()
    for group in groups:
        assert group["params"], f"parameter group {group['name']} is empty"
        for parameter in group["params"]:
            assert id(parameter) not in seen, f"a parameter of group {group['name']} is in another group too"
            assert parameter.requires_grad, f"group {group['name']} holds a frozen parameter"
            seen.add(id(parameter))
    for name, parameter in module.named_parameters():
        assert not parameter.requires_grad or id(parameter) in seen, f"{name} is trainable but in no group"
