"""One paid job a phase, one file a content, one batch a question, whatever fails between the intent and the answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.openai.killing import Bomb, Killed, MinedLog, MinedWire
from tests.openai.making import Bench, MemoryLog, write_batch
from trainables.adapters.intent_file import IntentFile, guard_in
from trainables.openai_phases.intents import Held, Intent, Void
from trainables.openai_phases.protocol import ATTEMPT, Submissions
from tune.core.errors import FailTrial, PhasetuneError

pytestmark = pytest.mark.slow
START = Callable[..., Bench]
CREATIONS = {"file": "POST /v1/files$", "job": "POST /v1/fine_tuning/jobs$", "batch": "POST /v1/batches$"}


def assert_one_of_each(bench: Bench) -> None:
    """The two files of the job, the job and the batch with its file, once each."""
    assert len(bench.paid_jobs()) == 1 and len(bench.jobs()) == 1
    assert sorted(bench.file_names("fine-tune")) == sorted(set(bench.file_names("fine-tune"))) and len(bench.file_names("fine-tune")) == 2
    assert len(bench.batches()) == 1 and len(bench.file_names("batch")) == 1


def everything(bench: Bench, log: Any, wire: Any = None) -> tuple[str, str]:
    submissions = bench.submissions(log, wire)
    return submissions.ensure_job("phase-1", bench.job_order()), submissions.ensure_batch("phase-1/val", bench.batch_order())


def test_asked_twice_it_submits_once_and_the_second_time_asks_the_service_for_nothing(bench: Bench) -> None:
    log = MemoryLog()
    first = everything(bench, log)
    n_calls = len(bench.calls())
    assert everything(bench, log) == first
    assert len(bench.calls()) == n_calls
    assert_one_of_each(bench)


def test_the_intent_with_file_hash_and_parameters_is_in_the_log_before_the_paid_call(bench: Bench) -> None:
    log, seen = MemoryLog(), []
    wire: Any = bench.wire()
    create = wire.create_job

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(wire, name)

        def create_job(self, *args: Any) -> Any:
            seen.append((log.kept[-1], args[-1]))
            return create(*args)

    watched: Any = Watching()
    bench.submissions(log, watched).ensure_job("phase-1", bench.job_order())
    [(intent, metadata)] = seen
    assert isinstance(intent, Intent) and intent.key == "phase-1"
    assert metadata[ATTEMPT] == intent.attempt and metadata["trial"] == "t0000"
    assert set(intent.params) == {"model", "training_sha256", "validation_sha256", "hyperparameters", "suffix", "seed"}


def outcomes(bench: Bench, path: Path, at: int | None) -> Bomb:
    """One life of a trial, with its log in a file, that ends at a point or with all that it wanted."""
    bomb = Bomb(at)
    with IntentFile(path) as log:
        if at is None:
            everything(bench, MinedLog(log, bomb), MinedWire(bench.wire(), bomb))
        else:
            with pytest.raises(Killed):
                everything(bench, MinedLog(log, bomb), MinedWire(bench.wire(), bomb))
    return bomb


def test_killed_at_every_point_of_the_protocol_and_started_again_it_leaves_one_of_each(bench: Bench, tmp_path: Path) -> None:
    points = outcomes(bench, tmp_path / "whole.jsonl", None).names
    assert {"before create_job", "after create_job", "after append Intent", "before upload", "after create_batch"} <= set(points)
    for at in range(len(points)):
        bench.server.control("forget", {})
        path = tmp_path / f"intents{at}.jsonl"
        outcomes(bench, path, at)
        outcomes(bench, path, None)
        assert_one_of_each(bench)


def test_killed_again_at_every_point_of_its_recovery_it_leaves_one_of_each(bench: Bench, tmp_path: Path) -> None:
    points = outcomes(bench, tmp_path / "whole.jsonl", None).names
    first = points.index("after create_job")
    for at in range(12):
        bench.server.control("forget", {})
        path = tmp_path / f"intents{at}.jsonl"
        outcomes(bench, path, first)
        bomb = Bomb(at)
        with IntentFile(path) as log, suppress(Killed):
            everything(bench, MinedLog(log, bomb), MinedWire(bench.wire(), bomb))
        outcomes(bench, path, None)
        assert_one_of_each(bench)


@pytest.mark.parametrize("what", CREATIONS)
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop"},
        {"kind": "drop_after"},
        {"kind": "error", "status": 500},
        {"kind": "error_after", "status": 500},
        {"kind": "error_after", "status": 503, "retry_after_s": 7},
        {"kind": "late", "after_s": 45},
        {"kind": "error", "status": 429, "code": "rate_limit_exceeded", "retry_after_s": 20},
        {"kind": "drop_after", "times": 3},
        {"kind": "error", "status": 502, "times": 3},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_an_answer_that_does_not_come_leaves_one_of_each(bench: Bench, what: str, fault: dict[str, Any]) -> None:
    bench.server.fault(CREATIONS[what], **fault)
    everything(bench, MemoryLog())
    assert_one_of_each(bench)


@pytest.mark.parametrize("what", CREATIONS)
def test_a_timeout_after_the_service_has_accepted_leaves_one_of_each(bench: Bench, what: str) -> None:
    bench.server.fault(CREATIONS[what], preset="timeout_after_accept")
    everything(bench, MemoryLog(), bench.wire(timeout_s=0.3))
    assert_one_of_each(bench)


def test_a_job_is_found_by_its_attempt_even_if_the_server_ignores_the_filter(start: START) -> None:
    bench = start(ignore_metadata_filter=True)
    strangers = [bench.submissions().ensure_job("phase-1", bench.job_order(seed=seed)) for seed in range(3)]
    bench.server.fault(CREATIONS["job"], kind="drop_after")
    log = MemoryLog()
    ours = bench.submissions(log).ensure_job("phase-1", bench.job_order())
    assert ours not in strangers and len(bench.jobs()) == 4
    assert isinstance(log.kept[-1], Held) and log.kept[-1].how == "adopted"


def test_another_trials_job_that_is_alike_in_all_but_the_attempt_is_not_adopted(bench: Bench) -> None:
    first = bench.submissions().ensure_job("phase-1", bench.job_order())
    bench.server.fault(CREATIONS["job"], kind="drop")
    assert bench.submissions().ensure_job("phase-1", bench.job_order()) != first
    assert len(bench.jobs()) == 2


def test_at_a_server_without_metadata_a_job_is_known_by_file_model_seed_and_time(start: START) -> None:
    bench = start(drops_metadata=True)
    bench.submissions(wire=bench.wire(keeps_metadata=False)).ensure_job("phase-1", bench.job_order(seed=1))
    bench.server.fault(CREATIONS["job"], kind="drop_after")
    bench.submissions(wire=bench.wire(keeps_metadata=False)).ensure_job("phase-1", bench.job_order(seed=2))
    assert [job["seed"] for job in bench.jobs()] == [1, 2]


def test_a_sending_that_takes_effect_after_its_repetition_is_found_and_the_older_job_is_kept(bench: Bench) -> None:
    bench.server.fault(CREATIONS["job"], kind="late", after_s=bench.pace.settle_s + 1)
    bench.server.fault(CREATIONS["job"], kind="drop_after", skip=1)
    log = MemoryLog()
    kept = bench.submissions(log).ensure_job("phase-1", bench.job_order())
    assert len(bench.jobs()) == 2
    bench.service(log).follow_job("phase-1", kept)
    assert bench.paid_jobs() == [kept]


def test_a_sending_that_takes_effect_while_its_repetition_is_queued_is_cancelled_before_it_costs(bench: Bench) -> None:
    bench.server.fault(CREATIONS["job"], kind="late", after_s=bench.pace.settle_s + 60)
    bench.service().run_job("phase-1", bench.job_order())
    assert sorted(job["status"] for job in bench.jobs()) == ["cancelled", "succeeded"]
    assert len(bench.paid_jobs()) == 1


def test_two_trials_with_the_same_file_share_one_upload(bench: Bench) -> None:
    one, other = bench.submissions(), bench.submissions()
    path = bench.folder / "val.jsonl"
    assert one.ensure_file(path, "fine-tune") == other.ensure_file(path, "fine-tune")
    assert bench.calls().count("POST /files") == 1


def test_trials_that_upload_the_same_file_at_the_same_time_make_one_of_it(bench: Bench, tmp_path: Path) -> None:
    bench.server.fault("POST /v1/files$", kind="drop_after")
    bench.wire()

    def upload(_: int) -> str:
        submissions = Submissions(bench.wire(), MemoryLog(), bench.pace, bench.new_id, guard_in(tmp_path / "locks"))
        return submissions.ensure_file(bench.folder / "val.jsonl", "fine-tune")

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(upload, range(8)))
    assert len(ids) == 1 and len(bench.file_names("fine-tune")) == 1


def test_a_file_that_somebody_deleted_is_uploaded_again(bench: Bench) -> None:
    log = MemoryLog()
    path = bench.folder / "val.jsonl"
    wire = bench.wire()
    first = bench.submissions(log, wire).ensure_file(path, "fine-tune")
    wire.delete_file(first)
    second = bench.submissions(log, wire).ensure_file(path, "fine-tune")
    assert second != first and any(isinstance(record, Void) for record in log.kept)


def test_a_file_above_the_bound_goes_up_in_parts_and_arrives_whole(bench: Bench) -> None:
    wire = bench.wire(single_upload_bytes=100, chunk_bytes=64)
    file_id = bench.submissions(wire=wire).ensure_file(bench.folder / "val.jsonl", "fine-tune")
    assert wire.content(file_id) == (bench.folder / "val.jsonl").read_bytes()
    assert sum(call.endswith("/parts") for call in bench.calls()) == -(-(bench.folder / "val.jsonl").stat().st_size // 64)


def test_a_dropped_answer_to_the_last_part_of_an_upload_leaves_one_file(bench: Bench) -> None:
    bench.server.fault("POST /v1/uploads/.*/complete", kind="drop_after")
    bench.submissions(wire=bench.wire(single_upload_bytes=100, chunk_bytes=4096)).ensure_file(bench.folder / "val.jsonl", "fine-tune")
    assert len(bench.file_names("fine-tune")) == 1


def test_a_refused_order_leaves_nothing_open_and_the_next_attempt_is_a_new_one(bench: Bench) -> None:
    log = MemoryLog()
    with pytest.raises(FailTrial, match="n_epochs"):
        bench.submissions(log).ensure_job("phase-1", bench.job_order(n_epochs=99))
    assert isinstance(log.kept[-1], Void)
    bench.submissions(log).ensure_job("phase-1", bench.job_order())
    assert len({record.attempt for record in log.kept if record.kind == "job"}) == 2


def test_another_order_under_the_key_of_a_submitted_one_is_refused_by_name(bench: Bench) -> None:
    log = MemoryLog()
    bench.submissions(log).ensure_job("phase-1", bench.job_order())
    with pytest.raises(FailTrial, match="phase-1 was already asked for with another hyperparameters, seed"):
        bench.submissions(log).ensure_job("phase-1", bench.job_order(seed=8, n_epochs=1))
    assert len(bench.jobs()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_random_faults_and_random_kills_together_leave_one_of_each(start: START, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    bench = start(seed=seed, ignore_metadata_filter=seed % 2 == 0)
    kinds = [{"kind": "drop"}, {"kind": "drop_after"}, {"kind": "error", "status": 500}, {"kind": "error_after", "status": 504}]
    kinds += [{"kind": "late", "after_s": 60}, {"preset": "rate_limit"}, {"preset": "overloaded"}]
    for kind in rng.sample(kinds, 4):
        bench.server.fault("POST", times=rng.randint(1, 3), rate=0.5, **kind)
    bench.server.fault("GET", times=5, rate=0.3, kind="drop")
    bench.pace = replace(bench.pace, patience_s=1e9)  # for whatever comes
    for _ in range(200):
        bomb = Bomb(rng.randint(0, 25))
        with IntentFile(tmp_path / "intents.jsonl") as log:
            try:
                everything(bench, MinedLog(log, bomb), MinedWire(bench.wire(), bomb))
                break
            except Killed:
                bench.time.sleep(rng.random() * 30)
    bench.time.sleep(600)
    assert_one_of_each(bench)


def test_waiting_longer_than_the_patience_gives_the_trial_up_for_now_and_its_intent_stays_open(bench: Bench) -> None:
    log = MemoryLog()
    bench.pace = replace(bench.pace, patience_s=1000)
    bench.server.fault(CREATIONS["job"], kind="error", status=503, times=None)
    with pytest.raises(PhasetuneError, match="service_unavailable"):
        bench.submissions(log).ensure_job("phase-1", bench.job_order())
    bench.server.control("faults", method="DELETE")
    assert isinstance(log.kept[-1], Intent)
    bench.submissions(log).ensure_job("phase-1", bench.job_order())
    assert len(bench.jobs()) == 1


def test_a_batch_that_found_the_queue_full_is_sent_again_and_answers_every_row(start: START) -> None:
    bench = start(batch_tokens=800)
    write_batch(bench.folder / "other.jsonl", "gpt-4o-mini")
    order = replace(bench.batch_order(), input_file=bench.folder / "other.jsonl")
    bench.submissions().ensure_batch("other", order)
    bench.time.sleep(20)
    result = bench.service().run_batch("phase-1/val", bench.batch_order())
    assert sorted(result.answers) == [f"row-{i}" for i in range(10)]
    assert [batch["status"] for batch in bench.batches()] == ["completed", "failed", "completed"]
    assert "token_limit_exceeded" in {wait.reason for wait in bench.time.waits}
