"""The messages of a training example and of a question, and what answer they ask for. Pure.

Two shapes. `published`: as in the paper's files, a user message of text and one with the picture, then `{category: label}` without
quotes, which is not JSON; a question is one user message of text and picture. `strict_json`: the same messages, a JSON object as
answer, and a JSON schema of the labels that goes with every question. The text is the task's sentence, a JSON object of the
categories with an indent of 2, and the request for an object without explanation. Pictures are never looked at here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trainables.openai_phases.spec import Detail, PromptSpec

KEY = "category"
_LIST_KEY = "categories"
_ASK = f'Answer with a JSON object that has the key "{KEY}" and one of the categories above as its value, without any explanation.'

Message = dict[str, Any]


def question_text(prompt: PromptSpec, classes: Sequence[str]) -> str:
    """What is asked of every picture, the same text for all rows of a data set."""
    listed = json.dumps({_LIST_KEY: list(classes)}, indent=2, ensure_ascii=False)
    return f"{prompt.task}\n{listed}\n{_ASK}"


def answer_text(prompt: PromptSpec, label: str) -> str:
    """What the model is trained to say."""
    return f"{{{KEY}: {label}}}" if prompt.shape == "published" else json.dumps({KEY: label}, ensure_ascii=False)


def training_messages(prompt: PromptSpec, classes: Sequence[str], label: str, image_url: str, detail: Detail | None) -> list[Message]:
    """An example of a training or validation file."""
    return [
        *_system(prompt),
        {"role": "user", "content": question_text(prompt, classes)},
        {"role": "user", "content": [image_part(image_url, detail)]},
        {"role": "assistant", "content": answer_text(prompt, label)},
    ]


def question_messages(prompt: PromptSpec, classes: Sequence[str], image_url: str, detail: Detail | None) -> list[Message]:
    """What a model is asked: one user message of text and picture, as published."""
    text = {"type": "text", "text": question_text(prompt, classes)}
    return [*_system(prompt), {"role": "user", "content": [text, image_part(image_url, detail)]}]


def response_format(prompt: PromptSpec, classes: Sequence[str]) -> dict[str, Any] | None:
    """The `response_format` of a question; None where the shape has none."""
    if prompt.shape == "published":
        return None
    label = {"type": "string", "enum": list(classes)}
    schema = {"type": "object", "properties": {KEY: label}, "required": [KEY], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": KEY, "strict": True, "schema": schema}}


def image_part(url: str, detail: Detail | None) -> Message:
    return {"type": "image_url", "image_url": {"url": url} | ({} if detail is None else {"detail": detail})}


def _system(prompt: PromptSpec) -> list[Message]:
    return [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
