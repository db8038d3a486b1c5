"""What a trial learns and is judged on: a table, its rows encoded, and the data sets whose skill it should keep.

`open_tasks` reads and encodes everything a spec names, from this node's cache where it is there.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.text_metrics.registry import METRICS as SCORES
from trainables.vlm_data.open import VlmTable, open_rows
from trainables.vlm_data.spec import VlmDataSpec
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.encode import Encoded, encoded
from trainables.vlm_peft.model import context_of, processor_digest
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.ports import Reporter

PREDICTIONS = "predictions.csv"  # what a comparison of two trainings on the same test items needs


@dataclass(frozen=True)
class Task:
    """A data set, worded and encoded."""

    data: VlmDataSpec
    table: VlmTable
    rows: Encoded

    def write_predictions(self, answers: Sequence[str], path: Path) -> None:
        """item,label,predicted of each test row; `item` is the row's id, `label` the answer it would be trained on."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("item", "label", "predicted"))
            for i, said in zip(self.table.split["test"], answers, strict=True):
                item = self.rows.examples[int(i)]
                writer.writerow((item.id, item.target, said))

    def majority_score(self, name: str) -> float:
        """Test score of always giving the commonest answer of the training rows."""
        answers = Counter(self.rows.examples[int(i)].target for i in self.table.split["train"])
        commonest = max(answers, key=lambda answer: (answers[answer], answer))
        references = [self.rows.examples[int(i)].references for i in self.table.split["test"]]
        return SCORES[name].score([commonest] * len(references), references)


@dataclass(frozen=True)
class Tasks:
    """`target`: what is learnt. `kept`: by name, what should stay known."""

    target: Task
    kept: Mapping[str, Task]


def open_tasks(spec: VlmPeftSpec, *, processor: Any, chat: Chat, config: Any, reporter: Reporter) -> Tasks:
    """Raises UserError for wrong data and for rows that are too long."""
    digest = processor_digest(spec.model)

    def opened(data: VlmDataSpec) -> Task:
        table = open_rows(data)
        rows = encoded(
            table,
            data,
            chat=chat,
            processor=processor,
            processor_digest=digest,
            model=spec.model,
            context=context_of(config),
            half=spec.engine.precision != "fp32",
            cache_dir=reporter.cache_dir,
        )
        return Task(data, table, rows)

    return Tasks(opened(spec.data), {name: opened(data) for name, data in spec.kept.items()})
