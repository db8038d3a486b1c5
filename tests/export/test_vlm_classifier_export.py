"""A trained head with adapters on two small random towers, exported: `predict` gives the trial's own test answers.

No library but ours knows such a model, so there is no clean process: the export is opened where the study is gone.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from tests.export.written_study import POINT, Past, resolved, write_study  # noqa: E402
from tests.trainables.reporting import FakeReporter  # noqa: E402
from trainables.kept import BEST  # noqa: E402
from trainables.vlm_classifier import recipe  # noqa: E402
from trainables.vlm_classifier.spec import METRICS, VlmClassifierSpec  # noqa: E402
from trainables.vlm_data.open import open_rows  # noqa: E402
from tune.__main__ import cli  # noqa: E402

TOLERANCE = 1e-4  # of shares: other batches, another order of sums


@dataclass(frozen=True)
class Made:
    """`rows`: of the test split, (picture, words, what the trial answered). `shares_NC`: of the trial's own module on them."""

    study: Path
    rows: list[tuple[Path, str, str]]
    classes: tuple[str, ...]
    shares_NC: list[list[float]]


def trainable(**more: Any) -> dict[str, Any]:
    return {
        "kind": "vlm_classifier",
        "data": {"reader": "clipart", "text_field": "title", "subset": {"train": 40, "val": 10, "test": 6}},
        "encoder": {
            "family": "two_tower",
            "image_size": 32,
            "two_tower": {"image": {"name": "test_resnet", "weights": "none", "drop": 0.0}, "text": {"weights": "tiny:"}},
        },
        "epochs": 2,
        "batch": 16,
        **more,
    }


def make(folder: Path, **more: Any) -> Made:
    spec = VlmClassifierSpec.model_validate({**trainable(**more), "optim": {"lr": POINT["optim.lr"]}})
    reporter = FakeReporter(folder, METRICS)
    outcome = recipe.train(spec, reporter)
    past = Past("t0000", values=(outcome.metrics["val/accuracy"],), metrics=outcome.metrics)
    study = write_study(folder / "made-1", resolved(trainable(**more)), [past], {"rows": {"test": 6}})
    shutil.copytree(reporter.workdir, study / "trials" / "t0000", dirs_exist_ok=True)
    with open(reporter.workdir / "predictions.csv", encoding="utf-8", newline="") as file:
        answered = [row["predicted"] for row in csv.DictReader(file)]
    table, rows = open_rows(spec.data), []
    for i, said in zip(table.split["test"], answered, strict=True):
        row = table.rows[int(i)]
        assert row.image is not None
        picture = folder / f"{len(rows)}.png"
        picture.write_bytes(row.image.load())
        rows.append((picture, row.text, said))
    return Made(study, rows, table.classes, _shares(spec, reporter))


def _shares(spec: VlmClassifierSpec, reporter: FakeReporter) -> list[list[float]]:
    """As the trial makes its module for the test: with what is kept of the encoder, and batches of its own data."""
    task = recipe.open_task(spec)
    built = recipe.build(spec, task, reporter)
    built.module.load_state_dict(recipe.weights_of(0, reporter.workdir), strict=False)
    with torch.no_grad():
        batch = recipe.load_rows(task.split["test"], built.kept, built.batches, built.streams)
        return built.module.eval()(**batch).softmax(dim=1).tolist()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("adapted"), peft={"method": "lora", "lora": {"r": 2}})


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The encoder's outputs are kept, so that the trial itself never has the whole module."""
    return make(tmp_path_factory.mktemp("frozen"), inputs={"use": "image"}, head={"hidden": "8"})


def phasetune(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def exported(made: Made, out: Path) -> Path:
    done = phasetune("export", made.study, "--out", out)
    assert done.exit_code == 0, (done.output, done.exception)
    return out


def test_predict_answers_as_the_trial_was_tested_by_picture_and_words(adapted: Made, tmp_path: Path) -> None:
    out = exported(adapted, tmp_path / "out")
    for (picture, words, said), shares_C in zip(adapted.rows[:3], adapted.shares_NC, strict=False):
        done = phasetune("predict", out, picture, "--text", words, "--json", "--top", 10)
        assert done.exit_code == 0, (done.output, done.exception)
        answer = json.loads(done.stdout)
        assert answer["answer"] == said
        assert [answer["shares"][name] for name in adapted.classes] == pytest.approx(shares_C, abs=TOLERANCE)


def test_a_head_that_was_trained_on_kept_outputs_answers_on_its_encoder(frozen: Made, tmp_path: Path) -> None:
    done = phasetune("predict", exported(frozen, tmp_path / "out"), *(picture for picture, _, _ in frozen.rows), "--json", "--top", 10)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["answer"] for answer in answers] == [said for _, _, said in frozen.rows]
    for answer, shares_C in zip(answers, frozen.shares_NC, strict=True):
        assert [answer["shares"][name] for name in frozen.classes] == pytest.approx(shares_C, abs=TOLERANCE)


def test_words_are_refused_by_a_model_that_looks_at_the_picture_alone(frozen: Made, tmp_path: Path) -> None:
    done = phasetune("predict", exported(frozen, tmp_path / "out"), frozen.rows[0][0], "--text", "a cat")
    assert done.exit_code == 2 and "looks at the picture alone" in done.stderr


def test_random_towers_are_written_with_the_head_and_the_card_says_so(adapted: Made, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = exported(adapted, tmp_path / "out")
    with safe_open(out / "model.safetensors", framework="pt") as whole, safe_open(adapted.study / "trials/t0000" / BEST, "pt") as trained:
        assert set(trained.keys()) < set(whole.keys())
    card = (out / "README.md").read_text(encoding="utf-8")
    for said in ("> **Random weights.**", "test_resnet (none), random", "| looked at | the picture and the words |", "the head and lora"):
        assert said in card


def test_kept_weights_of_another_model_are_refused(adapted: Made, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(adapted.study, tmp_path / "made-2")
    path = other / "trials" / "t0000" / BEST
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({name: value for name, value in load_file(path).items() if "lora" not in name}, path, about)
    done = phasetune("export", other, "--out", tmp_path / "out")
    assert done.exit_code == 2 and "it lacks encoder." in done.stderr and not (tmp_path / "out").exists()


def test_weights_that_the_study_named_by_a_relative_path_are_found_from_anywhere() -> None:
    from trainables.vlm_classifier.export import _placed

    encoder = {"two_tower": {"image": {"weights": "lite0_package"}, "text": {"weights": "towers/minilm"}}, "max_tokens": 8}
    placed = _placed(encoder)
    assert placed["two_tower"]["text"]["weights"] == str(Path.cwd() / "towers" / "minilm")
    assert placed["two_tower"]["image"]["weights"] == "lite0_package" and placed["max_tokens"] == 8


def test_there_is_nothing_to_merge(adapted: Made, tmp_path: Path) -> None:
    done = phasetune("export", adapted.study, "--out", tmp_path / "out", "--merge")
    assert done.exit_code == 2 and "a head on an encoder" in done.stderr and not (tmp_path / "out").exists()
