"""A training handed from one group of workers to the next, each of another size; what was seen as JSON. Started by `test_other_workers`.

    python -m tests.engine.other_workers FOLDER

The groups of `CHAIN` live one after another, as forks of this process. The first trains, saves and goes on, which is the uninterrupted
training; each other one loads what the last one saved, saves it again and goes on from there. Shares are gathered from the files here
by arithmetic of our own. Between two groups all padding on disk is made NaN.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tests.engine.cases import CHAIN
from trainables.adapters import zero_engine
from trainables.adapters.engine import Engine, open_engine
from trainables.engine_spec import AdamWSpec, EngineSpec, SgdSpec, ZeroSpec
from tune.core.errors import FailTrial

BATCH, BEFORE, STEPS = 12, 3, 6
WHOLE = {"persistence_threshold_elements": 0}
ENGINES: dict[str, ZeroSpec | None] = {
    "ddp": None,
    "zero0": ZeroSpec(stage=0),
    "zero1": ZeroSpec(stage=1),
    "zero2": ZeroSpec(stage=2),
    "zero2-sgd": ZeroSpec(stage=2),
    "zero3": ZeroSpec(stage=3, **WHOLE),
    "zero3-sub_groups": ZeroSpec(stage=3, **WHOLE),
    "zero1-offload": ZeroSpec(stage=1, offload_optimizer="cpu"),
    "zero3-offload": ZeroSpec(stage=3, offload_optimizer="cpu", offload_parameters="cpu", **WHOLE),
}
SUB_GROUP = 20  # elements a worker, so that a parameter group becomes several masters, cut elsewhere for other workers


class Net(nn.Module):
    """Lengths that no number of workers divides: two groups of 157 and 42 numbers, one parameter a scalar; a frozen stem."""

    def __init__(self, width: int = 13) -> None:
        super().__init__()
        self.stem = nn.Linear(7, 9)
        self.body = nn.Linear(9, width)
        self.norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(width, 3)
        self.stem.requires_grad_(False)

    def forward(self, inputs_BD: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.stem(inputs_BD))).relu()) * self.scale.exp()


def groups_of(module: nn.Module) -> list[Any]:
    head = list(module.get_submodule("head").parameters())
    body = [p for p in module.parameters() if p.requires_grad and all(p is not other for other in head)]
    return [
        {"name": "body", "params": body, "lr": 5e-3, "weight_decay": 0.1},
        {"name": "head", "params": head, "lr": 5e-2, "weight_decay": 0.0},
    ]


class Worker:
    def __init__(self, home: Path, stage: int, rank: int) -> None:
        self.home, self.stage, self.rank, self.world_size = home, stage, rank, CHAIN[stage]
        torch.distributed.init_process_group("gloo", init_method=f"file://{home}/rendezvous{stage}", rank=rank, world_size=self.world_size)

    def live(self) -> None:
        seen = {name: self.case(name) for name in ENGINES}
        if self.rank == 0:
            (self.home / f"seen{self.stage}.json").write_text(json.dumps(seen))
        torch.distributed.barrier()

    def case(self, name: str) -> dict[str, Any]:
        engine = self.open(name)
        seen: dict[str, Any] = {}
        if self.stage == 0:
            self.train(engine, range(BEFORE))
        else:
            engine.load(saved(self.home, name, self.stage - 1))
        engine.save(saved(self.home, name, self.stage))
        if self.world_size == 1 and name in ("zero2", "zero3"):
            seen["refused"] = self.refused(name, engine)
        seen["losses"] = self.train(engine, range(BEFORE, STEPS))
        engine.close()
        return seen

    def open(self, name: str, width: int = 13) -> Engine:
        torch.manual_seed(self.stage)
        module = Net(width)
        sub_groups = name.endswith("sub_groups")
        zero_engine.deepspeed_json = with_sub_groups if sub_groups else PLAIN_JSON  # type: ignore[attr-defined]
        reporter: Any = SimpleNamespace(rank=self.rank, world_size=self.world_size, device="cpu")
        return open_engine(
            module,
            groups_of(module),
            optimizer=SgdSpec() if name.endswith("sgd") else AdamWSpec(betas=(0.8, 0.99)),
            engine=EngineSpec(zero=ENGINES[name]),
            batch=BATCH,
            clip_grad_norm=0.5,
            reporter=reporter,
        )

    def train(self, engine: Engine, steps: range) -> list[float]:
        losses = []
        for step in steps:
            engine.set_lr_factor(1.0 if step < BEFORE else 0.5)
            inputs_BD = torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(1000 + step))
            mine_BD = inputs_BD.chunk(self.world_size)[self.rank]
            loss = functional.cross_entropy(engine.forward(mine_BD), mine_BD[:, :3].argmax(dim=1))
            engine.backward(loss)
            engine.step()
            total = loss.detach() / self.world_size
            torch.distributed.all_reduce(total)
            losses.append(float(total))
        return losses

    def refused(self, name: str, engine: Engine) -> dict[str, str]:
        """Of `engine`, which trains on afterwards, what it is told of a folder without a part; of a wider model, of the folder itself."""
        folder, cut = saved(self.home, name, 0), self.home / f"{name}-cut"
        shutil.copytree(folder, cut)
        (cut / "engine-rank1.safetensors").unlink()
        wider = self.open(name, width=14)
        said = {"part missing": refusal(engine, cut), "other model": refusal(wider, folder)}
        wider.close()
        return said


def refusal(engine: Engine, folder: Path) -> str:
    try:
        engine.load(folder)
    except FailTrial as error:
        return str(error)
    return "it was loaded"


PLAIN_JSON = zero_engine.deepspeed_json


def with_sub_groups(*args: Any, **named: Any) -> dict[str, Any]:
    config = PLAIN_JSON(*args, **named)
    config["zero_optimization"]["sub_group_size"] = SUB_GROUP
    return config


def saved(home: Path, name: str, stage: int) -> Path:
    return home / f"{name}-{stage}"


# ---- what lies on disk


class Shares:
    """The parts of one checkpoint. A rank's masters laid end to end are its shares of all vectors, however they are cut into masters."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self._files = [folder / f"engine-rank{rank}.safetensors" for rank in range(workers)]
        self._parts = [load_file(file) for file in self._files]
        lengths = [[p.numel() for p in group["params"]] for group in groups_of(Net())]
        if name.startswith("zero3"):
            self._splits = [(n, -(-n // workers)) for group in lengths for n in group]
        else:
            self._splits = [(sum(group), -(-sum(group) // (2 * workers)) * 2) for group in lengths]

    def gathered(self) -> dict[str, list[Tensor]]:
        """Kind ("master", "exp_avg" ...) -> the whole vectors; of one without dimensions, all there are."""
        return {kind: self._whole(kind) for kind in sorted({key.partition(".")[2] for key in self._parts[0]})}

    def make_padding_nan(self) -> None:
        for rank, (file, part) in enumerate(zip(self._files, self._parts, strict=True)):
            padding = torch.cat([torch.arange(rank * share, (rank + 1) * share) >= n for n, share in self._splits])
            for kind in {key.partition(".")[2] for key in part}:
                keys = self._keys(kind)
                if part[keys[0]].dim() == 1:
                    flat = torch.cat([part[key] for key in keys])
                    flat[padding] = float("nan")
                    part |= dict(zip(keys, (cut.clone() for cut in flat.split([part[key].numel() for key in keys])), strict=True))
            save_file(part, file)

    def _whole(self, kind: str) -> list[Tensor]:
        keys = self._keys(kind)
        if self._parts[0][keys[0]].dim() == 0:
            return [torch.stack([part[key] for key in keys for part in self._parts]).unique()]
        flats = [torch.cat([part[key] for key in keys]).split([share for _, share in self._splits]) for part in self._parts]
        return [torch.cat(shares)[:n] for (n, _), *shares in zip(self._splits, *flats, strict=True)]

    def _keys(self, kind: str) -> list[str]:
        keys = [key for key in self._parts[0] if key.partition(".")[2] == kind]
        return sorted(keys, key=lambda key: int(key.partition(".")[0]))


def state_of(home: Path, name: str, stage: int) -> dict[str, list[Tensor]]:
    """What the optimizer steps and what it keeps, whole. Plain torch's lies beside the weights."""
    if name == "ddp":
        return {}
    if name == "zero0":
        return {key: [tensor] for key, tensor in load_file(saved(home, name, stage) / "engine-rank0.safetensors").items()}
    return Shares(saved(home, name, stage), name, CHAIN[stage]).gathered()


def compared(home: Path, name: str, stage: int) -> dict[str, Any]:
    """What of a checkpoint differs from the first one's, and what was compared."""
    first, last = (load_file(saved(home, name, i) / "engine.safetensors") for i in (0, stage))
    before, after = (state_of(home, name, i) for i in (0, stage))
    assert first.keys() == last.keys() and before.keys() == after.keys()
    differ = [key for key in first if not torch.equal(first[key], last[key])]
    differ += [kind for kind in before if not all(map(torch.equal, before[kind], after[kind]))]
    facts = json.loads((saved(home, name, stage) / "engine.json").read_text())
    return {"differ": differ, "compared": [*first, *before], "masters": [len(master) for master in facts.get("vectors", ())]}


def main() -> None:
    home = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    import deepspeed.ops
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401 - as its stages do when they are first opened

    gc.collect()
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    seen = []
    for stage, world_size in enumerate(CHAIN):
        for name in ENGINES:
            saved(home, name, stage).mkdir()
        group = [fork(home, stage, rank) for rank in range(world_size)]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in group] == [0] * world_size
        seen.append(json.loads((home / f"seen{stage}.json").read_text()))
        for name in ENGINES:
            seen[-1][name] |= compared(home, name, stage)
            if name not in ("ddp", "zero0"):
                Shares(saved(home, name, stage), name, world_size).make_padding_nan()
    (home / "seen.json").write_text(json.dumps(seen))


def fork(home: Path, stage: int, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        Worker(home, stage, rank).live()
        os._exit(0)
    finally:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
