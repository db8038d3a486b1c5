"""Batches of questions: validated, answered and billed line by line, cancelled, expired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.openai_server.answers import complete
from tests.openai_server.store import Doc, share
from tests.openai_server.world import ApiError, World, not_found


def public(batch: Doc) -> Doc:
    return {name: value for name, value in batch.items() if name != "x"}


def create(world: World, body: Mapping[str, Any]) -> Doc:
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


def cancel(world: World, batch: Doc) -> Doc:
    if batch["status"] not in ("validating", "in_progress"):
        raise ApiError(400, "invalid_state", f"Batch {batch['id']} is {batch['status']} and cannot be cancelled.")
    batch["status"], batch["cancelling_at"], batch["x"]["cancel_t"] = "cancelling", int(world.now()), world.now()
    world.store.put("batch", batch["id"], batch)
    return batch


def find(world: World, batch_id: str) -> Doc:
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
