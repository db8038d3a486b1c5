"""What is said of a model folder that is not there: which study makes it, and what can be named instead."""

from __future__ import annotations

import os
from pathlib import Path

from trainables.vlm_peft.absent import absent

WHERE = "trainable.model.name"


def finished(run: Path, trial: str = "t0000") -> Path:
    facts = run / "trials" / trial / "model" / "vlm_peft.json"
    facts.parent.mkdir(parents=True)
    facts.touch()
    return run / "trials" / trial


def test_a_trial_of_a_study_that_has_not_run_is_named_with_the_command_that_runs_it(tmp_path: Path) -> None:
    problem = absent(f"{tmp_path}/studies/vlm_gemma_connector-1/trials/t0000", WHERE)
    assert f"which has not been run in {tmp_path}/studies" in problem.got
    assert problem.fix.startswith("run that study first: phasetune run ") and "configs/studies/vlm_gemma_connector.yaml" in problem.fix


def test_a_study_of_the_users_own_is_named_where_no_file_of_that_name_is_shipped(tmp_path: Path) -> None:
    assert "phasetune run FILE-OF-mine.yaml; or" in absent(f"{tmp_path}/mine-3/trials/t0001", WHERE).fix


def test_the_newest_finished_trial_of_the_same_study_is_offered(tmp_path: Path) -> None:
    for i, run in enumerate(("mine-9", "mine-2", "mine-other-1")):
        os.utime(finished(tmp_path / run), (i, i))
    assert (
        f"start from this finished trial: --set {WHERE}={tmp_path}/mine-2/trials/t0000"
        in absent(f"{tmp_path}/mine-1/trials/t0000", WHERE).fix
    )


def test_a_trial_without_a_model_is_told_from_one_that_never_was(tmp_path: Path) -> None:
    (tmp_path / "mine-1" / "trials" / "t0000").mkdir(parents=True)
    problem = absent(f"{tmp_path}/mine-1/trials/t0000", WHERE)
    assert "has left no model yet" in problem.got and f"phasetune resume {tmp_path}/mine-1" in problem.fix


def test_any_other_folder_is_asked_for_in_the_layouts_that_load(tmp_path: Path) -> None:
    assert "write hf:owner/name" in absent("nowhere/at-all", WHERE).got
    assert "has no config.json" in absent(str(tmp_path), WHERE).got
