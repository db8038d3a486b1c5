"""A row and a prompt to what is asked, what is to be answered, and what the answer is measured against. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.vlm_data.prompts import PROMPTS, Prompt
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Example:
    """`prompt`: what the user says, without a chat template and without an image token. `target`: what to train on. `references`:
    what a metric compares with. `id`: the row's."""

    id: str
    prompt: str
    target: str
    references: tuple[str, ...]


def example(row: Row, spec: VlmDataSpec, classes: Sequence[str] = ()) -> Example:
    """The row as the study words it. `classes`: all labels of the data set, for prompts that list them."""
    prompt = PROMPTS[spec.prompt_name]
    references = references_of(row, prompt)
    return Example(row.id, asked(row, prompt, spec.subset.seed, classes), _target(references, row, spec), references)


def asked(row: Row, prompt: Prompt, seed: int, classes: Sequence[str] = ()) -> str:
    """The words of the prompt; of several paraphrases the one that seed and id draw, so that it stays with the row."""
    template = prompt.templates[_drawn(seed, row.id, len(prompt.templates))]
    return template.format(
        text=row.text,
        context=f"Context: {row.context}\n" if row.context else "",
        tokens=f"\nReference OCR token: {row.context}" if row.context else "",
        choices=", ".join(row.choices),
        lettered="\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False)),
        labels=", ".join(classes),
    ).strip()


def references_of(row: Row, prompt: Prompt) -> tuple[str, ...]:
    """What counts as right: the letter of the right option, the class, or all answers."""
    if prompt.answer == "letter":
        return (LETTERS[row.choices.index(row.answers[0])],)
    if prompt.answer == "label" and row.label is not None:
        return (row.label,)
    return row.answers


def _target(references: tuple[str, ...], row: Row, spec: VlmDataSpec) -> str:
    if spec.target == "drawn":
        return references[_drawn(spec.subset.seed, f"{row.id}/answer", len(references))]
    counts = Counter(references)  # in order of first appearance, which max keeps among equals
    return max(counts, key=lambda answer: counts[answer])


def _drawn(seed: int, name: str, n: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") % n
