"""The text of every mistake, read in full: where, what was got, the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.kinds import STUDY, edited, problems_of

SAMPLERS = "tpe, gp, cmaes, nsga2, nsga3, quasi_random, random, grid"
SECTIONS = "study, metric, objectives, budget, sampler, scheduler, cluster, trainable, space, first"
TOY = "kind, data, batch, epochs, depth, flip, crop, optim, schedule, peft"
PARAM = "{float: [low, high]}, {int: [low, high]}, {choice: [a, b]} or {choose: {selector: {branch: {...}}}}"
POINT = '{"optim.lr": 1e-06, "batch": 8, "schedule.kind": "constant", "peft.method": "lora", "peft.lora.r": 4}'
WITH_MOMENTUM = POINT.replace('"batch": 8', '"batch": 8, "optim.momentum": 0.1')

CASES: list[tuple[str, str, tuple[str, str, str]]] = [
    # sections
    (
        "budget: {trials: 32}",
        "budgte: {trials: 32}",
        ("study.yaml:3: budgte", "a key that does not exist here (did you mean 'budget'?)", f"use one of {SECTIONS}"),
    ),
    (
        "study: {name: demo, seed: 42}",
        "study: {name: ../demo, seed: 42}",
        (
            "study.yaml:1: study.name",
            '"../demo" cannot name a folder',
            "use 1 to 64 of the letters a to z, digits, _ and -, the first a letter or a digit (--storage says where it lies)",
        ),
    ),
    (
        "study: {name: demo, seed: 42}",
        "study: {name: demo, seed: -1}",
        ("study.yaml:1: study.seed", "-1", "use a number of at least 0"),
    ),
    (
        "study: {name: demo, seed: 42}",
        "study: {name: demo, seed: '42'}",
        ("study.yaml:1: study.seed", '"42" (text)', "use a whole number"),
    ),
    (
        "budget: {trials: 32}",
        "budget: {trials: .inf}",  # and nothing about the stand-in for it
        ("study.yaml:3: budget.trials", ".inf", "use a finite number"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: [1e-6, .nan], log: true}",
        ("study.yaml:13: space.optim.lr.float.1", ".nan", "use a finite number"),
    ),
    (
        "budget: {trials: 32}",
        "budget: {}",
        ("study.yaml:3: budget", "no limit", "give at least one of trials, wall_hours, gpu_hours, usd"),
    ),
    ("budget: {trials: 32}", "budget: {trials: 0}", ("study.yaml:3: budget.trials", "0", "use a number of at least 1")),
    ("budget: {trials: 32}", "budget: {trials: 1e3}", ("study.yaml:3: budget.trials", "1000.0", "use a whole number")),
    (
        "budget: {trials: 32}",
        "budget: 32",
        ("study.yaml:3: budget", "32", "use a mapping with keys of trials, wall_hours, gpu_hours, usd"),
    ),
    (
        "cluster: local",
        "cluster: {gpus_per_worker: 0}\nfirst: []",
        (
            "study.yaml:3: budget.gpu_hours",
            "2, while cluster.gpus_per_worker is 0: this limit is never reached",
            "remove it, or give workers a GPU",
        ),
    ),
    (
        "{kind: tpe, n_startup: 5}",
        "{kind: tpa}",
        (
            "study.yaml:4: sampler",
            "kind: tpa (did you mean 'tpe'?)",
            f"set kind to one of {SAMPLERS}",
        ),
    ),
    (
        "{kind: tpe, n_startup: 5}",
        "{n_startup: 5}",
        (
            "study.yaml:4: sampler",
            "a mapping with n_startup, without kind",
            f"add kind: {SAMPLERS.replace(', ', ' | ')}",
        ),
    ),
    (
        "{kind: tpe, n_startup: 5}",
        "{kind: random, n_startup: 5}",
        ("study.yaml:4: sampler.n_startup", "a key that does not exist here", "use one of kind"),
    ),
    (
        "{kind: tpe, n_startup: 5}",
        "{kind: tpe, multivariate: yes}",
        ("study.yaml:4: sampler.multivariate", '"yes" (text)', "use true or false"),
    ),
    (
        "{kind: tpe, n_startup: 5}",
        "{kind: grid}\nfirst: []",
        (
            "study.yaml:4: sampler.kind",
            "grid over optim.lr, which has no end of values",
            "give each float a step or a choice, or use the sampler random or tpe",
        ),
    ),
    # metric
    (
        "{name: val/f1, mode: max}",
        "{name: val/f2, mode: max}",
        (
            "study.yaml:2: metric.name",
            "val/f2, which toy does not report (did you mean 'val/f1'?)",
            "use one of val/f1, val/loss",
        ),
    ),
    (
        "{name: val/f1, mode: max}",
        "{name: test/f1, mode: max}",
        ("study.yaml:2: metric.name", "test/f1, which toy reports at the end only", "use one of val/f1, val/loss"),
    ),
    (
        "{name: val/f1, mode: max}",
        "{name: val/loss, mode: max}",
        ("study.yaml:2: metric.mode", "max", "set metric.mode to min: the best val/loss is the lowest"),
    ),
    (
        "{name: val/f1, mode: max}",
        "{name: val/f1, mode: maximize}",
        ("study.yaml:2: metric.mode", '"maximize" (text)', "use 'max' or 'min'"),
    ),
    (
        "metric: {name: val/f1, mode: max}",
        "objectives: [{name: val/f1, mode: min}]",
        ("study.yaml:2: objectives.0.mode", "min", "set objectives.0.mode to max: the best val/f1 is the highest"),
    ),
    (
        "metric: {name: val/f1, mode: max}",
        "objectives: [{name: val/f1, max: 0.5}]",
        ("study.yaml:2: objectives", "limits only", "give at least one entry a mode: max or min"),
    ),
    (
        "metric: {name: val/f1, mode: max}",
        "objectives: [{name: val/f1, mode: max}, {name: val/loss}]",
        ("study.yaml:2: objectives.1", "val/loss with neither mode nor min nor max", "give mode: max or min, or a limit min or max"),
    ),
    (
        "metric: {name: val/f1, mode: max}",
        "metric: {name: val/f1, mode: max}\nobjectives: [{name: val/loss, mode: min}]",
        ("study.yaml:3: objectives", "objectives beside metric", "remove metric: the objectives take its place"),
    ),
    (
        "metric: {name: val/f1, mode: max}\n",
        "",
        ("study.yaml:1: metric", "nothing", "add metric: {name, mode}, or objectives: a list of several"),
    ),
    # scheduler
    (
        "axis: epoch",
        "axis: epohc",
        ("study.yaml:5: scheduler.axis", "epohc (did you mean 'epoch'?)", "use epoch: that is what the steps of toy count"),
    ),
    (
        "grace: 5",
        "grace: 50",
        (
            "study.yaml:5: scheduler.grace",
            "grace 50 with max 50: no trial would be stopped",
            "set grace below 49, or scheduler: {kind: none}",
        ),
    ),
    ("factor: 4", "factor: 1", ("study.yaml:5: scheduler.factor", "1", "use a number of at least 2")),
    (
        "max: 50}",
        "max: 40}",
        (
            "study.yaml:5: scheduler.max",
            "40, while the longest trial has 50 epochs",
            "set it to 50 or leave it out (a rung past the end never judges, a lower max ends trials early)",
        ),
    ),
    (
        "max: 50}",
        "max: 50, brackets: 3}",
        (
            "study.yaml:5: scheduler.brackets",
            "3 brackets, of which the last has no rung below max 50",
            "lower brackets, grace or factor",
        ),
    ),
    # cluster
    (
        "cluster: local",
        "cluster: locall",
        (
            "study.yaml:6: cluster",
            "\"locall\" (text) (did you mean 'local'?)",
            "use local, a file <name>.yaml under configs/clusters, or a mapping",
        ),
    ),
    (
        "cluster: local",
        "cluster: ../../etc/passwd",
        (
            "study.yaml:6: cluster",
            '"../../etc/passwd" (text)',
            "use local, a file <name>.yaml under configs/clusters, or a mapping",
        ),
    ),
    ("cluster: local", "cluster: {workers: 0}", ("study.yaml:6: cluster.workers", "0", "use a number of at least 1")),
    (
        "cluster: local",
        "cluster: {gpus_per_worker: 1.5}",
        ("study.yaml:6: cluster.gpus_per_worker", "1.5", "use auto, 0, a share below 1 or a whole number"),
    ),
    ("cluster: local", "cluster: {memory_gb_per_worker: 0}", ("study.yaml:6: cluster.memory_gb_per_worker", "0", "use a number above 0")),
    (
        "cluster: local",
        "cluster: {accelerator: h100}",
        ("study.yaml:6: cluster.accelerator", "h100", "use H100, which is how Ray spells it"),
    ),
    (
        "cluster: local",
        "cluster: {accelerator: H100, gpus_per_worker: 0.0}",
        (
            "study.yaml:6: cluster.accelerator",
            "H100, while cluster.gpus_per_worker is 0: no worker would use one",
            "remove it, or give workers a GPU",
        ),
    ),
    (
        "cluster: local",
        "cluster: {workers: 2, gpus_per_worker: 0.5}",
        (
            "study.yaml:6: cluster.gpus_per_worker",
            "0.5 for each of 2 workers: two of them could share one GPU, which NCCL refuses",
            "give each a whole GPU, or use cluster.workers: 1",
        ),
    ),
    (
        "cluster: local",
        "cluster: {labels: {market: spot or not}}",
        (
            "study.yaml:6: cluster.labels.market",
            '"spot or not" (text)',
            "use text that matches ^!?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
        ),
    ),
    (
        "cluster: local",
        "cluster: {autoscale: {max_trials: 0}}",
        ("study.yaml:6: cluster.autoscale.max_trials", "0", "use a number of at least 1"),
    ),
    (
        "cluster: local",
        "cluster: {concurrency: 4, autoscale: {max_trials: 16}}",
        (
            "study.yaml:6: cluster.concurrency",
            "4 beside autoscale.max_trials 16",
            "remove it: max_trials is the most trials at once",
        ),
    ),
    (
        "cluster: local",
        "cluster: {workers: 4, elastic: {min_workers: 2}}",
        ("study.yaml:6: cluster.elastic", "min_workers 2, and toy has no batch that its workers share", "remove it"),
    ),
    # trainable
    (
        "  kind: toy",
        "  kind: toi",
        ("study.yaml:8: trainable.kind", "\"toi\" (text) (did you mean 'toy'?)", "set kind to one of table, toy"),
    ),
    ("  kind: toy\n", "", ("study.yaml:7: trainable.kind", "nothing (null)", "set kind to one of table, toy")),
    ("  data: pictures\n", "", ("study.yaml:7: trainable.data", "nothing: it is required", "add it: Folder of the data.")),
    (
        "  data: pictures",
        "  data: pictures\n  bacth: 3",
        ("study.yaml:10: trainable.bacth", "a key that does not exist here (did you mean 'batch'?)", f"use one of {TOY}"),
    ),
    (
        "  data: pictures",
        "  data: pictures\n  depth: heed",
        ("study.yaml:10: trainable.depth", "\"heed\" (text) (did you mean 'head'?)", "use 'head' or 'all' or a whole number"),
    ),
    (
        "  data: pictures",
        "  data: pictures\n  crop: [1]",
        ("study.yaml:10: trainable.crop.1", "nothing: it is required", "add it"),
    ),
    (
        "patience: 2",
        "t_max: 2",
        ("study.yaml:11: trainable.schedule.t_max", "a key that does not exist here", "use one of kind, patience"),
    ),
    (
        "optim: {lr: 3e-4}",
        "optim: {lr: 3e-4, momentum: 0.9}",
        ("study.yaml:10: trainable.optim", "momentum is not used by adam", "remove it or set kind: sgd"),
    ),
    ("optim: {lr: 3e-4}", "optim: {lr: '3e-4'}", ("study.yaml:10: trainable.optim.lr", '"3e-4" (text)', "use a number")),
    # space
    (
        "optim.lr: {float: [1e-6, 1e-3], log: true}",
        "optim.rl: {float: [1e-6, 1e-3], log: true}\nfirst: []",
        (
            "study.yaml:13: space.optim.rl",
            "optim.rl, which is no field of trainable (did you mean 'optim.lr'?)",
            "use a field of optim: lr, momentum",
        ),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "kind: {choice: [toy]}\nfirst: []",
        ("study.yaml:14: space.kind", "kind, which is one for the whole study", "remove it, and write a study for each kind"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: [8, 16, 32]",
        ("study.yaml:14: space.batch", "[8, 16, 32]", "write batch: {choice: [8, 16, 32]} for one of these values"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: 32",
        ("study.yaml:14: space.batch", "32", f"use {PARAM}; a fixed value belongs under trainable"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {choices: [8, 16, 32]}",
        ("study.yaml:14: space.batch", "a mapping with choices (did you mean 'choice'?)", f"use {PARAM}"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {choice: []}",
        ("study.yaml:14: space.batch.choice", "[]", "use a list with at least one option"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {choice: [8, 32, 8.0]}",
        ("study.yaml:14: space.batch.choice.2", "8.0 a second time", "remove one of the two (1, 1.0 and true count as equal)"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {choice: [8, 32], log: true}",
        ("study.yaml:14: space.batch.log", "a key that does not exist here", "remove it: choice stands alone"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {choice: [8, 32, 0]}",
        ("study.yaml:14: space.batch", "batch = 0, which the field does not take", "use a number of at least 1"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {float: [8, 32]}",
        ("study.yaml:14: space.batch", "batch as float", "use int instead of float: the field takes whole numbers"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {int: [8, 8]}",
        ("study.yaml:14: space.batch.int", "low 8, high 8", "use two different bounds; a fixed value belongs under trainable"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {int: [8, 32], step: 7}",
        ("study.yaml:14: space.batch.step", "step 7 does not lead from 8 to 32", "set the upper bound to 29"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {int: [8, 32], step: 8, log: true}",
        ("study.yaml:14: space.batch.step", "step 8 together with log: true", "remove one of the two"),
    ),
    (
        "batch: {choice: [8, 16, 32]}",
        "batch: {int: [8, 32.5]}",
        ("study.yaml:14: space.batch.int", "32.5", "use whole numbers, or float instead of int"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: [1e-3, 1e-6], log: true}",
        ("study.yaml:13: space.optim.lr.float", "low 0.001, high 1e-06", "put the lower bound first"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: [0, 1e-3], log: true}",
        ("study.yaml:13: space.optim.lr.float", "low 0 on a log axis", "use a lower bound above 0, or log: false"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: [1e-6, 1e-3], log: on}",
        ("study.yaml:13: space.optim.lr.log", '"on" (text)', "use true or false"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: [1e-6, 2], log: true}",
        ("study.yaml:13: space.optim.lr", "optim.lr = 2.0, which the field does not take", "use a number of at most 1"),
    ),
    (
        "{float: [1e-6, 1e-3], log: true}",
        "{float: 1e-6}",
        ("study.yaml:13: space.optim.lr.float", "1e-06", "use two numbers: {float: [low, high]}"),
    ),
    (
        "ia3: {}",
        "ia4: {}",
        ("study.yaml:16: space.peft", 'peft.method = "ia4" (text), which the field does not take', "use 'lora' or 'ia3'"),
    ),
    (
        "{choose: {method: {lora",
        "{choose: {methud: {lora",
        (
            "study.yaml:16: space.peft",
            "peft.methud, which is no field of trainable (did you mean 'peft.method'?)",
            "use a field of peft: method, lora, ia3",
        ),
    ),
    (
        "  batch: {choice: [8, 16, 32]}",
        "  batch: {choice: [8, 16, 32]}\n  peft.method: {choice: [lora]}",
        ("study.yaml:15: space.peft.method", "peft.method, while the space already has peft.method", "keep one of the two"),
    ),
    (
        "  batch: {choice: [8, 16, 32]}",
        "  batch: {choice: [8, 16, 32]}\n  optim: {choice: [a]}",
        ("study.yaml:15: space.optim", "optim, while the space already has optim.lr", "keep one of the two"),
    ),
    (
        "  batch: {choice: [8, 16, 32]}",
        "  batch: {choice: [8, 32]}\n  optim.momentum: {float: [0.1, 0.9]}",
        (
            "study.yaml:10: trainable.optim",
            f"momentum is not used by adam (at 136 of 136 points tried, such as {WITH_MOMENTUM})",
            "remove it or set kind: sgd",
        ),
    ),
    # first
    (
        "first: [{optim.lr: 3e-4, batch: 32}]",
        "first: [{optim.lr: 3e-4, batch: 33}]",
        ("study.yaml:17: first.0.batch", "33", "use one of 8, 16, 32"),
    ),
    (
        "first: [{optim.lr: 3e-4, batch: 32}]",
        "first: [{optim.rl: 3e-4}]",
        (
            "study.yaml:17: first.0.optim.rl",
            "a key that is not in the space (did you mean 'optim.lr'?)",
            "use a key of the space: optim.lr, batch, schedule.kind, schedule.cosine.t_max, peft.method, peft.lora.r",
        ),
    ),
    (
        "first: [{optim.lr: 3e-4, batch: 32}]",
        "first: {batch: 32}",
        ("study.yaml:17: first", "a mapping with batch", "use a list of points: [{key: value, ...}]"),
    ),
    (
        "first: [{optim.lr: 3e-4, batch: 32}]",
        "first: [32]",
        ("study.yaml:17: first.0", "32", "use a point: {key: value, ...} with keys of the space"),
    ),
]


@pytest.mark.parametrize(("old", "new", "problem"), CASES, ids=[f"{i}-{case[1][:30]}" for i, case in enumerate(CASES)])
def test_a_mistake_is_told_with_its_line_what_was_got_and_the_fix(
    tmp_path: Path, old: str, new: str, problem: tuple[str, str, str]
) -> None:
    text = edited(old, new)
    if new.endswith("first: []"):  # the mistake would make the first point one too
        text = text.replace("\nfirst: []", "", 1).replace("first: [{optim.lr: 3e-4, batch: 32}]\n", "")
    if "gpus_per_worker: 0}" in new:
        text = text.replace("budget: {trials: 32}", "budget: {trials: 32, gpu_hours: 2}")
    assert problems_of(tmp_path, text) == [problem]


def test_a_point_that_is_no_full_spec_is_told_once_with_an_example(tmp_path: Path) -> None:
    found = problems_of(tmp_path, edited("cluster: local", "cluster: {workers: 3}").replace("  data:", "  batch: 9\n  data:"))
    where, got, fix = found[0]
    assert where == "study.yaml:15: space.batch"
    assert got == f"batch 8 does not divide into 3 workers (at 118 of 118 points tried, such as {POINT})"
    assert fix == "change one of the two"
    assert found[1:] == [("study.yaml:18: first.0", "batch: batch 32 does not divide into 3 workers", "change one of the two")]


def test_all_mistakes_of_all_sections_come_at_once(tmp_path: Path) -> None:
    text = """\
study: {name: a b}
metric: {name: val/f2, mode: max}
budget: {}
budget: {trials: 3}
sampler: {kind: tpa}
cluster: {workers: x}
trainable: {kind: toy, data: d, batch: 007}
space: {batch: {int: [4, 1]}}
extra: 1
"""
    found = problems_of(tmp_path, text, "metric.mode=min", "trainable.optim.rl=3", "nonsense")
    assert [where for where, _, _ in found] == [
        "study.yaml:4: budget",
        "study.yaml:7: trainable.batch",
        "--set nonsense",
        "study.yaml:1: study.name",
        "study.yaml:5: sampler",
        "study.yaml:6: cluster.workers",
        "study.yaml:9: extra",
        "study.yaml:8: space.batch.int",
        "study.yaml:3: budget",
        "study.yaml:2: metric.name",
        "--set trainable.optim.rl",
    ]


SET_CASES = [
    ("budget", ("--set budget", "no key=value with a dotted key", "write it like --set budget.trials=8")),
    ("=3", ("--set =3", "no key=value with a dotted key", "write it like --set budget.trials=8")),
    ("a..b=3", ("--set a..b=3", "no key=value with a dotted key", "write it like --set budget.trials=8")),
    (
        "budgte.trials=3",
        ("--set budgte.trials", "no section 'budgte' (did you mean 'budget'?)", f"begin the key with one of {SECTIONS}"),
    ),
    (
        "budget.trails=3",
        (
            "--set budget.trails",
            "a key that does not exist here (did you mean 'trials'?)",
            "use one of trials, wall_hours, gpu_hours, usd",
        ),
    ),
    (
        "budget.trials=[",
        (
            "--set budget.trials",
            "'[': expected the node content, but found '<stream end>'",
            "check indentation, brackets and quotes at and above this line",
        ),
    ),
    (
        "budget.trials.x=1",
        ("--set budget.trials.x", "a key inside 'budget.trials', which is 32", "set budget.trials as a whole, or remove this"),
    ),
    ("study.seed=1.5", ("--set study.seed", "1.5", "use a whole number")),
    ("space.optim.lr.log=maybe", ("--set space.optim.lr.log", '"maybe" (text)', "use true or false")),
    (
        "space.optim.lrr=null",
        (
            "--set space.optim.lrr",
            "null for an entry that the space does not have (did you mean 'optim.lr'?)",
            "remove it; the space has optim.lr, batch, schedule, peft",
        ),
    ),
    (
        "first.7.batch=8",
        ("--set first.7.batch", "'7', which is no index of a point", "use `--set first=[{key: value}]` or an index from 0 to 0"),
    ),
    (
        "trainable.epochs=20",
        (
            "study.yaml:5: scheduler.max",
            "50, while the longest trial has 20 epochs",
            "set it to 20 or leave it out (a rung past the end never judges, a lower max ends trials early)",
        ),
    ),
]


@pytest.mark.parametrize(("text", "problem"), SET_CASES, ids=[case[0] for case in SET_CASES])
def test_a_mistake_of_set_is_told_with_its_key(tmp_path: Path, text: str, problem: tuple[str, str, str]) -> None:
    assert problems_of(tmp_path, STUDY, text) == [problem]


def test_a_grid_needs_whole_first_points(tmp_path: Path) -> None:
    text = edited("{kind: tpe, n_startup: 5}", "{kind: grid}").replace("{float: [1e-6, 1e-3], log: true}", "{choice: [3e-4, 1e-3]}")
    assert problems_of(tmp_path, text) == [
        (
            "study.yaml:17: first.0",
            "a point without schedule.kind, peft.method",
            "give every key of the space: a grid does not fill them in",
        )
    ]


def test_a_table_has_no_fields_and_a_ladder_on_it_needs_its_length(tmp_path: Path) -> None:
    text = """\
study: {name: a}
metric: {name: x, mode: max}
budget: {trials: 1}
scheduler: {kind: asha}
trainable: {kind: table, lr: 1}
space: {}
"""
    assert problems_of(tmp_path, text) == [
        ("study.yaml:5: trainable.lr", "a key that nothing reads", "remove it: trainable of kind table has no fields"),
        ("study.yaml:4: scheduler.max", "nothing", "add max: table does not say how many steps a trial has"),
    ]
