"""What is measured and written of a model that is trained: test scores, kept skills, and the adapter for use.

The test set decides nothing: which step is kept is settled by validation. Skills (`skills/*`) are scores on validation parts, so that
a search may optimise them; the pretrained model's own are computed once a node for all trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from trainables.kept import give_last_name, weights_of
from trainables.metrics import standard_error
from trainables.peft_methods.build import Adapted
from trainables.peft_methods.save import save_adapter
from trainables.pieces import barrier
from trainables.spider.tensors import TrainedTensors
from trainables.text_metrics.registry import METRICS as SCORES
from trainables.vlm_peft.course import Course
from trainables.vlm_peft.evaluate import Asker, judge
from trainables.vlm_peft.model import FOLDER, anatomy_facts, load_config, processor_digest, write_facts
from trainables.vlm_peft.task import PREDICTIONS
from tune.core.ports import Outcome

if TYPE_CHECKING:
    from trainables.vlm_peft.recipe import Lesson


def finish(lesson: Lesson, course: Course, adapted: Adapted, tensors: TrainedTensors, asker: Asker) -> Outcome:
    """Test the kept step's model and write it. What the engine holds afterwards is that model."""
    spec, reporter, target = lesson.spec, lesson.reporter, lesson.tasks.target
    progress = course.progress
    assert progress.best_epoch is not None, "a trial that trained keeps a step"
    barrier(reporter)  # rank 0 has written the weights
    kept = weights_of(progress.best_epoch, reporter.workdir)
    for i, name in enumerate(tensors.names):
        tensors.write(i, kept[name] if tensors.owner(i) == tensors.rank else None)
    adapted.module.eval()
    tested = judge(asker, lesson.batches, target, "test", spec.evaluation, spec.scores_of(spec.data), lesson.chat)
    metrics = dict(progress.last if spec.objective == "last" else progress.best) | tested.metrics("test")
    main = spec.scores_of(spec.data)[0]
    if SCORES[main].top == 1.0:
        metrics["test/score_standard_error"] = standard_error(tested.score, len(tested.answers))
        metrics["majority/score"] = target.majority_score(main)
    metrics["best_epoch"] = float(progress.best_epoch)
    metrics["flops_per_answer_token"] = _flops_per_answer_token(lesson)
    files = {"best weights": "best.safetensors", "model": f"{FOLDER}/vlm_peft.json", "predictions": PREDICTIONS}
    with _whole(adapted, asker):
        if reporter.rank == 0:
            save_adapter(adapted, reporter.workdir / FOLDER)
    if reporter.rank == 0:
        write_facts(reporter.workdir / FOLDER, spec, target.table.classes, lesson.processor)
        target.write_predictions(tested.answers, reporter.workdir / PREDICTIONS)
    give_last_name(progress.best_epoch, reporter)
    return Outcome(metrics=metrics, files=files)


def source_scores(lesson: Lesson, asker: Asker) -> dict[str, float]:
    """Validation score of each kept set by the model as it is now."""
    spec = lesson.spec
    return {
        name: judge(asker, lesson.batches_of(name), task, "val", spec.evaluation, spec.scores_of(task.data), lesson.chat).score
        for name, task in lesson.tasks.kept.items()
    }


def sources_before(lesson: Lesson, adapted: Adapted, asker: Asker) -> dict[str, float] | None:
    """The same of the pretrained model, from this node's cache where another trial has computed it; None without kept sets."""
    spec, reporter = lesson.spec, lesson.reporter
    if not spec.kept:
        return None
    said = (spec.model.model_dump_json(), spec.evaluation.model_dump_json(), processor_digest(spec.model), spec.engine.precision)
    digests = tuple((name, task.table.digest, task.data.prompt_name) for name, task in sorted(lesson.tasks.kept.items()))
    key = hashlib.sha256(repr((said, digests)).encode()).hexdigest()[:24]
    file = reporter.cache_dir / f"skills-{key}.json"
    known = [json.loads(file.read_text()) if file.exists() and reporter.rank == 0 else None]
    if reporter.world_size > 1:
        torch.distributed.broadcast_object_list(known)
    if known[0] is not None:
        found: dict[str, float] = known[0]
        return found
    adapted.module.eval()
    with _untouched(adapted):
        scores = source_scores(lesson, asker)
    if reporter.rank == 0:
        unfinished = file.with_suffix(f".{reporter.trial}.part")
        unfinished.write_text(json.dumps(scores))
        unfinished.replace(file)
    return scores


def _untouched(adapted: Adapted) -> AbstractContextManager[Any]:
    """The pretrained model: adapters start anywhere, so they are switched off; trained base weights have not moved yet."""
    return adapted.module.disable_adapter() if adapted.wrapped else nullcontext()


def _whole(adapted: Adapted, asker: Asker) -> AbstractContextManager[Any]:
    """Trained parameters whole on every rank inside."""
    stack = ExitStack()
    if asker.splits:
        from deepspeed.runtime.zero import GatheredParameters

        stack.enter_context(GatheredParameters([parameter for _, parameter in adapted.trained()], modifier_rank=None))
    return stack


def _flops_per_answer_token(lesson: Lesson) -> float:
    """2 (non-embedding parameters + layers x width x mean tokens of a row). Source: Zhou et al. (2024), appendix on FLOPs."""
    config: Any = load_config(lesson.spec.model)
    text: Mapping[str, Any] = config.get_text_config().to_dict()
    n_embedding = int(text["vocab_size"]) * int(text["hidden_size"])
    non_embedding, n_layers, width = anatomy_facts(config, lesson.count.total, n_embedding)
    return 2.0 * (non_embedding + n_layers * width * float(lesson.tasks.target.rows.lengths.mean()))
