"""Real processes, really killed (SIGKILL) at random moments of real time, against a server that stays up, or is restarted as well."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openai.making import KEY_ENV, Bench, JobOrder
from trainables.adapters.intent_file import IntentFile
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.follow import Deadlines, Service
from trainables.openai_phases.pace import Pace
from trainables.openai_phases.protocol import Submissions
from trainables.openai_phases.wire import Profile

SPEED = 400.0  # virtual seconds a real second
N_PHASES = 3
FORKS = multiprocessing.get_context("forkserver")  # every child begins with the openai package imported, and no threads


@dataclass(frozen=True)
class FastTime:
    """Waits as long as the server's clock, which runs SPEED times faster, takes."""

    def now(self) -> float:
        return time.time() * SPEED

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / SPEED)


def trial(base_url: str, folder: Path, orders: list[JobOrder], key: str) -> None:
    """All phases, each from the model before; a file with the last model at the end."""
    os.environ[KEY_ENV] = key
    wire = OpenAIWire(Profile("local", base_url, api_key_env=KEY_ENV, timeout_s=1))
    with IntentFile(folder / "intents.jsonl") as log:
        pace = Pace(FastTime(), first_s=5, poll_s=20, settle_s=60)
        service = Service(Submissions(wire, log, pace, lambda: uuid.uuid4().hex), Deadlines())
        model = orders[0].model
        for i, order in enumerate(orders):
            made = service.run_job(
                f"phase-{i}", JobOrder(model, order.training_file, order.hyperparameters, order.suffix, order.seed)
            ).model
            assert made is not None
            model = made
    (folder / "done").write_text(model)


@pytest.mark.slow
def test_a_trial_killed_at_random_moments_pays_for_each_phase_once(start: Callable[..., Bench], tmp_path: Path, key: str) -> None:
    bench = start(speed=SPEED, validate_s=10, queue_s=10, setup_s=10, step_s=0.5)
    for kind in ("drop_after", "error_after", "drop"):
        bench.server.fault("POST", kind=kind, rate=0.2, times=4)
    FORKS.set_forkserver_preload(["tests.openai.test_real_kills"])
    rng, n_killed, n_trials, last = random.Random(5), 0, 0, ""
    while n_killed < 25 and n_trials < 40:
        folder = tmp_path / f"t{n_trials:04d}"
        folder.mkdir()
        orders = [bench.job_order(suffix=f"phase-{i}", seed=n_trials) for i in range(N_PHASES)]
        n_here = 0
        while not (folder / "done").exists():
            child = FORKS.Process(target=trial, args=(bench.server.base_url, folder, orders, key))
            child.start()
            child.join(rng.uniform(0.02, 0.6) if n_here < 6 else 60)  # the moment of the kill, not a wait for anything
            if child.exitcode is None:
                child.kill()
                child.join()
                n_killed += 1
                n_here += 1
            else:
                assert child.exitcode == 0
        n_trials += 1
        last = (folder / "done").read_text()
    print(f"{n_killed} kills in {n_trials} trials of {N_PHASES} phases")
    bench.server.control("settings", {"speed": 0})
    bench.server.advance(3600)
    assert n_killed >= 20
    assert len(bench.paid_jobs()) == n_trials * N_PHASES
    charges = [charge for charge in bench.bill()["charges"] if charge["what"] == "job"]
    succeeded = [job for job in bench.jobs() if job["status"] == "succeeded"]
    assert len(charges) == len(succeeded) == n_trials * N_PHASES
    assert last in {job["fine_tuned_model"] for job in succeeded}
    assert len(bench.file_names("fine-tune")) == 1, "every phase of every trial has the same rows"


@pytest.mark.slow
def test_a_server_restarted_in_the_middle_forgets_neither_jobs_nor_bills(bench: Bench) -> None:
    submissions = bench.submissions()
    job_id = submissions.ensure_job("phase-1", bench.job_order())
    bench.time.sleep(200)
    before = bench.server.state()
    bench.server.stop()
    bench.server.start()
    after = bench.server.state()
    assert {name: after[name] for name in ("jobs", "files", "now")} == {name: before[name] for name in ("jobs", "files", "now")}
    result = bench.service().follow_job("phase-1", job_id)
    assert result.job.status == "succeeded" and len(bench.bill()["charges"]) == 1
