"""`micro_batch: auto` and `zero: auto`: which engines there are, in which order, and which of them a trial gets and keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.trainables.reporting import FakeReporter
from tests.vlm_peft.cases import PEFT, spec_of
from trainables.auto_engine import AutoEngineSpec, candidates
from trainables.catalog import Estimate
from trainables.fits import batch_splits
from trainables.vlm_peft.engine_choice import on_cards, settlements, words
from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.errors import UserError
from tune.core.spec import validated
from tune.plan_points import point_lines

MakeReporter = Callable[..., FakeReporter]
OPEN = {"micro_batch": "auto", "zero": "auto"}


def names(spec: VlmPeftSpec, workers: int, on_gpu: bool = True) -> list[str]:
    return [words(one, workers) for one in settlements(spec, workers, on_gpu)]


def test_engines_go_from_the_fastest_to_the_one_that_needs_least(rows: Path) -> None:
    spec = spec_of(rows, batch=8, engine=OPEN)
    assert names(spec, workers=1) == [
        f"{how}{n} at once" for how in ("", "ZeRO 3 with offload, ") for n in ("8 rows", "4 rows", "2 rows", "1 row")
    ]
    assert names(spec, workers=1, on_gpu=False) == ["8 rows at once", "4 rows at once", "2 rows at once", "1 row at once"]
    stages = ("", "ZeRO 2, ", "ZeRO 3, ", "ZeRO 3 with offload, ")
    assert names(spec, workers=2) == [f"{how}{n} at once" for how in stages for n in ("4 rows", "2 rows", "1 row")]


def test_what_is_given_stays(rows: Path) -> None:
    assert names(spec_of(rows, batch=8, engine={"micro_batch": "auto", "zero": {"stage": 1}}), 2)[0] == "ZeRO 1, 4 rows at once"
    half = spec_of(rows, batch=8, engine={"zero": "auto", "accumulation": 2, "precision": "bf16", "activation_checkpointing": True})
    found = [one.engine for one in settlements(half, 2, on_gpu=False)]
    assert [(one.zero and one.zero.stage, one.accumulation) for one in found] == [(None, 2), (2, 2), (3, 2)]
    assert all(one.precision == "bf16" and one.activation_checkpointing for one in found)
    closed = spec_of(rows)
    assert list(settlements(closed, 1, on_gpu=True)) == [closed]


def test_engines_that_cannot_train_the_rest_are_left_out(rows: Path) -> None:
    spec = spec_of(rows, batch=4, peft=PEFT["adalora"], engine=OPEN)
    assert {name.split(",")[0] for name in names(spec, workers=2)} == {"2 rows at once", "1 row at once", "ZeRO 2"}


def test_a_count_beside_auto_and_a_batch_that_does_not_divide_are_refused(rows: Path) -> None:
    with pytest.raises(ValidationError, match="accumulation follows from micro_batch: auto"):
        AutoEngineSpec.model_validate({"micro_batch": "auto", "accumulation": 2})
    with pytest.raises(UserError, match="batch 9 does not divide"):
        batch_splits(spec_of(rows, batch=9, engine=OPEN), workers=2)
    batch_splits(spec_of(rows, batch=8, engine=OPEN), workers=2)
    with pytest.raises(UserError, match="batch 8 does not divide into 2 workers x accumulation 3"):
        batch_splits(spec_of(rows, batch=8, engine={"zero": "auto", "accumulation": 3}), workers=2)
    assert [one.accumulation for one in candidates(AutoEngineSpec(micro_batch="auto"), 12, 2, on_gpu=False)] == [1, 2, 3, 6]


def test_plan_is_told_what_becomes_of_it_on_each_card(rows: Path) -> None:
    needed = {"8 rows at once": 60, "4 rows at once": 40, "2 rows at once": 30, "1 row at once": 20}
    spec = spec_of(rows, batch=8, engine={"micro_batch": "auto"})
    told = on_cards([(one, needed[words(one, 1)] * 2**30) for one in settlements(spec, 1, on_gpu=True)], 1)
    assert (
        told == "auto: 16 GB: does not fit; 24 GB: 1 row at once; 40 GB: 2 rows at once; 48 GB: 4 rows at once; 80|141 GB: 8 rows at once"
    )


def test_plan_shows_it_in_a_line_of_its_own() -> None:
    point = asdict(Estimate(1, 10, 2**30, note="auto: 24 GB: 1 row at once")) | {
        "role": "base",
        "point": {},
        "trainable_share": 0.1,
        "breaks": {},
    }
    [_, with_it], [_, without] = point_lines([point]), point_lines([point | {"note": None}])
    assert with_it == f"{without}\n      auto: 24 GB: 1 row at once"


@pytest.mark.parametrize(
    ("zero", "path", "fix"),
    [
        ({"stage": 7}, ("engine", "zero", "stage"), "use 0, 1, 2 or 3"),
        ({"stage": 2, "offload_parameters": "cpu"}, ("engine", "zero"), "set stage: 3 or offload_parameters: none"),
    ],
)
def test_a_mistake_in_a_mapping_is_told_without_the_word_that_it_is_not(
    rows: Path, zero: dict[str, Any], path: tuple[str, ...], fix: str
) -> None:
    raw = spec_of(rows).model_dump(mode="json", exclude_unset=True) | {"engine": {"zero": zero}}
    _, mistakes = validated(VlmPeftSpec, raw)
    assert [(mistake.path, mistake.fix) for mistake in mistakes] == [(path, fix)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trial_gets_what_fits_ends_as_with_that_number_and_keeps_it(
    rows: Path, reporter: MakeReporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainables.vlm_peft import recipe, settle
    from trainables.vlm_peft.estimate import on_meta, peak_of

    spec = spec_of(rows, engine={"micro_batch": "auto"})
    adapted, config = on_meta(spec)
    count = itertools.count()
    needs = [peak_of(one, adapted, config, 1).total for one in settlements(spec, 1, on_gpu=False)]
    assert needs == sorted(needs, reverse=True) and len(needs) == 4  # 6, 3, 2 and 1 rows

    def trained(engine: dict[str, Any], room: float) -> tuple[FakeReporter, dict[str, float]]:
        monkeypatch.setattr(settle, "room_bytes", lambda device, world_size: room)
        run = reporter(f"trial-{next(count)}")
        recipe.train(spec_of(rows, engine=engine), run)
        return run, {name: value for name, value in run.reports[-1][1].items() if "second" not in name and "memory" not in name}

    whole, third = trained({"micro_batch": "auto"}, needs[0]), trained({"micro_batch": "auto"}, needs[1] - 1)
    assert (whole[1]["micro_batch"], third[1]["micro_batch"]) == (6.0, 2.0)
    assert third[1] == trained({"accumulation": 3}, 0.0)[1]
    assert trained({"micro_batch": "auto"}, 0.0)[1]["micro_batch"] == 1.0, "the one that needs least is tried all the same"
    assert "engine: 2 rows at once in each of 1 workers" in capsys.readouterr().out
    monkeypatch.setattr(settle, "room_bytes", lambda device, world_size: 1e15)
    assert settle.settled_spec(spec, third[0]).engine.accumulation == 3, "an attempt that goes on keeps it"
    (third[0].workdir / "engine.json").write_text('{"workers": 3, "zero": {"stage": 3}}')
    engine = settle.settled_spec(spec, third[0]).engine
    assert (engine.zero.stage, engine.accumulation) == (3, 3), "of another number of workers: the stage and the 2 rows at once stay"


def test_a_worker_with_a_share_of_a_gpu_keeps_to_it_and_has_that_much_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: torch's answers are given, its own calls are not run."""
    import torch

    from trainables.adapters.worker import keep_to_share
    from trainables.vlm_peft import settle

    fractions: dict[str, float] = {}
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.update({device: share}))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fractions.get(device, 1.0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"total_memory": 80e9}))
    keep_to_share("cpu", 0.5)
    keep_to_share("cuda:0", 1)
    assert fractions == {} and settle.room_bytes("cuda:0", 1) == 80e9 * settle.ROOM_SHARE
    keep_to_share("cuda:0", 0.25)
    assert settle.room_bytes("cuda:0", 1) == 20e9 * settle.ROOM_SHARE
