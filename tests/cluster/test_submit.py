"""The command `submit` up to the cluster: what it refuses, what it would send, and what it says to a server that is not the right one."""

from __future__ import annotations

import http.server
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.attempt import versions
from cluster.submit import Wish, prepare
from tune.__main__ import cli
from tune.core.errors import UserError

STUDY = """
study: {name: sent, seed: 3}
metric: {name: val/score, mode: max}
budget: {trials: 2}
sampler: {kind: random}
trainable: {kind: curve, epochs: 3}
space:
  lr: {float: [1e-5, 1e-1], log: true}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "study.yaml").write_text(STUDY)
    return tmp_path / "project"


def submit(project: Path, *words: str, env: dict[str, str] | None = None, address: str = "http://127.0.0.1:1") -> Result:
    alone = {name: None for name in os.environ if name.startswith("RAY_")} | {"HOME": str(project)} | (env or {})
    given = ["submit", "--address", address, "--working-dir", str(project), *words]
    return CliRunner().invoke(cli, given, env=alone)


def planned(project: Path, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--json", *words, env=env)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_what_would_be_sent_is_the_study_and_our_code_and_the_command(project: Path) -> None:
    found = planned(project, "--set", "budget.trials=5", "--storage", "/shared/studies")
    assert {"study.yaml", "tune/__main__.py", "cluster/supervise.py", "configs/prices.yaml"} <= set(found["files"])
    command = found["entrypoint"]
    assert command.startswith("python -m cluster.supervise --job sent-") and "--expect ray==" in command
    assert command.endswith("-- run study.yaml --set budget.trials=5 --address auto --json") and "--storage /shared/studies" in command


@pytest.mark.parametrize("words", [(), ("--storage", "/shared/studies"), ("--resume", "/shared/studies/sent-1")])
def test_a_dry_run_says_what_a_cluster_of_several_nodes_would_refuse(project: Path, words: tuple[str, ...]) -> None:
    study = [] if "--resume" in words else [str(project / "study.yaml")]
    result = submit(project, *study, "--dry-run", *words)
    assert result.exit_code == 0 and ("no --storage" in result.stderr) == (not words), result.output


def test_only_named_variables_travel_and_their_values_are_not_shown(project: Path) -> None:
    env = {"MY_KEY": "a-value-of-mine", "OTHER": "another-value"}
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--json", "--env", "MY_KEY", env=env)
    assert json.loads(result.stdout.splitlines()[-1])["env"] == ["MY_KEY"]
    assert "a-value-of-mine" not in result.output and "another-value" not in result.output


def test_the_value_of_a_named_variable_may_not_lie_in_a_file(project: Path) -> None:
    (project / "notes.md").write_text("it is a-value-of-mine\n")
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--env", "MY_KEY", env={"MY_KEY": "a-value-of-mine"})
    assert result.exit_code == 2 and "notes.md" in result.stderr and "a-value-of-mine" not in result.stderr


def test_the_driver_may_hold_cpus_and_resources_of_another_node(project: Path) -> None:
    command = planned(project, "--entry-cpus", "2", "--entry-resource", "safe=0.1", "--attempts", "7")["entrypoint"]
    assert "--attempts 7 --entry-cpus 2 --entry-resource safe=0.1" in command


def test_resume_goes_on_with_a_folder_of_the_cluster(project: Path) -> None:
    assert planned(project, "--resume", "/shared/studies/sent-1")["entrypoint"].endswith(
        "-- resume /shared/studies/sent-1 --address auto --json"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "MY_KEY=v"], "give its name alone"),
        (["--env", "NOT_SET_ANYWHERE"], "which is not set here"),
        (["--env", "RAY_AUTH_TOKEN"], "the nodes have their own"),
        (["--storage", "../studies"], "an absolute path without .."),
        (["--storage", "/shared/../etc"], "an absolute path without .."),
        (["--resume", "studies/sent-1"], "an absolute path without .."),
        (["--resume", "/shared/other-1"], "name a folder sent-N"),
        (["--resume", "/shared/sent-1", "--set", "budget.trials=3"], "leave it out"),
        (["--entry-resource", "safe"], "write NAME=AMOUNT"),
        (["--set", "study.name=../../etc"], "cannot name a folder"),
        (["--requirements", "nowhere.txt"], "name a file of pins"),
    ],
)
def test_a_mistake_ends_before_anything_is_sent_and_says_the_fix(project: Path, words: list[str], said: str) -> None:
    result = submit(project, str(project / "study.yaml"), "--dry-run", *words)
    assert result.exit_code == 2 and said in result.stderr, result.stderr


SECRET = "s3cret-word"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tracking-uri", f"postgresql://me:{SECRET}@db/mlflow"], "give --env MLFLOW_TRACKING_URI"),
        (["--storage", f"nfs://me:{SECRET}@host/studies"], "an absolute path without .."),
    ],
)
@pytest.mark.parametrize("dry", [["--dry-run"], ["--dry-run", "--json"], []])
def test_a_password_on_the_command_line_goes_no_further_and_is_not_said(project: Path, words: list[str], said: str, dry: list[str]) -> None:
    result = submit(project, str(project / "study.yaml"), *dry, *words)
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert SECRET not in result.output, result.output


def test_a_password_in_any_word_of_the_jobs_command_is_refused(tmp_path: Path) -> None:
    words = ("run", "s.yaml", "--set", f"trainable.base_url=http://me:{SECRET}@host/v1", "--tracking-uri", f"http://me:{SECRET}@mlflow")
    with pytest.raises(UserError) as caught:
        prepare(Wish("a", words, tmp_path), {})
    assert [problem.where for problem in caught.value.problems] == ["--set", "--tracking-uri"]
    assert SECRET not in str(caught.value) and "http://me:***@mlflow" in str(caught.value)


def test_an_address_of_mlflow_with_a_password_travels_as_a_variable_and_is_not_shown(project: Path) -> None:
    env = {"MLFLOW_TRACKING_URI": f"postgresql://me:{SECRET}@db/mlflow"}
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--json", "--env", "MLFLOW_TRACKING_URI", env=env)
    assert result.exit_code == 0 and "MLFLOW_TRACKING_URI" in result.output and SECRET not in result.output, result.output
    parcel = prepare(Wish("a", ("run", "study.yaml"), project, env=("MLFLOW_TRACKING_URI",)), env)
    assert parcel.runtime_env("x")["env_vars"] == env and SECRET not in parcel.entrypoint


def test_a_tracking_uri_without_a_password_is_in_the_command(project: Path) -> None:
    assert "--tracking-uri http://mlflow:5000" in planned(project, "--tracking-uri", "http://mlflow:5000")["entrypoint"]


def test_an_address_with_a_password_is_not_said_again(project: Path) -> None:
    address = f"http://me:{SECRET}@127.0.0.1:1"
    for more in (["--dry-run", "--json"], []):
        result = submit(project, str(project / "study.yaml"), *more, address=address)
        assert SECRET not in result.output, result.output


def test_the_cluster_is_asked_for_the_versions_that_are_installed_here(project: Path) -> None:
    command = planned(project)["entrypoint"]
    found = dict(text.split("==") for text in re.findall(r"--expect (\S+)", command))
    assert found["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}" and found["ray"] == versions(["ray"])["ray"]
    assert not any("+" in version for version in found.values()), "a build's mark"
    assert "--expect" not in planned(project, "--any-versions")["entrypoint"]


def test_a_folder_that_may_not_be_read_and_an_ignore_file_that_is_no_text_are_refused_without_a_traceback(project: Path) -> None:
    (project / ".gitignore").write_bytes(b"*.log\ncaf\xe9\n")
    (project / os.fsdecode(b"caf\xe9.py")).write_text("x = 1\n")
    result = submit(project, str(project / "study.yaml"), "--dry-run")
    assert result.exit_code == 2 and ".gitignore:2" in result.stderr and "caf\\udce9.py" in result.stderr, result.output


def test_requirements_that_are_no_text_are_refused(project: Path) -> None:
    (project / "requirements.txt").write_bytes(b"# caf\xe9\n")
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--requirements", str(project / "requirements.txt"))
    assert result.exit_code == 2 and "not UTF-8" in result.stderr, result.output


def test_a_study_outside_the_folder_that_is_sent_is_refused(project: Path) -> None:
    (project.parent / "study.yaml").write_text(STUDY)
    result = submit(project, str(project.parent / "study.yaml"), "--dry-run")
    assert result.exit_code == 2 and "the folder that is sent" in result.stderr


def test_packages_travel_as_exact_pins_only(project: Path) -> None:
    (project / "requirements.txt").write_text("# ours\neinops==0.8.2\nnumpy>=2\n")
    result = submit(project, str(project / "study.yaml"), "--dry-run", "--requirements", str(project / "requirements.txt"))
    assert result.exit_code == 2 and "requirements.txt:3" in result.stderr and "name==version" in result.stderr


class Answers(http.server.BaseHTTPRequestHandler):
    answer = (200, b"{}")

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Answers]]]:
    class Own(Answers):
        """With an answer of its own."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{started.server_address[1]}", Own
        started.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b'{"ray_version": "2.9.0"}'), "the cluster runs Ray 2.9.0"),
        ((200, b"<html>"), "not that of a Ray dashboard"),
        ((404, b""), "no Ray dashboard"),
        ((401, b""), "RAY_AUTH_TOKEN"),
        ((403, b""), "it does not take this token"),
    ],
)
def test_a_server_that_is_not_the_right_one_is_named_with_the_fix(
    project: Path, server: tuple[str, type[Answers]], answer: tuple[int, bytes], said: str
) -> None:
    url, handler = server
    handler.answer = answer
    result = submit(project, str(project / "study.yaml"), address=url)
    assert result.exit_code == 2 and said in result.stderr, result.output


@pytest.mark.slow
def test_a_dashboard_that_does_not_answer_is_named_with_how_to_forward_it() -> None:
    result = submit(Path.cwd(), "configs/studies/smoke.yaml", address="http://127.0.0.1:1")
    assert result.exit_code == 2 and "nothing answers" in result.stderr and "ssh -N -L 8265" in result.stderr


@pytest.mark.slow
def test_token_mode_without_a_token_is_refused_before_the_network(project: Path) -> None:
    result = submit(project, str(project / "study.yaml"), env={"RAY_AUTH_MODE": "token"})
    assert result.exit_code == 2 and "there is no token" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("address", ["ftp://head:8265", "http://user:pass@head:8265", "http://head:99999"])
def test_an_address_that_is_none_is_refused(project: Path, address: str) -> None:
    result = submit(project, str(project / "study.yaml"), address=address)
    assert result.exit_code == 2 and "http://HOST:8265" in result.stderr
