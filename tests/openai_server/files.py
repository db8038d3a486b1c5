"""Files and uploads in parts, with their limits of size and time."""

from __future__ import annotations

from tests.openai_server.calls import Answer, Call, page
from tests.openai_server.store import Doc
from tests.openai_server.world import ApiError, World, not_found

FINE_TUNE_BYTES, BATCH_BYTES, PART_BYTES, UPLOAD_BYTES = 512 * 1024**2, 200 * 1024**2, 64 * 1024**2, 8 * 1024**3
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


def create_file(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    upload, purpose = call.form.get("file"), call.form.get("purpose")
    if not isinstance(upload, tuple) or not isinstance(purpose, str):
        raise ApiError(400, "missing_required_parameter", "file and purpose are required.", param="file")
    return new_file(world, upload[0], upload[1], purpose)


def new_file(world: World, name: str, content: bytes, purpose: str, most: int | None = None) -> Doc:
    if purpose not in PURPOSES:
        raise ApiError(400, "invalid_purpose", f"'{purpose}' is not one of {PURPOSES}.", param="purpose")
    most = most or (BATCH_BYTES if purpose == "batch" else FINE_TUNE_BYTES)
    if len(content) > most:
        raise ApiError(413, "file_too_large", f"{len(content)} bytes, at most {most}.", param="file")
    if purpose in ("fine-tune", "batch") and not name.endswith(".jsonl"):
        raise ApiError(400, "invalid_file_format", f"{name}: expected a .jsonl file.", param="file")
    file: Doc = {
        "id": world.new_id("file-"),
        "object": "file",
        "bytes": len(content),
        "created_at": int(world.now()),
        "filename": name,
        "purpose": purpose,
        "status": "processed",
    }
    world.store.put_content(file["id"], content)
    world.store.put("file", file["id"], file)
    return file


def find_file(world: World, file_id: str) -> Doc:
    file = world.store.get("file", file_id)
    if file is None:
        raise not_found("File object", file_id)
    return file


def list_files(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    files = world.store.all("file")[::-1]
    if call.query.get("order") == "asc":
        files = files[::-1]
    purpose = call.query.get("purpose")
    return page(call, [file for file in files if purpose in (None, file["purpose"])], 10_000, 10_000)


def delete_file(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    file = find_file(world, ids[0])
    world.store.delete("file", file["id"])
    world.store.delete_content(file["id"])
    return {"id": file["id"], "object": "file", "deleted": True}


def create_upload(world: World, call: Call, _: tuple[str, ...]) -> Answer:
    if missing := [name for name in ("filename", "purpose", "bytes", "mime_type") if name not in call.body]:
        raise ApiError(400, "missing_required_parameter", f"Missing: {', '.join(missing)}.", param=missing[0])
    if call.body["bytes"] > UPLOAD_BYTES:
        raise ApiError(400, "file_too_large", f"at most {UPLOAD_BYTES} bytes.", param="bytes")
    now = world.now()
    upload: Doc = {
        "id": world.new_id("upload_"),
        "object": "upload",
        "created_at": int(now),
        "expires_at": int(now + 3600),
        "status": "pending",
        **{name: call.body[name] for name in ("filename", "purpose", "bytes")},
    }
    world.store.put("upload", upload["id"], upload)
    return upload


def open_upload(world: World, upload_id: str) -> Doc:
    upload = world.store.get("upload", upload_id)
    if upload is None:
        raise not_found("upload", upload_id)
    if upload["status"] == "pending" and world.now() > upload["expires_at"]:
        upload["status"] = "expired"
    if upload["status"] != "pending":
        raise ApiError(400, "invalid_state", f"Upload {upload_id} is {upload['status']}.")
    return upload


def add_part(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    upload, data = open_upload(world, ids[0]), call.form.get("data")
    content = data[1] if isinstance(data, tuple) else (data or "").encode()
    if not 0 < len(content) <= PART_BYTES:
        raise ApiError(400, "invalid_part", f"a part has 1 to {PART_BYTES} bytes.", param="data")
    part: Doc = {"id": world.new_id("part_"), "object": "upload.part", "created_at": int(world.now()), "upload_id": upload["id"]}
    world.store.put_content(part["id"], content)
    world.store.put("part", part["id"], part)
    return part


def complete_upload(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    upload = open_upload(world, ids[0])
    parts = [world.store.get("part", part_id) for part_id in call.body.get("part_ids", ())]
    if not parts or any(part is None or part["upload_id"] != upload["id"] for part in parts):
        raise ApiError(400, "invalid_part", "part_ids must name parts of this upload.", param="part_ids")
    content = b"".join(world.store.content(part["id"]) for part in parts if part)
    if len(content) != upload["bytes"]:
        raise ApiError(400, "invalid_size", f"{len(content)} bytes in the parts, {upload['bytes']} were announced.")
    upload["file"] = new_file(world, upload["filename"], content, upload["purpose"], UPLOAD_BYTES)
    upload["status"] = "completed"
    world.store.put("upload", upload["id"], upload)
    return upload


def cancel_upload(world: World, call: Call, ids: tuple[str, ...]) -> Answer:
    upload = open_upload(world, ids[0])
    upload["status"] = "cancelled"
    world.store.put("upload", upload["id"], upload)
    return upload
