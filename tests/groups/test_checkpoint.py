"""A checkpoint is whole or absent, at whatever moment the process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.adapters import checkpoint


def write(workdir: Path, step: int) -> None:
    (checkpoint.new(workdir) / "weights").write_text(f"after {step}")


def test_a_checkpoint_is_found_with_the_report_it_was_placed_with(tmp_path: Path):
    assert checkpoint.last(tmp_path) is None
    assert checkpoint.step_of(tmp_path) is None
    write(tmp_path, 3)
    checkpoint.put_in_place(tmp_path, 3, {"val/loss": 0.25})
    folder = checkpoint.last(tmp_path)
    assert folder is not None
    assert (folder / "weights").read_text() == "after 3"
    assert checkpoint.reported(folder) == (3, {"val/loss": 0.25})
    assert checkpoint.step_of(tmp_path) == 3


def test_a_newer_checkpoint_replaces_the_older_and_leaves_nothing_else(tmp_path: Path):
    for step in range(3):
        write(tmp_path, step)
        checkpoint.put_in_place(tmp_path, step, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert checkpoint.step_of(tmp_path) == 2


def test_a_half_written_checkpoint_does_not_count_and_goes_away(tmp_path: Path):
    write(tmp_path, 0)
    checkpoint.put_in_place(tmp_path, 0, {})
    write(tmp_path, 1)
    checkpoint.recover(tmp_path)
    assert checkpoint.step_of(tmp_path) == 0
    assert not (tmp_path / "checkpoint.tmp").exists()


def test_a_death_between_the_two_renames_goes_back_to_the_older_checkpoint(tmp_path: Path):
    write(tmp_path, 0)
    checkpoint.put_in_place(tmp_path, 0, {})
    write(tmp_path, 1)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert checkpoint.step_of(tmp_path) == 0
    checkpoint.recover(tmp_path)
    assert (tmp_path / "checkpoint").is_dir()
    assert checkpoint.step_of(tmp_path) == 0


def test_a_death_before_the_older_one_is_removed_keeps_the_newer(tmp_path: Path):
    write(tmp_path, 0)
    checkpoint.put_in_place(tmp_path, 0, {})
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    write(tmp_path, 1)
    checkpoint.put_in_place(tmp_path, 1, {})
    (tmp_path / "checkpoint.old").mkdir(exist_ok=True)
    checkpoint.recover(tmp_path)
    assert checkpoint.step_of(tmp_path) == 1
    assert not (tmp_path / "checkpoint.old").exists()


def test_a_metric_that_json_does_not_have_is_refused(tmp_path: Path):
    write(tmp_path, 0)
    with pytest.raises(ValueError, match="Out of range float"):
        checkpoint.put_in_place(tmp_path, 0, {"val/loss": float("nan")})
    assert checkpoint.last(tmp_path) is None


def test_a_lent_checkpoint_comes_with_the_recipes_files_and_without_output_or_half_written_ones(tmp_path: Path) -> None:
    old, to = tmp_path / "t0000", tmp_path / "t0000-c1"
    (checkpoint.new(old) / "state.json").write_text("1")
    checkpoint.put_in_place(old, 4, {"m": 0.5})
    (checkpoint.new(old) / "state.json").write_text("half")
    (old / "epoch-4.safetensors").write_text("kept")
    (old / "worker-0.log").write_text("said")
    (old / "worker-0.log.1").write_text("said before")
    to.mkdir()
    (to / "of_a_request_that_was_cut").write_text("")
    assert checkpoint.lend(old, to) == 4
    assert sorted(path.name for path in to.iterdir()) == ["checkpoint", "epoch-4.safetensors"]
    assert checkpoint.reported(to / "checkpoint") == (4, {"m": 0.5})
    (old / "epoch-4.safetensors").write_text("changed in place")
    (checkpoint.new(old) / "state.json").write_text("2")
    checkpoint.put_in_place(old, 5, {})
    assert (to / "epoch-4.safetensors").read_text() == "kept" and (to / "checkpoint" / "state.json").read_text() == "1"


def test_of_a_trial_without_a_checkpoint_nothing_is_lent(tmp_path: Path) -> None:
    (tmp_path / "t0000").mkdir()
    assert checkpoint.lend(tmp_path / "t0000", tmp_path / "t0000-c1") is None
    assert not (tmp_path / "t0000-c1").exists()
