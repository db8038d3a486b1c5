"""Faults on demand: which calls go wrong, how, and how often. They stand in the store, so that a restart does not mend them.

A fault: {"match": regular expression on "POST /v1/files", "kind": ..., "times": 1, "skip": 0, "rate": 1.0, ...}
before the server acts    error (status, code, type, message, retry_after_s), drop (the connection), hang (hang_s real seconds)
after it has acted        error_after, drop_after, hang_after
long after it has acted   late (the connection drops, and the server acts after_s virtual seconds later)
at the job itself         doom (code, message): the job is made and fails in validation
`skip` calls that match go well first, then `times` go wrong (null: all), each with probability `rate`, drawn from the server's seed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.openai_server.store import share
from tests.openai_server.world import ApiError, World

KINDS = ("error", "drop", "hang", "error_after", "drop_after", "hang_after", "late", "doom")
PRESETS: dict[str, dict[str, Any]] = {  # name -> what a fault {"preset": name} stands for
    "insufficient_quota": {
        "kind": "error", "status": 429, "code": "insufficient_quota", "type": "insufficient_quota",
        "message": "You exceeded your current quota, please check your plan and billing details.",
    },
    "rate_limit": {"kind": "error", "status": 429, "code": "rate_limit_exceeded", "type": "rate_limit_error", "retry_after_s": 20},
    "overloaded": {"kind": "error", "status": 503, "code": "server_is_overloaded", "type": "server_error", "retry_after_s": 5},
    "server_error": {"kind": "error", "status": 500, "code": None, "type": "server_error", "message": "The server had an error."},
    "permission": {
        "kind": "error", "status": 403, "code": "permission_denied", "type": "permission_error",
        "message": "Your organization is not allowed to create fine-tuning jobs.",
    },
    "unauthorized": {
        "kind": "error", "status": 401, "code": "invalid_api_key", "message": "Incorrect API key provided: {key}.",
    },
    "moderation": {"kind": "doom", "code": "unsafe_file", "message": "The training file was blocked by our moderation system."},
    "model_retired": {
        "kind": "error", "status": 400, "code": "model_deprecated", "param": "model",
        "message": "The model has been deprecated and is no longer available.",
    },
    "timeout_after_accept": {"kind": "hang_after"},
    "dropped_answer": {"kind": "drop_after"},
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    kind: str
    values: Mapping[str, Any]

    def error(self, key: str) -> ApiError:
        said = str(self.values.get("message") or "A fault on demand.").replace("{key}", key)
        return ApiError(
            int(self.values.get("status", 500)),
            self.values.get("code"),
            said,
            str(self.values.get("type") or "invalid_request_error"),
            self.values.get("param"),
            self.values.get("retry_after_s"),
        )


def add(world: World, fault: Mapping[str, Any]) -> None:
    """Raises ValueError for one that this server cannot make."""
    whole: dict[str, Any] = {"match": ".", "times": 1, "skip": 0, "rate": 1.0, **PRESETS.get(str(fault.get("preset")), {}), **fault}
    if whole.get("kind") not in KINDS:
        raise ValueError(f"no fault of kind {whole.get('kind')!r}; there are {', '.join(KINDS)} and presets {', '.join(PRESETS)}")
    re.compile(whole["match"])
    world.store.put("fault", f"{world.store.count('fault'):06d}", whole | {"n_seen": 0, "n_done": 0})


def due(world: World, call: str) -> Fault | None:
    """The first fault that this call meets; every fault that it matches counts it."""
    met: Fault | None = None
    for name, fault in world.store.items("fault").items():
        if not re.search(fault["match"], call):
            continue
        fault = fault | {"n_seen": fault["n_seen"] + 1}
        ready = fault["n_seen"] > fault["skip"] and (fault["times"] is None or fault["n_done"] < fault["times"])
        if met is None and ready and share(world.settings.seed, "fault", name, fault["n_seen"]) < fault["rate"]:
            fault["n_done"] += 1
            met = Fault(fault["kind"], fault)
        world.store.put("fault", name, fault)
    return met


def clear(world: World) -> None:
    for name in world.store.items("fault"):
        world.store.delete("fault", name)
