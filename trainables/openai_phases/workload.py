"""What a trial would send: examples and questions of each phase, with their tokens. Counts only; prices are `cost`'s.

Looks at the header of every picture that would be sent and at nothing else, so that a plan of thousands of rows takes seconds. Text
is counted by the given counter, exactly or between bounds. Not counted: what the server leaves out (pictures with people are skipped
without an error, so a bill may be lower) and what it adds unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from trainables.data.sources import ImageTable
from trainables.openai_phases.jsonl import fitted, size_of
from trainables.openai_phases.prompt import answer_text, question_messages, response_format, training_messages
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.openai_phases.tokens import NONE, Count, ImageRates, TextCounter, image_tokens, message_tokens
from trainables.openai_phases.wire import Usage
from trainables.phases.blocks import draw_blocks, rows_of
from trainables.phases.spec import Phase

MOST_EPOCHS = 50  # of the API, which is all that is known of `auto`
CHATTER_TOKENS = 32  # what an answer may hold besides its object (a fence, a sentence), for the high figure; a choice of ours


@dataclass(frozen=True)
class Questions:
    """An evaluation: `n` questions on one split at one width, with the tokens of all of them and of their answers.

    longest: at most so much has one of them.
    """

    split: str
    width_px: int
    n: int
    input: Count
    output: Count
    longest: Usage


@dataclass(frozen=True)
class PhaseLoad:
    """`tokens`: of one pass over the training file; `epochs`: passes. Phase 0 has no examples and no passes."""

    phase: Phase
    n_examples: int
    tokens: Count
    epochs: Count
    questions: tuple[Questions, ...]


@dataclass(frozen=True)
class TrialLoad:
    """A trial that is stopped by nothing. `how`: how text was counted."""

    phases: tuple[PhaseLoad, ...]
    stress: tuple[Questions, ...]
    how: str


def trial_load(spec: OpenaiPhasesSpec, table: ImageTable, rates: ImageRates, counter: TextCounter) -> TrialLoad:
    """Counts a trial. Raises UserError where classes have too few rows for the phases."""
    train = table.split["train"]
    blocks = [] if spec.phases is None else draw_blocks(spec.phases, train, table.labels_N, table.ids, table.classes)
    rows = _Rows(spec, table, rates, counter)
    auto = spec.hyperparameters.n_epochs == "auto"
    phases = []
    for phase in spec.phase_list:
        mine = rows_of(phase, blocks, train)
        epochs = Count.exactly(0) if phase.number == 0 else Count(1, MOST_EPOCHS) if auto else Count.exactly(phase.epochs)
        questions = tuple(rows.questions(split, phase.resolution_px) for split in spec.evaluation.splits)
        phases.append(PhaseLoad(phase, len(mine), rows.examples(mine, phase.resolution_px), epochs, questions))
    return TrialLoad(tuple(phases), tuple(rows.questions("test", width_px) for width_px in spec.stress), counter.how)


class _Rows:
    """Tokens of rows under one spec. Texts repeat and pictures come at several widths, so both are looked at once."""

    def __init__(self, spec: OpenaiPhasesSpec, table: ImageTable, rates: ImageRates, counter: TextCounter):
        self._spec, self._table, self._rates, self._counter = spec, table, rates, counter
        self._size: Callable[[int], tuple[int, int]] = lru_cache(maxsize=None)(lambda row: size_of(table.read(row)))
        schema = response_format(spec.prompt, table.classes)
        schema_tokens = NONE if schema is None else Count(0, counter.count(json.dumps(schema)).high)  # whether it is billed: not said
        prompt, classes, detail = spec.prompt, table.classes, spec.images.detail
        self._question = message_tokens(question_messages(prompt, classes, "", detail), schema_tokens, counter, reply=True)
        self._example = [
            message_tokens(training_messages(prompt, classes, label, "", detail), NONE, counter, reply=True) for label in classes
        ]
        self._answer = [counter.count(answer_text(prompt, label)) for label in classes]

    def examples(self, rows: Iterable[int], width_px: int) -> Count:
        total = NONE
        for row in rows:
            total += self._example[int(self._table.labels_N[row])] + self._image(int(row), width_px)
        return total

    def questions(self, split: str, width_px: int) -> Questions:
        rows = [int(row) for row in self._table.split[split]]
        asked = answered = NONE
        most_asked = 0
        for row in rows:
            question = self._question + self._image(row, width_px)
            asked, most_asked = asked + question, max(most_asked, question.high)
            answered += self._answer[int(self._table.labels_N[row])]
        most_said = self._spec.evaluation.max_answer_tokens or max(answer.high for answer in self._answer) + CHATTER_TOKENS
        said = Count(min(answered.low, most_said * len(rows)), most_said * len(rows))
        return Questions(split, width_px, len(rows), asked, said, Usage(most_asked, 0, most_said))

    def _image(self, row: int, width_px: int) -> Count:
        return image_tokens(*fitted(*self._size(row), width_px), self._spec.images.detail, self._rates)
