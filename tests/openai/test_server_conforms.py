"""Every answer of the local server, on a walk over every endpoint, against OpenAI's own document and its SDK in strict mode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from tests.openai.making import BASE, PROMPT, Bench, question, write_batch

DOCUMENT = json.loads((Path(__file__).parents[1] / "openai_server" / "openapi.json").read_text())
OPERATIONS = {(method.upper(), path): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()}


class Judge:
    """Holds every request's and answer's body against the document; remembers which operations were seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def client(self, bench: Bench) -> openai.OpenAI:
        http = openai.DefaultHttpx2Client(event_hooks={"request": [self.asked], "response": [self.answered]})
        return openai.OpenAI(
            api_key="sk-local", base_url=bench.server.base_url, http_client=http, max_retries=0, _strict_response_validation=True
        )

    def asked(self, request: Any) -> None:
        if request.headers.get("content-type", "").startswith("application/json") and request.read():
            schema = self.operation(request)["requestBody"]["content"]["application/json"]["schema"]
            self.check(json.loads(request.read()), schema)

    def answered(self, response: Any) -> None:
        content = response.read()
        if response.headers["content-type"].startswith("application/json"):
            schema = {"$ref": "#/components/schemas/ErrorResponse"}
            if response.status_code == 200:
                schema = self.operation(response.request)["responses"]["200"]["content"]["application/json"]["schema"]
                self.seen.add(self.place(response.request))
            self.check(json.loads(content), schema)
        else:
            self.seen.add(self.place(response.request))

    def place(self, request: Any) -> tuple[str, str]:
        path = request.url.path.removeprefix("/v1")
        found = [p for p in DOCUMENT["paths"] if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", p), path)]
        assert len(found) == 1, path
        return request.method, found[0]

    def operation(self, request: Any) -> dict[str, Any]:
        return OPERATIONS[self.place(request)]

    def check(self, value: Any, schema: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


@pytest.mark.slow
def test_every_answer_on_a_walk_over_all_endpoints_is_as_the_document_says(bench: Bench, tmp_path: Path) -> None:
    judge = Judge()
    client = judge.client(bench)
    hyper: Any = {"n_epochs": 4, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    train = client.files.create(file=tmp_path / "train.jsonl", purpose="fine-tune")
    val = client.files.create(file=tmp_path / "val.jsonl", purpose="fine-tune")
    assert client.files.retrieve(train.id).filename == "train.jsonl"
    assert {file.id for file in client.files.list(purpose="fine-tune", limit=1)} == {train.id, val.id}

    def create(**more: Any) -> Any:
        return client.fine_tuning.jobs.create(
            model=BASE, training_file=train.id, validation_file=val.id, seed=1, suffix="walk", metadata={"a": "1"}, **more
        )

    job = create(method={"type": "supervised", "supervised": {"hyperparameters": hyper}})
    assert job.status == "validating_files"
    other = create()
    client.fine_tuning.jobs.cancel(other.id)
    seen = set()
    for _ in range(60):
        bench.server.advance(10)
        seen.add(client.fine_tuning.jobs.retrieve(job.id).status)
    assert seen == {"validating_files", "queued", "running", "succeeded"}
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"a": "1"}, limit=1)] == [other.id, job.id]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=30))
    assert [event.type for event in events[:3]] == ["message", "message", "metrics"]
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [80, 60, 40]
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert client.files.content(done.result_files[0]).read()
    model = done.fine_tuned_model
    assert model is not None
    bench.server.advance(120)
    assert client.models.retrieve(model).owned_by == "org-local"
    assert client.models.retrieve(BASE).shutdown_date == "2027-01-14"
    assert {BASE, model} <= {m.id for m in client.models.list()}
    asked: Any = question(1000)
    assert client.chat.completions.create(model=model, messages=asked).choices[0].message.content == "{category: cat}"
    assert client.chat.completions.list().data == []  # the one above was not to be kept
    kept = [
        client.chat.completions.create(model=of, messages=asked, store=True, metadata={"row": str(i), "of": "walk"}).id
        for i, of in enumerate((model, BASE, model))
    ]
    stored = client.chat.completions
    assert [a.id for a in stored.list(limit=1, metadata={"of": "walk"})] == kept
    assert [a.id for a in stored.list(limit=2, order="desc", model=model)] == [kept[2], kept[0]]
    assert [(a.metadata or {})["row"] for a in stored.list(metadata={"row": "1"})] == ["1"] and not stored.list(metadata={"of": "x"}).data

    write_batch(tmp_path / "walk.jsonl", model)
    requests = client.files.create(file=tmp_path / "walk.jsonl", purpose="batch")
    batch = client.batches.create(input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"b": "2"})
    second = client.batches.create(input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h")
    client.batches.cancel(second.id)
    bench.server.advance(600)
    assert {b.id: b.status for b in client.batches.list(limit=1)} == {batch.id: "completed", second.id: "cancelled"}
    assert client.batches.retrieve(batch.id).output_file_id

    upload = client.uploads.create(bytes=6, filename="big.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    parts = [client.uploads.parts.create(upload.id, data=data).id for data in (b"{}\n", b"{}\n")]
    completed = client.uploads.complete(upload.id, part_ids=parts).file
    assert completed is not None and client.files.content(completed.id).read() == b"{}\n{}\n"
    client.uploads.cancel(client.uploads.create(bytes=6, filename="b.jsonl", mime_type="text/jsonl", purpose="fine-tune").id)

    slow = create()
    bench.server.advance(200)
    assert client.fine_tuning.jobs.retrieve(slow.id).status == "running"
    with pytest.raises(openai.APIResponseValidationError):  # the SDK does not know "paused"
        client.fine_tuning.jobs.pause(slow.id)
    client.fine_tuning.jobs.resume(slow.id)
    permissions = client.fine_tuning.checkpoints.permissions
    made = next(iter(permissions.create(checkpoints[0].fine_tuned_model_checkpoint, project_ids=["proj_1"])))
    assert [p.id for p in permissions.list(checkpoints[0].fine_tuned_model_checkpoint)] == [made.id]
    permissions.delete(made.id, fine_tuned_model_checkpoint=checkpoints[0].fine_tuned_model_checkpoint)
    assert client.models.delete(model).deleted and client.files.delete(train.id).deleted
    assert set(OPERATIONS) - judge.seen == set()


@pytest.mark.parametrize(
    ("ask", "status", "said"),
    [
        (lambda c: c.fine_tuning.jobs.create(model=BASE, training_file="file-none"), 400, "no file for fine-tuning"),
        (lambda c: c.fine_tuning.jobs.retrieve("ftjob-none"), 404, "ftjob-none"),
        (lambda c: c.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": PROMPT}]), 404, "gpt-none"),
        (
            lambda c: c.chat.completions.create(model=BASE, messages=[{"role": "user", "content": PROMPT}], metadata={"a": "b"}),
            400,
            "only allowed when 'store' is enabled",
        ),
        (
            lambda c: c.batches.create(input_file_id="x", endpoint="/v1/chat/completions", completion_window="24h"),
            400,
            "no file for batches",
        ),
        (lambda c: c.files.create(file=("a.txt", b"{}"), purpose="fine-tune"), 400, "jsonl"),
        (lambda c: c.uploads.complete("upload_none", part_ids=["p"]), 404, "upload_none"),
        (lambda c: c.fine_tuning.jobs.list(limit=101), 400, "limit"),
    ],
)
def test_an_error_has_the_shape_of_the_service(bench: Bench, ask: Callable[[openai.OpenAI], Any], status: int, said: str) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        ask(Judge().client(bench))
    assert raised.value.status_code == status and said in raised.value.message and raised.value.request_id
