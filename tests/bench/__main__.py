"""`make bench`: what a trial costs beside Ray's stock pattern and beside a plain loop, memory over many trials, and the journal.

Each benchmark compares two things in one run on one machine. Figures are printed as they come, as Markdown for the README.

    make bench                    # all of it, about an hour and a half on two cores
    make bench ARGS="--only a,e"  # (a) no-op trials (b) a 16-trial CNN study (c) one trial and a plain loop (d) ZeRO memory (e) journal
                                  # (f) 10,000 trials
                                  # (k) a head search with frozen outputs kept
                                  # (m) what `plan` says a trial needs, and what it held
                                  # (r) a trial on a new group, and on a leased one that keeps its base model
                                  # (t) a multimodal trial and Hugging Face's Trainer
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.bench import (
    frozen_prefix_bench,
    journal_bench,
    leased,
    memory_bench,
    plain_loop,
    resident_bench,
    scale,
    stock_nested,
    trainer_bench,
)

CNN_POINTS = [{"optim.lr": lr, "batch": batch} for lr in (1e-4, 3e-4, 1e-3, 3e-3) for batch in (16, 32, 64, 128)]
CNN = {
    "kind": "timm_cnn",
    "model": {"name": "tf_efficientnet_lite0", "weights": "lite0_package"},
    "data": {"source": "bundled", "max_per_class": 40},
    "tune_depth": "last_stage",
    "image_size": 64,
    "epochs": 2,
    "optim": {"kind": "adamw", "lr": 3e-4},
}


def noop_trials() -> None:
    """(a) Marginal seconds of a no-op trial."""
    stock, ours = stock_nested.measure(trials=4), leased.measure(trials=20)
    say("(a) no-op trial (a DeepSpeed ZeRO-1 engine, one step, one report), one at a time", ("", "stock nested", "leased group", "ratio"))
    row("marginal seconds a trial", stock["marginal_seconds_per_trial"], ours["marginal_seconds_per_trial"])
    row("first trial ended after, s", stock["first_trial_seconds"], ours["first_trial_seconds"])


def cnn_study() -> None:
    """(b) The same 16 points and epochs."""
    stock, ours = stock_nested.measure_cnn(CNN, CNN_POINTS, seed=42), leased.measure_cnn(CNN, CNN_POINTS, seed=42)
    say("(b) 16-trial CNN study, same points and epochs, one trial at a time", ("", "stock nested", "leased group", "ratio"))
    row("wall seconds of the study", stock["total_seconds"], ours["total_seconds"])
    row("marginal seconds a trial", stock["marginal_seconds_per_trial"], ours["marginal_seconds_per_trial"])


def one_trial() -> None:
    """(c) One trial beside a loop written by hand."""
    found = plain_loop.measure()
    say("(c) one CNN trial and a plain PyTorch loop on the same data", ("", "plain loop", "trial", "trial / plain"))
    row("seconds an epoch", found["plain"]["seconds_per_epoch"], found["trial"]["seconds_per_epoch"], found["time_ratio"])
    mb = [found[side]["peak_rss_bytes"] / 2**20 for side in ("plain", "trial")]
    row("peak resident MB", mb[0], mb[1], found["memory_ratio"])


def zero_memory() -> None:
    """(d) One process, 200 trials, each ZeRO stage."""
    print("\n(d) resident memory of one process over 200 trials, each ZeRO stage; `ours` closes engines, `stock` calls destroy()\n")
    subprocess.run([sys.executable, "-m", "tests.bench.zero_soak"], check=True)


def journal() -> None:
    """(e) The journal."""
    found = journal_bench.measure()
    say("(e) journal", ("", "figure"))
    print(f"| durable events a second | {found['events_per_second']} |")
    print(
        f"| resume of {found['trials']} trials ({found['events']} events, {found['journal_mb']} MB), seconds | {found['resume_seconds']} |"
    )


def kept_outputs() -> None:
    """(k) A 24-trial head search with and without keeping what the frozen encoder gives."""
    found = frozen_prefix_bench.measure()
    say("(k) 24-trial head search on frozen Lite0 and MiniLM, one trial at a time", ("", "computed every time", "kept", "ratio"))
    row("wall seconds of the search", found["computed_seconds"], found["kept_seconds"])
    row("seconds of a trial after the first", found["computed_seconds"] / found["trials"], found["further_kept_seconds"])


def memory() -> None:
    """(m) The estimate of a trial's memory beside the trial's."""
    say("(m) peak memory of a trial on a CPU, MiB", ("", "estimated", "measured", "estimated / measured"))
    for name, found in memory_bench.measure().items():
        row(name, found["estimated"] / 2**20, found["measured"] / 2**20)


def kept_base() -> None:
    """(r) A trial on a new group, and on a leased one with and without its base model kept loaded."""
    found = resident_bench.measure()
    say("(r) a LoRA trial of one step on Gemma 3 270M with its tower", ("", "before", "base model kept", "ratio"))
    row("seconds of the second trial, beside the first on a new group", found["cold"], found["kept"])
    row("seconds of the second trial, beside one that loads again", found["leased"], found["kept"])


def beside_trainer() -> None:
    """(t) A multimodal trial beside Hugging Face's Trainer."""
    found = trainer_bench.measure()
    say("(t) LoRA on a LLaVA of random weights (26 million), fp32, 8 rows a step", ("", "Trainer + peft", "trial", "trial / Trainer"))
    for name in ("samples_per_second", "tokens_per_second"):
        row(name.replace("_", " "), found["trainer"][name], found["trial"][name], found["speed_ratio"])
    mb = [found[side]["peak_memory_bytes"] / 2**20 for side in ("trainer", "trial")]
    row("peak memory MB", mb[0], mb[1], mb[1] / mb[0])


def many_trials() -> None:
    """(f) A study of 100, 1,000 and 10,000 trials, and how its costs grow."""
    print("\n(f) a study of 10,000 trials on 1,000 simulated slots")
    scale.measure()


ALL: dict[str, Callable[[], None]] = {
    "a": noop_trials,
    "b": cnn_study,
    "c": one_trial,
    "d": zero_memory,
    "e": journal,
    "f": many_trials,
    "k": kept_outputs,
    "m": memory,
    "r": kept_base,
    "t": beside_trainer,
}


def say(title: str, columns: tuple[str, ...]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")


def row(name: str, left: float, right: float, ratio: float | None = None) -> None:
    """The ratio is left / right, unless given."""
    print(f"| {name} | {left:.2f} | {right:.2f} | {left / right if ratio is None else ratio:.2f} |", flush=True)


def machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpus": os.cpu_count(), "gpu": gpu, "python": platform.python_version(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ALL), help="letters, separated by commas")
    asked = parser.parse_args().only.split(",")
    unknown = [letter for letter in asked if letter not in ALL]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    print(f"machine: {machine()}", flush=True)
    for letter in asked:
        ALL[letter]()


if __name__ == "__main__":
    main()
