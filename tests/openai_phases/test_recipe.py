"""Whole trials of hosted phases against the local server: what is paid, reported, picked and left, and what a kill changes (nothing)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.openai.killing import Bomb, BombAfter, Killed
from tests.openai.making import KEY_ENV
from tests.openai_phases.trials import Books, Stage
from tests.openai_server.server import LocalServer
from tests.openai_server.settings import Settings
from tests.trainables.reporting import Killed as DiedAtReport
from trainables.openai_phases.profile import QueueSpec
from trainables.openai_phases.queue import jobs_of, portion
from tune.core.errors import FailTrial, StopStudy
from tune.core.ports import Outcome, Reserve, Spend, Use

KEY = "sk-local-0123456789abcdef"
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv(KEY_ENV, KEY)
    with LocalServer(tmp_path / "server.db", Settings(speed=0, rows_a_pass=15)) as server:
        yield Stage(server, tmp_path)


def phases_of(stage: Stage, name: str = "trial") -> list[dict]:
    return json.loads((stage.folder / name / "work" / "phases.json").read_text())


def on_sleep(stage: Stage, books: Books, then: Callable[[], object]) -> list[str]:
    """What the study knows the first trial to wait for, whenever it sleeps; `then` is done each time."""
    told: list[str] = []
    sleep = stage.time.sleep

    def sleep_and_look(seconds: float) -> None:
        sleep(seconds)
        if waiting := books.fold.trials["t0000"].waiting:
            told.append(waiting)
            then()

    stage.time.sleep = sleep_and_look  # type: ignore[method-assign]
    return told


def test_a_trial_pays_each_phase_once_and_its_books_are_the_server_s_bill(stage: Stage) -> None:
    spec = stage.spec(stress=[50])
    books = stage.books(spec)
    reporter = stage.reporter(books)
    outcome = stage.play(spec, reporter)
    assert [step for step, _ in reporter.reports] == [0, 1, 2]
    assert books.fold.usd == pytest.approx(stage.server.control("bill")["total_usd"], abs=1e-9)
    assert stage.paid_jobs() == 2 and books.fold.reserved_usd == pytest.approx(0)
    assert outcome.metrics["usd"] == pytest.approx(books.fold.usd, abs=1e-9)
    assert books.fold.permits.holders(jobs_of("local")) == ()
    zero, first, second = phases_of(stage)
    assert (zero["phase"], zero["rows"], zero["model"]) == (0, 0, "gpt-4o-2024-08-06")
    jobs = {job["id"]: job for job in stage.server.state()["jobs"]}
    assert jobs[first["job"]]["model"] == "gpt-4o-2024-08-06" and jobs[second["job"]]["model"] == first["model"]
    assert jobs[first["job"]]["metadata"]["phasetune_trial"] == "t0000"
    assert "trained tokens x $25/M" in first["bill"] and first["metrics"]["val/loss"] > 0
    assert set(outcome.files) == {"phases", "hosted objects", "confusion matrix", "predictions", "stress tests"}
    assert "stress/50/accuracy" in outcome.metrics and "test/f1/cat" in outcome.metrics


def test_the_phase_of_the_best_validation_score_is_picked(stage: Stage) -> None:
    spec = stage.spec(phases={"count": 3, "per_class": 4, "zero_shot": True, "pick": "best"}, validation_file=False)
    reporter = stage.reporter(stage.books(spec))
    outcome = stage.play(spec, reporter)
    scores = {row["phase"]: row["metrics"]["val/f1_weighted"] for row in phases_of(stage)}
    best = min(phase for phase, score in scores.items() if score == max(scores.values()))
    assert outcome.metrics["phase_picked"] == best and outcome.metrics["val/f1_weighted"] == scores[best]
    hosted = json.loads((reporter.workdir / "hosted.json").read_text())
    assert hosted["model"] == next(row["model"] for row in phases_of(stage) if row["phase"] == best)


def test_phases_from_the_base_do_not_go_on_from_each_other(stage: Stage) -> None:
    spec = stage.spec(phases={"count": 2, "per_class": 4, "start": "base"})
    stage.play(spec, stage.reporter(stage.books(spec)))
    assert {job["model"] for job in stage.server.state()["jobs"]} == {"gpt-4o-2024-08-06"}


@pytest.mark.parametrize(("usd", "phases"), [(0.8, [0, 1]), (0.3, [0])])
def test_a_phase_that_the_budget_does_not_cover_is_not_begun(stage: Stage, usd: float, phases: list[int]) -> None:
    spec = stage.spec()
    books = stage.books(spec, usd=usd)
    outcome = stage.play(spec, stage.reporter(books))
    assert [row["phase"] for row in phases_of(stage)] == phases
    assert "val/f1_weighted" in outcome.metrics and books.fold.usd <= usd
    hosted = json.loads((stage.folder / "trial" / "work" / "hosted.json").read_text())
    assert hosted["stopped_by_budget"]["phase"] == phases[-1] + 1
    assert outcome.reason == "budget"
    assert outcome.detail.startswith(f"phase {phases[-1] + 1} may cost $0.") and f"phase {hosted['phase']} is kept" in outcome.detail
    assert stage.paid_jobs() == len(phases) - 1


def test_a_trial_that_can_pay_nothing_says_what_it_wanted(stage: Stage) -> None:
    spec = stage.spec()
    outcome = stage.play(spec, stage.reporter(stage.books(spec, usd=0.01)))
    assert (outcome.metrics, outcome.reason) == ({}, "budget")
    assert re.fullmatch(r"phase 0 may cost \$0.0\d+, which the study has not left; raise budget.usd", outcome.detail)
    assert stage.server.control("bill")["charges"] == []


def test_a_phase_waits_for_dollars_that_another_trial_may_give_back(stage: Stage) -> None:
    spec = stage.spec()
    books = stage.books(spec, usd=9, n=2)
    books.ledger.answer("t0001", Reserve("phase-1 training", 9))
    told = on_sleep(stage, books, lambda: books.ledger.answer("t0001", Spend("phase-1 training", 0.1)))
    outcome = stage.play(spec, stage.reporter(books))
    assert re.fullmatch(r"for budget.usd: \$0.0\d wanted, \$0.00 free; t0001 may give some back", told[0])
    assert outcome.reason == "" and outcome.metrics["waited_seconds"] >= 30 and books.fold.trials["t0000"].waiting == ""


def test_ids_of_jobs_files_and_models_are_told_while_the_trial_runs(stage: Stage) -> None:
    spec = stage.spec()
    books = stage.books(spec)
    reporter = stage.reporter(books, kill_at=1)
    with pytest.raises(DiedAtReport):
        stage.play(spec, reporter)
    first = stage.server.state()["jobs"][0]
    told = books.fold.trials["t0000"].told
    assert told["hosted.phase_0.model"] == "gpt-4o-2024-08-06" and told["hosted.phase_1.model"] == first["fine_tuned_model"]
    assert (told["hosted.phase_1.job"], told["hosted.phase_1.training_file"]) == (first["id"], first["training_file"])
    assert told["hosted.phase_1.result_file"] == first["result_files"][0] and "hosted.model" not in told
    outcome = stage.play(spec, reporter)
    told, best = books.fold.trials["t0000"].told, int(outcome.metrics["phase_picked"])
    assert told["hosted.model"] == told[f"hosted.phase_{best}.model"] and told["hosted.phase"] == str(best)


def test_a_wait_in_the_service_s_queue_is_told_until_it_is_over(stage: Stage) -> None:
    spec = stage.spec(phases=None)
    stage.server.fault("POST /v1/fine_tuning/jobs$", kind="error", status=429, code="daily_rate_limit_exceeded", retry_after_s=7200)
    books = stage.books(spec)
    begun = stage.time.now()
    told = on_sleep(stage, books, lambda: None)
    stage.play(spec, stage.reporter(books))
    view = books.fold.trials["t0000"]
    assert told[0].startswith("for local: daily_rate_limit_exceeded: ") and view.waiting == ""
    assert "for local: queued: ftjob-" in " ".join(told)
    assert books.waited_until["t0000"][0] == pytest.approx(begun + 7200, abs=600)


def test_a_hosted_model_is_paid_by_the_hour_while_it_is_asked(stage: Stage) -> None:
    prices = (stage.folder / "prices.yaml").resolve()
    listed = (ROOT / "configs/prices.yaml").read_text()
    prices.write_text(listed.replace("hosting_usd_per_hour: 0\n", "hosting_usd_per_hour: 3600\n"))
    spec = stage.spec(profile={"price_file": str(prices)}, phases=None)
    books = stage.books(spec)
    stage.play(spec, stage.reporter(books))
    assert "phase-1/hosting" in books.fold.trials["t0000"].bills and books.fold.reserved_usd == pytest.approx(0)
    assert "hours hosted x $3600/h" in phases_of(stage)[0]["bill"]


def test_a_stop_between_phases_begins_no_further_one(stage: Stage) -> None:
    spec = stage.spec()
    outcome = stage.play(spec, stage.reporter(stage.books(spec), stop_at=1))
    assert outcome == Outcome(files={"phases": "phases.json"}) and stage.paid_jobs() == 1


def test_a_stop_inside_a_phase_cancels_its_job_and_says_what_it_cost(stage: Stage) -> None:
    spec = stage.spec(report="epoch", hyperparameters={"n_epochs": 4})
    books = stage.books(spec)
    reporter = stage.reporter(books, stop_at=1)
    stage.play(spec, reporter)
    assert [step for step, _ in reporter.reports] == [0, 1] and reporter.reports[0][1]["val/loss"] > 0
    assert [job["status"] for job in stage.server.state()["jobs"]] == ["cancelled"]
    charged = sum(usd for bill, usd in books.fold.trials["t0000"].bills.items() if bill.startswith("ftjob-"))
    assert charged > 0 and stage.bill("job") > 0
    assert books.fold.permits.holders(jobs_of("local")) == ()


def test_a_stop_that_nobody_heard_cancels_the_job_when_the_trial_is_taken_up(stage: Stage) -> None:
    spec = stage.spec(report="epoch", hyperparameters={"n_epochs": 4})
    books = stage.books(spec)
    reporter = stage.reporter(books, kill_at=1)
    with pytest.raises(DiedAtReport):
        stage.play(spec, reporter)
    assert [job["status"] for job in stage.server.state()["jobs"]] == ["running"]
    stage.clear_up(spec, reporter)
    assert [job["status"] for job in stage.server.state()["jobs"]] == ["cancelled"]
    assert books.fold.usd > 0 and books.fold.permits.holders(jobs_of("local")) == ()


@pytest.mark.parametrize("by", ["chat", "batch"])
@pytest.mark.parametrize("last", ["create_job", "chat or batch"])
def test_a_trial_that_is_stopped_while_its_process_is_gone_leaves_nothing_running_and_nothing_unbooked(
    stage: Stage, by: str, last: str
) -> None:
    spec = stage.spec(profile={"keeps_answers": True}, evaluation={"by": by, "splits": ["val"]})
    books = stage.books(spec)
    call, nth = {
        "create_job": ("create_job", 0),
        "chat or batch": ({"chat": "chat", "batch": "create_batch"}[by], {"chat": 15, "batch": 1}[by]),
    }[last]
    bomb = BombAfter(call, nth)
    reporter = stage.reporter(books, bomb=bomb)
    with pytest.raises(Killed):
        stage.play(spec, reporter, bomb)
    stage.time.sleep(5)
    stage.clear_up(spec, stage.reporter(books))
    stage.time.sleep(86_400)
    state = stage.server.state()
    assert {each["status"] for each in state["jobs"] + state["batches"]} <= {"cancelled", "succeeded", "completed"}
    assert books.fold.usd == pytest.approx(stage.server.control("bill")["total_usd"], abs=1e-9)
    assert books.fold.permits.holders(jobs_of("local")) == ()


def test_epochs_are_reported_with_the_last_of_a_phase_as_the_phase_s(stage: Stage) -> None:
    spec = stage.spec(report="epoch", hyperparameters={"n_epochs": 2})
    reporter = stage.reporter(stage.books(spec))
    stage.play(spec, reporter)
    assert [step for step, _ in reporter.reports] == [0, 1, 2, 3]
    assert ["phase_end/val/accuracy" in values for _, values in reporter.reports] == [False, True, False, True]


def test_a_trial_waits_for_its_turn_and_the_ledger_says_why(stage: Stage) -> None:
    spec = stage.spec(profile={"queue": {"concurrent_jobs": 1}})
    books = stage.books(spec, n=2)
    books.ledger.answer("t0001", Use(jobs_of("local")))
    told = on_sleep(stage, books, lambda: books.fold.permits.returned(jobs_of("local"), "t0001"))
    reporter = stage.reporter(books)
    stage.play(spec, reporter)
    assert told[0] == "for local:jobs: t0001 holds local:jobs (1 at once)"
    assert reporter.reports[1][1]["waited_seconds"] >= 5


def test_requests_are_asked_for_in_portions_where_the_profile_limits_them(stage: Stage) -> None:
    assert portion(QueueSpec(), 300) is None
    assert portion(QueueSpec(requests_per_minute=60), 300) == 6
    assert portion(QueueSpec(requests_per_minute=60, tokens_per_minute=6000), 300) == 2
    spec = stage.spec(profile={"queue": {"requests_per_minute": 50}}, phases=None)
    reporter = stage.reporter(stage.books(spec))
    stage.play(spec, reporter)
    asked = [question.amount for question in reporter.questions if isinstance(question, Use) and question.what == "local:requests"]
    assert asked == [5.0, 5.0, 2.0, 5.0, 5.0, 2.0]


def test_evaluation_by_batch_is_billed_by_its_own_prices(stage: Stage) -> None:
    spec = stage.spec(evaluation={"by": "batch"})
    books = stage.books(spec)
    stage.play(spec, stage.reporter(books))
    assert stage.bill("chat") == 0 and len(stage.server.state()["batches"]) == 6
    assert books.fold.usd == pytest.approx(stage.server.control("bill")["total_usd"], abs=1e-9)


def play_with_kills(stage: Stage, seed: int, by: str, n_points: int) -> tuple[Books, int]:
    """A trial that is killed at random points until it has died often enough, then goes to its end."""
    spec, rng, n_killed = stage.spec(profile={"keeps_answers": True}, evaluation={"by": by}), random.Random(seed), 0
    books = stage.books(spec)
    while True:
        bomb = Bomb(rng.randrange(n_points) if n_killed < 8 else None)
        try:
            outcome = stage.play(spec, stage.reporter(books, f"killed{by}{seed}", bomb), bomb)
        except Killed:
            n_killed += 1
            continue
        assert outcome.metrics["val/accuracy"] > 0
        return books, n_killed


@pytest.mark.parametrize(("by", "seed"), [*(("batch", seed) for seed in range(4)), *(("chat", seed) for seed in range(4))])
def test_killed_at_any_point_a_trial_pays_each_phase_once_and_books_what_was_billed(stage: Stage, by: str, seed: int) -> None:
    books, n_killed = play_with_kills(stage, seed, by, {"batch": 60, "chat": 150}[by])
    assert n_killed >= 4 and stage.paid_jobs() == 2 and len(stage.server.state()["jobs"]) == 2
    assert books.fold.usd == pytest.approx(stage.server.control("bill")["total_usd"], abs=1e-9)
    if by == "chat":
        n_chats = sum(charge["what"] == "chat" for charge in stage.server.control("bill")["charges"])
        assert n_chats == 6 * 12, "an answer that is at the service is not asked for again"


def test_a_job_that_fails_is_named_and_leaves_the_queue(stage: Stage) -> None:
    spec = stage.spec()
    stage.server.fault("POST /v1/fine_tuning/jobs$", preset="moderation")
    books = stage.books(spec)
    with pytest.raises(StopStudy, match="moderation"):
        stage.play(spec, stage.reporter(books))
    assert books.fold.permits.holders(jobs_of("local")) == () and stage.bill("job") == 0


def test_a_job_that_is_stuck_is_cancelled_and_booked(stage: Stage) -> None:
    spec = stage.spec(waits={"queued_hours": 0.01}, phases=None)
    stage.server.control("settings", {"max_running_jobs": 0})
    books = stage.books(spec)
    with pytest.raises(FailTrial, match="job_stuck"):
        stage.play(spec, stage.reporter(books))
    assert [job["status"] for job in stage.server.state()["jobs"]] == ["cancelled"]
    assert books.fold.permits.holders(jobs_of("local")) == () and books.fold.usd == stage.server.control("bill")["total_usd"] == 0


def test_the_key_is_in_no_file_and_no_message(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    spec = stage.spec()
    reporter = stage.reporter(stage.books(spec))
    stage.server.fault("POST /v1/fine_tuning/jobs$", preset="unauthorized", skip=1)  # whose message quotes the key
    with pytest.raises((FailTrial, StopStudy)) as caught:
        stage.play(spec, reporter)
    stage.play(spec, reporter)
    printed = capfd.readouterr()
    assert KEY not in str(caught.value) + repr(caught.value.__dict__) + printed.out + printed.err + repr(reporter.questions)
    with_key = [path for path in (stage.folder / "trial").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert with_key == []
