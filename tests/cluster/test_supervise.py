"""The supervisor of a submitted study, with a job server that answers from a script; and how an attempt finds its study again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.attempt import differing, study_of, versions, words_of_attempt
from cluster.jobs import Job, JobState, NodeState, Say, UnknownJob
from cluster.supervise import Supervisor, sent_with_this_job
from tune.core.errors import Problem, UserError

ROOT = Path(__file__).resolve().parents[2]
LOST = JobState("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", "the node died", "n1")
DONE = JobState("SUCCEEDED", 0, node="n1")
STOPPED = JobState("STOPPED")
SILENT = OSError("http://head:8265 does not answer any more: connection refused")
INTERRUPTED = JobState("FAILED", 3, "JOB_ENTRYPOINT_COMMAND_ERROR", "exit code 3", "n1")


class Scripted:
    """A job server whose drivers end as `states` says, one after the other; an error is raised to who hears them.

    `refused`: which starts fail, counted from 1. A driver that is stopped while it runs ends as stopped.
    """

    def __init__(self, *states: JobState | Exception, alive: bool = True, refused: tuple[int, ...] = ()):
        self._states, self._alive, self._refused = list(states), alive, refused
        self._n_starts = 0
        self.started: list[Job] = []
        self.stopped: list[str] = []

    def start(self, job: Job) -> str:
        self._n_starts += 1
        if self._n_starts in self._refused:
            raise UserError(Problem("http://head:8265", "it refused the job: connection refused", "see the head's dashboard log"))
        self.started.append(job)
        return job.id

    def hear(self, job_id: str, say: Say) -> JobState:
        say(f"{job_id} speaks\n")
        if job_id in self.stopped:
            return STOPPED
        state = self._states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    def stop(self, job_id: str) -> None:
        if any(job.id == job_id for job in self.started):
            self.stopped.append(job_id)

    def nodes(self) -> list[NodeState]:
        return [NodeState("n1", "node", self._alive, False)]


JOB = Job("study-1", "python -m cluster.attempt", {"working_dir": "gcs://x.zip"}, cpus=1.0, resources={"safe": 0.1})


def supervise(server: Scripted, attempts: int = 3) -> tuple[int, str]:
    said: list[str] = []
    return Supervisor(server, JOB, attempts, said.append, pause=lambda _: None).run(), "".join(said)


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


def told_to_stop(server: Scripted, when: str) -> tuple[int, str]:
    """Of a supervisor that is told to stop `when` a driver is being started, or when it waits for the next."""
    said: list[str] = []
    start = server.start

    def start_and_be_told(job: Job) -> str:
        if when == f"start of {job.id}":
            supervisor.stop()
        return start(job)

    def pause(seconds: float) -> None:
        if when == "pause":
            supervisor.stop()

    server.start = start_and_be_told  # type: ignore[method-assign]
    supervisor = Supervisor(server, JOB, 3, said.append, pause)
    return supervisor.run(), "".join(said)


def test_no_driver_is_started_after_a_stop_that_came_between_two() -> None:
    server = Scripted(LOST, DONE)
    assert told_to_stop(server, "pause")[0] == 3 and [job.id for job in server.started] == ["study-1-driver1"]


@pytest.mark.parametrize(("driver", "states"), [(1, [DONE]), (2, [LOST, DONE])])
def test_a_driver_that_was_being_started_when_the_stop_came_is_stopped(driver: int, states: list[JobState]) -> None:
    server = Scripted(*states)
    assert told_to_stop(server, f"start of study-1-driver{driver}")[0] == 3
    assert len(server.started) == driver and f"study-1-driver{driver}" in server.stopped


def test_a_start_that_failed_when_the_stop_came_is_not_tried_again() -> None:
    server = Scripted(DONE, refused=(1,))
    assert told_to_stop(server, "start of study-1-driver1")[0] == 3 and server.started == []


def test_a_start_that_is_refused_counts_as_a_lost_driver_and_waits_for_the_dashboard() -> None:
    server, paused, said = Scripted(LOST, DONE, refused=(2,)), [], []
    assert Supervisor(server, JOB, 3, said.append, paused.append).run() == 0
    assert [job.id for job in server.started] == ["study-1-driver1", "study-1-driver3"]
    assert "was not started (it refused the job: connection refused); it is tried again" in "".join(said)
    assert sum(paused) > 20


def test_starts_that_are_all_refused_end_it_without_a_traceback() -> None:
    code, said = supervise(Scripted(refused=(1, 2, 3)))
    assert code == 3 and said.count("was not started") == 3 and "--resume" in said


def test_a_driver_whose_start_was_refused_and_that_runs_all_the_same_is_stopped_before_the_next() -> None:
    server = Scripted(DONE)
    start = server.start

    def answer_lost(job: Job) -> str:
        start(job)
        if job.id == "study-1-driver1":
            raise UserError(Problem("http://head:8265", "the answer was lost", ""))
        assert "study-1-driver1" in server.stopped
        return job.id

    server.start = answer_lost  # type: ignore[method-assign]
    assert supervise(server)[0] == 0


def test_a_dashboard_that_is_silent_is_listened_for_and_nothing_is_started_or_said_twice() -> None:
    server = Scripted(SILENT, SILENT, DONE)
    code, said = supervise(server, attempts=1)
    assert code == 0 and len(server.started) == 1
    assert said.count("study-1-driver1 speaks") == 1 and said.count("does not answer any more: connection refused; listening on") == 2


def test_a_driver_that_could_not_be_stopped_in_a_silence_is_stopped_after_it() -> None:
    class Deaf(Scripted):
        deaf = True

        def hear(self, job_id: str, say: Say) -> JobState:
            if self.deaf:
                supervisor.stop()
                self.deaf = False
                raise SILENT
            return super().hear(job_id, say)

        def stop(self, job_id: str) -> None:
            if not self.deaf:
                super().stop(job_id)

    server = Deaf(DONE)
    supervisor = Supervisor(server, JOB, 3, lambda text: None, lambda seconds: None)
    assert supervisor.run() == 3 and server.stopped == ["study-1-driver1"]


def test_a_driver_that_the_server_knows_no_more_is_lost() -> None:
    code, said = supervise(server := Scripted(UnknownJob("http://head:8265 knows no job study-1-driver1"), DONE))
    assert code == 0 and len(server.started) == 2 and "the driver was lost (http://head:8265 knows no job" in said


def test_a_driver_that_was_lost_without_a_word_of_why_is_started_again() -> None:
    assert supervise(server := Scripted(JobState("FAILED"), DONE))[0] == 0 and len(server.started) == 2


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


def test_what_is_not_installed_has_no_version_and_python_counts_to_its_minor_version() -> None:
    found = versions(["python", "nothing-of-this-name", "pytest"])
    assert found == {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "nothing-of-this-name": None, "pytest": pytest.__version__}


def test_an_attempt_prints_its_words_without_a_password_and_hands_them_on_whole(tmp_path: Path) -> None:
    """As a person may start it by hand: `submit` refuses such a word."""
    (tmp_path / "tune").mkdir()  # in the place of ours
    (tmp_path / "tune" / "__main__.py").write_text("import sys\nsys.stderr.write(' '.join(sys.argv[1:]))\n")
    (tmp_path / "tune" / "core").symlink_to(ROOT / "tune" / "core")
    (tmp_path / "cluster").symlink_to(ROOT / "cluster")
    words = ["run", "s.yaml", "--tracking-uri", "postgresql://me:s3cret@db/mlflow"]
    command = [sys.executable, "-m", "cluster.attempt", "--job", "a", "--storage", str(tmp_path), "--", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"phasetune run s.yaml --tracking-uri postgresql://me:***@db/mlflow --storage {tmp_path}\n", done.stderr
    assert done.stderr == f"{' '.join(words)} --storage {tmp_path}"


def test_a_cuda_build_is_the_same_version() -> None:
    assert differing({"torch": "2.13.0"}, {"torch": "2.13.0+cu130"}) == []
