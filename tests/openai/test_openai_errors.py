"""What the service's errors mean to a study, word for word; and the key, which none of them may carry."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.openai.making import BASE, KEY_ENV, Bench, Counted, MemoryLog, question
from trainables.adapters.openai_client import OpenAIWire
from trainables.adapters.openai_errors import retry_after_s, struck
from trainables.openai_phases.failures import failure_of
from trainables.openai_phases.wire import Busy, Missing, Profile, RemoteJob, Unsure
from tune.core.errors import FailTrial, RetryTrial, StopStudy, UserError

pytestmark = pytest.mark.slow
JOBS = "POST /v1/fine_tuning/jobs$"


@pytest.mark.parametrize(
    ("preset", "reason", "fix"),
    [
        ("insufficient_quota", "insufficient_quota", "add credit to the account of local or raise its limit, then resume"),
        ("permission", "permission", f"let the project of the key in {KEY_ENV} fine-tune this model, or use another profile"),
        ("unauthorized", "unauthorized", f"put a valid key of local in the environment variable {KEY_ENV}"),
        ("model_retired", "model_gone", "name a model that the service still offers, or use another profile"),
        ("moderation", "moderation", "remove what the service's usage policy forbids from the rows it names, then resume"),
    ],
)
def test_what_no_trial_can_mend_stops_the_study_with_the_fix_at_once(bench: Bench, key: str, preset: str, reason: str, fix: str) -> None:
    bench.server.fault(JOBS, preset=preset)
    with pytest.raises(StopStudy) as raised:
        bench.service().run_job("phase-1", bench.job_order())
    assert raised.value.reason == reason and fix in raised.value.fix
    assert bench.calls().count("POST /fine_tuning/jobs") == 1, "nothing is sent again"
    assert key not in str(raised.value) and raised.value.__cause__ is None
    assert bench.paid_jobs() == []


def test_after_the_fix_the_study_resumes_with_a_new_attempt(bench: Bench) -> None:
    log = MemoryLog()
    bench.server.fault(JOBS, preset="insufficient_quota")
    with pytest.raises(StopStudy):
        bench.service(log).run_job("phase-1", bench.job_order())
    assert bench.service(log).run_job("phase-1", bench.job_order()).job.status == "succeeded"
    assert len(bench.paid_jobs()) == 1


def test_a_model_that_does_not_exist_stops_the_study_and_a_fresh_one_that_is_missing_does_not(bench: Bench) -> None:
    with pytest.raises(StopStudy, match="model_gone"):
        bench.service().run_job("phase-1", bench.job_order("gpt-none"))
    with pytest.raises(StopStudy, match="model_gone"):
        bench.service().ask("val", "ft:none", question(1), {}, Counted())
    with pytest.raises(Missing):
        bench.wire().chat("ft:none", question(1), {})


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ({"preset": "rate_limit"}, Busy, "rate_limit_exceeded"),
        ({"kind": "error", "status": 429, "code": "slow_down"}, Busy, "slow_down"),
        ({"preset": "overloaded"}, Unsure, "server_is_overloaded"),
        ({"kind": "error", "status": 500}, Unsure, "A fault on demand"),
        ({"kind": "error", "status": 409, "code": "conflict"}, Unsure, "conflict"),
        ({"kind": "drop"}, Unsure, "Connection error"),
        ({"kind": "error", "status": 400, "code": "bad"}, FailTrial, "bad"),
        ({"kind": "error", "status": 422, "code": "bad"}, FailTrial, "refused"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_may_pass_is_told_from_what_will_not(bench: Bench, fault: dict[str, Any], kind: type[Exception], said: str) -> None:
    bench.server.fault("POST /v1/chat", **fault)
    with pytest.raises(kind, match=said):
        bench.wire().chat(BASE, question(1), {})
    assert len(bench.calls()) == 1, "the wire itself sends nothing twice"


def test_a_refused_connection_is_known_not_to_have_been_sent(bench: Bench) -> None:
    wire = bench.wire(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(Unsure) as raised:
        wire.chat(BASE, question(1), {})
    assert not raised.value.sent


def test_an_answer_that_is_no_json_is_no_answer(bench: Bench) -> None:
    wire = bench.wire(strict=False, base_url=bench.server.root + "/_control")  # which speaks another language

    with pytest.raises((Unsure, FailTrial, Missing)):
        wire.job("ftjob-1")


def test_retry_after_is_honoured_to_the_second(bench: Bench) -> None:
    bench.server.fault("POST /v1/chat", kind="error", status=429, code="rate_limit_exceeded", retry_after_s=321)
    began = bench.time.now()
    books = Counted()
    bench.service().ask("val", BASE, question(1), {}, books)
    assert bench.time.now() - began == pytest.approx(321, abs=1) and (books.n_sent, books.n_void) == (2, 1)


def test_an_answer_that_was_lost_and_may_be_billed_is_counted(bench: Bench) -> None:
    bench.server.fault("POST /v1/chat", kind="drop_after", times=2)
    books = Counted()
    bench.service().ask("val", BASE, question(1), {}, books)
    assert len(bench.bill()["charges"]) == books.n_open == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Fri, 20 Nov 2026 00:01:00 GMT", "date": "Fri, 20 Nov 2026 00:00:10 GMT"}, 50.0),
        ({"retry-after": "Fri, 20 Nov 2026 00:01:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [("unsafe_file", "x", StopStudy), ("server_error", "x", RetryTrial), ("invalid_training_file", "x", FailTrial), ("", "", FailTrial)],
)
def test_a_failed_job_stops_retries_or_fails_by_its_code(code: str, message: str, kind: type[Exception]) -> None:
    failure = failure_of(RemoteJob("ftjob-1", "failed", BASE, "file-1", 0.0, error_code=code, error_message=message))
    assert type(failure) is kind and "ftjob-1" in str(failure)


def test_a_job_that_the_service_itself_failed_at_is_made_anew_when_the_trial_is_tried_again(bench: Bench) -> None:
    log = MemoryLog()
    bench.server.fault(JOBS, kind="doom", code="server_error", message="an internal error")
    with pytest.raises(RetryTrial, match="job_failed_by_service"):
        bench.service(log).run_job("phase-1", bench.job_order())
    bench.service(log).run_job("phase-1", bench.job_order())
    assert sorted(job["status"] for job in bench.jobs()) == ["failed", "succeeded"] and len(bench.paid_jobs()) == 1


# --- the key ------------------------------------------------------------------------------------------------------------------


def test_without_a_key_in_the_environment_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    with pytest.raises(UserError, match=f"export {KEY_ENV}=... with a key of local"):
        OpenAIWire(Profile("local", "http://127.0.0.1:9/v1", api_key_env=KEY_ENV))


def test_the_key_is_in_no_repr_no_error_no_log_and_no_pickle(bench: Bench, key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)
    wire = OpenAIWire(bench.profile)
    log = MemoryLog()
    said = [repr(wire), str(wire), repr(wire.profile)]
    for fault in ({"preset": "unauthorized"}, {"kind": "error", "status": 400, "message": "key {key} is bad"}, {"kind": "drop"}):
        bench.server.fault("POST /v1/chat", **fault)
        with pytest.raises(Exception) as raised:
            wire.chat(BASE, question(1), {})
        said += [repr(raised.value), str(raised.value), *traceback.format_exception(raised.value)]
        assert raised.value.__cause__ is None and raised.value.__context__ is None
    bench.service(log, wire).run_job("phase-1", bench.job_order())
    picture = "data:image/jpeg;base64," + "QUJD" * 50
    with pytest.raises(FailTrial):
        wire.chat(BASE, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}], {})
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        copied: Callable[[Any], Any] = copier
        with pytest.raises(TypeError, match="a wire holds a key"):
            copied(wire)
    said += [record.getMessage() for record in caplog.records] + [repr(log.kept), repr(bench.server.state()), repr(bench.calls())]
    assert [text for text in said if key in text] == []
    assert [text for text in said if "QUJDQUJD" in text] == [], "nor do pictures"


def test_what_looks_like_a_key_is_struck_out_of_a_services_words() -> None:
    assert struck("Incorrect key sk-proj-abc_DEF-123456 given, my secret too", "my secret") == "Incorrect key sk-*** given, *** too"
    assert len(struck("x" * 5000, "")) < 700
