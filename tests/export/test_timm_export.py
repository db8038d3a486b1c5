"""A trained trial, exported: timm alone gives its predictions in a clean process, `predict` answers without study and Ray.

Tiny networks with random weights at 32 px.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from tests.export.written_study import POINT, Past, resolved, write_study  # noqa: E402
from tests.trainables.pictures import write_pictures  # noqa: E402
from tests.trainables.reporting import FakeReporter  # noqa: E402
from trainables.kept import BEST  # noqa: E402
from trainables.timm_cnn import export as timm_export  # noqa: E402
from trainables.timm_cnn import recipe  # noqa: E402
from trainables.timm_cnn.model import build  # noqa: E402
from trainables.timm_cnn.spec import METRICS, TimmCnnSpec  # noqa: E402
from tune.__main__ import cli  # noqa: E402
from tune.adapters.journal_file import read_entries  # noqa: E402
from tune.adapters.mlflow_log import MlflowProjection  # noqa: E402
from tune.adapters.mlflow_runs import mlflow_client  # noqa: E402
from tune.core.errors import UserError  # noqa: E402
from tune.core.exports import ExportOrder  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of logits: another process, another order of sums
# What a stranger would write, after what a CPU build of torch needs beside the published torchvision.
CLEAN = """
import json, sys, torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    try:
        getattr(torch.ops.torchvision, name)
    except (AttributeError, RuntimeError):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
from PIL import Image
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
again = timm.create_model("test_resnet", num_classes=3, checkpoint_path=sys.argv[1] + "/model.safetensors").eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
images_B3HW = torch.stack([transform(Image.open(path).convert("RGB")) for path in json.load(sys.stdin)])
with torch.no_grad():
    logits_BC = model(images_B3HW)
    assert torch.equal(logits_BC, again(images_B3HW))
assert not [name for name in sys.modules if name.split(".")[0] in ("tune", "trainables", "cluster", "ray")]
print(json.dumps({"logits": logits_BC.tolist(), "labels": model.pretrained_cfg["label_names"]}))
"""
# Then `phasetune predict`, and MLflow with the copy of our code that lies in the export.
AND_PREDICT = """
sys.path.insert(0, sys.argv[2])
from tune.__main__ import cli
cli(["predict", sys.argv[1], *sys.argv[3:], "--json"], standalone_mode=False)
print(json.dumps([name for name in ("ray", "mlflow", "optuna") if name in sys.modules]))
sys.path.remove(sys.argv[2])
for name in [name for name in sys.modules if name.split(".")[0] in ("tune", "trainables")]:
    del sys.modules[name]
import mlflow
loaded = mlflow.pyfunc.load_model(sys.argv[1])
rows = [{"image": open(path, "rb").read()} for path in sys.argv[3:]]
print(json.dumps({"from": sys.modules["tune"].__file__, "rows": loaded.predict(rows), "ray": "ray" in sys.modules}))
"""


@dataclass(frozen=True)
class Made:
    """A study of one trained trial. `logits`: picture -> those of the trial's kept weights on the test split, as it was tested."""

    study: Path
    pictures: Path
    spec: TimmCnnSpec
    logits: dict[str, list[float]]
    predicted: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("timm")
    pictures = write_pictures(folder / "pictures")
    for path in sorted(pictures.rglob("*.png"))[::2]:  # not square: the transform must squash them as training did
        with Image.open(path) as image:
            image.resize((57, 40)).save(path)
    trainable = {
        "kind": "timm_cnn",
        "data": {"source": str(pictures)},
        "model": {"name": "test_resnet", "weights": "none", "drop": 0.1},
        "tune_depth": "all",
        "image_size": 32,
        "batch": 12,
        "epochs": 2,
        "normalize": "lite0",
    }
    spec = TimmCnnSpec.model_validate({**trainable, "optim": {"lr": POINT["optim.lr"]}})
    reporter = FakeReporter(folder, METRICS)
    outcome = recipe.train(spec, reporter)
    past = Past("t0000", values=(outcome.metrics["val/accuracy"],), metrics=outcome.metrics)
    data = {"digest": "da7a", "rows": {"train": 36, "val": 12, "test": 12}, "warnings": ["few pictures"]}
    study = write_study(folder / "made-1", resolved(trainable), [past], data)
    task = recipe.open_task(spec)
    module, scale = build(spec, 3, seed=0, with_weights=False)
    module.load_state_dict(recipe.weights_of(0, reporter.workdir))  # of a trial that is over: its kept weights
    with torch.no_grad():
        logits_BC = module.eval()(scale.apply(task.images(32, scale, reporter).load(task.split["test"])[0].float()))
    names = [str(pictures / task.table.ids[row]) for row in task.split["test"]]
    with open(reporter.workdir / "predictions.csv", encoding="utf-8") as file:
        predicted = {str(pictures / row["item"]): row["predicted"] for row in csv.DictReader(file)}
    shutil.copytree(reporter.workdir, study / "trials" / "t0000", dirs_exist_ok=True)
    return Made(study, pictures, spec, dict(zip(names, logits_BC.tolist(), strict=True)), predicted)


def phasetune(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def exported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "three colours"
    uri = f"sqlite:///{out.parent / 'mlflow.db'}"
    projection = MlflowProjection(made.study, uri, "made")
    projection.start()
    projection.offer(list(read_entries(made.study))[-1])
    assert projection.close(60.0).behind == 0
    done = phasetune("export", made.study, "--out", out, "--json", "--mlflow", "--tracking-uri", uri)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {"trial": "t0000", "folder": str(out), "task": "labels"}
    return out


@dataclass(frozen=True)
class Said:
    """What a clean process printed: by timm alone, by `phasetune predict`, by MLflow."""

    logits_BC: np.ndarray
    labels: list[str]
    predicted: list[dict[str, Any]]
    imported: list[str]
    mlflow: dict[str, Any]


@pytest.fixture(scope="module")
def said(made: Made, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    moved = shutil.copytree(exported, tmp_path_factory.mktemp("elsewhere") / "export")
    command = [sys.executable, "-I", "-c", CLEAN + AND_PREDICT, str(moved), str(ROOT), *made.logits]
    done = subprocess.run(command, input=json.dumps(list(made.logits)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, *predicted, imported, mlflow = [json.loads(line) for line in done.stdout.splitlines()]
    assert mlflow["from"] == str(moved / "code" / "tune" / "__init__.py")
    return Said(np.array(alone["logits"]), alone["labels"], predicted, imported, mlflow)


def test_timm_alone_gives_the_trials_own_predictions_in_a_clean_process(made: Made, said: Said) -> None:
    ours_BC = np.array(list(made.logits.values()))
    assert said.logits_BC.shape == (12, 3) and np.abs(said.logits_BC - ours_BC).max() <= TOLERANCE
    labels = [said.labels[i] for i in said.logits_BC.argmax(axis=1)]
    assert dict(zip(made.logits, labels, strict=True)) == made.predicted


def test_predict_answers_without_the_study_and_without_ray(made: Made, said: Said) -> None:
    assert said.imported == []
    assert {answer["image"]: answer["answer"] for answer in said.predicted} == made.predicted
    for answer, logits_C in zip(said.predicted, made.logits.values(), strict=True):
        shares_C = torch.tensor(logits_C).softmax(0).tolist()
        assert [answer["shares"][name] for name in said.labels] == pytest.approx(shares_C, abs=TOLERANCE)
        assert list(answer["shares"].values()) == sorted(answer["shares"].values(), reverse=True)


def test_mlflow_opens_it_with_the_code_that_lies_in_it(made: Made, said: Said) -> None:
    assert [row["answer"] for row in said.mlflow["rows"]] == list(made.predicted.values()) and said.mlflow["ray"] is False


def test_mlflow_has_it_as_a_model_of_the_trials_run(exported: Path) -> None:
    client = mlflow_client(f"sqlite:///{exported.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("made").experiment_id
    [model] = client.search_logged_models([experiment])
    run = client.get_run(model.source_run_id)
    assert model.name == "made-t0000" and model.status == "READY"
    assert run.data.tags["phasetune.trial"] == "t0000" and [m.model_id for m in run.outputs.model_outputs] == [model.model_id]


def test_a_server_without_the_trials_run_is_refused_before_anything_is_written(made: Made, exported: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "out", "--mlflow", "--tracking-uri", f"sqlite:///{exported.parent / 'mlflow.db'}")
    entries = (made.study / "journal.jsonl").read_text().replace("1800000000", "1800000099")  # another study of the same name
    other = shutil.copytree(made.study, tmp_path / "made-2")
    (other / "journal.jsonl").write_text(entries)
    done = phasetune("export", other, *words)
    assert done.exit_code == 2 and "it has no run of t0000 of this study" in done.stderr and not (tmp_path / "out").exists()


def test_a_damaged_picture_is_named_and_the_others_are_answered(made: Made, exported: Path, tmp_path: Path) -> None:
    sound = next(iter(made.logits))
    (tmp_path / "cut.png").write_bytes(Path(sound).read_bytes()[:200])
    (tmp_path / "page.jpg").write_text("<!doctype html><html>")
    done = phasetune("predict", exported, tmp_path, sound, "--top", 1)
    assert done.exit_code == 1
    cut, page, answered = done.stdout.splitlines()
    assert "cut.png" in cut and "not answered: it cannot be decoded" in cut
    assert "page.jpg" in page and "not answered: a web page" in page
    assert sound in answered and made.predicted[sound] in answered
    assert done.stderr == "2 of 3 pictures could not be answered\n"


def test_every_mistake_in_a_question_is_told_before_the_model_is_opened(exported: Path) -> None:
    done = phasetune("predict", exported, "gone.png", "--text", "what?")
    assert done.exit_code == 2 and done.stdout == ""
    assert "2 problems; nothing was started" in done.stderr and "gone.png" in done.stderr and "--text" in done.stderr


def test_the_card_states_the_studys_facts(made: Made, exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    for said in (
        "library_name: timm",
        "> **Random weights.**",
        "| classes | 3: blue, green, red |",
        "resized to 32 x 32 without regard to aspect",
        "| digest (of names, labels, contents, split) | da7a |",
        "| rows | train 36, val 12, test 12 |",
        "- few pictures",
        "`test/` values (12 rows) were measured at the trial's end",
        "| `optim.lr` | 0.003 |",
        "| seed of the study | 5 |",
        "| torch | 2.13.0 |",
        "| git commit | 0123abcd |",
        "Their licence: none: there were no weights to begin with.",
    ):
        assert said in card
    accuracy = sum(name.split("/")[-2] == label for name, label in made.predicted.items()) / 12
    assert f"| test/accuracy | {accuracy:.4f} | share |" in card and "test/f1/" not in card


def test_the_same_trial_is_not_written_over(made: Made, exported: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in exported.iterdir()}
    done = phasetune("export", made.study, "--out", exported)
    assert done.exit_code == 2 and "it exists already" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in exported.iterdir()} == before


def test_a_network_without_an_adapter_cannot_be_merged(made: Made, tmp_path: Path) -> None:
    done = phasetune("export", made.study, "--out", tmp_path / "out", "--merge")
    assert done.exit_code == 2 and "a timm model, which has no adapter to merge" in done.stderr
    assert list(tmp_path.iterdir()) == []


def order_of(name: str, folder: Path, size_px: int) -> ExportOrder:
    """A trial of this network that kept its random weights."""
    from safetensors.torch import save_file

    spec = TimmCnnSpec.model_validate({"model": {"name": name, "weights": "none"}, "image_size": size_px})
    module, _ = build(spec, 3, seed=1)
    with torch.no_grad():
        for part in module.head.parameters():
            part.normal_()  # a norm's weight of one would hide that it is in the wrong place
    workdir, out = folder / "work", folder / "out"
    for made in (workdir, out):
        made.mkdir(parents=True)
    about = {"classes": json.dumps(["a", "b", "c"]), "image_size": str(size_px), "epoch": "0"}
    save_file(module.state_dict(), workdir / BEST, metadata=about)
    return ExportOrder("t0000", spec, 0, workdir, out)


@pytest.mark.parametrize(("name", "size_px"), [("convnext_atto", 64), ("test_efficientnet", 160), ("test_vit", 160)])
def test_networks_with_other_heads_are_written_as_timm_has_them(name: str, size_px: int, tmp_path: Path) -> None:
    """The export compares its own logits with those of the model that timm loads."""
    assert timm_export.export(order_of(name, tmp_path, size_px)).about["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "size_px", "said"),
    [
        ("deit_tiny_distilled_patch16_224", 224, "its classifier is not one layer but ('head', 'head_dist')"),
        ("test_convnext", 160, "its logits differ by"),  # its own head has a norm with another epsilon
    ],
)
def test_a_network_whose_head_timm_cannot_hold_is_refused_by_name(name: str, size_px: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        timm_export.export(order_of(name, tmp_path, size_px))
    assert f"timm's own model cannot hold the trained one: {said}" in str(caught.value)
