"""What a job shows of its progress: events, checkpoints, and the CSV. All of it follows from the job and the time; nothing is kept."""

from __future__ import annotations

import base64
from typing import Any

from tests.openai_server import learning
from tests.openai_server.settings import Settings
from tests.openai_server.store import Doc, hexed, share

OPENAI_HEAD = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
AZURE_HEAD = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "validation_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def worked_s(job: Doc, now: float) -> float:
    """Seconds of its training that a job has behind it."""
    x = job["x"]
    return float(x["done_s"] + (now - x["state_t"] if job["status"] == "running" else 0.0))


def epoch_end(job: Doc, epoch: int) -> int:
    """The last step of an epoch, both counted from 1."""
    return max(1, round(job["x"]["n_steps"] * epoch / job["hyperparameters"]["n_epochs"]))


def skill_after(job: Doc, epochs: float, settings: Settings) -> learning.Skill:
    x, hyper = job["x"], job["hyperparameters"]
    return learning.taught(
        learning.Skill(**x["skill"]),
        x["n_kept"],
        settings.rows_a_pass,
        epochs,
        hyper["batch_size"],
        hyper["learning_rate_multiplier"],
        x["px"],
    )


def metrics_at(job: Doc, step: int, settings: Settings) -> dict[str, float]:
    """Of one step; validation as far as there is a validation file, of the whole file at an epoch's end."""
    n_steps, n_epochs = job["x"]["n_steps"], job["hyperparameters"]["n_epochs"]
    part = step / n_steps
    exact = learning.losses(skill_after(job, part * n_epochs, settings), part)
    noisy = {
        name: round(value * (1 + 0.06 * (share(settings.seed, job["seed"], job["training_file"], step, name) - 0.5)), 6)
        for name, value in exact.items()
    }
    for name in ("train_mean_token_accuracy", "valid_mean_token_accuracy"):
        noisy[name] = min(noisy[name], 1.0)
    if not job["validation_file"]:
        return {name: value for name, value in noisy.items() if not name.startswith("valid")}
    if step in epoch_ends(job):
        noisy["full_valid_loss"] = round(exact["valid_loss"], 6)
        noisy["full_valid_mean_token_accuracy"] = round(exact["valid_mean_token_accuracy"], 6)
    return noisy


def epoch_ends(job: Doc) -> list[int]:
    return [epoch_end(job, epoch) for epoch in range(1, job["hyperparameters"]["n_epochs"] + 1)]


def events(job: Doc, now: float, settings: Settings) -> list[Doc]:
    """Up to now, newest first."""
    x, lines = job["x"], []
    times = x.get("times", {})

    def say(t: float, name: str, message: str, level: str = "info", data: dict[str, Any] | None = None) -> None:
        event = {
            "id": "ftevent-" + hexed(settings.seed, job["id"], name),
            "object": "fine_tuning.job.event",
            "created_at": int(t),
            "level": level,
            "message": message,
            "type": "metrics" if data else "message",
        }
        lines.append(event | {"data": data if data else {}})

    say(x["t"], "made", f"Created fine-tuning job: {job['id']}")
    say(x["t"], "validating", f"Validating training file: {job['training_file']}")
    if "failed" in times:
        error = job["error"] or {}
        say(times["failed"], "failed", f"The job failed due to {error.get('code')}: {error.get('message')}", "error")
    if ("queued" in times and "started_t" not in x) or "started_t" in x:
        say(min(times.get("queued", x["t"]), x.get("started_t", now)), "queued", "Files validated, moving job to queued state")
    if "started_t" in x:
        say(x["started_t"], "started", "Fine-tuning job started")
        if x["n_skipped"]:
            say(x["started_t"], "skipped", f"{x['n_skipped']} examples were skipped because of their images", "warn")
        every = max(1, x["n_steps"] // settings.n_metric_events)
        worked = worked_s(job, now)
        for step in sorted({*range(every, x["n_steps"] + 1, every), *epoch_ends(job)}):
            offset = x["setup_s"] + (x["train_s"] - x["setup_s"]) * step / x["n_steps"]
            if offset > worked + 1e-6:
                break
            metrics = metrics_at(job, step, settings)
            message = f"Step {step}/{x['n_steps']}: training loss={metrics['train_loss']:.2f}"
            if "valid_loss" in metrics:
                message += f", validation loss={metrics['valid_loss']:.2f}"
            if "full_valid_loss" in metrics:
                message += f", full validation loss={metrics['full_valid_loss']:.2f}"
            say(
                x["started_t"] + x["paused_s"] + offset,
                f"step-{step}",
                message,
                data={"step": step, "total_steps": x["n_steps"], **metrics},
            )
    if job["status"] == "paused":
        say(times["paused"], f"paused-{times['paused']}", "Fine-tuning job paused")
    if "cancelled" in times:
        say(times["cancelled"], "cancelled", "Fine-tuning job cancelled")
    if "succeeded" in times:
        say(times["succeeded"], "model", f"New fine-tuned model created: {job['fine_tuned_model']}")
        say(times["succeeded"], "done", "The job has successfully completed")
    return lines[::-1]


def checkpoints(job: Doc, settings: Settings) -> list[Doc]:
    """Of the last three epochs, newest first; none before the job has succeeded."""
    if job["status"] != "succeeded":
        return []
    n_epochs = job["hyperparameters"]["n_epochs"]
    made = []
    for epoch in range(n_epochs, max(0, n_epochs - 3), -1):
        step = epoch_end(job, epoch)
        name = job["fine_tuned_model"]
        made.append(
            {
                "id": ("ftchkpt-" if settings.dialect == "azure_foundry" else "ftckpt_") + hexed(settings.seed, job["id"], step),
                "object": "fine_tuning.job.checkpoint",
                "created_at": job["finished_at"],
                "fine_tuning_job_id": job["id"],
                "fine_tuned_model_checkpoint": name if epoch == n_epochs else f"{name}:ckpt-step-{step}",
                "step_number": step,
                "metrics": {"step": step, **metrics_at(job, step, settings)},
            }
        )
    return made


def result_file(job: Doc, settings: Settings) -> bytes:
    """The CSV: blanks for what was not measured at OpenAI, -1 at Azure; base64 where the settings say so."""
    azure = settings.dialect == "azure_foundry"
    head = AZURE_HEAD if azure else OPENAI_HEAD
    n_steps = job["x"]["n_steps"]
    ends, validated = set(epoch_ends(job)), max(1, n_steps // 20)
    lines = [",".join(head)]
    for step in range(1, n_steps + 1):
        metrics: dict[str, Any] = {"step": step, **metrics_at(job, step, settings)}
        metrics["train_accuracy"] = metrics["train_mean_token_accuracy"]
        if step % validated and step not in ends:
            metrics = {name: value for name, value in metrics.items() if not name.startswith("valid")}
        metrics["validation_mean_token_accuracy"] = metrics.get("valid_mean_token_accuracy")
        lines.append(",".join(("-1" if azure else "") if metrics.get(name) is None else str(metrics[name]) for name in head))
    content = "\n".join(lines).encode() + b"\n"
    return base64.b64encode(content) if settings.base64_results else content
