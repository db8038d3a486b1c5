"""The supervisor of a submitted study, with a job server that answers from a script; and how an attempt finds its study again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.attempt import differing, study_of, words_of_attempt
from cluster.jobs import Job, JobState, NodeState, Say
from cluster.supervise import Supervisor, sent_with_this_job

LOST = JobState("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", "the node died", "n1")
DONE = JobState("SUCCEEDED", 0, node="n1")
INTERRUPTED = JobState("FAILED", 3, "JOB_ENTRYPOINT_COMMAND_ERROR", "exit code 3", "n1")


class Scripted:
    """A job server whose drivers end as `states` says, one after the other."""

    def __init__(self, *states: JobState, alive: bool = True):
        self._states, self._alive = list(states), alive
        self.started: list[Job] = []
        self.stopped: list[str] = []

    def start(self, job: Job) -> str:
        self.started.append(job)
        return job.id

    def hear(self, job_id: str, say: Say) -> JobState:
        say(f"{job_id} speaks\n")
        return self._states.pop(0)

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def nodes(self) -> list[NodeState]:
        return [NodeState("n1", "node", self._alive, False)]


def supervise(server: Scripted, attempts: int = 3) -> tuple[int, str]:
    said: list[str] = []
    job = Job("study-1", "python -m cluster.attempt", {"working_dir": "gcs://x.zip"}, cpus=1.0, resources={"safe": 0.1})
    return Supervisor(server, job, attempts, said.append, pause=lambda _: None).run(), "".join(said)


def test_a_driver_that_is_done_ends_it() -> None:
    assert supervise(Scripted(DONE))[0] == 0


@pytest.mark.parametrize("code", [1, 2])
def test_what_the_study_says_is_final(code: int) -> None:
    server = Scripted(JobState("FAILED", code, "JOB_ENTRYPOINT_COMMAND_ERROR"))
    assert supervise(server)[0] == code and len(server.started) == 1


def test_a_lost_driver_is_followed_by_another_with_the_same_command_and_place() -> None:
    server = Scripted(LOST, DONE)
    code, said = supervise(server)
    first, second = server.started
    assert code == 0 and first.id != second.id
    assert (first.entrypoint, first.runtime_env, first.cpus, first.resources) == (
        second.entrypoint,
        second.runtime_env,
        second.cpus,
        second.resources,
    )
    assert "the driver was lost (JOB_SUPERVISOR_ACTOR_DIED: the node died)" in said and "study-1-driver2 speaks" in said


@pytest.mark.parametrize("code", [-9, 137])
def test_a_driver_killed_by_a_signal_counts_as_lost(code: int) -> None:
    server = Scripted(JobState("FAILED", code), DONE)
    assert supervise(server)[0] == 0 and len(server.started) == 2


def test_attempts_are_bounded_and_the_study_stays_resumable() -> None:
    server = Scripted(LOST, LOST, LOST)
    code, said = supervise(server)
    assert code == 3 and len(server.started) == 3 and "3 drivers were lost" in said and "--resume" in said


def test_a_driver_that_a_person_interrupted_is_not_started_again() -> None:
    assert supervise(server := Scripted(INTERRUPTED))[0] == 3 and len(server.started) == 1


def test_a_driver_interrupted_by_its_dying_node_is_started_again() -> None:
    assert supervise(server := Scripted(INTERRUPTED, DONE, alive=False))[0] == 0 and len(server.started) == 2


def test_a_stopped_driver_is_not_started_again() -> None:
    assert supervise(server := Scripted(JobState("STOPPED")))[0] == 3 and len(server.started) == 1


def test_packages_that_cannot_be_installed_are_not_tried_again() -> None:
    server = Scripted(JobState("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE", "no such version"))
    code, said = supervise(server)
    assert code == 1 and len(server.started) == 1 and "no such version" in said


def test_a_driver_gets_the_archive_and_the_named_variables_of_its_job_and_nothing_else() -> None:
    own = {"working_dir": "gcs://x.zip", "env_vars": {"KEY": "v"}, "_ray_commit": "abc", "config": {"log_files": ["/x"]}}
    environment = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": own, "metadata": {}})}
    assert sent_with_this_job(environment) == {"working_dir": "gcs://x.zip", "env_vars": {"KEY": "v"}}


def begun(storage: Path, name: str, job: str, journal: str) -> Path:
    (storage / name).mkdir(parents=True)
    (storage / name / "environment.json").write_text(json.dumps({"job": job}))
    (storage / name / "journal.jsonl").write_text(journal)
    return storage / name


def test_the_first_attempt_runs_and_the_next_resumes_what_this_job_began(tmp_path: Path) -> None:
    words = ["run", "s.yaml", "--set", "a=1", "--address", "auto", "--json"]
    assert words_of_attempt(words, "mine", tmp_path) == [*words, "--storage", str(tmp_path)]
    begun(tmp_path, "s-1", "another", "{}\n")
    mine = begun(tmp_path, "s-2", "mine", "{}\n")
    assert words_of_attempt(words, "mine", tmp_path) == ["resume", str(mine), "--address", "auto", "--json"]


def test_a_study_without_a_first_whole_event_has_not_begun(tmp_path: Path) -> None:
    begun(tmp_path, "s-1", "mine", '{"half')
    assert study_of("mine", tmp_path) is None


def test_another_version_on_the_cluster_is_named_with_the_fix() -> None:
    [torch, ray] = differing({"torch": "2.13.0", "ray": "2.60.0", "numpy": "2.4.6"}, {"torch": "2.12.0", "ray": None, "numpy": "2.4.6"})
    assert torch.got == "version 2.12.0" and "torch==2.13.0" in torch.fix and ray.got == "it is not installed"


def test_a_cuda_build_is_the_same_version() -> None:
    assert differing({"torch": "2.13.0"}, {"torch": "2.13.0+cu130"}) == []
