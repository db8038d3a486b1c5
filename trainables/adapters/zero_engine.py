"""DeepSpeed ZeRO behind `Engine`: stages 0 to 3, offload to host memory, one engine after another in a process that stays up.

It promises the losses of plain torch within rounding, checkpoints without pickle, and that `close` gives back what DeepSpeed keeps
(see `zero_release`). Each rank writes its own share; a checkpoint goes on with any number of workers (see `zero_shares`), but only at
the same stage. It does not launch processes: with several ranks the caller has initialised torch.distributed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from trainables.adapters.zero_release import forget_roots, release
from trainables.adapters.zero_shares import Layout, Split, part_name, read_shares, saved_layout
from trainables.engine_spec import AdamSpec, EngineSpec, SgdSpec
from trainables.zero_json import deepspeed_json
from tune.core.ports import Reporter

SCALER_FACTS = ("cur_iter", "cur_scale", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's DynamicLossScaler


def warm_deepspeed(device: str) -> None:
    """Import DeepSpeed for a device ("cpu", "cuda:0"), and give a lone process its process group. Later calls cost nothing.

    DeepSpeed reads both from the environment at import and at the first engine; a second device in one process is our own bug.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    os.environ.setdefault("DS_ACCELERATOR", kind)
    os.environ.setdefault("LOCAL_RANK", device.partition(":")[2] or "0")
    if not torch.distributed.is_initialized():  # no port, no peers; it stays for the life of the process
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    assert get_accelerator().device_name() == kind, f"DeepSpeed is set to {get_accelerator().device_name()}, the engine to {kind}"
    # serves inference only, and would be compiled with g++ on first use
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)


class ZeroEngine:
    """See `Engine`. Made by `open_engine`."""

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParamGroup],
        *,
        optimizer: AdamSpec | SgdSpec,
        spec: EngineSpec,
        batch: int,
        clip_grad_norm: float | None,
        reporter: Reporter,
        save_frozen: bool = True,
    ) -> None:
        assert spec.zero is not None
        self._save_frozen = save_frozen
        warm_deepspeed(reporter.device)
        import deepspeed

        self.device = torch.device(reporter.device)
        self.module = module
        self._rank, self._world_size = reporter.rank, reporter.world_size
        self._stage, self._accumulation = spec.zero.stage, spec.accumulation
        self._half = spec.precision == "fp16"
        self._base_lrs = [group["lr"] for group in groups]
        self._lr_factor = 1.0
        self._pending = 0
        self._peak = PeakMemory(self.device)
        config = deepspeed_json(
            spec,
            batch=batch,
            workers=self._world_size,
            clip_grad_norm=clip_grad_norm,
            optimizer=optimizer,
            device=reporter.device,
            model_elements=sum(p.numel() for p in module.parameters()),
        )
        self.micro_batch: int = config["train_micro_batch_size_per_gpu"]
        parameters = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]
        # DeepSpeed sends parameters to the other ranks as bytes, which torch refuses of one without a dimension (CLIP's logit_scale)
        self._scalars = frozenset(name for name, parameter in module.named_parameters() if parameter.dim() == 0)
        for name in self._scalars:
            parameter = module.get_parameter(name)
            parameter.data = parameter.data.view(1)
        try:
            self._engine: Any = deepspeed.initialize(model=module, model_parameters=parameters, config=config)[0]
        except BaseException:  # out of memory, a stop: the next trial in this process starts clean
            forget_roots(module)
            raise

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self._half:
            inputs, named = cast_floats(inputs, torch.float16), cast_floats(named, torch.float16)
        output = self._engine(*inputs, **named)
        return cast_floats(output, torch.float32)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)  # divides by the accumulation

    def step(self) -> bool:
        self._engine.step()
        self._pending = (self._pending + 1) % self._accumulation
        return self._pending == 0

    def set_lr_factor(self, factor: float) -> None:
        self._lr_factor = factor
        for group, lr in zip(self._engine.basic_optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor

    def sync_buffers(self) -> None:
        average_buffers(self.module, self._world_size)

    def save(self, folder: Path) -> None:
        assert self._pending == 0, "save in the middle of an accumulated batch would lose its gradients"
        self.sync_buffers()
        module = dict(self._gathered(whole=False))
        if self._rank == 0:
            facts = self._facts() | self._layout().facts() | {"lr_factor": self._lr_factor, "scaler": self._scaler()}
            write_part(folder, "engine", module, facts)
        if self._rank == 0 or self._stage > 0:  # without ZeRO every rank holds the same
            tensors: dict[str, Tensor] = {}
            numbers: dict[str, float] = {}
            for i, master in enumerate(self._masters()):
                if self._stage > 0:
                    tensors[f"{i}.master"] = master.data
                for key, value in self._engine.basic_optimizer.state.get(master, {}).items():
                    if isinstance(value, Tensor):
                        tensors[f"{i}.{key}"] = value
                    elif value is not None:
                        numbers[f"{i}.{key}"] = value
            write_part(folder, part_name(self._share()), tensors, self._facts() | {"numbers": numbers})

    def load(self, folder: Path) -> None:
        assert self._pending == 0, "load in the middle of an accumulated batch would mix two models"
        layout = self._layout()
        saved = saved_layout(folder, self._facts(), layout)
        module, facts = read_part(folder, "engine", self._facts())
        with torch.no_grad():
            for name, tensor in self._named_tensors():
                if not is_saved(tensor, self._save_frozen):
                    continue
                with self._whole(tensor, write=True):
                    if self._stage < 3 or self._rank == 0 or not isinstance(tensor, nn.Parameter):
                        tensor.data.copy_(module[name])
        del module
        masters = self._masters()
        for place, key, value in read_shares(folder, self._facts(), saved, layout, self._share()):
            master = masters[place]
            kept = self._engine.basic_optimizer.state[master]
            target = master.data if key == "master" else kept.get(key)
            if isinstance(target, Tensor) and isinstance(value, Tensor):
                target.copy_(value)  # in place: DeepSpeed's flat buffers point here
            elif isinstance(value, Tensor):  # torch keeps the count of steps on the CPU
                kept[key] = value.clone() if value.dim() == 0 else value.to(master.device, copy=True)
            else:
                kept[key] = value
        for key, value in facts["scaler"].items():
            setattr(self._engine.optimizer.loss_scaler, key, value)
        self.set_lr_factor(facts["lr_factor"])

    def weights(self) -> dict[str, Tensor]:
        self.sync_buffers()
        return dict(self._gathered(whole=True))

    def peak_memory_bytes(self) -> int:
        return self._peak.bytes()

    def close(self) -> None:
        if self._engine is None:
            return
        engine, module, self._engine, self.module = self._engine, self.module, None, nn.Module()
        release(engine, module)
        del engine, module
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- what a checkpoint is made of

    def _facts(self) -> dict[str, Any]:
        facts = {"engine": "zero", "stage": self._stage, "half": self._half, "groups": len(self._base_lrs)}
        return facts if self._save_frozen else facts | {"save_frozen": False}

    def _share(self) -> int:
        """Which share of the masters this rank holds; without ZeRO all ranks hold the one there is."""
        return self._rank if self._stage > 0 else 0

    def _layout(self) -> Layout:
        optimizer, masters = self._engine.optimizer, self._masters()
        if self._stage == 0:
            return Layout(1, tuple((Split(master.numel(), master.numel()),) for master in masters))
        if self._stage == 3:
            groups = optimizer.fp16_groups
            return Layout(self._world_size, tuple(tuple(Split(p.ds_numel, p.partition_numel()) for p in group) for group in groups))
        lengths = [sum(parameter.numel() for parameter in group) for group in optimizer.bit16_groups]
        return Layout(self._world_size, tuple((Split(n, master.numel()),) for n, master in zip(lengths, masters, strict=True)))

    def _scaler(self) -> dict[str, float]:
        """State of fp16's dynamic loss scale; empty for the other precisions."""
        scaler = self._engine.optimizer.loss_scaler if self._half else None
        return {key: getattr(scaler, key) for key in SCALER_FACTS if hasattr(scaler, key)}

    def _masters(self) -> list[Tensor]:
        """What the torch optimizer inside steps, in a fixed order: the parameters themselves, or this rank's flat fp32 shares."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [tensor for group in self._engine.basic_optimizer.param_groups for tensor in group["params"]]

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and persistent buffers as in the state dict, tied ones under every name, in the same order on all ranks."""
        yield from self.module.state_dict(keep_vars=True).items()

    def _whole(self, tensor: Tensor, *, write: bool = False) -> Any:
        from deepspeed.runtime.zero import GatheredParameters

        split = self._stage == 3 and isinstance(tensor, nn.Parameter)
        return GatheredParameters([tensor], modifier_rank=0 if write else None, enabled=split)

    def _gathered(self, *, whole: bool) -> Iterator[tuple[str, Tensor]]:
        """Rank 0: every named tensor in whole on the CPU, in fp32 if `whole`, else in its own type. One tensor gathered at a time."""
        for name, tensor in self._named_tensors():
            if not whole and not is_saved(tensor, self._save_frozen):
                continue
            with self._whole(tensor):
                if self._rank == 0:
                    shown = whole_fp32(tensor) if whole else tensor.detach().to("cpu", copy=True)
                    yield name, shown.view(()) if whole and name in self._scalars else shown
