"""What design.md section 5 promises of `simulate`: published suggestions, the ladder, nearest rows, slots of a virtual clock."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.simulate.study import curves, run, study_file, table_file
from tune.__main__ import cli
from tune.adapters.journal_file import read_lines
from tune.core.fold import StudyFold
from tune.core.journal import decode_all

PUBLISHED = Path(__file__).parents[1] / "search" / "golden" / "roumeliotis2025_trials.csv"
CONVNEXT = {
    "learning_rate": {"float": [1e-6, 1e-4], "log": True},
    "batch_size": {"choice": [8, 16, 32, 64]},
    "image_size": {"choice": [400]},
    "weight_decay": {"float": [1e-5, 1e-2], "log": True},
}
MANY = [(10 ** (-4 + i / 10), 1 + i % 5, 0.3 + ((i * 7) % 40) / 60) for i in range(40)]
ASHA = {"kind": "asha", "grace": 5, "factor": 4, "max": 50}


def published(folder: Path, size: int, columns: list[str]) -> Path:
    with open(PUBLISHED) as file:
        rows = [r for r in csv.DictReader(file) if r["model"] == "convnext_tiny" and r["image_size"] == str(size)]
    return table_file(folder, columns, [[row[column] for column in columns] for row in rows])


@pytest.mark.parametrize(("size", "n"), [(100, 100), (200, 100), (400, 99)])
def test_by_trial_the_published_convnext_suggestions_come_out_again(tmp_path: Path, size: int, n: int) -> None:
    space = CONVNEXT | {"image_size": {"choice": [size]}}
    study = study_file(
        tmp_path,
        study={"name": "convnext", "seed": 42},
        metric={"name": "val_f1_w", "mode": "max"},
        budget={"trials": 100},
        sampler={"kind": "tpe"},
        space=space,
    )
    found = run(study, published(tmp_path, size, [*space, "val_f1_w"]), by_trial=True)
    assert found.summary["suggestions"] == {"equal": n, "of": n}
    assert len(found.trials) == n


def test_by_trial_a_table_needs_no_keys(tmp_path: Path) -> None:
    study = study_file(tmp_path, metric={"name": "val_f1_w", "mode": "max"}, space=CONVNEXT, budget={"trials": 500})
    found = run(study, published(tmp_path, 400, ["val_f1_w"]), by_trial=True)
    assert [line["trial"] for line in found.trials] == [f"t{i:04d}" for i in range(99)]
    assert found.trials[21]["value"] == pytest.approx(0.5746466931761051)
    assert "suggestions" not in found.summary
    assert any("the table has 99 trials" in note for note in found.notes)


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_the_ladder_of_the_paper_ends_trials_after_epoch_6_or_21_or_at_the_end_only(tmp_path: Path, form: str) -> None:
    study = study_file(tmp_path, scheduler=ASHA | {"form": form}, budget={"trials": 60})
    found = run(study, table_file(tmp_path, ["lr", "depth", "step", "acc"], curves(MANY, 50)), workers=4)
    ends = {(line["state"], line["steps"]) for line in found.trials}
    assert ends == {("pruned", 6), ("pruned", 21), ("complete", 50)}  # the epochs that a trial has had


def test_a_paused_trial_goes_on_from_its_next_step(tmp_path: Path) -> None:
    study = study_file(tmp_path, scheduler=ASHA | {"form": "promote"}, budget={"trials": 60})
    table = table_file(tmp_path, ["lr", "depth", "step", "acc"], curves(MANY, 50))
    found = run(study, table, workers=4, storage=tmp_path / "kept")
    entries = list(decode_all(read_lines(Path(found.summary["dir"]) / "journal.jsonl")))
    promoted = [e.event.trial for e in entries if type(e.event).__name__ == "Promoted"]
    assert promoted, "nothing was promoted, so this proves nothing"
    for trial in promoted:
        steps = [e.event.step for e in entries if type(e.event).__name__ == "Reported" and e.event.trial == trial]
        assert steps == list(range(len(steps)))


def test_slots_are_filled_and_never_overfilled(tmp_path: Path) -> None:
    rows = [[lr, depth, 0.5, 1 + depth] for lr, depth, _ in MANY]
    study = study_file(tmp_path, sampler={"kind": "random"}, budget={"trials": 30})
    found = run(study, table_file(tmp_path, ["lr", "depth", "acc", "seconds"], rows), workers=3)
    spans = [(line["started"], line["finished"]) for line in found.trials]
    for moment in sorted({start for start, _ in spans}):
        busy = sum(start <= moment < finish for start, finish in spans)
        assert busy <= 3
        assert busy == 3 or moment >= sorted(start for start, _ in spans)[-3]
    assert found.summary["wall_seconds"] == pytest.approx(max(finish for _, finish in spans))


def test_more_workers_take_less_virtual_time_for_the_same_trials(tmp_path: Path) -> None:
    study = study_file(tmp_path, sampler={"kind": "random"}, budget={"trials": 24})
    table = table_file(tmp_path, ["lr", "depth", "acc", "seconds"], [[0.1, 3, 0.5, 10]])
    assert [run(study, table, workers=n).summary["wall_seconds"] for n in (1, 2, 8)] == [240, 120, 30]


def test_the_same_study_simulates_the_same_to_the_byte(tmp_path: Path) -> None:
    study = study_file(tmp_path, scheduler=ASHA, budget={"trials": 40})
    table = table_file(tmp_path, ["lr", "depth", "step", "acc"], curves(MANY, 50))
    first, second = (run(study, table, workers=4) for _ in range(2))
    assert json.dumps(first.trials) == json.dumps(second.trials)


def test_a_point_is_answered_by_its_own_row_where_there_is_one(tmp_path: Path) -> None:
    space = {"a": {"int": [1, 3]}, "b": {"choice": ["x", "y"]}}
    rows = [[a, b, a * 10 + (b == "y")] for a in (1, 2, 3) for b in "xy"]
    found = run(study_file(tmp_path, space=space, sampler={"kind": "grid"}), table_file(tmp_path, ["a", "b", "acc"], rows))
    assert len(found.trials) == 6
    assert all(line["value"] == line["point"]["a"] * 10 + (line["point"]["b"] == "y") for line in found.trials)


def test_the_nearest_row_is_found_in_the_logarithm_of_a_log_axis(tmp_path: Path) -> None:
    """2e-3 is nearer to 1e-3 than to 1e-2 in the logarithm, and 5e-3 nearer to 1e-2."""
    space = {"lr": {"float": [1e-4, 1.0], "log": True}}
    table = table_file(tmp_path, ["lr", "acc"], [[1e-3, 1], [1e-2, 2]])
    study = study_file(tmp_path, space=space, budget={"trials": 2}, first=[{"lr": 2e-3}, {"lr": 5e-3}])
    assert [line["value"] for line in run(study, table).trials] == [1, 2]


def test_the_nearest_row_is_of_the_same_branch_where_there_is_one(tmp_path: Path) -> None:
    space = {"peft": {"choose": {"method": {"lora": {"r": {"int": [4, 128], "log": True}}, "ia3": {}}}}}
    table = table_file(tmp_path, ["peft.method", "peft.lora.r", "acc"], [["ia3", "", 1], ["lora", 4, 2], ["lora", 128, 3]])
    first = [{"peft.method": "ia3"}, {"peft.method": "lora", "peft.lora.r": 5}, {"peft.method": "lora", "peft.lora.r": 100}]
    study = study_file(tmp_path, space=space, budget={"trials": 3}, first=first)
    assert [line["value"] for line in run(study, table).trials] == [1, 2, 3]


def test_repeats_of_a_point_are_all_used(tmp_path: Path) -> None:
    space = {"a": {"choice": [1]}}
    table = table_file(tmp_path, ["a", "acc"], [[1, value] for value in range(4)])
    found = run(study_file(tmp_path, space=space, budget={"trials": 40}, sampler={"kind": "random"}), table)
    assert {line["value"] for line in found.trials} == {0, 1, 2, 3}


def test_money_and_time_of_the_table_end_a_study(tmp_path: Path) -> None:
    table = table_file(tmp_path, ["lr", "depth", "acc", "usd", "seconds"], [[0.1, 3, 0.5, 0.25, 360]])
    by_money = run(study_file(tmp_path, budget={"usd": 2.0}), table)
    assert by_money.summary["cost"]["usd"] == 2.0 and len(by_money.trials) == 8
    by_time = run(study_file(tmp_path, budget={"wall_hours": 1.0}), table)
    assert by_time.summary["wall_seconds"] == 3600


def test_a_kept_journal_reads_like_any_other(tmp_path: Path) -> None:
    table = table_file(tmp_path, ["lr", "depth", "acc"], [[0.1, 3, 0.5], [0.2, 3, 0.7]])
    found = run(study_file(tmp_path), table, storage=tmp_path / "kept")
    study_dir = Path(found.summary["dir"])
    fold = StudyFold.of(decode_all(read_lines(study_dir / "journal.jsonl")))
    assert fold.ended is not None and fold.ended.state == "done" and fold.n_search == 12
    assert {path.name for path in study_dir.iterdir()} >= {"resolved.json", "environment.json"}


def test_the_command_prints_a_line_a_trial_and_then_the_summary(tmp_path: Path) -> None:
    table = table_file(tmp_path, ["lr", "depth", "acc"], [[0.1, 3, 0.5], [0.2, 3, 0.7]])
    args = ["simulate", str(study_file(tmp_path)), "--table", str(table), "--workers", "2", "--set", "budget.trials=5"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    keys = ["trial", "point", "value", "state", "steps", "started", "finished"]
    assert [list(line) for line in lines[:-1]] == [keys] * 5
    assert lines[-1]["trials"] == {"complete": 5, "pruned": 0, "failed": 0} and lines[-1]["best"]["metrics"] == {"acc": 0.7}
    assert list(itertools.islice(lines[-1], 2)) == ["study", "state"]


def test_a_scheduler_without_curves_to_judge_is_said(tmp_path: Path) -> None:
    table = table_file(tmp_path, ["lr", "depth", "acc"], [[0.1, 3, 0.5]])
    [note] = run(study_file(tmp_path, scheduler=ASHA), table).notes
    assert note.startswith("scheduler.kind: asha has nothing to judge")
