"""Trials in phases at 32 px and below with tiny random networks and a fake reporter, no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from safetensors.torch import load_file  # noqa: E402

from tests.trainables.pictures import write_pictures  # noqa: E402
from tests.trainables.reporting import FakeReporter, Killed  # noqa: E402
from trainables.timm_cnn import recipe  # noqa: E402
from trainables.timm_cnn.baseline import linear_probe  # noqa: E402
from trainables.timm_cnn.preflight import look_at_data  # noqa: E402
from trainables.timm_cnn.spec import METRICS, TimmCnnSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

THREE = {"count": 3, "per_class": 3}
N_CLASSES = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "three")


def tiny(pictures: Path, **fields: Any) -> TimmCnnSpec:
    settings: dict[str, Any] = {
        "data": {"source": str(pictures)}, "model": {"name": "test_resnet", "weights": "none", "drop": 0.2}, "tune_depth": "all",
        "image_size": [16, 32, 32], "batch": 4, "epochs": 2, "optim": {"lr": 1e-3}, "schedule": {"kind": "cosine"}, "phases": THREE,
    }  # fmt: skip
    return TimmCnnSpec.model_validate({**settings, **fields})


def reporter(folder: Path, **more: int) -> FakeReporter:
    return FakeReporter(folder, METRICS, **more)


def table(run: FakeReporter) -> list[dict[str, Any]]:
    return list(json.loads((run.workdir / "phases.json").read_text()))


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v for k, v in values.items() if not k.endswith(("seconds", "images_per_second", "seconds_per_prediction", "peak_memory_bytes"))
    }


def test_steps_go_on_over_phases_and_the_last_of_each_carries_its_result(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    outcome = recipe.train(tiny(pictures, stress=[16, 24]), run)
    assert [step for step, _ in run.reports] == [0, 1, 2, 3, 4, 5]
    assert run.curve("phase") == [1, 1, 2, 2, 3, 3] and run.curve("resolution") == [16, 16, 32, 32, 32, 32]
    ends = [values for _, values in run.reports if "phase_end/rows" in values]
    assert [values["phase"] for values in ends] == [1, 2, 3]
    rows = table(run)
    assert [(row["phase"], row["resolution"], row["rows"], row["start"], row["epochs"]) for row in rows] == [
        (1, 16, 9, "base", 2), (2, 32, 9, "previous", 2), (3, 32, 9, "previous", 2)
    ]  # fmt: skip
    for row, values in zip(rows, ends, strict=True):
        assert {name: values[f"phase_end/{name}"] for name in row["metrics"]} == row["metrics"]
        assert {"train/loss", "val/loss", "test/loss", "test/accuracy", "test/f1_weighted", "test/precision_weighted"} <= set(
            row["metrics"]
        )
    assert METRICS.validated(outcome.metrics, "test") == dict(outcome.metrics)
    assert outcome.metrics["phase_picked"] == 3 and outcome.metrics["test/f1_weighted"] == rows[-1]["metrics"]["test/f1_weighted"]
    assert sorted(path.name for path in run.workdir.iterdir()) == sorted(outcome.files.values())


def test_the_model_is_tested_under_stress_at_every_size_asked_for(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    outcome = recipe.train(tiny(pictures, epochs=1, stress=[16, 32]), run)
    assert outcome.metrics["stress/32/accuracy"] == outcome.metrics["test/accuracy"]  # the size it was trained at
    assert {f"stress/16/{name}_weighted" for name in ("precision", "recall", "f1")} <= outcome.metrics.keys()
    found = json.loads((run.workdir / outcome.files["stress tests"]).read_text())
    assert [(row["phase"], row["trained_at"], row["tested_at"]) for row in found] == [(3, 32, 16), (3, 32, 32)]
    assert found[0]["metrics"]["test/accuracy"] == outcome.metrics["stress/16/accuracy"]


def test_stress_needs_no_phases(pictures: Path, tmp_path: Path) -> None:
    outcome = recipe.train(tiny(pictures, epochs=1, phases=None, image_size=32, stress=[24]), reporter(tmp_path))
    assert "stress/24/accuracy" in outcome.metrics and "phase_picked" not in outcome.metrics and "phases" not in outcome.files


@pytest.mark.parametrize("start", ["previous", "base"])
@pytest.mark.parametrize("kill_at", range(6))
def test_a_trial_killed_in_any_phase_ends_as_an_uninterrupted_one(start: str, kill_at: int, pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, phases={**THREE, "start": start})
    whole, broken, again = reporter(tmp_path / "whole"), reporter(tmp_path / "broken", kill_at=kill_at), reporter(tmp_path / "broken")
    outcome = recipe.train(spec, whole)
    with pytest.raises(Killed):
        recipe.train(spec, broken)
    assert untimed(dict(recipe.train(spec, again).metrics)) == untimed(dict(outcome.metrics))
    assert [(s, untimed(v)) for s, v in broken.reports + again.reports] == [(s, untimed(v)) for s, v in whole.reports]
    assert [untimed(row) for row in table(again)] == [untimed(row) for row in table(whole)]
    ours, theirs = (load_file(run.workdir / "best.safetensors") for run in (again, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_on_the_axis_of_phases_a_report_is_a_phase_and_a_kill_repeats_the_phase_exactly(pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, report="phase")
    by_epoch, whole = reporter(tmp_path / "epochs"), reporter(tmp_path / "whole")
    recipe.train(tiny(pictures), by_epoch)
    outcome = recipe.train(spec, whole)
    assert [step for step, _ in whole.reports] == [0, 1, 2]
    assert [untimed(row) for row in table(whole)] == [untimed(row) for row in table(by_epoch)]
    assert whole.curve("val/loss") == [row["metrics"]["val/loss"] for row in table(whole)]
    assert whole.curve("seconds") == [row["seconds"] for row in table(whole)]
    broken, again = reporter(tmp_path / "broken", kill_at=1), reporter(tmp_path / "broken")
    with pytest.raises(Killed):
        recipe.train(spec, broken)
    assert untimed(dict(recipe.train(spec, again).metrics)) == untimed(dict(outcome.metrics))


def test_a_phase_from_the_base_knows_nothing_of_the_one_before(pictures: Path, tmp_path: Path) -> None:
    """Blocks, seeds and epochs are the same, so only where the second phase starts can tell the two trials apart."""
    chained, anew = reporter(tmp_path / "a"), reporter(tmp_path / "b")
    recipe.train(tiny(pictures, image_size=32, phases={**THREE, "start": "previous"}), chained)
    recipe.train(tiny(pictures, image_size=32, phases={**THREE, "start": "base"}), anew)
    assert [untimed(v) for _, v in chained.reports[:2]] == [untimed(v) for _, v in anew.reports[:2]]
    assert chained.curve("train/loss")[2] != anew.curve("train/loss")[2]


def test_the_next_phase_starts_from_the_kept_weights_and_the_best_phase_can_be_the_trials(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    wild = {"kind": "sgd", "lr": 0.3, "head_lr_factor": 1}
    outcome = recipe.train(tiny(pictures, optim=wild, objective="best", phases={**THREE, "pick": "best"}), run)
    rows = table(run)
    scores = [row["metrics"]["val/f1_weighted"] for row in rows]
    best = rows[scores.index(max(scores))]
    assert outcome.metrics["phase_picked"] == best["phase"] and outcome.metrics["best_epoch"] == best["kept_epoch"]
    assert outcome.metrics["test/loss"] == best["metrics"]["test/loss"]
    losses = run.curve("val/loss")
    for i, row in enumerate(rows):
        mine = losses[2 * i : 2 * i + 2]
        assert row["kept_epoch"] == 2 * i + mine.index(min(mine)) and row["metrics"]["val/loss"] == min(mine)


def test_early_stopping_ends_a_phase_and_the_next_keeps_its_place(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    spec = tiny(pictures, epochs=20, tune_depth="head", early_stop={"patience": 1}, optim={"kind": "sgd", "lr": 5.0})
    recipe.train(spec, run)
    first = {phase: min(s for s, v in run.reports if v["phase"] == phase) for phase in (1, 2, 3)}
    assert first == {1: 0, 2: 20, 3: 40}
    assert any(row["epochs"] < 20 for row in table(run))


def test_a_trial_stopped_at_a_phases_end_leaves_the_table_of_what_is_over(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path, stop_at=3)
    outcome = recipe.train(tiny(pictures), run)
    assert outcome.metrics == {} and outcome.files == {"phases": "phases.json"} and [row["phase"] for row in table(run)] == [1, 2]
    early = recipe.train(tiny(pictures), reporter(tmp_path / "early", stop_at=0))
    assert early.files == {}


def test_pixels_are_decoded_once_for_each_resolution(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    recipe.train(tiny(pictures, epochs=1, stress=[16, 32]), run)
    assert len(list(run.cache_dir.glob("pixels-*.u8"))) == 2


def test_a_share_of_the_data_grows_over_cumulative_phases(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    recipe.train(tiny(pictures, epochs=1, phases={"count": 3, "share": [0.25, 0.25, 0.5], "rows": "cumulative"}), run)
    assert [row["rows"] for row in table(run)] == [9, 18, 36]


def test_a_refit_and_the_probe_follow_the_phases(pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, refit={"patience": 1})
    assert recipe.refit(spec, reporter(tmp_path / "refit")).metrics["phase_picked"] == 3
    probe = reporter(tmp_path / "probe")
    metrics = linear_probe(spec, probe).metrics
    assert metrics["test/accuracy"] > metrics["majority/accuracy"]
    assert [path.stat().st_size for path in probe.cache_dir.glob("pixels-*.u8")] == [60 * 32 * 32 * 3]  # the last phase's size


def test_preflight_shows_the_phases_and_refuses_classes_that_are_too_small(pictures: Path) -> None:
    facts = look_at_data(tiny(pictures, batch=32), seed=1)
    assert facts["phases"][1] == {"phase": 2, "resolution": 32, "rows": 9, "epochs": 2, "start": "previous"}
    assert any("batch 32 is larger than the 9 training images of a phase" in text for text in facts["warnings"])
    with pytest.raises(UserError, match="class blue has 12 training rows, 3 blocks need 15"):
        look_at_data(tiny(pictures, phases={"count": 3, "per_class": 5}), seed=1)


def two_ranks(rank: int, folder: str, meeting: str, fields: dict[str, Any]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    run = reporter(Path(folder) / f"rank{rank}")
    run.rank, run.world_size = rank, 2
    run.workdir = Path(folder) / "work"  # shared, as in a study
    run.workdir.mkdir(exist_ok=True)
    outcome = recipe.train(TimmCnnSpec.model_validate(fields), run)
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(untimed(dict(outcome.metrics))))
    torch.distributed.destroy_process_group()


def test_two_ranks_go_through_the_phases_as_one_does(pictures: Path, tmp_path: Path) -> None:
    still = {"model": {"name": "test_convnext", "weights": "none", "drop": 0.0}, "augment": {"hflip": False}}  # no chance, no batch norm
    spec = tiny(pictures, **still, image_size=[32, 32, 48], epochs=1, batch=6, stress=[32], optim={"lr": 1e-3, "head_lr_factor": 1})
    alone = reporter(tmp_path / "alone")
    outcome = recipe.train(spec, alone)
    torch.multiprocessing.spawn(two_ranks, (str(tmp_path), str(tmp_path / "meeting"), spec.model_dump(mode="json")), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == pytest.approx(untimed(dict(outcome.metrics)), rel=1e-3, abs=1e-4)
    shared = json.loads((tmp_path / "work" / "phases.json").read_text())
    assert [row["metrics"]["val/loss"] for row in shared] == pytest.approx([row["metrics"]["val/loss"] for row in table(alone)], rel=1e-3)
