"""What is done when memory runs out in training: the micro-batch is halved and the accumulation doubled, so the global batch stays.

A trial that has reported nothing yet and has one worker begins again at once. Any other is given back as RetryTrial: its group is
made anew and it goes on from its checkpoint, with the halving that is noted in its folder. At a micro-batch of one row the trial
fails by name.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.engine_spec import EngineSpec, micro_batch_of
from trainables.out_of_memory import first_line, ran_out
from trainables.vlm_peft.settle import settled_spec
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.errors import FailTrial, RetryTrial
from tune.core.ports import Answer, Decision, Outcome, Question, Reporter

_NOTE = "halvings.json"


def on_short_memory(spec: VlmPeftSpec, reporter: Reporter, attempt: Callable[[EngineSpec, Reporter], Outcome]) -> Outcome:
    """`attempt` with the engine as the spec has it, or with as many halvings as this trial has needed so far."""
    spec = settled_spec(spec, reporter)
    while True:
        halvings = _noted(reporter.workdir)
        engine = halved(spec, reporter.world_size, halvings)
        watch = _Watch(reporter)
        try:
            return attempt(engine, watch)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            reason = first_line(error)
        micro = micro_batch_of(spec.batch, reporter.world_size, engine)
        if micro == 1:
            raise FailTrial("out_of_memory", f"one row at a time: {reason}; use a higher ZeRO stage, offload, or activation_checkpointing")
        (reporter.workdir / _NOTE).write_text(json.dumps({"halvings": halvings + 1}))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if reporter.world_size > 1 or watch.reported:
            raise RetryTrial("out_of_memory", f"micro-batch {micro}: {reason}; it goes on with half of it and twice the accumulation")


def halved(spec: VlmPeftSpec, workers: int, halvings: int) -> EngineSpec:
    """The engine after so many halvings of the micro-batch, none of them below one row."""
    engine: EngineSpec = spec.engine
    for _ in range(halvings):
        micro = micro_batch_of(spec.batch, workers, engine)
        share = next((factor for factor in range(2, micro + 1) if micro % factor == 0), 1)
        engine = engine.model_copy(update={"micro_batch": None, "accumulation": engine.accumulation * share})
    return engine


class _Watch:
    """The reporter, and whether anything has been reported in this attempt."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.reported = False
        self.trial, self.seed, self.workdir, self.cache_dir = reporter.trial, reporter.seed, reporter.workdir, reporter.cache_dir
        self.rank, self.world_size, self.device = reporter.rank, reporter.world_size, reporter.device

    def resume_from(self) -> Path | None:
        return self._reporter.resume_from()

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        self.reported = True
        return self._reporter.report(step, metrics, save)

    def ask(self, question: Question) -> Answer:
        return self._reporter.ask(question)


def _noted(workdir: Path) -> int:
    note = workdir / _NOTE
    record: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {"halvings": 0}
    return int(record["halvings"])
