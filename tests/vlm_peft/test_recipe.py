"""Whole trials of a tiny random LLaVA with a fake reporter, no Ray: every method, resume, memory that runs out, what is kept."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from safetensors.torch import load_file  # noqa: E402

from tests.trainables.reporting import FakeReporter, Killed  # noqa: E402
from tests.vlm_peft.cases import KEEP, PEFT, spec_of  # noqa: E402
from trainables.adapters.resident import RESIDENT  # noqa: E402
from trainables.vlm_peft import recipe  # noqa: E402
from trainables.vlm_peft.baseline import zero_shot  # noqa: E402
from trainables.vlm_peft.batches import Batches  # noqa: E402
from trainables.vlm_peft.evaluate import Asker, judge  # noqa: E402
from trainables.vlm_peft.model import load_config, load_for_inference, load_model  # noqa: E402
from trainables.vlm_peft.spec import METRICS  # noqa: E402
from trainables.vlm_peft.task import open_tasks  # noqa: E402
from tune.core.errors import FailTrial, RetryTrial, StopStudy  # noqa: E402

MakeReporter = Callable[..., FakeReporter]
_MEASURED = ("seconds", "tokens_per_second", "samples_per_second", "peak_memory_bytes")


def untimed(run: FakeReporter) -> list[tuple[int, dict[str, float]]]:
    return [(step, {name: value for name, value in values.items() if name not in _MEASURED}) for step, values in run.reports]


def tensors_of(run: FakeReporter) -> dict[str, Any]:
    return dict(load_file(run.workdir / "best.safetensors"))


@pytest.mark.parametrize("name", PEFT)
def test_a_method_trains_is_kept_and_answers_the_same_from_its_folder(name: str, rows: Path, reporter: MakeReporter) -> None:
    run = reporter()
    spec = spec_of(rows, peft=PEFT[name], epochs=1)
    outcome = recipe.train(spec, run)
    assert METRICS.validated(outcome.metrics, "test") == dict(outcome.metrics)
    assert {"train/loss", "val/loss", "val/score", "val/accuracy", "tokens_per_second", "trainable_share", "flops"} <= set(
        run.reports[0][1]
    )
    assert all((run.workdir / path).stat().st_size > 50 for path in outcome.files.values())
    loaded = load_for_inference(run.workdir)
    tasks = open_tasks(spec, processor=loaded.processor, chat=loaded.chat, config=load_config(spec.model), reporter=run)
    batches = Batches(tasks.target.rows, 0, torch.device("cpu"), torch.float32, keeps_logits=True)
    asker = Asker(loaded.model, loaded.model, spec.engine, run, splits=False)
    again = judge(asker, batches, tasks.target, "test", spec.evaluation, ("accuracy",), loaded.chat)
    assert again.loss == pytest.approx(outcome.metrics["test/loss"], rel=1e-4)
    with (run.workdir / "predictions.csv").open() as file:
        assert [line["predicted"] for line in csv.DictReader(file)] == list(again.answers)


def test_a_trial_on_the_base_that_others_left_equals_one_on_a_base_just_loaded_bit_for_bit(
    rows: Path, reporter: MakeReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = {name: spec_of(rows, peft=PEFT[name], epochs=1) for name in PEFT}
    specs |= {f"{name} in bf16": spec_of(rows, peft=PEFT[name], epochs=1, engine={"precision": "bf16"}) for name in ("lora", "full")}
    specs |= {"spider": spec_of(rows, peft=PEFT["full"], keep={"method": "spider"}, epochs=1)}
    for init in ("olora", "pissa"):  # the one writes to the base in place, the other replaces it
        peft = {"method": "other", "other": {"type": "lora", "config": {"r": 4, "init_lora_weights": init}}}
        specs[init] = spec_of(rows, peft=peft, epochs=1, engine={"precision": "bf16"})
    alone = {}
    for name, spec in specs.items():
        recipe.trained(spec, run := reporter(name), lambda model, device, splits: load_model(model, device))
        alone[name] = untimed(run), tensors_of(run)
    RESIDENT.drop()
    loads: list[str] = []
    monkeypatch.setattr("trainables.vlm_peft.model.load_model", lambda spec, device: loads.append(spec.name) or load_model(spec, device))
    for name in (*reversed(specs), "olora", *specs):
        recipe.train(specs[name], run := reporter(f"{name} after others {len(loads)}"))
        assert untimed(run) == alone[name][0], name
        assert all(torch.equal(tensor, alone[name][1][key]) for key, tensor in tensors_of(run).items()), name
        shutil.rmtree(run.workdir.parent)
    assert len(loads) == 1 + 3, "once, and after each olora"


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_a_method_generates(name: str, rows: Path, reporter: MakeReporter) -> None:
    spec = spec_of(rows, peft=PEFT[name], epochs=1, evaluation={"by": "generate", "max_new_tokens": 4})
    outcome = recipe.train(spec, reporter())
    assert 0 <= outcome.metrics["test/accuracy"] <= 1


@pytest.mark.parametrize("name", KEEP)
def test_a_keep_method_trains_on_the_last_block_and_the_connector(name: str, rows: Path, reporter: MakeReporter) -> None:
    run = reporter()
    outcome = recipe.train(spec_of(rows, peft=PEFT["full"], keep={"method": name}, epochs=1), run)
    trained, base = tensors_of(run), dict(load_model(spec_of(rows).model).named_parameters())
    unmoved = sum(int((tensor == base[key.removeprefix("base_model.model.")]).sum()) for key, tensor in trained.items())
    share = unmoved / sum(tensor.numel() for tensor in trained.values())
    assert outcome.metrics["best_epoch"] == 0 and share < 0.95
    assert share > 0.2 if name != "l2" else share < 0.05


def test_a_resumed_trial_equals_an_uninterrupted_one_bit_for_bit(rows: Path, reporter: MakeReporter) -> None:
    spec = spec_of(rows, peft={**PEFT["lora"], "lora": {"r": 4, "dropout": 0.2}}, epochs=3, early_stop={"patience": 2})
    whole, broken = reporter("whole"), reporter("broken", kill_at=0)
    outcome = recipe.train(spec, whole)
    with pytest.raises(Killed):
        recipe.train(spec, broken)
    again = reporter("broken")
    assert recipe.train(spec, again) == outcome
    assert untimed(broken) + untimed(again) == untimed(whole)
    ours, theirs = tensors_of(again), tensors_of(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_spider_resumes_in_the_middle_of_an_epoch_bit_for_bit(rows: Path, reporter: MakeReporter) -> None:
    length = {"report": "evaluation", "steps": 4, "eval_every_steps": 2, "epochs": None}
    spec = spec_of(rows, peft=PEFT["full"], keep={"method": "spider"}, **length)
    whole, broken = reporter("whole"), reporter("broken", kill_at=0)
    outcome = recipe.train(spec, whole)
    with pytest.raises(Killed):
        recipe.train(spec, broken)
    again = reporter("broken")
    assert recipe.train(spec, again) == outcome and len(whole.reports) == 2
    assert untimed(broken) + untimed(again) == untimed(whole)


def test_a_trial_killed_after_its_last_report_only_tests_again(rows: Path, reporter: MakeReporter) -> None:
    spec = spec_of(rows, epochs=1)
    with pytest.raises(Killed):
        recipe.train(spec, reporter(kill_at=0))
    again, third = reporter(), reporter()
    assert recipe.train(spec, again) == recipe.train(spec, third)
    assert again.reports == third.reports == []


def test_a_resumed_trial_goes_on_learning_and_a_checkpoint_leaves_out_the_base(rows: Path, reporter: MakeReporter) -> None:
    spec = spec_of(rows, peft=PEFT["lora"])
    first, second = reporter(kill_at=0), reporter()
    with pytest.raises(Killed):
        recipe.train(spec, first)
    saved = load_file(first.resume_from() / "engine.safetensors")  # type: ignore[operator]
    assert not [name for name in saved if name.endswith("weight") and ".lora_" not in name and ".modules_to_save." not in name]
    recipe.train(spec, second)
    assert second.curve("train/loss")[0] < first.curve("train/loss")[0] - 0.2


def test_a_stopped_trial_is_not_tested(rows: Path, reporter: MakeReporter) -> None:
    assert recipe.train(spec_of(rows), reporter(stop_at=0)).metrics == {}


def test_the_pretrained_models_skills_are_computed_once_and_the_baseline_agrees(rows: Path, reporter: MakeReporter) -> None:
    kept = {"old": {"reader": "mvsa", "source": str(rows), "prompt": "post_sentiment", "text_field": "none"}}
    spec = spec_of(rows, kept=kept, epochs=1, peft=PEFT["bottleneck"])
    first, second = reporter("first"), reporter("second")
    outcome = recipe.train(spec, first)
    files = {path.name: path.stat().st_mtime_ns for path in first.cache_dir.glob("skills-*.json")}
    assert recipe.train(spec, second) == outcome
    assert {path.name: path.stat().st_mtime_ns for path in first.cache_dir.glob("skills-*.json")} == files
    before = zero_shot(spec, reporter("zero"))
    assert METRICS.validated(before.metrics, "zero_shot") == dict(before.metrics)
    drop = before.metrics["skills/source"] - outcome.metrics["skills/source"]
    assert outcome.metrics["skills/source_drop"] == pytest.approx(drop)
    assert outcome.metrics["skills/target"] == outcome.metrics["val/score"]


class _Short:
    """Gives a base model that has no memory for more than `most` rows with gradients."""

    def __init__(self, most: int) -> None:
        self.most, self.loads = most, 0

    def __call__(self, spec: Any, device: str, splits: bool) -> Any:
        self.loads += 1
        model = load_model(spec, device)

        def refuse(_module: Any, _args: Any, named: dict[str, Any]) -> None:
            if torch.is_grad_enabled() and len(named["input_ids"]) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model


def test_a_short_memory_halves_the_micro_batch_and_ends_where_a_large_one_does(rows: Path, reporter: MakeReporter) -> None:
    spec = spec_of(rows, peft={"method": "ia3"}, batch=8, epochs=1)
    large, small, loader = reporter("large"), reporter("small"), _Short(2)
    wanted, got = recipe.train(spec, large), recipe.trained(spec, small, loader)
    assert loader.loads == 3 and small.curve("micro_batch") == [2.0] and large.curve("micro_batch") == [8.0]
    assert got.metrics["test/loss"] == pytest.approx(wanted.metrics["test/loss"], rel=1e-5)
    assert json.loads((small.workdir / "halvings.json").read_text()) == {"halvings": 2}


def test_one_row_that_does_not_fit_fails_the_trial_by_name(rows: Path, reporter: MakeReporter) -> None:
    with pytest.raises(FailTrial, match="out_of_memory: one row at a time: CUDA out of memory; use a higher ZeRO stage"):
        recipe.trained(spec_of(rows, batch=2), reporter(), _Short(0))


def test_memory_that_runs_out_after_a_report_gives_the_trial_back_to_go_on_with_half(rows: Path, reporter: MakeReporter) -> None:
    spec, loader = spec_of(rows, batch=4, peft={"method": "ia3"}), _Short(4)

    class Later(FakeReporter):
        def report(self, *arguments: Any, **named: Any) -> Any:
            decision = super().report(*arguments, **named)
            loader.most = 2
            return decision

    run = Later(reporter().workdir.parent, METRICS)
    with pytest.raises(RetryTrial, match="out_of_memory: micro-batch 4: CUDA out of memory; it goes on with half of it"):
        recipe.trained(spec, run, loader)
    again = reporter()
    assert "test/loss" in recipe.trained(spec, again, loader).metrics
    assert again.curve("micro_batch") == [2.0]


def test_a_quantised_base_stops_the_study_on_a_cpu(rows: Path, reporter: MakeReporter, tmp_path: Path) -> None:
    load_model(spec_of(rows).model).save_pretrained(tmp_path / "saved")
    from trainables.vlm_peft.model import load_processor

    load_processor(spec_of(rows).model).save_pretrained(tmp_path / "saved")
    with pytest.raises(StopStudy, match=r"no_cuda: model\.quantize: 4bit on cpu\n    fix: use a GPU"):
        recipe.train(spec_of(rows, model={"name": str(tmp_path / "saved"), "quantize": "4bit"}), reporter())
