"""Answers of base and fine-tuned models, and those that are kept.

A model answers right where a number that belongs to the picture alone is below its accuracy, so a better model is right on more of
the same pictures. What is right the server knows from labelled files and from `/_control/truth`; else it answers by lot. A fine-tuned
model answers in the shape it was trained on; a base model in one of several, which a reader must cope with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.openai_server import learning
from tests.openai_server.rows import Row, read_messages, text_tokens
from tests.openai_server.store import Doc, share
from tests.openai_server.world import ApiError, World

SHAPES = (
    '{{"category": "{label}"}}',
    '{{"category": "{label}"}}',
    "{{category: {label}}}",
    '```json\n{{"category": "{label}"}}\n```',
    'The product belongs to this category:\n{{"category": "{label}"}}',
)
OUT_OF_LIST = 0.015  # of the weakest model's answers, as published


def complete(world: World, body: Mapping[str, Any], of: str = "chat", batched: bool = False) -> Doc:
    """The chat completion of a request. Raises the service's errors."""
    if not isinstance(body.get("model"), str) or not isinstance(body.get("messages"), list):
        raise ApiError(400, "missing_required_parameter", "model and messages are required.", param="messages")
    if body.get("metadata") and not body.get("store"):
        raise ApiError(400, None, "The 'metadata' parameter is only allowed when 'store' is enabled.", param="metadata")
    if body.get("stream"):
        raise ApiError(400, "unsupported_parameter", "This server does not stream.", param="stream")
    model, base = body["model"], world.base(body["model"])
    tuned = world.store.get("model", model)
    if tuned is not None and world.now() < tuned["ready_t"]:
        raise ApiError(404, "model_not_found", f"The model '{model}' does not exist or you do not have access to it.", param="model")
    try:
        row = read_messages(body["messages"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ApiError(400, "invalid_messages", f"messages: {type(error).__name__} {error}", param="messages") from None
    if row.mistake or any(picture.mistake for picture in row.pictures):
        wrong = row.mistake or next(picture.mistake for picture in row.pictures if picture.mistake)
        raise ApiError(400, "invalid_image", wrong, param="messages")
    text = answer(world, row, tuned, base.id, base.zero_shot, strict="response_format" in body)
    used = {"prompt_tokens": row.tokens, "completion_tokens": text_tokens(text)}
    prices = {
        (True, True): (base.batch_tuned_input, base.batch_tuned_output),
        (True, False): (base.batch_base_input, base.batch_base_output),
        (False, True): (base.tuned_input, base.tuned_output),
        (False, False): (base.base_input, base.base_output),
    }[batched, tuned is not None]
    usd = (used["prompt_tokens"] * prices[0] + used["completion_tokens"] * prices[1]) / 1e6
    world.charge("batch" if batched else "chat", of, model, usd, **used)
    made: Doc = {
        "id": world.new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(world.now()),
        "model": model if tuned else base.id,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            }
        ],
        "usage": {
            **used,
            "total_tokens": sum(used.values()),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
    }
    if body.get("store") and not batched:
        _keep(world, made, body)
    return made


def _keep(world: World, made: Doc, body: Mapping[str, Any]) -> None:
    """As Foundry was seen to do, its dialect forgets answers to pictures that came inside the request."""
    settings = world.settings
    forgotten = settings.dialect == "azure_foundry" and "data:image/" in json.dumps(body["messages"])
    if settings.keeps_answers and not forgotten:
        metadata = {} if settings.drops_metadata else dict(body.get("metadata") or {})
        shown_t = world.now() + settings.show_answers_s
        world.store.put("answer", made["id"], made | {"metadata": metadata, "x": {"shown_t": shown_t}})


def kept(world: World, model: str | None, metadata: Mapping[str, str], newest_first: bool) -> list[Doc]:
    """Kept answers that are shown by now."""
    wanted = {} if world.settings.ignore_metadata_filter else metadata
    shown = [
        {name: value for name, value in doc.items() if name != "x"}
        for doc in world.store.all("answer")
        if doc["x"]["shown_t"] <= world.now() and wanted.items() <= doc["metadata"].items() and model in (None, doc["model"])
    ]
    return shown[::-1] if newest_first else shown


def answer(world: World, row: Row, tuned: Doc | None, base: str, zero_shot: float, strict: bool) -> str:
    seed = world.settings.seed
    known = world.truth(row.key)
    key = known[0] if known else row.key
    labels = list(row.labels or (tuned or {}).get("labels") or ())
    skill = learning.Skill(**tuned["skill"]) if tuned else learning.Skill(zero_shot=zero_shot)
    px = next((picture.px for picture in row.pictures if picture.px), None)
    if known and share(seed, "right", key) < learning.accuracy(skill, px):
        label = known[1]
    elif known and tuned is None and zero_shot < 0 and share(seed, "out", key) < OUT_OF_LIST / 0.3:
        label = f"other {known[1]}"
    else:
        wrong = [name for name in labels if known is None or name != known[1]] or ["unknown"]
        label = wrong[int(share(seed, "wrong", key) * len(wrong))]
    if tuned is not None:
        return str(tuned["template"]).replace("{label}", label)
    shape = SHAPES[0] if strict else SHAPES[int(share(seed, "shape", base, key) * len(SHAPES))]
    return shape.format(label=label)
