"""Plain torch: one process, or DistributedDataParallel over gloo or nccl. The reference that every other engine must equal.

fp32, bf16 by autocast, fp16 by autocast and a gradient scaler (GPU only). Weights and optimizer state stay fp32. Gradients are
averaged over ranks at the last micro-batch of a batch only. Batches across ranks and buffers are not its business: buffers are
averaged by `sync_buffers`, not broadcast at every forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.adapters.engine import (
    ParamGroup,
    PeakMemory,
    average_buffers,
    cast_floats,
    is_saved,
    read_part,
    whole_fp32,
    write_part,
)
from trainables.engine_spec import AdamSpec, AdamWSpec, EngineSpec, SgdSpec
from tune.core.ports import Reporter

AUTOCAST_DTYPE = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """See `Engine`. Made by `open_engine`."""

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParamGroup],
        *,
        optimizer: AdamSpec | SgdSpec,
        spec: EngineSpec,
        micro_batch: int,
        clip_grad_norm: float | None,
        reporter: Reporter,
        save_frozen: bool = True,
    ) -> None:
        self.device = torch.device(reporter.device)
        self._save_frozen = save_frozen
        self.module = module.to(self.device)
        self.micro_batch = micro_batch
        self._rank, self._world_size = reporter.rank, reporter.world_size
        self._accumulation, self._clip_grad_norm = spec.accumulation, clip_grad_norm
        self._dtype = AUTOCAST_DTYPE[spec.precision]
        self._base_lrs = [group["lr"] for group in groups]
        self._trained = [parameter for group in groups for parameter in group["params"]]
        self._lr_factor = 1.0
        self._pending = 0
        self._closed = False
        self._peak = PeakMemory(self.device)
        self._optimizer = build_optimizer(groups, optimizer)
        self._scaler = torch.amp.GradScaler("cuda") if spec.precision == "fp16" else None
        self._ddp: DistributedDataParallel | None = None
        if self._world_size > 1:
            ids = [self.device.index or 0] if self.device.type == "cuda" else None
            self._ddp = DistributedDataParallel(self.module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        # evaluation goes around DDP: its forward would take part in collectives
        target = self._ddp if self._ddp is not None and torch.is_grad_enabled() else self.module
        quiet = target is self._ddp and self._pending + 1 < self._accumulation
        with self._ddp.no_sync() if quiet and self._ddp is not None else nullcontext():
            if self._dtype is None:
                return target(*inputs, **named)
            with torch.autocast(self.device.type, dtype=self._dtype):
                output = target(*inputs, **named)
        return cast_floats(output, torch.float32)

    def backward(self, loss: Tensor) -> None:
        scaled = loss / self._accumulation
        if self._scaler is not None:
            scaled = self._scaler.scale(scaled)
        last = self._pending + 1 == self._accumulation
        with nullcontext() if last or self._ddp is None else self._ddp.no_sync():
            scaled.backward()

    def step(self) -> bool:
        self._pending += 1
        if self._pending < self._accumulation:
            return False
        self._pending = 0
        if self._clip_grad_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._trained, self._clip_grad_norm)
        if self._scaler is not None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return True

    def set_lr_factor(self, factor: float) -> None:
        self._lr_factor = factor
        for group, lr in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor

    def sync_buffers(self) -> None:
        average_buffers(self.module, self._world_size)

    def save(self, folder: Path) -> None:
        assert self._pending == 0, "save in the middle of an accumulated batch would lose its gradients"
        self.sync_buffers()
        if self._rank != 0:
            return  # every rank holds the same
        named = self.module.state_dict(keep_vars=True).items()
        tensors = {f"module.{name}": tensor.detach() for name, tensor in named if is_saved(tensor, self._save_frozen)}
        state = self._optimizer.state_dict()["state"]
        tensors |= {
            f"optimizer.{i}.{key}": value for i, values in state.items() for key, value in values.items() if isinstance(value, Tensor)
        }
        write_part(
            folder,
            "engine",
            tensors,
            self._facts()
            | {
                "lr_factor": self._lr_factor,
                "scaler": self._scaler.state_dict() if self._scaler is not None else None,
            },
        )

    def load(self, folder: Path) -> None:
        tensors, facts = read_part(folder, "engine", self._facts())
        self.module.load_state_dict(
            {name.removeprefix("module."): tensor for name, tensor in tensors.items() if name.startswith("module.")},
            strict=self._save_frozen,
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                state.setdefault(int(i), {})[key] = tensor
        self._optimizer.load_state_dict({"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]})
        self.set_lr_factor(facts["lr_factor"])
        if self._scaler is not None:
            self._scaler.load_state_dict(facts["scaler"])
        self._pending = 0

    def weights(self) -> dict[str, Tensor]:
        self.sync_buffers()
        if self._rank != 0:
            return {}
        return {name: whole_fp32(tensor) for name, tensor in self.module.state_dict().items()}

    def peak_memory_bytes(self) -> int:
        return self._peak.bytes()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._ddp = None  # its reducer holds the gradient buckets
        self._optimizer.state.clear()
        for parameter in self.module.parameters():
            parameter.grad = None
        self._optimizer.param_groups.clear()
        self._trained = []
        self.module = nn.Module()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _facts(self) -> dict[str, Any]:
        return {"engine": "torch", "groups": len(self._base_lrs), "trained": len(self._trained)} | self._frozen_facts()

    def _frozen_facts(self) -> dict[str, Any]:
        return {} if self._save_frozen else {"save_frozen": False}


def build_optimizer(groups: Sequence[ParamGroup], spec: AdamSpec | SgdSpec) -> torch.optim.Optimizer:
    """The torch optimizer of the spec, with each group's own lr and weight decay."""
    plain = [dict(group) for group in groups]
    if isinstance(spec, SgdSpec):
        return torch.optim.SGD(plain, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov)
    kind = torch.optim.AdamW if isinstance(spec, AdamWSpec) else torch.optim.Adam
    return kind(plain, lr=0.0, betas=spec.betas, eps=spec.eps)
