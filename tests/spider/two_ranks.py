"""One rank of two: trains a tiny LLaVA's last block and connector with every method on several engines and writes what it saw.

First each method on an engine of its own, then whole trials of it, gone on after kills, and their exports.

    python -m tests.spider.two_ranks RANK RENDEZVOUS_FILE OUT.json

The reference for SPIDER is a loop of its own in plain torch over whole batches; it shares no code with engines or methods.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.peft_methods.tiny import inputs, llava
from tests.ranked import apart as trials_apart
from tests.ranked import ended, import_before_a_fork, join, part, share_apart, shared_folder
from tests.spider.cases import HANDED, KILLED, METHODS, TRIALS
from tests.vlm_peft.cases import PEFT, write_rows
from tests.vlm_peft.ranked_trials import N_ROWS, STAGES, answered, life, spec_for, trained
from trainables.adapters.engine import Engine, open_engine
from trainables.engine_spec import AdamWSpec, EngineSpec, ZeroSpec
from trainables.peft_methods.adalora import Allocation
from trainables.peft_methods.build import build, parameter_groups
from trainables.peft_methods.spec import PeftSpec
from trainables.spider.methods import Keeping, KeepMethod, keep_method, load_method, save_method
from trainables.spider.spec import KeepSpec
from trainables.spider.tensors import TrainedTensors
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.errors import FailTrial

BATCH, STEPS, CLIP, LR, ACCUMULATION, SEED = 8, 5, 0.5, 5e-3, 2, 11
TUNED = PeftSpec.model_validate({"method": "full", "full": {"last_layers": 1}, "connector": "tuned"})
ADALORA = PeftSpec.model_validate(
    {
        "method": "adalora",
        "adalora": {"init_r": 4, "target_r": 2, "dropout": 0.0, "warmup_share": 0.0, "final_share": 0.4, "interval": 1},
        "connector": "tuned",
    }
)
ENGINES: dict[str, ZeroSpec | None] = {
    "ddp": None,
    "zero0": ZeroSpec(stage=0),
    "zero2": ZeroSpec(stage=2),
    "zero3": ZeroSpec(stage=3, persistence_threshold_elements=0),
}
OTHERS = {
    "full": {"method": "full"},
    "l1": {"method": "l1", "l1": {"weight": 0.3}},
    "l2": {"method": "l2", "l2": {"weight": 300.0}},
    "magnitude": {"method": "magnitude"},
    "random_half": {"method": "random_half"},
    "half_tensors": {"method": "random_half", "random_half": {"unit": "tensor"}},
    "dare": {"method": "dare", "dare": {"drop": 0.5}},
    "grafting": {"method": "grafting"},
    "tailor": {"method": "tailor"},
}


HANDED_ON: dict[str, dict[str, Any] | PeftSpec] = {"spider": {"method": "spider"}, "adalora": ADALORA}


def batch_of(step: int) -> dict[str, Tensor]:
    return inputs(seed=1000 + step, n_samples=BATCH)


class Training:
    """One engine with one method: `what` is a KeepSpec on the last block and the connector, or a PeftSpec."""

    def __init__(self, rank: int, name: str, what: dict[str, Any] | PeftSpec, seed: int = 0, world_size: int = 2) -> None:
        reporter: Any = SimpleNamespace(rank=rank, world_size=world_size, device="cpu")
        self.rank, self.world_size = rank, world_size
        keep = KeepSpec.model_validate(what) if isinstance(what, dict) else KeepSpec()
        adapted = build(llava(seed), TUNED if isinstance(what, dict) else what, seed=seed, total_steps=STEPS)
        spec = EngineSpec(zero=ENGINES[name], accumulation=ACCUMULATION)
        self.engine: Engine = open_engine(
            adapted.module,
            parameter_groups(adapted, lr=LR, weight_decay=0.1),
            optimizer=AdamWSpec(eps=1e-6),
            engine=spec,
            batch=BATCH,
            clip_grad_norm=CLIP,
            reporter=reporter,
        )
        tensors = TrainedTensors(self.engine, rank=rank, world_size=world_size)
        self.method: KeepMethod
        if adapted.spec.method == "adalora":
            self.method = Allocation(adapted, tensors, CLIP)
        else:
            self.method = keep_method(keep, tensors, engine=spec, clip_grad_norm=CLIP, seed=SEED)
        self.keeping = Keeping(self.method, self.engine, ACCUMULATION)

    def train(self, steps: range) -> None:
        self.engine.module.train()
        for step in steps:
            batch = batch_of(step)
            for share in torch.arange(BATCH).split(self.engine.micro_batch)[self.rank :: self.world_size]:
                self.engine.backward(self.engine.forward(**{key: value[share] for key, value in batch.items()}).loss)
                ended = self.keeping.step()
            assert ended, "the whole batch was seen"

    def save(self, folder: Path) -> None:
        self.engine.save(folder)
        save_method(self.method, folder, rank=self.rank, world_size=self.world_size)

    def load(self, folder: Path) -> None:
        self.engine.load(folder)
        load_method(self.method, folder, rank=self.rank, world_size=self.world_size)

    def calibrate(self) -> None:
        sample = {key: value[self.rank :: 2] for key, value in batch_of(0).items()}
        self.engine.forward(**sample)

    def weights(self) -> dict[str, Tensor]:
        """Of what is trained, whole, on rank 0."""
        trained = {name for name, parameter in self.engine.module.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.engine.weights().items() if name in trained}


def pretrained() -> dict[str, Tensor]:
    adapted = build(llava(0), TUNED, seed=0)
    return {name: parameter.detach().clone() for name, parameter in adapted.trained()}


def adalora(rank: int) -> dict[str, Any]:
    """Under DDP and ZeRO 2, resumed in the middle, and by the library's own recipe on one rank."""
    ends: dict[str, dict[str, Tensor]] = {}
    for name in ("ddp", "zero2"):
        training = Training(rank, name, ADALORA)
        training.train(range(2))
        folder = shared_folder(rank)
        training.save(folder)
        training.train(range(2, STEPS))
        ends[name] = training.weights()
        training.engine.close()
    again = Training(rank, "zero2", ADALORA, seed=7)
    again.load(folder)
    again.train(range(2, STEPS))
    ends["resumed"] = again.weights()
    again.engine.close()
    if rank != 0:
        return {}
    wanted = plain_loop(ADALORA, STEPS)
    values = torch.cat([tensor.flatten() for name, tensor in ends["zero2"].items() if ".lora_E." in name])
    return {
        "apart": max(apart(ends[name], wanted) for name in ("ddp", "zero2")),
        "resumed apart": apart(ends["resumed"], ends["zero2"]),
        "ranks left": float((values != 0).float().mean()) * 4,
    }


def begun(home: Path) -> None:
    """One process trains two steps and saves: the first group of a training that is handed on."""
    for case in HANDED:
        method, _, name = case.partition("/")
        training = Training(0, name, HANDED_ON[method], world_size=1)
        training.train(range(2))
        handed(home, case, 1).mkdir(parents=True)
        training.save(handed(home, case, 1))
        training.engine.close()
    os._exit(0)


def gone_on(home: Path, rank: int, n_before: int, n_now: int, rendezvous: str | None) -> None:
    """The next group, of another number of processes."""
    if rendezvous is not None:
        join(rank, rendezvous)
    seen = {f"{n_before} to {n_now}/{case}": handed_on(home, case, rank, n_before, n_now) for case in HANDED}
    if rank == 0:
        (home / "handed" / f"to{n_now}.json").write_text(json.dumps(seen))
    os._exit(0)


def handed_on(home: Path, case: str, rank: int, n_before: int, n_now: int) -> dict[str, Any]:
    """Loads, saves that again, and trains to the end."""
    method, _, name = case.partition("/")
    training = Training(rank, name, HANDED_ON[method], seed=7, world_size=n_now)
    source = handed(home, case, n_before)
    again = handed(home, case, n_now) if n_now > 1 else home / "handed" / "again"
    training.load(source)
    again.mkdir(exist_ok=True)
    training.save(again)
    training.train(range(2, STEPS))
    weights = training.weights()
    training.engine.close()
    if rank != 0:
        return {}
    wanted = reference() if method == "spider" else plain_loop(ADALORA, STEPS)
    before, after = kept_in(source, n_before), kept_in(again, n_now)
    same = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    return {"apart": apart(weights, wanted), "same": same, "kept": len(before)}


def handed(home: Path, case: str, n: int) -> Path:
    """What a group of n saved."""
    return home / "handed" / f"{case.replace('/', '-')}-{n}"


def kept_in(folder: Path, n: int) -> dict[str, Tensor]:
    return {key: value for rank in range(n) for key, value in load_file(folder / f"keep-rank{rank}.safetensors").items()}


def plain_loop(spec: PeftSpec, n_steps: int) -> dict[str, Tensor]:
    """The method as the library's documentation trains it, over whole batches."""
    adapted = build(llava(0), spec, seed=0, total_steps=STEPS)
    groups = parameter_groups(adapted, lr=LR, weight_decay=0.1)
    optimizer = torch.optim.AdamW([{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups], eps=1e-6)  # type: ignore[literal-required]
    adapted.module.train()
    for step in range(n_steps):
        adapted.module(**batch_of(step)).loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in adapted.trained()], CLIP)
        optimizer.step()
        if spec.method == "adalora":
            adapted.module.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return {name: p.detach() for name, p in adapted.trained()}


def reference() -> dict[str, Tensor]:
    """SPIDER written out once more, over whole batches on one rank."""
    adapted = build(llava(0), TUNED, seed=0)
    groups = parameter_groups(adapted, lr=LR, weight_decay=0.1)
    optimizer = torch.optim.AdamW([{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups], eps=1e-6)  # type: ignore[literal-required]
    trained = dict(adapted.trained())
    w0 = {name: p.detach().clone() for name, p in trained.items()}
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    adapted.module.train()

    def z(x: Tensor) -> Tensor:
        return torch.zeros_like(x) if float(x.std()) == 0 else (x - x.mean()) / x.std()

    for step in range(STEPS):
        optimizer.zero_grad()
        adapted.module(**batch_of(step)).loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), CLIP)
        for name, p in trained.items():
            assert p.grad is not None
            total[name] += p.grad
        optimizer.step()
        with torch.no_grad():
            for name, p in trained.items():
                g, s = torch.sigmoid(z(w0[name].abs())), torch.sigmoid(z(total[name].abs()))
                mask = torch.where(g < s, s / (g + s), 0.0)
                if (mask != 0).any():
                    mask = (mask / mask[mask != 0].mean()).clamp(max=1)
                p.copy_(w0[name] * (1 - mask) + p * mask)
    return {name: p.detach() for name, p in trained.items()}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference; 0 on ranks that hold no weights."""
    assert a.keys() == b.keys()
    return max((float((a[name] - b[name]).abs().max()) for name in a), default=0.0)


def kept_share(weights: dict[str, Tensor], w0: dict[str, Tensor]) -> float:
    """Share of entries that are bit-equal to the pretrained ones."""
    equal = sum(int((weights[name] == w0[name]).sum()) for name in weights)
    return equal / max(1, sum(tensor.numel() for tensor in weights.values()))


def main() -> None:
    rank, rendezvous, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_before_a_fork()
    gc.collect()
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    home = Path(rendezvous).parent / "home"
    if rank == 0:
        write_rows(home / "rows", N_ROWS)
    seen: dict[str, Any] = {"killed": ended(lambda: doomed(home, rank, f"{rendezvous}-first"))}
    if rank == 0:
        assert ended(lambda: begun(home)) == 0
    assert ended(lambda: gone_on(home, rank, 1, 2, f"{rendezvous}-second")) == 0
    if rank == 0:
        assert ended(lambda: gone_on(home, rank, 2, 1, None)) == 0
        seen |= {key: value for n in (1, 2) for key, value in json.loads((home / "handed" / f"to{n}.json").read_text()).items()}
    join(rank, rendezvous)
    on_engines(rank, seen)
    whole_trials(home, rank, seen)
    out.write_text(json.dumps(seen))


def doomed(home: Path, rank: int, rendezvous: str) -> None:
    """Rank 0 is killed while it writes the last checkpoint; rank 1 waits for it in vain."""
    join(rank, rendezvous)
    life(home, "killed", keeping(home, KILLED), rank, killed_at=1)


def keeping(home: Path, name: str) -> VlmPeftSpec:
    """The spec of a trial, `method/stage`, or of the same in one process, `method`."""
    method, _, stage = name.partition("/")
    one_step = {"batch": 12}  # an epoch
    return spec_for(home, {"peft": PEFT["full"], "keep": {"method": method}, **one_step}, STAGES.get(stage))


def whole_trials(home: Path, rank: int, seen: dict[str, Any]) -> None:
    seen["half written"] = sorted(file.name for file in (home / "killed" / "new").iterdir())
    torch.distributed.barrier()
    _, seen["gone on"] = life(home, "killed", keeping(home, KILLED), rank)
    gc.freeze()  # an engine's end walks all objects, and what is imported by now stays
    for name in TRIALS:
        seen[f"trial/{name}"] = trained(home, name, keeping(home, name), rank)
    seen["gone on apart"] = trials_apart(home / "killed", home / KILLED)
    for i, method in enumerate(METHODS):
        if i % 2 == rank:
            _, seen[f"alone/{method}"] = life(home, f"{method}-alone", keeping(home, method), 0, world_size=1)
    part()
    for i, name in enumerate(TRIALS):
        if i % 2 == rank:
            seen[f"trial/{name}"]["export"] = answered(home, name, keeping(home, name))
            alone = home / f"{name.split('/')[0]}-alone"
            seen[f"trial/{name}"] |= {"apart": trials_apart(home / name, alone), "share apart": share_apart(home / name, alone, 2e-5)}


def on_engines(rank: int, seen: dict[str, Any]) -> None:
    w0 = pretrained()
    wanted = reference() if rank == 0 else {}
    seen["reference moved"] = apart(wanted, w0) if rank == 0 else 0.0
    for name in ENGINES:
        training = Training(rank, name, {"method": "spider"})
        training.train(range(2))
        folder = shared_folder(rank)
        training.save(folder)
        training.train(range(2, STEPS))
        weights = training.weights()
        owned = [tensor.numel() for key, tensor in training.method.state_dict().items() if key.startswith("w0.")]
        training.engine.close()
        torch.distributed.barrier()
        seen[f"spider/{name}"] = {
            "apart": apart(weights, wanted),
            "kept share": kept_share(weights, w0),
            "owned": sum(owned),
            "files": sorted(file.name for file in folder.iterdir()),
        }
    finals: dict[str, dict[str, Tensor]] = {}
    for label, keep in OTHERS.items():
        training = Training(rank, "ddp", keep)
        training.train(range(3))
        training.method.at_end(training.calibrate)
        first = finals[label] = training.weights()
        training.engine.close()
        seen[label] = {
            "kept share": kept_share(first, w0),
            "from full": apart(first, finals["full"]),
            "change": sum(float((first[name] - w0[name]).abs().mean()) for name in first),
            "untouched tensors": sum(torch.equal(first[name], w0[name]) for name in first),
            "tensors": len(first),
        }
    seen["adalora"] = adalora(rank)
    try:
        other = Training(rank, "ddp", {"method": "magnitude"})
        load_method(other.method, folder, rank=rank, world_size=2)
    except FailTrial as error:
        seen["mismatch"] = str(error)


if __name__ == "__main__":
    main()
