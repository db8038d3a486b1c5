"""`check` as a user meets it: quick, light, with notes and the origin of every value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.check.kinds import STUDY, edited, load_text
from tune.__main__ import cli
from tune.check import check, resolved_text

CURVE = """\
study: {name: demo}
metric: {name: val/score, mode: max}
budget: {trials: 4}
trainable: {kind: curve}
space: {lr: {float: [1e-4, 1e-1], log: true}}
"""
TIMM = """\
study: {name: demo}
metric: {name: val/f1_weighted, mode: max}
budget: {trials: 16}
scheduler: {kind: asha, grace: 2}
trainable: {kind: timm_cnn, epochs: 12}
space:
  optim.lr: {float: [1e-5, 1e-2], log: true}
  batch: {choice: [16, 32]}
  tune_depth: {choice: [head, last_stage, all]}
  schedule: {choose: {kind: {constant: {}, cosine: {eta_min_factor: {float: [0.01, 0.1]}}, plateau: {patience: {int: [1, 3]}}}}}
"""
HEAVY = ("torch", "ray", "optuna", "deepspeed", "timm", "mlflow", "numpy", "pandas", "transformers", "datasets")


@pytest.mark.parametrize("text", [CURVE, TIMM], ids=["curve", "timm_cnn"])
def test_check_loads_nothing_heavy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    program = (
        "import sys; from pathlib import Path; from tune.check import check, resolved_text; from tune.load import load_study\n"
        f"loaded = load_study(Path({str(path)!r}), ['budget.trials=5']); check(loaded); resolved_text(loaded)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_command_prints_every_problem_and_ends_with_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(CURVE.replace("trials", "trails"))
    command = [sys.executable, "-m", "tune", "check", str(path), "--set", "trainable.epocs=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{path}:3: budget.trails\n    got: a key that does not exist here (did you mean 'trials'?)" in done.stderr
    assert "--set trainable.epocs\n    got: a key that does not exist here (did you mean 'epochs'?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_printed_study_has_every_value_once_with_its_origin(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, STUDY, "trainable.batch=16")
    rows = [line.split() for line in resolved_text(loaded).splitlines() if line]
    assert [row[0] for row in rows] == list(loaded.origins)
    by_key = {row[0]: row for row in rows}
    assert by_key["trainable.batch"] == ["trainable.batch", "16", "--set"]
    assert by_key["sampler.multivariate"] == ["sampler.multivariate", "false", "default"]
    assert by_key["trainable.optim.lr"][1:] == ["0.0003", f"{tmp_path}/study.yaml:10"]


def test_a_study_as_it_is_meant_has_no_notes(tmp_path: Path) -> None:
    assert check(load_text(tmp_path, STUDY, "sampler.multivariate=true")) == []


@pytest.mark.parametrize(
    ("text", "sets", "note"),
    [
        (
            STUDY,
            ("sampler.multivariate=true", "budget.trials=8", "sampler.n_startup=8", "scheduler.kind=none"),
            "budget.trials is 8 and sampler.n_startup 8: all trials are random, TPE's model is never used",
        ),
        (STUDY, (), "schedule, peft has branches: with sampler.multivariate: true TPE learns within each"),
        (
            STUDY,
            ("sampler.kind=random", "budget.trials=7"),
            "budget.trials is 7 and scheduler.factor 4: with so few it judges each rung "
            "(after epoch 5, 20, counted from 0) against hardly any others",
        ),
        (
            STUDY,
            ("sampler.kind=random", "cluster.address=auto"),
            "cluster.address is auto: --storage must be a folder that every node sees under the same path",
        ),
        (
            STUDY,
            ("sampler.kind=grid", "space={batch: {choice: [1, 2, 4]}}", "first=[]", "budget.trials=2", "scheduler.kind=none"),
            "the grid has 3 points and budget.trials is 2: the last 1 are not tried",
        ),
        (
            STUDY,
            ("sampler.kind=random", "space={}", "first=[]"),
            "space is empty: every trial has the same configuration and differs in its seed only",
        ),
    ],
)
def test_what_is_allowed_but_hardly_meant_is_noted(tmp_path: Path, text: str, sets: tuple[str, ...], note: str) -> None:
    assert check(load_text(tmp_path, text, *sets)) == [note]


def test_a_table_study_is_noted_as_one_for_simulate(tmp_path: Path) -> None:
    text = "study: {name: a}\nmetric: {name: x, mode: max}\nbudget: {trials: 30}\ntrainable: {kind: table}\nspace: {a.b: {int: [1, 9]}}\n"
    assert check(load_text(tmp_path, text)) == [
        "trainable.kind is table: `simulate` answers this study from a table; `run` and `plan` cannot"
    ]


def test_edited_studies_differ_from_the_sound_one_in_one_place() -> None:
    with pytest.raises(AssertionError, match="stands 0 times"):
        edited("nowhere", "x")


@pytest.mark.slow
def test_a_table_study_is_not_run_but_sent_to_simulate(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: {name: a}\nmetric: {name: x, mode: max}\nbudget: {trials: 3}\ntrainable: {kind: table}\nspace: {a.b: {int: [1, 9]}}\n"
    )
    found = CliRunner().invoke(cli, ["run", str(study), "--storage", str(tmp_path / "studies")])
    assert found.exit_code == 2 and "use `phasetune simulate STUDY.yaml --table RESULTS.csv`" in found.output + found.stderr
    assert not (tmp_path / "studies").exists()
    assert "missing      trainable.kind" in CliRunner().invoke(cli, ["plan", str(study)]).output


def test_a_file_or_a_folder_of_studies_in_place_of_a_study_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    (tmp_path / "a-1" / "journal.jsonl").write_text("")
    said = CliRunner().invoke(cli, ["status", str(tmp_path)])
    assert said.exit_code == 2 and f"such as {tmp_path / 'a-1'}" in said.output + said.stderr
    said = CliRunner().invoke(cli, ["status", str(tmp_path / "a-1" / "journal.jsonl")])
    assert said.exit_code == 2 and "got: a file" in said.output + said.stderr
