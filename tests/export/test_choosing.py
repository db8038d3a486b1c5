"""Which trial is exported, and every mistake that can be made in naming it. No model is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.written_study import Past, resolved, write_study
from trainables.catalog import CATALOG
from tune.core.errors import UserError
from tune.core.fold import StudyFold
from tune.core.journal import decode_all
from tune.exporting.export import chosen, export_trial

PASTS = (
    Past("baseline", role="baseline"),
    Past("t0000", values=(0.6,)),
    Past("t0001", values=(0.9,)),
    Past("t0002", "pruned", values=(0.1,), reason="not among the best"),
    Past("t0003", "failed", reason="not_finite"),
    Past("t0004", "running"),
    Past("refit", role="refit", values=(0.8,)),
)
WITH_WEIGHTS = ("t0001", "refit", "t0004")


def read(folder: Path) -> StudyFold:
    return StudyFold.of(decode_all((folder / "journal.jsonl").read_text().splitlines()))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = write_study(tmp_path / "made-1", resolved({"kind": "timm_cnn"}), PASTS, {}, ended=False)
    for trial in WITH_WEIGHTS:
        (folder / "trials" / trial / "best.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(("wanted", "found"), [("best", "t0001"), ("refit", "refit"), ("t0001", "t0001")])
def test_a_trial_is_named_by_its_id_or_its_part_in_the_study(wanted: str, found: str, study: Path) -> None:
    assert chosen(read(study), study, wanted).trial == found


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("t0099", "no such trial"),
        ("bset", "did you mean 'best'?"),
        ("t0002", "t0002 is pruned (not among the best): only a complete trial has a model"),
        ("t0003", "t0003 is failed (not_finite): only a complete trial has a model"),
        ("t0004", "t0004 is running: only a complete trial has a model"),
        ("t0000", "t0000 keeps no weights: only the best few trials and the refit do"),
        ("baseline", "the baseline, which keeps no model"),
    ],
)
def test_a_trial_without_a_model_is_refused_with_those_that_have_one(wanted: str, said: str, study: Path) -> None:
    with pytest.raises(UserError) as caught:
        chosen(read(study), study, wanted)
    [problem] = caught.value.problems
    assert problem.where == f"{study}: --trial {wanted}" and said in problem.got
    assert problem.fix == "choose one that can be exported: t0001, refit"


def test_a_study_in_which_nothing_won_has_no_best(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "made-1", resolved({"kind": "timm_cnn"}), [Past("t0000", "failed", reason="oom")], {})
    with pytest.raises(UserError) as caught:
        chosen(read(folder), folder, "best")
    assert "no trial has won" in str(caught.value) and "no trial of this study kept a model" in str(caught.value)


def test_a_kind_that_trains_no_model_of_ours_cannot_be_exported(tmp_path: Path) -> None:
    study = resolved({"kind": "curve"}, "val/score") | {"space": {"lr": {"float": [1e-4, 1e-1], "log": True}}}
    folder = write_study(tmp_path / "curve-1", study, [Past("t0000")], {})
    with pytest.raises(UserError) as caught:
        export_trial(read(folder), folder, "best", None)
    assert "kind curve, which has no model to export" in str(caught.value) and "export a study of timm_cnn" in str(caught.value)


def test_a_folder_that_exists_is_never_written_into(study: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError) as caught:
        export_trial(read(study), study, "best", tmp_path / "mine")
    [problem] = caught.value.problems
    assert (problem.where, problem.got) == (str(tmp_path / "mine"), "it exists already") and "--out" in problem.fix
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_kind_that_can_be_exported_can_be_asked_and_both_are_named_in_files_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    for kind, entry in CATALOG.items():
        assert (entry.export is None) == (entry.predict is None), kind
        for reference in filter(None, (entry.export, entry.predict)):
            module, _, name = reference.partition(":")
            assert f"def {name}(" in (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"), reference
