"""What a job goes through at the local server and what it leaves: states, queues, limits, events, models, bills, answers."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.openai.making import BASE, KEY_ENV, Bench, Counted, MemoryLog, label, question, write_batch, write_rows
from tests.openai_server import learning
from trainables.openai_phases.follow import Deadlines
from trainables.openai_phases.wire import JobEvent, Usage
from tune.core.errors import FailTrial

pytestmark = pytest.mark.slow
START = Callable[..., Bench]


def accuracy(bench: Bench, model: str, n: int = 120) -> float:
    asked = [bench.wire().chat(model, question(1000 + i), {}).text for i in range(n)]
    return sum(label(1000 + i) in text.replace("category", "") for i, text in enumerate(asked)) / n


def test_a_followed_job_tells_its_events_once_in_order_and_leaves_model_curve_checkpoints_and_tokens(bench: Bench) -> None:
    heard: list[JobEvent] = []

    def listen(event: JobEvent) -> Any:
        heard.append(event)
        return "continue"

    result = bench.service().run_job("phase-1", bench.job_order(), listen)
    steps = [event.step for event in heard if event.step is not None]
    assert steps == sorted(set(steps)) and steps[-1] == 60 == result.steps_done == result.total_steps
    assert len({event.id for event in heard}) == len(heard)
    assert [event.step for event in heard if "full_valid_loss" in event.metrics] == [20, 40, 60]
    assert result.model is not None and result.model.startswith(f"ft:{BASE}:local:phase-1:")
    assert [checkpoint.step for checkpoint in result.checkpoints] == [20, 40, 60]
    assert [row.step for row in result.curve] == list(range(1, 61))
    assert result.trained_tokens and result.trained_tokens % 3 == 0
    assert {wait.reason for wait in bench.time.waits} >= {"validating_files", "queued", "running"}


def test_dollars_billed_are_trained_tokens_times_the_price(bench: Bench) -> None:
    result = bench.service().run_job("phase-1", bench.job_order())
    assert result.trained_tokens is not None
    assert bench.bill()["usd"]["job"] == pytest.approx(result.trained_tokens * 25e-6)


def test_answers_are_billed_by_their_usage_and_a_batch_by_its_own_price(bench: Bench) -> None:
    service = bench.service()
    result = service.run_job("phase-1", bench.job_order())
    assert result.model is not None
    answer = service.ask("val", result.model, question(1000), {}, Counted(), made_t=result.job.finished_t)
    write_batch(bench.folder / "batch.jsonl", result.model)
    batch = service.run_batch("phase-1/val", bench.batch_order())

    def usd(usage: Usage, price_in: float, price_out: float) -> float:
        return (usage.input_tokens * price_in + usage.output_tokens * price_out) / 1e6

    assert bench.bill()["usd"]["chat"] == pytest.approx(usd(answer.usage, 3.75, 15.0))
    assert bench.bill()["usd"]["batch"] == pytest.approx(usd(batch.usage, 2.225, 12.5))
    assert batch.usage.input_tokens == sum(answer.usage.input_tokens for answer in batch.answers.values())


def test_told_to_stop_it_cancels_the_job_which_leaves_no_model_and_costs_the_work_done(bench: Bench) -> None:
    result = bench.service().run_job("phase-1", bench.job_order(), lambda e: "stop" if (e.step or 0) >= 15 else "continue")
    assert result.job.status == "cancelled" and result.model is None and result.checkpoints == ()
    assert 15 <= result.steps_done < 60 == result.total_steps
    whole = bench.service().run_job("phase-1", bench.job_order()).trained_tokens
    assert whole is not None
    assert bench.bill()["charges"][0]["tokens"] == pytest.approx(whole * result.steps_done / 60, rel=0.1)


def test_a_cancelled_queued_job_costs_nothing(bench: Bench) -> None:
    service = bench.service()
    job_id = service.submissions.ensure_job("phase-1", bench.job_order())
    bench.time.sleep(100)
    assert service.cancel_job("phase-1", job_id).job.status == "cancelled"
    assert bench.bill()["total_usd"] == 0


def test_jobs_beyond_the_slots_of_a_model_wait_until_one_falls_free(start: START) -> None:
    bench = start(max_running_jobs=2)
    ids = [bench.submissions().ensure_job("phase-1", bench.job_order(seed=seed)) for seed in range(3)]
    bench.time.sleep(190)
    assert [bench.wire().job(job_id).status for job_id in ids] == ["running", "running", "queued"]
    ended = bench.service().follow_job("phase-1", ids[0]).job.finished_t
    bench.time.sleep(1)
    started = next(event.t for event in bench.wire().events(ids[2], ()) if event.message == "Fine-tuning job started")
    assert started == ended


def test_the_daily_limit_is_waited_out_and_the_wait_says_why_and_until_when(start: START) -> None:
    bench = start(jobs_per_day=2)
    for seed in range(3):
        bench.submissions().ensure_job("phase-1", bench.job_order(seed=seed))
    [wait] = [wait for wait in bench.time.waits if wait.reason == "daily_rate_limit_exceeded"]
    assert wait.until % 86400 == pytest.approx(0, abs=1) and "maximum of 2 fine-tuning requests per day" in wait.detail
    assert len(bench.jobs()) == 3


def test_a_job_stuck_in_the_queue_is_cancelled_at_its_deadline(start: START) -> None:
    bench = start(queue_s=1e6)
    bench.pace = replace(bench.pace, poll_s=600)
    with pytest.raises(FailTrial, match="stayed queued for more than 7200 s and was cancelled"):
        bench.service(deadlines=Deadlines(queued=7200)).run_job("phase-1", bench.job_order())
    assert [job["status"] for job in bench.jobs()] == ["cancelled"]


def test_a_fresh_model_that_is_still_loading_is_waited_for(start: START) -> None:
    bench = start(load_s=200)
    service = bench.service()
    result = service.run_job("phase-1", bench.job_order())
    assert result.model is not None
    assert service.ask("val", result.model, question(1000), {}, Counted(), made_t=result.job.finished_t).text
    assert "model_loading" in {wait.reason for wait in bench.time.waits}


def test_skipped_rows_show_in_the_tokens_and_not_in_the_state(start: START) -> None:
    tokens = []
    for skip_share in (0.0, 0.4):
        bench = start(skip_share=skip_share)
        write_pictures(bench)
        result = bench.service().run_job("phase-1", bench.job_order())
        assert result.job.status == "succeeded"
        tokens.append(result.trained_tokens or 0)
    assert 0 < tokens[1] < tokens[0]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "azure_foundry"])
def test_the_result_file_reads_the_same_plain_or_base64_under_either_head(start: START, dialect: str, plain: bool) -> None:
    bench = start(dialect=dialect, base64_results=not plain)
    wire = bench.wire(dialect=dialect)
    result = bench.service(wire=wire).run_job("phase-1", bench.job_order())
    content = wire.content(result.job.result_files[0])
    assert plain == content.startswith(b"step,") and (plain or base64.b64decode(content).startswith(b"step,"))
    assert result.curve[-1].metrics["valid_mean_token_accuracy"] == result.checkpoints[-1].metrics["valid_mean_token_accuracy"]
    assert set(result.curve[0].metrics) == {"train_loss", "train_mean_token_accuracy"}
    assert ".ft-" in str(result.model) if dialect == "azure_foundry" else str(result.model).startswith("ft:")


def test_azures_own_fields_reach_the_service(start: START) -> None:
    bench = start(dialect="azure_foundry")
    with pytest.raises(FailTrial, match="trainingType: 'Cheap' is not offered"):
        bench.submissions(wire=bench.wire(job_extra={"trainingType": "Cheap"})).ensure_job("phase-1", bench.job_order())
    assert bench.submissions(wire=bench.wire(job_extra={"trainingType": "GlobalStandard"})).ensure_job("phase-1", bench.job_order())


def test_a_job_that_the_key_cannot_see_is_named_with_the_variable_of_the_key(bench: Bench) -> None:
    with pytest.raises(FailTrial, match=f"job_missing: ftjob-none is not at .* or the key in {KEY_ENV} is of another project"):
        bench.service().follow_job("phase-1", "ftjob-none")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[:9], "invalid_n_examples: Training file has 9"),
        (lambda rows: [*rows, "{"], "invalid_training_file: line 21: no row of messages"),
        (lambda rows: [*rows, json.dumps({"messages": question(1)})], "the last message is not the assistant's"),
    ],
)
def test_a_bad_training_file_fails_the_job_by_name_and_the_trial_with_it(bench: Bench, spoil: Any, said: str) -> None:
    path = bench.folder / "train.jsonl"
    path.write_text("\n".join(spoil(path.read_text().splitlines())))
    log = MemoryLog()
    with pytest.raises(FailTrial, match="job_failed") as raised:
        bench.service(log).run_job("phase-1", bench.job_order())
    assert said in str(raised.value) and bench.bill()["total_usd"] == 0


def test_two_servers_of_one_seed_tell_the_same_story(start: START) -> None:
    results = []
    for _ in range(2):
        bench = start(seed=3)
        result = bench.service().run_job("phase-1", bench.job_order())
        results.append((result.job, result.curve, result.checkpoints, bench.bill()))
    assert results[0] == results[1]


def test_later_phases_answer_better_and_epochs_and_multiplier_matter(start: START) -> None:
    bench = start(rows_a_pass=60.0, load_s=0, speed=0)
    bench.wire().upload(bench.folder / "val.jsonl", "a.jsonl", "fine-tune")
    bench.server.control("truth", [{"text": question(1000 + i)[0]["content"], "label": label(1000 + i)} for i in range(120)])
    models = [BASE]
    for i in range(3):
        made = bench.service().run_job("phase", bench.job_order(models[-1], suffix=f"phase-{i}")).model
        assert made is not None
        models.append(made)
    found = [accuracy(bench, model) for model in models]
    assert found == sorted(found) and found[-1] > found[0] + 0.05
    poor = bench.service().run_job("phase", bench.job_order(n_epochs=1, learning_rate_multiplier=0.05)).model
    assert poor is not None and accuracy(bench, poor) < found[1]


def test_the_known_shape_has_its_best_multiplier_at_two_root_batch_and_its_best_epochs_near_four() -> None:
    def after(epochs: float = 3, batch: float = 1, multiplier: float = 2, px: int = 400) -> float:
        return learning.accuracy(learning.taught(learning.Skill(), 210, 210, epochs, batch, multiplier, px), px)

    for batch in (1, 4, 16):
        assert max((after(batch=batch, multiplier=2.0**k), 2.0**k) for k in range(-3, 6))[1] == 2 * math.sqrt(batch)
    assert 3 <= max(range(1, 12), key=lambda epochs: after(epochs)) <= 7
    assert after(px=100) < after(px=200) < after(px=400)
    assert learning.accuracy(learning.Skill(), 400) == pytest.approx(0.75)


def test_a_batch_answers_every_row_in_any_order_and_names_the_ones_that_failed(bench: Bench) -> None:
    path = bench.folder / "batch.jsonl"
    bad = {"custom_id": "row-bad", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-none", "messages": question(1)}}
    path.write_text(path.read_text() + "\n" + json.dumps(bad))
    result = bench.service().run_batch("val", bench.batch_order())
    assert set(result.answers) == {f"row-{i}" for i in range(10)} | {"row-bad"}
    assert result.answers["row-bad"].error.startswith("model_not_found") and result.batch.n_failed == 1
    assert all(answer.text and not answer.error for key, answer in result.answers.items() if key != "row-bad")


def test_an_expired_batch_gives_and_bills_the_part_that_was_done(start: START) -> None:
    bench = start(batch_s_per_row=10_000)
    bench.pace = replace(bench.pace, poll_s=3600)
    result = bench.service().run_batch("val", bench.batch_order())
    assert result.batch.status == "expired" and len(result.answers) == 8
    assert len(bench.bill()["charges"]) == 8


def test_a_model_is_gone_at_its_shutdown_date(start: START) -> None:
    bench = start(start="2027-01-13T00:00:00+00:00")
    service = bench.service()
    assert service.model(BASE).shutdown_date == "2027-01-14"
    bench.time.sleep(86400)
    with pytest.raises(Exception, match="model_gone"):
        service.model(BASE)


def write_pictures(bench: Bench) -> None:
    """The training rows with a picture each, by URL."""
    write_rows(bench.folder)
    rows = [json.loads(line) for line in (bench.folder / "train.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        picture = {"type": "image_url", "image_url": {"url": f"https://pictures.invalid/200/{i}.jpg"}}
        row["messages"].insert(1, {"role": "user", "content": [picture]})
    (bench.folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
