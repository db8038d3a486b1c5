"""Every mistake in a table is named with its line, what was got and the fix; all of them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.simulate.study import run, study_file
from tune.core.errors import Problem, UserError


def problems(folder: Path, text: str | bytes, study: dict[str, Any] | None = None, **options: Any) -> list[Problem]:
    table = folder / "t.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as raised:
        run(study_file(folder, **(study or {})), table, **options)
    return list(raised.value.problems)


def only(folder: Path, text: str | bytes, **options: Any) -> Problem:
    [problem] = problems(folder, text, **options)
    return problem


def test_a_missing_key_is_named_with_the_column_that_was_meant(tmp_path: Path) -> None:
    found = only(tmp_path, "lr,dept,acc\n0.1,3,0.5\n")
    assert found.where == f"{tmp_path}/t.csv:1"
    assert found.got == "no column 'depth', a key of the space (did you mean 'dept'?)"
    assert found.fix == "add it; the table has lr, dept, acc"


def test_a_table_without_the_objective_is_refused(tmp_path: Path) -> None:
    assert only(tmp_path, "lr,depth,accuracy\n0.1,3,0.5\n").got.startswith("no column 'acc', the objective")


@pytest.mark.parametrize("cell", ["nan", "inf", "", "good"])
def test_a_value_that_is_no_finite_number_is_named_with_its_line(tmp_path: Path, cell: str) -> None:
    found = only(tmp_path, f"lr,depth,acc\n0.1,3,0.5\n0.2,3,{cell}\n")
    assert found.where == f"{tmp_path}/t.csv:3: acc"
    assert found.got == (f"'{cell}'" if cell else "an empty cell")


@pytest.mark.parametrize("column", ["acc", "seconds", "usd"])
def test_a_number_whose_sums_would_not_be_finite_is_named(tmp_path: Path, column: str) -> None:
    cells = {"acc": "0.5", "seconds": "1", "usd": "0"} | {column: "1e308"}
    found = only(tmp_path, "lr,depth,acc,seconds,usd\n0.1,3," + ",".join(cells.values()) + "\n")
    assert (found.where, found.got) == (f"{tmp_path}/t.csv:2: {column}", "1e308")


@pytest.mark.parametrize(
    ("steps", "got"),
    [
        ([0, 1, 3], "step 3 after step 1, so that 2 is missing"),
        ([0, 1, 2, 1], "step 1 after step 2, which goes backwards"),
        ([0, 1, 1], "step 1 after step 1, which goes backwards"),
        ([1, 2], "a curve that begins at step 1"),
        ([0, 0.5], "'0.5'"),
        ([0, -1], "'-1'"),
    ],
)
@pytest.mark.parametrize("by_trial", [False, True])
def test_steps_count_from_0_and_up_by_one(tmp_path: Path, steps: list[float], got: str, by_trial: bool) -> None:
    rows = "".join(f"0.1,3,{step},0.5\n" for step in steps)
    found = problems(tmp_path, f"lr,depth,step,acc\n{rows}", by_trial=by_trial)
    assert got in [problem.got for problem in found]
    assert all(problem.where.endswith(": step") for problem in found)


def test_a_curve_may_begin_again_at_step_0_and_points_may_take_turns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("lr,depth,step,acc\n0.1,3,0,0.1\n0.2,3,0,0.1\n0.1,3,1,0.2\n0.2,3,1,0.2\n0.1,3,0,0.3\n")
    assert {line["steps"] for line in run(study_file(tmp_path), tmp_path / "t.csv").trials} == {1, 2}


def test_an_empty_file_and_a_header_alone_are_refused(tmp_path: Path) -> None:
    assert only(tmp_path, "").got == "an empty file"
    assert only(tmp_path, "lr,depth,acc\n").got == "a header without rows"


def test_a_ragged_row_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path, "lr,depth,acc\n0.1,3,0.5,9\n")
    assert found[0].got == "4 cells where the header has 3"


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert only(tmp_path, "lr,depth,acc,acc\n0.1,3,0.5,0.6\n").got == "2 columns of this name"


@pytest.mark.parametrize(
    ("column", "meant"), [("epoch", "step"), ("Step", "step"), ("steps", "step"), ("second", "seconds"), ("USD", "usd")]
)
def test_a_column_that_is_almost_one_we_read_is_refused(tmp_path: Path, column: str, meant: str) -> None:
    assert only(tmp_path, f"lr,depth,acc,{column}\n0.1,3,0.5,0\n").got == f"a column '{column}' (did you mean '{meant}'?)"


def test_a_value_that_a_log_axis_cannot_have_is_refused(tmp_path: Path) -> None:
    assert only(tmp_path, "lr,depth,acc\n0,3,0.5\n").fix.startswith("use a number above 0")


def test_negative_seconds_are_refused(tmp_path: Path) -> None:
    assert only(tmp_path, "lr,depth,acc,seconds\n0.1,3,0.5,-1\n").fix == "use 0 or more"


def test_all_mistakes_are_told_at_once_and_many_alike_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"0.1,x,{'nan' if i else 0.5}\n" for i in range(20))
    found = problems(tmp_path, f"lr,depth,acc\n{rows}")
    by_column = [problem.where.rpartition(": ")[2] for problem in found]
    assert by_column.count("depth") == 6 and by_column.count("acc") == 6
    assert "14 more like this (not a number)" in [problem.got for problem in found]


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(study_file(tmp_path), tmp_path / "none.csv")
    assert "it is no CSV in UTF-8" in only(tmp_path, b"lr,depth,acc\n\xff\xfe,3,0.5\n").got


def test_a_budget_that_the_table_never_reaches_is_refused(tmp_path: Path) -> None:
    found = only(tmp_path, "lr,depth,acc\n0.1,3,0.5\n", study={"budget": {"usd": 5}})
    assert found.got == "no limit that this table ever reaches"


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufefflr,depth,acc\n0.1,3,0.5\n\n0.2,3,0.6\n".encode())
    assert len(run(study_file(tmp_path), tmp_path / "t.csv").trials) == 12
