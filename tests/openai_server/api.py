"""The service without HTTP: a call in, an answer out. Routes, models and permissions; files, jobs and answers are beside it."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.openai_server import answers, batches, files, jobs, progress
from tests.openai_server.calls import Answer, Call, page
from tests.openai_server.settings import MODELS
from tests.openai_server.store import Doc
from tests.openai_server.world import ApiError, World, not_found

Handler = Callable[[World, Call, tuple[str, ...]], Answer]


def handle(world: World, call: Call, doom: tuple[str, str] | None = None) -> Answer:
    """The answer, committed. Raises ApiError."""
    settle(world)
    for method, pattern, handler in ROUTES:
        found = re.fullmatch(pattern, call.path)
        if found and method == call.method:
            if doom is not None and handler is create_job:
                return jobs.public(jobs.create(world, call.body, doom))
            return handler(world, call, found.groups())
    raise ApiError(404, None, f"Invalid URL ({call.method} /v1{call.path})")


def settle(world: World) -> None:
    jobs.settle(world)
    batches.settle(world)


# --- jobs ---------------------------------------------------------------------------------------------------------------------


def create_job(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    return jobs.public(jobs.create(world, call.body))


def list_jobs(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    asked = {} if world.settings.ignore_metadata_filter else metadata_filter(call)
    found = [job for job in world.store.all("job")[::-1] if asked.items() <= (job["metadata"] or {}).items()]
    return page(call, [jobs.public(job) for job in found], 20, 100, ids=False)


def metadata_filter(call: Call) -> dict[str, str]:
    return {found[1]: value for name, value in call.query.items() if (found := re.fullmatch(r"metadata\[(.+)\]", name))}


def job_events(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    return page(call, progress.events(jobs.find(world, ids[0]), world.now(), world.settings), 20, 100, ids=False)


def job_checkpoints(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    return page(call, progress.checkpoints(jobs.find(world, ids[0]), world.settings), 10, 100)


def of_job(act: Callable[[World, Doc], Doc]) -> Handler:
    return lambda world, call, ids: jobs.public(act(world, jobs.find(world, ids[0])))


# --- batches, answers, models -------------------------------------------------------------------------------------------------


def list_batches(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    return page(call, [batches.public(batch) for batch in world.store.all("batch")[::-1]], 20, 100)


def of_batch(act: Callable[[World, Doc], Doc]) -> Handler:
    return lambda world, call, ids: batches.public(act(world, batches.find(world, ids[0])))


def list_answers(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    newest_first = call.query.get("order", "asc") == "desc"
    return page(call, answers.kept(world, call.query.get("model"), metadata_filter(call), newest_first), 20, 100)


def chat(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    limit = world.settings.requests_per_minute
    if limit is not None:
        window = [doc["t"] for doc in world.store.all("bill") if doc["what"] == "chat" and doc["t"] > world.now() - 60]
        if len(window) >= limit:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"at most {limit} requests a minute",
                "requests",
                wait_s=max(0.1, min(window) + 60 - world.now()),
            )
    return answers.complete(world, call.body)


def list_models(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    names = [base.id for base in MODELS.values() if not world.gone(base)] + [doc["id"] for doc in world.store.all("model")]
    return {"object": "list", "data": [model_doc(world, name) for name in names if not world.gone(MODELS[base_of(world, name)])]}


def base_of(world: World, name: str) -> str:
    tuned = world.store.get("model", name)
    return str(tuned["base"]) if tuned else name


def model_doc(world: World, name: str) -> Doc:
    base, tuned = world.base(name), world.store.get("model", name)
    if tuned is not None and world.now() < tuned["ready_t"]:
        raise ApiError(404, "model_not_found", f"The model '{name}' does not exist", param="model")
    doc = {
        "id": name,
        "object": "model",
        "created": tuned["created"] if tuned else 1722902400,
        "owned_by": tuned["owned_by"] if tuned else "system",
    }
    return doc | {"shutdown_date": base.shutdown_date if world.settings.shutdown else None}


def delete_model(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    if world.store.get("model", ids[0]) is None:
        raise not_found("model", ids[0])
    world.store.delete("model", ids[0])
    return {"id": ids[0], "object": "model", "deleted": True}


# --- permissions of checkpoints -----------------------------------------------------------------------------------------------


def list_permissions(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    found = [doc for doc in world.store.all("permission")[::-1] if doc["of"] == ids[0]]
    return page(call, [{name: value for name, value in doc.items() if name != "of"} for doc in found], 10, 100)


def create_permissions(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    for project in call.body.get("project_ids", ()):
        doc = {"id": world.new_id("cp_"), "object": "checkpoint.permission", "created_at": int(world.now()), "project_id": project}
        world.store.put("permission", doc["id"], doc | {"of": ids[0]})
    return list_permissions(world, Call("GET", call.path), ids)


def delete_permission(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    if world.store.get("permission", ids[1]) is None:
        raise not_found("permission", ids[1])
    world.store.delete("permission", ids[1])
    return {"id": ids[1], "object": "checkpoint.permission", "deleted": True}


ID = r"([^/]+)"
JOB, PERMISSIONS = f"/fine_tuning/jobs/{ID}", f"/fine_tuning/checkpoints/{ID}/permissions"
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/files", files.create_file),
    ("GET", "/files", files.list_files),
    ("GET", f"/files/{ID}", lambda world, call, ids: files.find_file(world, ids[0])),
    ("DELETE", f"/files/{ID}", files.delete_file),
    ("GET", f"/files/{ID}/content", lambda world, call, ids: world.store.content(files.find_file(world, ids[0])["id"])),
    ("POST", "/uploads", files.create_upload),
    ("POST", f"/uploads/{ID}/parts", files.add_part),
    ("POST", f"/uploads/{ID}/complete", files.complete_upload),
    ("POST", f"/uploads/{ID}/cancel", files.cancel_upload),
    ("POST", "/fine_tuning/jobs", create_job),
    ("GET", "/fine_tuning/jobs", list_jobs),
    ("GET", JOB, of_job(lambda world, job: job)),
    ("POST", f"{JOB}/cancel", of_job(jobs.cancel)),
    ("POST", f"{JOB}/pause", of_job(jobs.pause)),
    ("POST", f"{JOB}/resume", of_job(jobs.resume)),
    ("GET", f"{JOB}/events", job_events),
    ("GET", f"{JOB}/checkpoints", job_checkpoints),
    ("GET", PERMISSIONS, list_permissions),
    ("POST", PERMISSIONS, create_permissions),
    ("DELETE", f"{PERMISSIONS}/{ID}", delete_permission),
    ("POST", "/batches", lambda world, call, ids: batches.public(batches.create(world, call.body))),
    ("GET", "/batches", list_batches),
    ("GET", f"/batches/{ID}", of_batch(lambda world, batch: batch)),
    ("POST", f"/batches/{ID}/cancel", of_batch(batches.cancel)),
    ("POST", "/chat/completions", chat),
    ("GET", "/chat/completions", list_answers),
    ("GET", "/models", list_models),
    ("GET", f"/models/{ID}", lambda world, call, ids: model_doc(world, ids[0])),
    ("DELETE", f"/models/{ID}", delete_model),
)
