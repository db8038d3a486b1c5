"""Fine-tune a multimodal language model to answer by text: one trial, read top to bottom.

Promises: everything needed to go on is in the checkpoint and in the kept weights beside it, and each stretch draws from a seed of
its own, so on a CPU a resumed trial ends bit for bit where an uninterrupted one does; the adapter of the best step is the trial's
model; it runs on any reporter, without Ray; where memory runs out the micro-batch is halved, the global batch kept. Checkpoints
and kept weights hold what is trained, not the base. It does not choose hyperparameters.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainables.adapters.engine import Engine, open_engine
from trainables.adapters.resident import RESIDENT
from trainables.engine_spec import AdamWSpec, EngineSpec
from trainables.kept import drop_all_but, keep
from trainables.peft_methods.adalora import Allocation
from trainables.peft_methods.build import Adapted, parameter_groups
from trainables.peft_methods.count import ParameterCount, counted
from trainables.pieces import derived_seed, looked_at, summed
from trainables.spider.methods import Keeping, KeepMethod, keep_method, load_method, save_method
from trainables.spider.skills import skills
from trainables.spider.spec import POST_HOC
from trainables.spider.tensors import TrainedTensors
from trainables.vlm_peft.batches import Batches, answer_loss, keeps_logits
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.course import Course, Plan, after_report, is_over, lr_factor, pieces_of
from trainables.vlm_peft.evaluate import Asker, judge
from trainables.vlm_peft.finish import finish, source_scores, sources_before
from trainables.vlm_peft.memory_short import on_short_memory
from trainables.vlm_peft.model import DTYPE, adapt, borrow_model, end_ids, frozen_modules, load_config, load_processor
from trainables.vlm_peft.regular import orthogonality
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec
from trainables.vlm_peft.task import Tasks, open_tasks
from tune.core.errors import FailTrial
from tune.core.ports import Outcome, Reporter

Borrow = Callable[[ModelSpec, str, bool], Any]
_COURSE = "course.json"


@dataclass(frozen=True)
class Lesson:
    """What a trial trains with, beside the engine."""

    spec: VlmPeftSpec
    tasks: Tasks
    processor: Any
    chat: Chat
    batches: Batches
    plan: Plan
    count: ParameterCount
    reporter: Reporter

    def batches_of(self, name: str) -> Batches:
        """Of a kept set."""
        return self.batches.of(self.tasks.kept[name].rows)


def train(spec: VlmPeftSpec, reporter: Reporter) -> Outcome:
    """Train to the last step, early stopping or the reporter's stop. Test metrics are those of the kept step; none if stopped."""
    return trained(spec, reporter, borrow_model)


def trained(spec: VlmPeftSpec, reporter: Reporter, borrow: Borrow) -> Outcome:
    """As `train`. borrow: gives the base model of a spec for a device, and for an engine that splits parameters or does not."""
    return on_short_memory(spec, reporter, lambda engine, watch: _train(spec, engine, watch, borrow))


def _train(spec: VlmPeftSpec, engine_spec: EngineSpec, reporter: Reporter, borrow: Borrow) -> Outcome:
    processor = load_processor(spec.model)
    chat = Chat(processor, spec.model, end_ids(spec.model))
    tasks = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter)
    plan = Plan.of(spec, len(tasks.target.table.split["train"]))
    splits = engine_spec.zero is not None and engine_spec.zero.stage == 3
    with ExitStack() as stack:
        base = borrow(spec.model, reporter.device, splits)
        stack.callback(RESIDENT.keep)
        batches = batches_for(base, chat, tasks, spec, reporter)
        adapted = adapt(base, spec, seed=derived_seed(reporter.seed, "adapter"), total_steps=plan.total_steps, typed=RESIDENT.typed)
        lesson = Lesson(spec, tasks, processor, chat, batches, plan, counted(adapted), reporter)
        engine = open_engine(
            adapted.module,
            parameter_groups(adapted, lr=spec.optim.lr, weight_decay=spec.optim.weight_decay),
            optimizer=AdamWSpec(betas=spec.optim.betas, eps=spec.optim.eps),
            engine=engine_spec,
            batch=spec.batch,
            clip_grad_norm=spec.clip_grad_norm,
            reporter=reporter,
            save_frozen=False,
        )
        stack.callback(engine.close)
        stack.callback(RESIDENT.keep)  # before the engine takes the model down; the one above is for what fails before there is an engine
        asker = Asker(engine.forward, adapted.module, engine_spec, reporter, splits)
        tensors = TrainedTensors(engine, rank=reporter.rank, world_size=reporter.world_size)
        method = _method(spec, adapted, tensors, engine_spec, reporter)
        checkpoint = reporter.resume_from()
        if checkpoint is None:
            course = Course(sources_before=sources_before(lesson, adapted, asker))
        else:
            course = Course.from_json(json.loads((checkpoint / _COURSE).read_text()))
            if not is_over(course.progress, plan, spec):
                engine.load(checkpoint)
                load_method(method, checkpoint, rank=reporter.rank, world_size=reporter.world_size)
        while not is_over(course.progress, plan, spec):
            course, stopped = _stretch(lesson, course, adapted, engine, tensors, method, asker, engine_spec)
            if stopped and not is_over(course.progress, plan, spec):
                return Outcome()
        return finish(lesson, course, adapted, tensors, asker)


def _stretch(
    lesson: Lesson,
    course: Course,
    adapted: Adapted,
    engine: Engine,
    tensors: TrainedTensors,
    method: KeepMethod,
    asker: Asker,
    engine_spec: EngineSpec,
) -> tuple[Course, bool]:
    """Train, evaluate and report once. The second value: told to stop."""
    spec, plan, reporter = lesson.spec, lesson.plan, lesson.reporter
    report_i = course.progress.epochs_done
    started = time.perf_counter()
    measured = _train_steps(lesson, plan.stretch(report_i), adapted, engine, method, engine_spec)
    last = report_i + 1 == plan.n_reports
    engine.module.eval()
    patched = spec.keep.method in POST_HOC
    if last and patched:
        method.at_end(lambda: _calibrate(lesson, engine))
    judged = judge(asker, lesson.batches, lesson.tasks.target, "val", spec.evaluation, spec.scores_of(spec.data), lesson.chat)
    values = judged.metrics("val")
    if spec.kept:
        values |= skills(judged.score, source_scores(lesson, asker), course.sources_before)
    progress = after_report(course.progress, values, spec)
    if patched:  # before the patch there is no model of this method
        progress = replace(progress, best_epoch=report_i, best=values)
    if progress.best_epoch == report_i and (last or not patched):
        weights = {}
        for i, name in enumerate(tensors.names):
            whole = tensors.read(i)
            if reporter.rank == 0:
                weights[name] = whole.to("cpu").contiguous()
        keep(weights, report_i, {"model": spec.model.name, "method": spec.peft.method}, reporter)
    tokens = int(measured.pop("tokens"))
    course = Course(progress, course.tokens + tokens, course.sources_before)
    frozen = lesson.count.total - lesson.count.trainable
    metrics = {
        **measured,
        **values,
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": float(engine.peak_memory_bytes()),
        "micro_batch": float(engine.micro_batch),
        "trainable_parameters": float(lesson.count.trainable),
        "trainable_share": lesson.count.share,
        "flops": float((2 * frozen + 4 * lesson.count.trainable) * course.tokens),
    }
    over = is_over(progress, plan, spec)

    def save(folder: Path) -> None:
        if not over:
            engine.save(folder)
            save_method(method, folder, rank=reporter.rank, world_size=reporter.world_size)
        if reporter.rank == 0:
            (folder / _COURSE).write_text(json.dumps(course.to_json(), allow_nan=False))

    decision = reporter.report(report_i, metrics, save)
    drop_all_but({progress.best_epoch} if progress.best_epoch is not None else (), reporter)  # the checkpoint before named older ones
    return course, decision == "stop"


def _train_steps(
    lesson: Lesson, steps: range, adapted: Adapted, engine: Engine, method: KeepMethod, engine_spec: EngineSpec
) -> dict[str, float]:
    """Train a stretch. Loss, learning rate, speed, and `tokens` seen, over all ranks."""
    spec, reporter, rows = lesson.spec, lesson.reporter, lesson.tasks.target.rows
    torch.manual_seed(derived_seed(reporter.seed, "dropout", steps.start, reporter.rank))
    engine.module.train()
    for module in frozen_modules(adapted, spec.peft):
        module.eval()
    keeping = Keeping(method, engine, engine_spec.accumulation)
    n_pieces = reporter.world_size * engine_spec.accumulation
    totals = torch.zeros(4, dtype=torch.float64)  # loss, answer tokens, tokens, rows
    loss_sum = torch.zeros((), dtype=torch.float64, device=reporter.device)
    answer_tokens_N, lengths_N = rows.n_answer_tokens, rows.lengths
    train_rows = lesson.tasks.target.table.split["train"]
    started = time.perf_counter()
    factor = 1.0
    for k, piece in enumerate(pieces_of(steps, lesson.plan, train_rows, spec.batch, engine_spec.accumulation, reporter)):
        factor = lr_factor(piece.step, lesson.plan.total_steps, spec.schedule)
        engine.set_lr_factor(factor)
        batch = lesson.batches.training(piece.rows)
        assert batch.labels_BT is not None
        output = engine.forward(**batch.inputs, **_no_cache(adapted))
        loss_B, _ = answer_loss(output.logits, batch.labels_BT, batch.n_last)
        # the engine averages over pieces; each answer token of the whole batch counts the same, wherever it is
        loss = loss_B.sum() * (n_pieces * piece.counts / int(answer_tokens_N[piece.batch_rows].sum()))
        engine.backward(loss + orthogonality(adapted) if spec.peft.method == "adalora" else loss)
        keeping.step()
        if piece.counts:
            loss_sum += loss_B.detach().double().sum()
        _finite(looked_at(loss_sum, k, reporter), piece.step, steps)
        if not piece.counts:
            continue
        totals += torch.tensor([0.0, answer_tokens_N[piece.rows].sum(), lengths_N[piece.rows].sum(), len(piece.rows)], dtype=torch.float64)
    totals[0] = loss_sum.cpu()
    totals = summed(totals, reporter)
    seconds = time.perf_counter() - started
    mean = float(totals[0] / totals[1])
    _finite(mean, steps.stop - 1, steps)
    return {
        "train/loss": mean,
        "learning_rate": spec.optim.lr * factor,
        "tokens_per_second": float(totals[2]) / seconds,
        "samples_per_second": float(totals[3]) / seconds,
        "tokens": float(totals[2]),
    }


def batches_for(base: Any, chat: Chat, tasks: Tasks, spec: VlmPeftSpec, reporter: Reporter) -> Batches:
    """How the target's rows come to the device for this base model."""
    tokenizer = chat.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Batches(tasks.target.rows, int(pad), torch.device(reporter.device), DTYPE[spec.engine.precision], keeps_logits(base))


def _method(spec: VlmPeftSpec, adapted: Adapted, tensors: TrainedTensors, engine_spec: EngineSpec, reporter: Reporter) -> KeepMethod:
    if spec.peft.method == "adalora":
        return Allocation(adapted, tensors, spec.clip_grad_norm)
    seed = derived_seed(reporter.seed, "keep")
    return keep_method(spec.keep, tensors, engine=engine_spec, clip_grad_norm=spec.clip_grad_norm, seed=seed, where="trainable.keep")


def _calibrate(lesson: Lesson, engine: Engine) -> None:
    """Forwards on training rows, each rank as many, for a patch that measures inputs. Row by row: padding is no input, and how much of
    it there is would depend on which rows stand together."""
    spec, reporter = lesson.spec, lesson.reporter
    wanted = getattr(spec.keep.chosen, "calibration_samples", 0)
    rows = lesson.tasks.target.table.split["train"][:wanted]
    for start in range(0, max(1, len(rows) - reporter.world_size + 1), reporter.world_size):
        at = min(start + reporter.rank, len(rows) - 1)
        engine.forward(**lesson.batches.training(rows[at : at + 1]).inputs)


def _no_cache(adapted: Adapted) -> dict[str, bool]:
    """Keys and values are not kept while training, but where the method lives in them."""
    return {} if adapted.spec.method in ("prefix", "prompt") else {"use_cache": False}


def _finite(value: float | None, step: int, steps: range) -> None:
    if value is not None and not math.isfinite(value):
        where = f"at step {step} (of {steps.start} to {steps.stop - 1})"
        raise FailTrial("not_finite", f"train/loss is {value} {where}; lower optim.lr or check the data")
