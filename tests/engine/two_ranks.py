"""One rank of two: runs every engine on the same small problems and writes what it saw as JSON. Started by `test_engines_agree`.

    python -m tests.engine.two_ranks RANK RENDEZVOUS_FILE OUT.json

The reference is a loop of its own in plain torch over the whole batch on one rank; it shares no code with the engines.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.adapters.engine import Engine, open_engine
from trainables.adapters.zero_engine import warm_deepspeed
from trainables.engine_spec import AdamSpec, AdamWSpec, EngineSpec, SgdSpec, ZeroSpec
from tune.core.errors import FailTrial

BATCH, STEPS, CLIP = 16, 10, 0.5
OPTIMIZERS: dict[str, Any] = {"adam": AdamSpec(eps=1e-6), "adamw": AdamWSpec(betas=(0.8, 0.99)), "sgd": SgdSpec(nesterov=True)}
LR = {"adam": 5e-3, "adamw": 5e-3, "sgd": 5e-2}
SPLIT = {"persistence_threshold_elements": 0}  # else parameters this small stay whole at stage 3
ENGINES: dict[str, ZeroSpec | None] = {
    "ddp": None,
    "zero0": ZeroSpec(stage=0),
    "zero1": ZeroSpec(stage=1),
    "zero2": ZeroSpec(stage=2),
    "zero3": ZeroSpec(stage=3, **SPLIT),
    "zero1-offload": ZeroSpec(stage=1, offload_optimizer="cpu"),
    "zero3-offload": ZeroSpec(stage=3, offload_optimizer="cpu", offload_parameters="cpu", **SPLIT),
}


class Net(nn.Module):
    """A frozen stem, a body, a head at ten times the learning rate, and a tied weight; `norm` is LayerNorm or BatchNorm."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 24)
        self.body = nn.Sequential(nn.Linear(24, 48), norm(48), nn.GELU(), nn.Linear(48, 24))
        self.again = nn.Linear(24, 48)
        self.again.weight = self.body[0].weight  # type: ignore[assignment]
        self.head = nn.Linear(48, 5)
        self.stem.requires_grad_(False)

    def forward(self, inputs_BD: Tensor) -> Tensor:
        return self.head(self.again(self.body(self.stem(inputs_BD))).relu())


def net(seed: int = 0, *, norm: type[nn.Module] = nn.LayerNorm, lr: float = LR["adamw"]) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(seed)
    module = Net(norm)
    head = list(module.head.parameters())
    body = [p for p in module.parameters() if p.requires_grad and all(p is not other for other in head)]
    return module, [
        {"name": "body", "params": body, "lr": lr, "weight_decay": 0.1},
        {"name": "head", "params": head, "lr": lr * 10, "weight_decay": 0.0},
    ]


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Inputs whose class can be learnt: the largest of the first five."""
    inputs_BD = torch.randn(BATCH, 12, generator=torch.Generator().manual_seed(1000 + step))
    return inputs_BD, inputs_BD[:, :5].argmax(dim=1)


def lr_factor(step: int) -> float:
    return 1.0 if step < STEPS // 2 else 0.3


class Rank:
    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.reporter: Any = SimpleNamespace(rank=rank, world_size=2, device="cpu")
        self.left_behind: list[str] = []

    def open(
        self, name: str, module: nn.Module, groups: list[Any], *, optimizer: str = "adamw", clip: float | None = CLIP, **spec: Any
    ) -> Engine:
        return open_engine(
            module,
            groups,
            optimizer=OPTIMIZERS[optimizer],
            engine=EngineSpec(zero=ENGINES[name], **spec),
            batch=BATCH,
            clip_grad_norm=clip,
            reporter=self.reporter,
        )

    def train(self, engine: Engine, steps: range) -> list[float]:
        """Mean losses of whole batches, over both ranks; micro-batches alternate between the ranks."""
        losses = []
        for step in steps:
            engine.set_lr_factor(lr_factor(step))
            inputs_BD, labels_B = batch_of(step)
            shares = torch.arange(BATCH).split(engine.micro_batch)
            total = torch.zeros(())
            for share in shares[self.rank :: 2]:
                loss = functional.cross_entropy(engine.forward(inputs_BD[share]), labels_B[share])
                engine.backward(loss)
                ended = engine.step()
                total += loss.detach() / len(shares)
            assert ended, "the whole batch was seen"
            torch.distributed.all_reduce(total)
            losses.append(float(total))
        return losses

    def close(self, what: str, opened: list[Any]) -> None:
        """Close and note what is still alive once the last name is gone. `opened` holds the only names of engine and module."""
        opened[0].close()
        opened[0].close()  # twice is fine
        held = [weakref.ref(thing) for thing in opened]
        opened.clear()
        gc.collect()
        if any(reference() is not None for reference in held):
            self.left_behind.append(what)

    # ---- cases

    def agree(self, name: str, optimizer: str, **spec: Any) -> dict[str, Any]:
        module, groups = net(lr=LR[optimizer])
        engine = self.open(name, module, groups, optimizer=optimizer, **spec)
        losses = self.train(engine, range(STEPS))
        weights = {key: tensor.tolist() for key, tensor in engine.weights().items()}
        opened = [engine, module]
        del engine, module, groups
        self.close(f"{name} {optimizer} {spec}", opened)
        return {"losses": losses, "weights": weights}

    def resumed(self, name: str, **spec: Any) -> dict[str, Any]:
        """Losses after a save: of the saved engine, of the same after loading back, and of a fresh one from other weights."""
        folder = shared_folder(self.rank)
        engine = self.open(name, *net(), **spec)
        self.train(engine, range(4))
        engine.save(folder)
        torch.distributed.barrier()
        on = self.train(engine, range(4, STEPS))
        engine.load(folder)
        again = self.train(engine, range(4, STEPS))
        engine.close()
        fresh = self.open(name, *net(seed=7), **spec)
        fresh.load(folder)
        other = self.train(fresh, range(4, STEPS))
        fresh.close()
        return {"on": on, "again": again, "fresh": other, "files": sorted(file.name for file in folder.iterdir())}

    def mismatch(self) -> dict[str, str]:
        folder = shared_folder(self.rank)
        engine = self.open("zero2", *net())
        engine.save(folder)
        engine.close()
        torch.distributed.barrier()
        seen = {}
        for name in ("zero1", "ddp"):
            engine = self.open(name, *net())
            try:
                engine.load(folder)
            except FailTrial as error:
                seen[name] = str(error)
            engine.close()
        return seen

    def batch_norm(self, name: str) -> dict[str, Any]:
        """Running means after steps whose shares differ by rank: before and after sync on this rank, and as gathered."""
        engine = self.open(name, *net(norm=nn.BatchNorm1d))
        self.train(engine, range(3))
        own = engine.module.get_buffer("body.1.running_mean").tolist()
        engine.sync_buffers()
        synced = engine.module.get_buffer("body.1.running_mean").tolist()
        gathered = engine.weights().get("body.1.running_mean")
        with torch.no_grad():  # evaluation: the same number of forwards on each rank
            engine.module.eval()
            outputs = engine.forward(batch_of(0)[0]).tolist()
        engine.close()
        return {"own": own, "synced": synced, "gathered": gathered.tolist() if gathered is not None else None, "outputs": outputs}

    def interrupted(self, name: str) -> None:
        """A trial that ends in the middle of an accumulated batch, and one whose forward raises, leave nothing."""
        module, groups = net()
        opened: list[Any] = [self.open(name, module, groups, accumulation=2), module]
        inputs_BD, labels_B = batch_of(0)
        opened[0].backward(functional.cross_entropy(opened[0].forward(inputs_BD[:4]), labels_B[:4]))
        opened[0].step()
        try:
            opened[0].forward(torch.zeros(4, 13))  # a wrong shape, on both ranks
        except RuntimeError:
            pass
        else:
            raise AssertionError("a wrong shape must raise")
        del module, groups
        self.close(f"{name} interrupted", opened)

    def checkpointed(self, name: str, switched_on: bool) -> dict[str, Any]:
        from trainables.torchvision_ops import ensure_torchvision_ops

        ensure_torchvision_ops()
        import timm

        torch.manual_seed(0)
        module = timm.create_model("test_vit", num_classes=5, img_size=32)
        engine = self.open(
            name,
            module,
            [{"name": "all", "params": list(module.parameters()), "lr": 1e-3, "weight_decay": 0.0}],
            activation_checkpointing=switched_on,
        )
        calls: list[int] = []
        module.blocks[0].norm1.register_forward_hook(lambda *_: calls.append(1))
        losses = []
        for step in range(3):
            generator = torch.Generator().manual_seed(step * 2 + self.rank)
            images_BCHW = torch.randn(8, 3, 32, 32, generator=generator)
            loss = functional.cross_entropy(engine.forward(images_BCHW), torch.arange(8) % 5)
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
        engine.close()
        return {"losses": losses, "forwards_of_a_block": len(calls)}


def shared_folder(rank: int) -> Path:
    """A new folder both ranks see."""
    made = [tempfile.mkdtemp() if rank == 0 else ""]
    torch.distributed.broadcast_object_list(made)
    return Path(made[0])


def reference(optimizer: str, clip: float | None = CLIP) -> dict[str, Any]:
    """The same training in a few lines of plain torch, over whole batches."""
    module, groups = net(lr=LR[optimizer])
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    options: Any = {"adam": {"eps": 1e-6}, "adamw": {"betas": (0.8, 0.99)}, "sgd": {"momentum": 0.9, "nesterov": True}}[optimizer]
    steps = kind([{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups], **options)
    losses = []
    for step in range(STEPS):
        inputs_BD, labels_B = batch_of(step)
        loss = functional.cross_entropy(module(inputs_BD), labels_B)
        steps.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip)
        for group, base in zip(steps.param_groups, groups, strict=True):
            group["lr"] = base["lr"] * lr_factor(step)
        steps.step()
        losses.append(loss.item())
    return {"losses": losses, "weights": {key: tensor.tolist() for key, tensor in module.state_dict().items()}}


def main() -> None:
    rank, rendezvous, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    warm_deepspeed("cpu")
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - as its stages do when they are first opened

    gc.collect()
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    here = Rank(rank)
    seen: dict[str, Any] = {}
    for optimizer in OPTIMIZERS:
        seen[f"reference/{optimizer}"] = reference(optimizer)
        for name in ("ddp", "zero0", "zero1", "zero2", "zero3"):
            seen[f"agree/{optimizer}/{name}"] = here.agree(name, optimizer)
    seen["reference/unclipped"] = reference("sgd", clip=None)
    for name in ENGINES:
        seen[f"unclipped/{name}"] = here.agree(name, "sgd", clip=None)
        seen[f"accumulated/{name}"] = here.agree(name, "adamw", accumulation=2)
        seen[f"bf16/{name}"] = here.agree(name, "adamw", precision="bf16")
        seen[f"resumed/{name}"] = here.resumed(name, accumulation=2)
        here.interrupted(name)
        seen[f"batch_norm/{name}"] = here.batch_norm(name)
    for name in ("ddp", "zero2", "zero3"):
        for switched_on in (False, True):
            seen[f"checkpointed/{name}/{switched_on}"] = here.checkpointed(name, switched_on)
    seen["mismatch"] = here.mismatch()
    seen["left_behind"] = here.left_behind
    out.write_text(json.dumps(seen))
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
