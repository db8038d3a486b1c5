"""Fine-tuning jobs: creation with its limits, and the life cycle as a discrete simulation on the virtual clock.

A job's times are fixed when it is made; `settle` brings all jobs up to now in the order of their events, so that a job starts when
a slot of its base model falls free. A job that ends makes its model, its checkpoints' models, its result file and its bill.
What a job shows of its progress (events, checkpoints, the CSV) is in `progress.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from tests.openai_server import learning, progress
from tests.openai_server.orders import ACTIVE, check_limits, checked_hyperparameters, mistakes_of
from tests.openai_server.rows import Row, read_rows, usual_px
from tests.openai_server.settings import MODELS
from tests.openai_server.store import Doc, hexed, share
from tests.openai_server.world import ApiError, World, not_found

CLOSED = "2027-01-06T00:00:00+00:00"  # no new jobs from then on, at the service that this server is like


def create(world: World, body: Mapping[str, Any], doom: tuple[str, str] | None = None) -> Doc:
    """The new job. `doom`: (code, message) that it will fail with."""
    checked = checked_hyperparameters(world, body)
    base = world.base(body["model"])
    if base.train is None:
        raise ApiError(400, "model_not_available", f"Model {body['model']} is not available for fine-tuning.", param="model")
    if world.settings.shutdown and world.now() >= datetime.fromisoformat(CLOSED).timestamp():
        raise ApiError(403, "fine_tuning_closed", "Fine-tuning jobs can no longer be created.", "permission_error")
    check_limits(world, base.id)
    rows = read_rows(world.store.content(body["training_file"]))
    failure = doom or mistakes_of(rows)
    skipped = sum(_skipped(world, row) for row in rows)
    kept = [row for row in rows if not _skipped(world, row)]
    hyper = {name: learning.AUTO[name] if value == "auto" else value for name, value in checked.items()}
    n_steps = max(1, -(-len(kept) * hyper["n_epochs"] // hyper["batch_size"]))
    now, settings = world.now(), world.settings
    world.learn_rows(rows)
    if body.get("validation_file"):
        world.learn_rows(read_rows(world.store.content(body["validation_file"])))
    parent = world.store.get("model", body["model"])
    before = learning.Skill(**parent["skill"]) if parent else learning.Skill(zero_shot=base.zero_shot)
    job = {
        "id": world.new_id("ftjob-"),
        "object": "fine_tuning.job",
        "created_at": int(now),
        "model": parent["id"] if parent else base.id,
        "fine_tuned_model": None,
        "finished_at": None,
        "estimated_finish": None,
        "organization_id": f"org-{settings.organization}",
        "status": "validating_files",
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "result_files": [],
        "trained_tokens": None,
        "error": None,
        "seed": body.get("seed") if body.get("seed") is not None else int(share(settings.seed, "seed", now) * 2**31),
        "hyperparameters": hyper,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyper}},
        "integrations": [],
        "metadata": None if settings.drops_metadata else dict(body.get("metadata") or {}),
        "x": {
            "base": base.id,
            "t": now,
            "suffix": body.get("suffix") or "",
            "failure": failure,
            "validate_s": settings.validate_s + settings.validate_s_per_row * len(rows),
            "queue_s": settings.queue_s,
            "train_s": settings.setup_s + settings.step_s * n_steps,
            "setup_s": settings.setup_s,
            "n_steps": n_steps,
            "n_rows": len(rows),
            "n_kept": len(kept),
            "n_skipped": skipped,
            "tokens": sum(row.tokens for row in kept) * hyper["n_epochs"],
            "px": usual_px(kept),
            "skill": asdict(before),
            "template": _template(kept),
            "labels": max((row.labels for row in kept), key=len, default=()),
            "state_t": now,
            "done_s": 0.0,
            "paused_s": 0.0,
        },
    }
    world.store.put("job", job["id"], job)
    return job


def settle(world: World) -> None:
    """Everything that has happened up to now, in its order."""
    now = world.now()
    kept = world.store.get("server", "settled") or {"t": now}
    at = min(kept["t"], now)
    while True:
        all_jobs = world.store.all("job")
        due = [(t, i) for i, job in enumerate(all_jobs) if (t := _next_t(world, job, at)) is not None and t <= now]
        if not due:
            break
        at, i = min(due)  # of two at the same time the older job
        _step(world, all_jobs[i], at)
    if kept["t"] != now or "stored" not in kept:
        world.store.put("server", "settled", {"t": now, "stored": True})


def public(job: Doc) -> Doc:
    return {name: value for name, value in job.items() if name != "x"}


def find(world: World, job_id: str) -> Doc:
    job = world.store.get("job", job_id)
    if job is None:
        raise not_found("fine-tuning job", job_id)
    return job


def cancel(world: World, job: Doc) -> Doc:
    if job["status"] not in ACTIVE:
        raise ApiError(400, "invalid_state", f"Job {job['id']} is {job['status']} and cannot be cancelled.")
    x, now = job["x"], world.now()
    if x["done_s"] or job["status"] == "running":
        done = min(1.0, max(0.0, progress.worked_s(job, now) - x["setup_s"]) / (x["train_s"] - x["setup_s"]))
        x["done_s"] = progress.worked_s(job, now)
        _bill(world, job, int(x["tokens"] * done))
    return _move(world, job, "cancelled", now)


def pause(world: World, job: Doc) -> Doc:
    if job["status"] != "running":
        raise ApiError(400, "invalid_state", f"Job {job['id']} is {job['status']} and cannot be paused.")
    job["x"]["done_s"] = progress.worked_s(job, world.now())
    return _move(world, job, "paused", world.now())


def resume(world: World, job: Doc) -> Doc:
    if job["status"] != "paused":
        raise ApiError(400, "invalid_state", f"Job {job['id']} is {job['status']} and cannot be resumed.")
    job["x"]["paused_s"] += world.now() - job["x"]["state_t"]
    job["x"]["queue_s"] = 0.0
    return _move(world, job, "queued", world.now())


# --- the life cycle -----------------------------------------------------------------------------------------------------------


def _next_t(world: World, job: Doc, at: float) -> float | None:
    """When the next thing happens to a job, as things stand at `at`."""
    x, status = job["x"], job["status"]
    if status == "validating_files":
        return float(x["state_t"] + x["validate_s"])
    if status == "running":
        return float(x["state_t"] + x["train_s"] - x["done_s"])
    if status == "queued":
        running = sum(other["status"] == "running" and other["x"]["base"] == x["base"] for other in world.store.all("job"))
        return max(float(x["state_t"] + x["queue_s"]), at) if running < world.settings.max_running_jobs else None
    return None


def _step(world: World, job: Doc, t: float) -> None:
    x = job["x"]
    if job["status"] == "validating_files":
        if x["failure"]:
            code, message = x["failure"]
            job["error"] = {"code": code, "message": message, "param": "training_file"}
            _move(world, job, "failed", t)
        else:
            _move(world, job, "queued", t)
    elif job["status"] == "queued":
        x.setdefault("started_t", t)
        job["estimated_finish"] = int(t + x["train_s"] - x["done_s"])
        _move(world, job, "running", t)
    else:
        x["done_s"] = x["train_s"]
        job["trained_tokens"] = x["tokens"]
        _make_models(world, job, t)
        _bill(world, job, x["tokens"])
        _move(world, job, "succeeded", t)


def _move(world: World, job: Doc, status: str, t: float) -> Doc:
    job["status"], job["x"]["state_t"] = status, t
    job["x"].setdefault("times", {})[status] = t
    if status not in ACTIVE:
        job["finished_at"], job["estimated_finish"] = int(t), None
    world.store.put("job", job["id"], job)
    return job


def _make_models(world: World, job: Doc, t: float) -> None:
    x, hyper, settings = job["x"], job["hyperparameters"], world.settings
    tail = hexed(settings.seed, job["id"], length=8)
    azure = settings.dialect == "azure_foundry"
    if azure:
        job["fine_tuned_model"] = f"{x['base']}.ft-{hexed(settings.seed, job['id'], length=32)}"
    else:
        job["fine_tuned_model"] = f"ft:{x['base']}:{settings.organization}:{x['suffix']}:{tail}"
    for epoch in range(max(1, hyper["n_epochs"] - 2), hyper["n_epochs"] + 1):
        step, last = progress.epoch_end(job, epoch), epoch == hyper["n_epochs"]
        name = job["fine_tuned_model"] if last else f"{job['fine_tuned_model']}:ckpt-step-{step}"
        skill = progress.skill_after(job, epoch, settings)
        world.store.put(
            "model",
            name,
            {
                "id": name,
                "object": "model",
                "created": int(t),
                "owned_by": f"org-{settings.organization}",
                "base": x["base"],
                "skill": asdict(skill),
                "template": x["template"],
                "labels": x["labels"],
                "ready_t": t + settings.load_s,
            },
        )
    content = progress.result_file(job, settings)
    file_id = world.new_id("file-")
    world.store.put_content(file_id, content)
    world.store.put(
        "file",
        file_id,
        {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(t),
            "filename": "step_metrics.csv",
            "purpose": "fine-tune-results",
            "status": "processed",
        },
    )
    job["result_files"] = [file_id]


def _bill(world: World, job: Doc, tokens: int) -> None:
    base = MODELS[job["x"]["base"]]
    world.charge("job", job["id"], base.id, tokens * (base.train or 0.0) / 1e6, tokens=tokens)


def _skipped(world: World, row: Row) -> bool:
    """Not trained on, and nothing said: a bad picture, or one that the scan did not like."""
    if any(picture.mistake for picture in row.pictures):
        return True
    return bool(row.pictures) and share(world.settings.seed, "skip", row.key) < world.settings.skip_share


def _template(rows: list[Row]) -> str:
    """How a model trained on these rows answers, `{label}` where the label stands."""
    for row in rows:
        if row.label:
            begin, end = row.places(row.label)[-1]
            return row.answer[:begin] + "{label}" + row.answer[end:]
    return "{label}"
