"""One multimodal trial beside Hugging Face's Trainer with peft: the same model, rows, adapter, batches and precision (benchmark t).

The model is a LLaVA of random weights, large enough that its tensors outweigh Python. Both sides get rows that are encoded already and
train two epochs, of which the second counts; the trial evaluates and saves between them, outside of what is timed, the Trainer does
neither. Each side has a process of its own. On a GPU the shape can be that of LLaVA-1.5-7B (`--shape 7b`).

    python -m tests.bench.trainer_bench [--shape small|7b] [--precision fp32|bf16] [--batch 8] [--rows 240] [--rounds 2]

B rows of a batch, T tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the vision tower and of the language model
    "small": (
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
        {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8},
    ),
    "7b": (
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32},
    ),
}


@dataclass(frozen=True)
class Setting:
    shape: str = "small"
    precision: str = "fp32"
    batch: int = 8
    rows: int = 240
    r: int = 8
    lr: float = 1e-4
    seed: int = 42


def measure(setting: Setting | None = None, rounds: int = 2) -> dict[str, Any]:
    """Both sides in turn, `rounds` times; the better round of each counts. Gives "trainer" and "trial": samples_per_second,
    tokens_per_second, last_loss, peak_memory_bytes; and speed_ratio, trial / trainer."""
    setting = setting or Setting()
    taken: dict[str, list[dict[str, Any]]] = {"trainer": [], "trial": []}
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        _in_own_process("prepare", setting, home)
        for _ in range(rounds):
            for side, figures in taken.items():
                figures.append(_in_own_process(side, setting, home))
    trainer, trial = (max(figures, key=lambda found: found["samples_per_second"]) for figures in taken.values())
    return {"trainer": trainer, "trial": trial, "speed_ratio": trial["samples_per_second"] / trainer["samples_per_second"]}


def _in_own_process(side: str, setting: Setting, home: Path) -> dict[str, Any]:
    order = json.dumps({"side": side, "setting": asdict(setting), "home": str(home)})
    command = [sys.executable, "-m", "tests.bench.trainer_bench", "--order", "-"]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, input=order, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the {side} side failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


# -- in the child process --------------------------------------------------------------------------------------------------------


def prepare(setting: Setting, home: Path) -> dict[str, Any]:
    """The model with its processor in a folder, and the rows."""
    import torch
    from transformers import AutoModelForImageTextToText

    from tests.vlm_peft.cases import write_rows
    from trainables.vlm_peft import tiny

    config = tiny.config("llava")
    vision, text = SHAPES[setting.shape]
    config.vision_config.update(vision)
    config.text_config.update({**text, "head_dim": text["hidden_size"] // text["num_attention_heads"]})
    torch.manual_seed(setting.seed)
    torch.set_default_dtype(torch.bfloat16 if setting.precision == "bf16" else torch.float32)
    AutoModelForImageTextToText.from_config(config).save_pretrained(home / "model")
    tiny.processor("llava").save_pretrained(home / "model")
    write_rows(home / "rows", setting.rows * 5 // 3)  # three of five are for training
    return {}


def spec_of(setting: Setting, home: Path) -> Any:
    from trainables.vlm_peft.spec import VlmPeftSpec

    return VlmPeftSpec.model_validate(
        {
            "model": {"name": str(home / "model"), "max_length": 256},
            "data": {"reader": "mvsa", "source": str(home / "rows"), "prompt": "post_as_is"},
            "peft": {"method": "lora", "lora": {"r": setting.r, "alpha": 2 * setting.r, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}},
            "optim": {"lr": setting.lr},
            "schedule": {"kind": "constant"},
            "batch": setting.batch,
            "epochs": 2,
            "engine": {"precision": setting.precision},
        }
    )


def reporter_in(home: Path) -> Any:
    import torch

    from tests.trainables.reporting import FakeReporter
    from trainables.vlm_peft.spec import METRICS

    run = FakeReporter(home / f"trial-{time.time_ns()}", METRICS)
    run.cache_dir, run.device = home / "cache", "cuda:0" if torch.cuda.is_available() else "cpu"
    return run


def trial(setting: Setting, home: Path) -> dict[str, Any]:
    """The recipe, in the foreground."""
    from trainables.vlm_peft import recipe

    run = reporter_in(home)
    recipe.train(spec_of(setting, home), run)
    last = run.reports[-1][1]
    names = {"samples_per_second": "samples_per_second", "tokens_per_second": "tokens_per_second", "last_loss": "train/loss"}
    return {ours: last[theirs] for ours, theirs in names.items()} | {"peak_memory_bytes": last["peak_memory_bytes"]}


def trainer(setting: Setting, home: Path) -> dict[str, Any]:
    """transformers.Trainer with peft.LoraConfig, as their documentation puts them together; rows come from the trial's own cache."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()  # before transformers
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from trainables.adapters.engine import PeakMemory
    from trainables.vlm_peft.batches import Batches
    from trainables.vlm_peft.chat import Chat
    from trainables.vlm_peft.model import DTYPE, end_ids, load_config, load_model, load_processor
    from trainables.vlm_peft.task import open_tasks

    spec, run = spec_of(setting, home), reporter_in(home)
    processor = load_processor(spec.model)
    chat = Chat(processor, spec.model, end_ids(spec.model))
    tasks = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=run)
    rows, device = tasks.target.rows, torch.device("cpu")
    batches = Batches(rows, int(chat.tokenizer.pad_token_id), device, DTYPE[spec.engine.precision], keeps_logits=False)
    mark = PeakMemory(torch.device(run.device))
    base = load_model(spec.model, run.device).to(DTYPE[spec.engine.precision])
    config = LoraConfig(r=setting.r, lora_alpha=2 * setting.r, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)

    def collate(picked: list[int]) -> dict[str, Any]:
        batch = batches.training(picked)
        return {**batch.inputs, "labels": batch.labels_BT}

    class Clock(TrainerCallback):
        began = took = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.took = time.perf_counter() - self.began

    train_rows = [int(i) for i in tasks.target.table.split["train"]]
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(home / "trainer"),
        per_device_train_batch_size=setting.batch,
        num_train_epochs=2,
        learning_rate=setting.lr,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=setting.precision == "bf16",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=setting.seed,
        use_cpu=run.device == "cpu",
    )
    found = Trainer(model=model, args=arguments, train_dataset=train_rows, data_collator=collate, callbacks=[clock])  # type: ignore[arg-type]
    found.train()
    losses = [line["loss"] for line in found.state.log_history if "loss" in line]
    return {
        "samples_per_second": len(train_rows) / clock.took,
        "tokens_per_second": int(rows.lengths[train_rows].sum()) / clock.took,
        "last_loss": losses[-1],
        "peak_memory_bytes": mark.bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=240, help="that are trained on")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--order", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.order is None:
        setting = Setting(asked.shape, asked.precision, asked.batch, asked.rows)
        print(json.dumps(measure(setting, asked.rounds), indent=1))
        return
    order = json.loads(sys.stdin.read())
    sides = {"prepare": prepare, "trial": trial, "trainer": trainer}
    print(json.dumps(sides[order["side"]](Setting(**order["setting"]), Path(order["home"]))))


if __name__ == "__main__":
    main()
