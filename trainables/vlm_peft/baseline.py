"""The reference a search must beat: the pretrained model as it is, on the same rows, asked and judged in the same way.

Every worker holds the whole model, in the type that the precision computes in; they share the rows.
"""

from __future__ import annotations

import torch

from trainables.adapters.resident import RESIDENT
from trainables.engine_spec import EngineSpec
from trainables.metrics import standard_error
from trainables.spider.skills import skills
from trainables.text_metrics.registry import METRICS as SCORES
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.evaluate import Asker, judge
from trainables.vlm_peft.model import DTYPE, borrow_model, end_ids, load_config, load_processor, match_statistics
from trainables.vlm_peft.recipe import batches_for
from trainables.vlm_peft.spec import VlmPeftSpec
from trainables.vlm_peft.task import PREDICTIONS, open_tasks
from tune.core.ports import Outcome, Reporter


def zero_shot(spec: VlmPeftSpec, reporter: Reporter) -> Outcome:
    """Validation and test metrics of the untouched model, its skills on the kept sets, and the score of the commonest answer."""
    processor = load_processor(spec.model)
    chat = Chat(processor, spec.model, end_ids(spec.model))
    tasks = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter)
    model = borrow_model(spec.model, reporter.device).requires_grad_(False)
    if spec.model.quantize == "none":
        for parameter in model.parameters():  # not buffers: rounded rotary frequencies would move every position
            parameter.data = RESIDENT.typed(parameter, DTYPE[spec.engine.precision])
        match_statistics(model.to(torch.device(reporter.device)))
    model.eval()
    asker = Asker(model, model, EngineSpec(precision=spec.engine.precision), reporter, splits=False)
    batches = batches_for(model, chat, tasks, spec, reporter)
    names = spec.scores_of(spec.data)
    metrics: dict[str, float] = {}
    for part in ("val", "test"):
        judged = judge(asker, batches, tasks.target, part, spec.evaluation, names, chat)
        metrics |= judged.metrics(part)
    if SCORES[names[0]].top == 1.0:
        metrics["test/score_standard_error"] = standard_error(judged.score, len(judged.answers))
        metrics["majority/score"] = tasks.target.majority_score(names[0])
    if spec.kept:
        sources = {}
        for name, task in tasks.kept.items():
            own = batches.of(task.rows)
            sources[name] = judge(asker, own, task, "val", spec.evaluation, spec.scores_of(task.data), chat).score
        metrics |= skills(metrics["val/score"], sources, sources)
    RESIDENT.keep()
    if reporter.rank == 0:
        tasks.target.write_predictions(judged.answers, reporter.workdir / PREDICTIONS)
    return Outcome(metrics=metrics, files={"predictions": PREDICTIONS})
