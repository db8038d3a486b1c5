"""Answers of base and fine-tuned models, and batches of them.

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
from tests.openai_server.world import ApiError, World, not_found

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
    return {
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


# --- batches ------------------------------------------------------------------------------------------------------------------


def create_batch(world: World, body: Mapping[str, Any]) -> Doc:
    file = world.store.get("file", str(body.get("input_file_id")))
    if file is None or file["purpose"] != "batch":
        raise ApiError(400, "invalid_file", f"{body.get('input_file_id')} is no file for batches.", param="input_file_id")
    if body.get("endpoint") != "/v1/chat/completions" or body.get("completion_window") != "24h":
        raise ApiError(400, "invalid_batch", "This server answers /v1/chat/completions within 24h.", param="endpoint")
    now, settings, lines = world.now(), world.settings, world.store.content(file["id"]).splitlines()
    batch: Doc = {
        "id": world.new_id("batch_"),
        "object": "batch",
        "endpoint": body["endpoint"],
        "input_file_id": file["id"],
        "completion_window": "24h",
        "status": "validating",
        "created_at": int(now),
        "expires_at": int(now + 86400),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": dict(body.get("metadata") or {}),
        "x": {
            "t": now,
            "ready_t": now + settings.batch_s + settings.batch_s_per_row * len(lines),
            "tokens": file["bytes"] // 4,
        },
    }
    world.store.put("batch", batch["id"], batch)
    return batch


def settle(world: World) -> None:
    now = world.now()
    for batch in world.store.all("batch"):
        x = batch["x"]
        if batch["status"] == "validating" and now >= x["t"] + world.settings.batch_s / 4:
            _validate(world, batch)
        if batch["status"] == "cancelling" and now >= x["cancel_t"] + 10:
            batch["status"], batch["cancelled_at"] = "cancelled", int(x["cancel_t"] + 10)
            world.store.put("batch", batch["id"], batch)
        if batch["status"] == "in_progress" and now >= min(x["ready_t"], x["t"] + 86400):
            _finish(world, batch)


def cancel_batch(world: World, batch: Doc) -> Doc:
    if batch["status"] not in ("validating", "in_progress"):
        raise ApiError(400, "invalid_state", f"Batch {batch['id']} is {batch['status']} and cannot be cancelled.")
    batch["status"], batch["cancelling_at"], batch["x"]["cancel_t"] = "cancelling", int(world.now()), world.now()
    world.store.put("batch", batch["id"], batch)
    return batch


def find_batch(world: World, batch_id: str) -> Doc:
    batch = world.store.get("batch", batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    return batch


def _validate(world: World, batch: Doc) -> None:
    """Limits show here, not at the creation."""
    busy = sum(other["x"]["tokens"] for other in world.store.all("batch") if other["status"] == "in_progress")
    limit = world.settings.batch_tokens
    if limit is not None and busy + batch["x"]["tokens"] > limit:
        batch["status"], batch["failed_at"] = "failed", int(world.now())
        message = f"Enqueued token limit reached: {busy + batch['x']['tokens']} of {limit}."
        batch["errors"] = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": message, "param": None, "line": None}]}
    else:
        batch["status"], batch["in_progress_at"] = "in_progress", int(world.now())
    world.store.put("batch", batch["id"], batch)


def _finish(world: World, batch: Doc) -> None:
    """Answer the lines that fit into the day; they are billed whatever becomes of the others."""
    x = batch["x"]
    lines = [line for line in world.store.content(batch["input_file_id"]).decode("utf-8-sig").splitlines() if line.strip()]
    done: list[Doc] = []
    failed: list[Doc] = []
    usage = [0, 0]
    in_time = len(lines) if x["ready_t"] <= x["t"] + 86400 else int(len(lines) * 86400 / (x["ready_t"] - x["t"]))
    for line in lines[:in_time]:
        request = json.loads(line)
        row = {"id": world.new_id("batch_req_"), "custom_id": request["custom_id"], "error": None}
        try:
            body = complete(world, request["body"], of=batch["id"], batched=True)
            usage[0] += body["usage"]["prompt_tokens"]
            usage[1] += body["usage"]["completion_tokens"]
            done.append(row | {"response": {"status_code": 200, "request_id": row["id"], "body": body}})
        except ApiError as error:
            failed.append(row | {"response": {"status_code": error.status, "request_id": row["id"], "body": error.body}})
    for name, rows in (("output_file_id", done), ("error_file_id", failed)):
        if rows:
            rows.sort(key=lambda row: share(world.settings.seed, "order", row["custom_id"]))  # the order is not the input's
            batch[name] = _output(world, "\n".join(json.dumps(row) for row in rows).encode() + b"\n", f"{batch['id']}_{name[:-8]}.jsonl")
    now = int(world.now())
    if in_time == len(lines):
        batch |= {"status": "completed", "finalizing_at": now, "completed_at": now}
    else:
        batch |= {"status": "expired", "finalizing_at": now, "expired_at": now}
    batch["request_counts"] = {"total": len(lines), "completed": len(done), "failed": len(failed)}
    batch["usage"] = {
        "input_tokens": usage[0],
        "output_tokens": usage[1],
        "total_tokens": sum(usage),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    world.store.put("batch", batch["id"], batch)


def _output(world: World, content: bytes, name: str) -> str:
    file_id = world.new_id("file-")
    world.store.put_content(file_id, content)
    file = {"id": file_id, "object": "file", "bytes": len(content), "created_at": int(world.now()), "filename": name}
    world.store.put("file", file_id, file | {"purpose": "batch_output", "status": "processed"})
    return file_id
